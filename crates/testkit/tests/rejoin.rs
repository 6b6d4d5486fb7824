//! Members that come back from far away: to another address, or after the others have trimmed what they would need.

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, Ledger, Options, StopMode, assert_converged, refused, try_wait_until, wait_until};

const DEADLINE: Duration = Duration::from_secs(90);

fn number(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap().get(0)
}

fn state(client: &mut Client) -> String {
    client
        .query_one("SELECT concat(state, ': ', reason) FROM synod.stat_log", &[])
        .map_or_else(|error| error.to_string(), |row| row.get(0))
}

/// Writes `megabytes` through the log, in rows that do not compress.
fn write_much(cluster: &Cluster, node: usize, megabytes: usize) {
    let mut client = cluster.client(node);
    for _ in 0..megabytes {
        client
            .batch_execute(
                "INSERT INTO bulk SELECT nextval('bulk_id'), string_agg(md5(random()::text), '')
                   FROM generate_series(1, 32768)",
            )
            .unwrap();
    }
}

#[test]
fn a_node_moves_to_another_address() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    let old = cluster.server(2).dsn();
    cluster.server_mut(2).stop(StopMode::Fast);
    cluster.server_mut(2).move_to_another_port();
    cluster.server_mut(2).start();
    let moved = cluster.server(2).dsn();
    let mut client = cluster.client(0);
    let alter = "SELECT synod.alter_node($1, $2)";
    // It does not live there any more, and a slip of the pen is noticed.
    refused("alter_node", client.execute(alter, &[&"n3", &old]), &["08001"]);
    let wrong = cluster.server(1).dsn();
    let error = refused("alter_node", client.execute(alter, &[&"n3", &wrong]), &["22023"]);
    assert!(
        error.detail().unwrap_or_default().contains("n2"),
        "whose is it? {error:?}"
    );
    refused("alter_node", client.execute(alter, &[&"nobody", &moved]), &["42704"]);
    client.execute(alter, &[&"n3", &moved]).unwrap();
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, 2], 20);
    // Only with the moved node is there a majority now: the others do reach it.
    cluster.server_mut(0).stop(StopMode::Fast);
    ledger.write_until(&cluster, &[1, 2], 10);
    cluster.server_mut(0).start();
    ledger.assert_kept(&cluster);
}

