//! Joining, leaving and being removed, with writers at work; and the links that carry it all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, Ledger, Options, StopMode, assert_converged, failed, refused, sqlstate, wait_until};

#[path = "membership/copied.rs"]
mod copied;

const DEADLINE: Duration = Duration::from_secs(60);

fn join(cluster: &Cluster, via: usize, node: usize) -> Result<u64, postgres::Error> {
    cluster.client(node).execute(
        "SELECT synod.join_group($1, $2, $3)",
        &[
            &cluster.server(via).dsn(),
            &cluster.nodes()[node].name,
            &cluster.server(node).dsn(),
        ],
    )
}

fn node_names(client: &mut Client) -> Vec<String> {
    let rows = client.query("SELECT name FROM synod.nodes ORDER BY name", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What a failed attempt must not leave: a directory, replicated tables, rows, an origin.
fn traces(cluster: &Cluster, node: usize) -> (bool, i64) {
    let sum: i64 = cluster
        .client(node)
        .query_one(
            "SELECT (SELECT count(*) FROM synod.replicated_table) + (SELECT count(*) FROM ledger)
                  + (SELECT count(*) FROM pg_replication_origin)",
            &[],
        )
        .unwrap()
        .get(0);
    (cluster.server(node).synod_directory("postgres").exists(), sum)
}

/// A server with an empty `ledger`, in no group.
fn newcomer(cluster: &mut Cluster) -> usize {
    let node = cluster.add_server();
    cluster
        .client(node)
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE ledger (id int PRIMARY KEY, node int)")
        .unwrap();
    let definition: String = cluster
        .client(0)
        .query_one(
            "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
                    FROM pg_attribute WHERE attrelid = 'ledger'::regclass AND attnum > 0",
            &[],
        )
        .unwrap()
        .get(0);
    let here: String = cluster
        .client(node)
        .query_one(
            "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
                    FROM pg_attribute WHERE attrelid = 'ledger'::regclass AND attnum > 0",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(definition, here, "the ledger has got other columns: adapt this test");
    node
}

#[test]
fn a_node_joins_while_others_write() {
    let mut cluster = Cluster::start(2);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1], 50);
    let node = newcomer(&mut cluster);
    ledger.while_writing(&mut cluster, &[0, 1], 20, |cluster| {
        join(cluster, 1, node).unwrap();
    });
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, node], 30);
    ledger.assert_kept(&cluster);
    assert_converged(&cluster, &["ledger"]);
}

/// Definitions that change while a node joins (T14): it has either the old ones or the new ones, and follows.
#[test]
fn a_node_joins_while_definitions_change() {
    let mut cluster = Cluster::start(2);
    let ledger = Ledger::on(&cluster);
    let mut client = cluster.client(1);
    client
        .batch_execute("INSERT INTO ledger SELECT -i, 0 FROM generate_series(1, 20000) i")
        .unwrap();
    let node = newcomer(&mut cluster);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let migrations = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) || number < 3 {
                number += 1;
                let migration = format!(
                    "ALTER TABLE ledger ADD COLUMN c{number} int DEFAULT {number}; CREATE TABLE made_{number} (id serial PRIMARY KEY, v int);
                     SELECT synod.replicate_table('made_{number}'); INSERT INTO made_{number} (v) VALUES (1), (2);
                     ALTER TABLE ledger DROP COLUMN c{number}"
                );
                // A node that has no vote yet may be slower than it is waited for.
                match client.batch_execute(&migration) {
                    Err(error) if sqlstate(&error) == Some("55000") => number -= 1,
                    done => done.unwrap_or_else(|error| panic!("migration {number}: {error:?}")),
                }
            }
            number
        });
        ledger.while_writing(&mut cluster, &[0, 1], 20, |cluster| {
            join(cluster, 0, node).unwrap_or_else(|error| panic!("{error:?}"));
            stop.store(true, Ordering::SeqCst);
        });
        let number = migrations.join().unwrap();
        cluster.wait_for_voters(3);
        ledger.write_until(&cluster, &[0, 1, node], 30);
        ledger.assert_kept(&cluster);
        let tables: Vec<String> = (1..=number).map(|number| format!("made_{number}")).collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        assert_converged(&cluster, &tables);
    });
}