#[test]
fn a_node_that_was_away_too_long_makes_a_fresh_copy() {
    let mut cluster = Cluster::start_with(&Options {
        nodes: 3,
        settings: &[("synod.log_retention", "1MB"), ("wal_level", "logical")],
        ..Options::DEFAULT
    });
    let ledger = Ledger::on(&cluster);
    cluster.on_all("CREATE SEQUENCE bulk_id");
    cluster.create_table("bulk", "CREATE TABLE bulk (id bigint PRIMARY KEY, filler text)");
    cluster
        .client(0)
        .batch_execute(
            "CREATE FUNCTION answer(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1 || current_setting('port') $$;
             CREATE TABLE parts (id int PRIMARY KEY, note text, w text GENERATED ALWAYS AS (answer(note)) STORED) PARTITION BY RANGE (id);
             CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
             CREATE TABLE parts_rest PARTITION OF parts DEFAULT",
        )
        .unwrap();
    cluster
        .client(0)
        .batch_execute("SELECT synod.replicate_table('parts')")
        .unwrap();
    let mut rows = cluster.client(0);
    rows.batch_execute("INSERT INTO parts SELECT i, 'row ' || i FROM generate_series(1, 200) AS i")
        .unwrap();
    ledger.write_until(&cluster, &[0, 1, 2], 20);
    write_much(&cluster, 0, 2);
    assert_converged(&cluster, &["bulk", "parts"]);
    let mut auditor = cluster.client(2);
    auditor.batch_execute("SELECT synod.audit_table('parts')").unwrap();
    rows.batch_execute("INSERT INTO parts VALUES (201, 'audited')").unwrap();
    wait_for_audited(&mut auditor, &[201]);
    drop(auditor);
    cluster.server_mut(2).configure(&[("synod.auto_rejoin", "off")]);
    cluster.server_mut(2).stop(StopMode::Fast);
    write_much(&cluster, 0, 50);
    // Changes of definitions that the node misses.
    rows.batch_execute("ALTER TABLE bulk ADD COLUMN extra int DEFAULT 7")
        .unwrap();
    rows.batch_execute("CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (1000) TO (2000)")
        .unwrap();
    rows.batch_execute("INSERT INTO parts VALUES (1001, 'high')").unwrap();
    wait_until(DEADLINE, "the others to trim their logs", || {
        (0..2)
            .all(|node| number(&mut cluster.client(node), "SELECT trimmed FROM synod.stat_log") > 40)
            .then_some(())
    });
    cluster.server_mut(2).start();
    let mut client = cluster.client(2);
    let reason = wait_until(DEADLINE, "the node to say that it is too far behind", || {
        let text = state(&mut client);
        text.contains("trimmed").then_some(text)
    });
    assert!(reason.contains("rejoin"), "what is to be done? {reason}");
    let outcome = client.batch_execute("INSERT INTO ledger VALUES (-1, 2)");
    refused("INSERT", outcome, &["57P03", "55000"]);
    // By itself, once it may, and while others write.
    cluster.server(2).configure(&[("synod.auto_rejoin", "on")]);
    let old_id = number(
        &mut cluster.client(0),
        "SELECT node_id::bigint FROM synod.nodes WHERE name = 'n3'",
    );
    ledger.while_writing(&mut cluster, &[0, 1], 20, |cluster| {
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_until(DEADLINE, "a new vote", || {
            let sql = "SELECT coalesce(max(node_id), 0)::bigint FROM synod.nodes WHERE name = 'n3' AND voter";
            (number(&mut cluster.client(0), sql) > old_id).then_some(())
        });
    });
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    ledger.assert_kept(&cluster);
    assert_converged(&cluster, &["bulk", "parts", "parts_high"]);
    assert_audit_tells_what_it_missed(&mut client, &mut rows);
    assert_eq!(number(&mut client, "SELECT count(*) FROM synod.stat_progress_join"), 0);
    let outcome = client.batch_execute("SELECT synod.rejoin_group()");
    refused("rejoin_group", outcome, &["55000"]);
    assert_eq!(
        number(&mut cluster.client(0), "SELECT count(*) FROM synod.nodes"),
        3,
        "the old member was replaced"
    );
}

#[test]
fn a_node_with_a_damaged_log_gets_a_fresh_copy_when_told_to() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 30);
    let log = cluster.server(2).synod_directory("postgres").join("log");
    cluster.server_mut(2).stop(StopMode::Fast);
    for file in std::fs::read_dir(log).unwrap() {
        let path = file.unwrap().path();
        if path.metadata().unwrap().len() > 1 << 20 {
            std::fs::write(&path, b"nothing of it is left").unwrap();
        }
    }
    cluster.server_mut(2).start();
    let mut client = cluster.client(2);
    wait_until(DEADLINE, "the node to stop", || {
        state(&mut client).contains("stopped").then_some(())
    });
    // Its log told who the others are.
    let error = refused(
        "rejoin_group",
        client.batch_execute("SELECT synod.rejoin_group()"),
        &["57P03"],
    );
    assert!(error.hint().unwrap_or_default().contains("via"), "how then? {error:?}");
    ledger.while_writing(&mut cluster, &[0, 1], 10, |cluster| {
        client
            .execute("SELECT synod.rejoin_group($1)", &[&cluster.server(1).dsn()])
            .unwrap();
    });
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    ledger.assert_kept(&cluster);
}

#[test]
fn a_join_killed_at_any_step_leaves_a_member_or_can_be_done_again() {
    let mut cluster = Cluster::start(2);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1], 20);
    let node = cluster.add_server();
    cluster
        .client(node)
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE ledger (id int PRIMARY KEY, node int)")
        .unwrap();
    let join = "SELECT synod.join_group($1, 'late', $2)";
    let dsns = (cluster.server(0).dsn(), cluster.server(node).dsn());
    for step in [
        "join-admitted",
        "join-copied",
        "join-built",
        "join-committed",
        "join-opened",
    ] {
        let mut client = cluster.client(node);
        client
            .batch_execute(&format!("SET synod.failpoint = 'kill {step}'"))
            .unwrap();
        ledger.while_writing(&mut cluster, &[0, 1], 5, |_| {
            let died = client.execute(join, &[&dsns.0, &dsns.1]);
            assert!(died.is_err(), "{step}: it was killed");
        });
        wait_until(DEADLINE, "the server to come back", || {
            cluster.server(node).try_client("postgres").ok()
        });
        if step == "join-committed" {
            // The rows are there, and nobody keeps them up to date: that is said, not guessed at.
            let mut client = cluster.client(node);
            let error = refused("join_group", client.execute(join, &[&dsns.0, &dsns.1]), &["55000"]);
            assert!(
                error.hint().unwrap_or_default().contains("leave_group"),
                "how then? {error:?}"
            );
            client.batch_execute("SELECT synod.leave_group()").unwrap();
            client.batch_execute("TRUNCATE ledger").unwrap();
        }
    }
    // Killed after the last step it is a member, and gets its vote without being asked for it.
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, node], 10);
    ledger.assert_kept(&cluster);
}

/// The group's secret in the identity file of a node.
fn secret(cluster: &Cluster, node: usize) -> Vec<u8> {
    let file = cluster.server(node).synod_directory("postgres").join("node");
    std::fs::read(file).unwrap()[60..92].to_vec()
}

/// As `docs/src/trust.md` says, with a node that was down meanwhile.
#[test]
fn a_group_made_anew_has_another_secret() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 5);
    let before = secret(&cluster, 0);
    assert_eq!(before, secret(&cluster, 1));
    cluster.server_mut(2).stop(StopMode::Fast);
    let on = |cluster: &Cluster, node: usize, sql: &str| {
        let done = cluster.client(node).batch_execute(sql);
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    on(&cluster, 0, "SELECT synod.remove_node('n3')");
    on(&cluster, 1, "SELECT synod.leave_group()");
    on(&cluster, 0, "SELECT synod.leave_group()");
    let (first, others) = (cluster.server(0).dsn(), [1, 2]);
    on(
        &cluster,
        0,
        &format!("SELECT synod.create_group('anew', 'n1', '{first}')"),
    );
    on(&cluster, 0, "SELECT synod.replicate_table('ledger')");
    assert_ne!(secret(&cluster, 0), before);
    cluster.server_mut(2).start();
    for node in others {
        if node == 2 {
            on(&cluster, node, "SELECT synod.leave_group(force => true)");
        }
        let (name, dsn) = (&cluster.nodes()[node].name, cluster.server(node).dsn());
        on(&cluster, node, "TRUNCATE ledger");
        on(
            &cluster,
            node,
            &format!("SELECT synod.join_group('{first}', '{name}', '{dsn}')"),
        );
        assert_eq!(secret(&cluster, node), secret(&cluster, 0));
    }
    cluster.wait_for_voters(3);
    ledger.write_until(&cluster, &[0, 1, 2], 5);
    ledger.assert_kept(&cluster);
}

/// The keys in the audit, in the order of their commits.
#[track_caller]
fn wait_for_audited(client: &mut Client, expected: &[i32]) {
    let mut keys: Vec<i32> = Vec::new();
    let there = try_wait_until(DEADLINE, || {
        let sql = "SELECT (key->>'id')::int FROM synod.audit ORDER BY commit_lsn";
        keys = client.query(sql, &[]).ok()?.iter().map(|row| row.get(0)).collect();
        (keys == expected).then_some(())
    });
    if there.is_none() {
        let sql = "SELECT concat_ws(' / ', state, reason, hint) FROM synod.stat_audit";
        let state: String = client.query_one(sql, &[]).unwrap().get(0);
        panic!("{keys:?} instead of {expected:?}: {state}");
    }
}

/// A copy of the tables has what was changed meanwhile, but not who changed it: auditing stops and says so, and goes on when that is accepted.
fn assert_audit_tells_what_it_missed(client: &mut Client, elsewhere: &mut Client) {
    let hint: String = wait_until(DEADLINE, "the audit to stop", || {
        let sql = "SELECT hint FROM synod.stat_audit WHERE state = 'stopped' AND reason LIKE '%were copied from another node%'";
        client.query_opt(sql, &[]).ok()?.map(|row| row.get(0))
    });
    elsewhere
        .batch_execute("INSERT INTO parts VALUES (1002, 'after')")
        .unwrap();
    let begin = hint.find("SELECT synod.skip_audit").unwrap_or_else(|| panic!("{hint}"));
    client.batch_execute(hint[begin..].trim_end_matches('.')).unwrap();
    wait_for_audited(client, &[201, 1002]);
    assert_eq!(number(client, "SELECT count(*) FROM synod.audit_gaps"), 1);
}