/// Three nodes become five and three again, the two that were there first gone, while everybody writes.
#[test]
fn three_become_five_and_three_again_under_load() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    for via in [0, 1] {
        let node = newcomer(&mut cluster);
        ledger.while_writing(&mut cluster, &[0, 1, 2], 20, |cluster| {
            join(cluster, via, node).unwrap();
        });
    }
    cluster.wait_for_voters(5);
    ledger.write_until(&cluster, &[0, 1, 2, 3, 4], 30);
    ledger.assert_kept(&cluster);
    // The leader leaves, and a node that is dead is taken out.
    let leader = cluster.leader();
    let other = if leader == 1 { 0 } else { 1 };
    let staying: Vec<usize> = (0..5).filter(|node| ![leader, other].contains(node)).collect();
    ledger.while_writing(&mut cluster, &staying, 20, |cluster| {
        cluster
            .client(leader)
            .batch_execute("SELECT synod.leave_group()")
            .unwrap();
    });
    let name = cluster.nodes()[other].name.clone();
    ledger.while_writing(&mut cluster, &staying, 20, |cluster| {
        cluster.server_mut(other).kill9();
        cluster
            .client(staying[0])
            .batch_execute(&format!("SELECT synod.remove_node('{name}')"))
            .unwrap();
    });
    for node in &staying {
        assert_eq!(node_names(&mut cluster.client(*node)).len(), 3);
    }
    ledger.write_until(&cluster, &staying, 30);
    let sums: Vec<Option<String>> = staying
        .iter()
        .map(|node| {
            let query = "SELECT concat(count(*), ' ', sum(hashtext(l::text))) FROM ledger l";
            cluster.client(*node).query_one(query, &[]).unwrap().get(0)
        })
        .collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
}

/// Clients that have taken all connections do not keep the links out: who runs them may use the reserved ones (T15).
#[test]
fn links_come_back_when_clients_have_all_connections() {
    let cluster = Cluster::start_with(&Options {
        settings: &[("max_connections", "20")],
        ..Options::DEFAULT
    });
    let ledger = Ledger::on(&cluster);
    let mut keeper = cluster.client(0);
    keeper.batch_execute("CREATE ROLE crowd LOGIN").unwrap();
    let dsn = cluster
        .server(0)
        .client_dsn("postgres")
        .replace("user=postgres", "user=crowd");
    let mut crowd = Vec::new();
    let refused = loop {
        match Client::connect(&dsn, postgres::NoTls) {
            Ok(client) => crowd.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(sqlstate(&refused), Some("53300"), "{refused:?}");
    keeper
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'synod link%'",
        )
        .unwrap();
    ledger.write_until(&cluster, &[1, 2], 20);
    let links = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'synod link%'";
    wait_until(DEADLINE, "the links to come back", || {
        (keeper.query_one(links, &[]).ok()?.get::<_, i64>(0) == 2).then_some(())
    });
    // A client that has got in goes on, too.
    keeper.batch_execute("INSERT INTO ledger VALUES (-1, 0)").unwrap();
    drop(crowd);
    ledger.write_until(&cluster, &[0, 1, 2], 20);
    assert_converged(&cluster, &["ledger"]);
}

/// Another protocol is refused with both named.
#[test]
fn a_member_of_another_version_is_not_joined() {
    let mut cluster = Cluster::start(1);
    let _ledger = Ledger::on(&cluster);
    let node = newcomer(&mut cluster);
    let mut client = cluster.client(0);
    let facts = client.prepare("SELECT * FROM synod._node_facts()").unwrap();
    let columns = |with: &dyn Fn(&postgres::Column) -> String| -> String {
        let columns: Vec<String> = facts.columns().iter().map(with).collect();
        columns.join(", ")
    };
    let types = columns(&|column| format!("{} {}", column.name(), column.type_().name()));
    let values = columns(&|column| match column.name() {
        "protocol" => format!("99::{}", column.type_().name()),
        name => name.to_owned(),
    });
    client
        .batch_execute(&format!(
            "ALTER FUNCTION synod._node_facts() RENAME TO _true_facts;
             CREATE FUNCTION synod._node_facts() RETURNS TABLE ({types}) LANGUAGE sql AS 'SELECT {values} FROM synod._true_facts() AS t'"
        ))
        .unwrap();
    let error = refused("join_group", join(&cluster, 0, node), &["0A000"]);
    let detail = error.detail().unwrap_or_default();
    assert!(
        detail.contains("protocol 99") && detail.contains("protocol 1"),
        "{error:?}"
    );
}

#[test]
fn a_cancelled_join_leaves_nothing_behind() {
    let mut cluster = Cluster::start(1);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0], 20);
    let node = newcomer(&mut cluster);
    let mut joined = false;
    for timeout_ms in [50, 200, 400, 800, 1600, 3200, 6400] {
        let mut client = cluster.client(node);
        client
            .batch_execute(&format!("SET statement_timeout = {timeout_ms}"))
            .unwrap();
        let outcome = client.execute(
            "SELECT synod.join_group($1, 'late', $2)",
            &[&cluster.server(0).dsn(), &cluster.server(node).dsn()],
        );
        if outcome.is_ok() {
            joined = true;
            break;
        }
        failed("join_group", outcome, &["57014"]);
        assert_eq!(traces(&cluster, node), (false, 0), "after {timeout_ms} ms");
        assert_eq!(node_names(&mut cluster.client(0)), ["n1"], "after {timeout_ms} ms");
    }
    if !joined {
        join(&cluster, 0, node).unwrap();
    }
    cluster.wait_for_voters(2);
    ledger.write_until(&cluster, &[0, node], 10);
    assert_converged(&cluster, &["ledger"]);
}

/// The launcher had seen the directory, which went before it knew of the node: it started workers for a node that was not there, and its place
/// was never given back. The next join met what they said.
#[test]
fn a_join_cancelled_while_its_workers_start_leaves_none() {
    let mut cluster = Cluster::start(1);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0], 5);
    let node = newcomer(&mut cluster);
    let server = cluster.server(node);
    server.failpoint("stop members-listed");
    let cancelled = std::thread::scope(|scope| {
        let attempt = scope.spawn(|| {
            let mut client = cluster.client(node);
            client.batch_execute("SET statement_timeout = '5s'").unwrap();
            client.execute(
                "SELECT synod.join_group($1, 'late', $2)",
                &[&cluster.server(0).dsn(), &server.dsn()],
            )
        });
        let launcher = server.frozen("synod launcher");
        wait_until(DEADLINE, "the attempt to be undone", || {
            (!server.synod_directory("postgres").exists()).then_some(())
        });
        server.failpoint("");
        server.resume_process(launcher);
        attempt.join().unwrap()
    });
    failed("join_group", cancelled, &["57014"]);
    assert_eq!(traces(&cluster, node), (false, 0));
    assert!(
        server.processes_titled("synod log worker").is_empty(),
        "a worker of no node"
    );
    join(&cluster, 0, node).unwrap();
    cluster.wait_for_voters(2);
    ledger.write_until(&cluster, &[0, node], 10);
    assert_converged(&cluster, &["ledger"]);
}

#[test]
fn the_leader_of_two_leaves_and_comes_back() {
    let cluster = Cluster::start(2);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1], 20);
    let leader = cluster.leader();
    let other = 1 - leader;
    cluster
        .client(leader)
        .batch_execute("SELECT synod.leave_group()")
        .unwrap();
    assert!(!cluster.server(leader).synod_directory("postgres").exists());
    let mut client = cluster.client(leader);
    let kept: i64 = client.query_one("SELECT count(*) FROM ledger", &[]).unwrap().get(0);
    assert!(kept >= 20, "leaving keeps the rows");
    refused(
        "leave_group",
        client.execute("SELECT synod.leave_group()", &[]),
        &["55000"],
    );
    wait_until(DEADLINE, "the other node to lead alone", || {
        cluster
            .client(other)
            .batch_execute("INSERT INTO ledger VALUES (-1, 0)")
            .ok()
    });
    client.batch_execute("TRUNCATE ledger").unwrap();
    join(&cluster, other, leader).unwrap();
    cluster.wait_for_voters(2);
    cluster
        .client(leader)
        .batch_execute("INSERT INTO ledger VALUES (-2, 0)")
        .unwrap();
    assert_converged(&cluster, &["ledger"]);
}

#[test]
fn a_node_removed_while_down_learns_it() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    cluster.server_mut(2).stop(StopMode::Fast);
    cluster
        .client(0)
        .batch_execute("SELECT synod.remove_node('n3')")
        .unwrap();
    assert_eq!(node_names(&mut cluster.client(1)), ["n1", "n2"]);
    refused(
        "remove_node",
        cluster.client(0).execute("SELECT synod.remove_node('n3')", &[]),
        &["42704"],
    );
    cluster.server_mut(2).start();
    let mut client = cluster.client(2);
    wait_until(DEADLINE, "the removed node to say so", || {
        let row = client
            .query_one("SELECT concat(state, ' ', reason) FROM synod.stat_log", &[])
            .ok()?;
        let text: String = row.get(0);
        (text.contains("stopped") && text.contains("removed")).then_some(())
    });
    client.batch_execute("SELECT synod.leave_group()").unwrap();
    client.batch_execute("TRUNCATE ledger").unwrap();
    join(&cluster, 0, 2).unwrap();
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    assert_converged(&cluster, &["ledger"]);
}

#[test]
fn the_last_majority_is_not_given_away() {
    let mut cluster = Cluster::start(2);
    cluster.server_mut(1).stop(StopMode::Fast);
    // They took up to a minute, and said that the log worker had not started.
    let mut client = cluster.client(0);
    client
        .batch_execute("SET synod.commit_timeout = '2s'; SET statement_timeout = '30s'")
        .unwrap();
    let outcome = client.execute("SELECT synod.leave_group()", &[]);
    refused("leave_group", outcome, &["57P03"]);
    for sql in [
        "SELECT synod.remove_node('n2')",
        "SELECT synod.alter_node('n2', 'host=nowhere')",
    ] {
        let error = refused(sql, client.batch_execute(sql), &["57P03"]);
        assert!(error.message().contains("no majority"), "{error:?}");
    }
    assert_eq!(node_names(&mut cluster.client(0)), ["n1", "n2"]);
}

#[test]
fn databases_of_one_server_are_nodes_of_one_group() {
    let cluster = Cluster::start(1);
    cluster.create_table("shared", "CREATE TABLE shared (id int PRIMARY KEY, a text)");
    let server = cluster.server(0);
    server.client().batch_execute("CREATE DATABASE second").unwrap();
    let mut second = server.client_to("second");
    second
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE shared (id int PRIMARY KEY, a text)")
        .unwrap();
    second
        .execute(
            "SELECT synod.join_group($1, 'second', $2)",
            &[&server.dsn(), &server.dsn_of("second")],
        )
        .unwrap();
    second
        .batch_execute("INSERT INTO shared VALUES (1, 'from the second')")
        .unwrap();
    let text: String = server.client().query_one("SELECT a FROM shared", &[]).unwrap().get(0);
    assert_eq!(text, "from the second");
    // The group would go on counting a member that is dropped.
    let drop_it = "DROP DATABASE second WITH (FORCE)";
    refused(drop_it, server.client().batch_execute(drop_it), &["55006"]);
    second.batch_execute("SELECT synod.leave_group()").unwrap();
    server.client().batch_execute(drop_it).unwrap();
}

#[test]
fn links_hold_no_snapshot_and_survive_timeouts() {
    let cluster = Cluster::start(3);
    cluster.on_all("ALTER ROLE postgres SET statement_timeout = '300ms'");
    let mut client = cluster.client(0);
    let links = "FROM pg_stat_activity WHERE application_name LIKE 'synod link%'";
    // Ended ones come back, under the time-out.
    client
        .batch_execute(&format!("SELECT pg_terminate_backend(pid) {links}"))
        .unwrap();
    let lasting =
        format!("SELECT min(pid), count(*), count(backend_xmin) {links} AND backend_start < now() - interval '2 s'");
    wait_until(DEADLINE, "two links that outlive the time-out", || {
        let row = client.query_one(&lasting, &[]).ok()?;
        assert_eq!(row.get::<_, i64>(2), 0, "a link holds back the removal of dead rows");
        (row.get::<_, i64>(1) == 2).then_some(())
    });
    refused(
        "link",
        client.execute("CALL synod.link(99, gen_random_uuid(), 1, 2, 'x')", &[]),
        &["0A000"],
    );
}
