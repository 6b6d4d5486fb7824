//! What stops auditing is told, with what can be done; nothing is left out unless somebody says so, and then it is noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postgres::Client;
use synod_testkit::{Server, failed, refused, wait_until};

use super::auditing::{end, wait_for};
use super::{Alone, CLUSTER, PATIENCE};

/// Waits until auditing has stopped for a reason that contains `words`; the reason and the hint.
#[track_caller]
fn wait_stopped(client: &mut Client, state: &str, words: &str) -> (String, String) {
    let sql = "SELECT state, coalesce(reason, ''), coalesce(hint, '') FROM synod.stat_audit";
    wait_until(PATIENCE, &format!("{state} because of: {words}"), || {
        let row = client.query_opt(sql, &[]).ok()??;
        let (now, reason, hint): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        (now == state && reason.contains(words)).then_some((reason, hint))
    })
}

/// The statement in a hint.
fn statement(hint: &str) -> &str {
    let begin = hint.find("SELECT synod.skip_audit").unwrap_or_else(|| panic!("{hint}"));
    hint[begin..].trim_end_matches('.')
}

fn gaps(client: &mut Client) -> Vec<(String, String)> {
    let rows = client
        .query("SELECT reason, noted_by FROM synod.audit_gaps ORDER BY noted_at", &[])
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The keys in the audit, in the order of their commits.
fn audited(client: &mut Client) -> Vec<i32> {
    let sql = "SELECT (key->>'a')::int FROM synod.audit ORDER BY commit_lsn";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Does it again until the slot is free for a moment.
#[track_caller]
fn while_free(client: &mut Client, sql: &str) {
    wait_until(PATIENCE, "the slot to be free", || match client.batch_execute(sql) {
        Ok(()) => Some(()),
        Err(error) => {
            assert_eq!(error.code().map(|code| code.code()), Some("55006"), "{error:?}");
            None
        }
    });
}

#[test]
fn a_slot_that_others_move_or_drop_is_a_gap_that_is_told() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_gap");
    let server = cluster.server(0);
    let mut client = alone.client();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE ROLE mover LOGIN REPLICATION; CREATE ROLE auditor LOGIN IN ROLE synod_admin")
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    wait_for(&mut client, "public.t", 1);
    let mut mover = alone.client();
    mover.batch_execute("SET ROLE mover").unwrap();
    let of_slot = |what: &str| format!("SELECT {what} FROM pg_replication_slots WHERE database = current_database()");
    let advance = of_slot("pg_replication_slot_advance(slot_name, pg_current_wal_flush_lsn())");
    failed("moving", mover.batch_execute(&advance), &["55006"]);

    server.failpoint("audit");
    client.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    wait_stopped(&mut client, "stopped", "failpoint");
    while_free(&mut mover, &advance);
    client.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    server.failpoint("");
    let (reason, hint) = wait_stopped(&mut client, "stopped", "was moved: what committed from ");
    assert!(
        server.log().contains(&reason) && server.log().contains(&hint),
        "the log says so, too"
    );
    // The worker may have recorded the second before it read of the failpoint.
    let mut had = audited(&mut client);
    assert!(had == [1] || had == [1, 2], "{had:?}");
    client.batch_execute("SET ROLE auditor").unwrap();
    client.batch_execute(statement(&hint)).unwrap();
    client.batch_execute("RESET ROLE; INSERT INTO t VALUES (4)").unwrap();
    had.extend([3, 4]);
    wait_for(&mut client, "public.t", had.len() as i64);
    assert_eq!(audited(&mut client), had);
    assert_eq!(gaps(&mut client), [(reason, "postgres".into())]);
    refused("skipping", client.batch_execute(statement(&hint)), &["55000"]);

    server.failpoint("audit");
    client.batch_execute("INSERT INTO t VALUES (5)").unwrap();
    wait_stopped(&mut client, "stopped", "failpoint");
    while_free(&mut mover, &of_slot("pg_drop_replication_slot(slot_name)"));
    server.failpoint("");
    let (_, hint) = wait_stopped(&mut client, "lost", "is gone");
    assert!(hint.contains("synod.audit_table"), "{hint}");
    let skip = "SELECT synod.skip_audit(pg_current_wal_flush_lsn())";
    refused("skipping", client.batch_execute(skip), &["55000"]);
    let had = audited(&mut client).len() as i64;
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    client.batch_execute("INSERT INTO t VALUES (6)").unwrap();
    wait_for(&mut client, "public.t", had + 1);
    assert_eq!(gaps(&mut client).len(), 2);
    end(&mut client, &["t"]);
    client.batch_execute("DROP ROLE mover; DROP ROLE auditor").unwrap();
}

#[test]
fn a_transaction_that_cannot_be_audited_is_named_and_can_be_left_out() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_refused");
    let mut client = alone.client();
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    wait_for(&mut client, "public.t", 1);
    // As a value would be that jsonb does not take.
    client
        .batch_execute("ALTER TABLE synod.audit ADD CONSTRAINT unlucky CHECK (key->>'a' <> '13')")
        .unwrap();
    let database: u32 = client
        .query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[])
        .unwrap()
        .get(0);
    let worker = cluster
        .server(0)
        .pid_of(&format!("synod audit worker for database {database}"));
    cluster.server(0).pause_process(worker);
    client.batch_execute("INSERT INTO t VALUES (12)").unwrap();
    let xid: i64 = client
        .query_one(
            "WITH made AS (INSERT INTO t VALUES (13)) SELECT pg_current_xact_id()::text::bigint",
            &[],
        )
        .unwrap()
        .get(0);
    client.batch_execute("INSERT INTO t VALUES (14)").unwrap();
    cluster.server(0).resume_process(worker);
    let (reason, hint) = wait_stopped(&mut client, "stopped", &format!("in transaction {xid}, "));
    assert!(reason.contains("unlucky"), "{reason}");
    assert_eq!(audited(&mut client), [1, 12]);
    client.batch_execute(statement(&hint)).unwrap();
    wait_for(&mut client, "public.t", 3);
    assert_eq!(audited(&mut client), [1, 12, 14]);
    assert_eq!(gaps(&mut client), [(reason, "postgres".into())]);
    end(&mut client, &["t"]);
}

/// A table that is audited from the moment on at which a step has begun is audited from then on.
#[test]
fn a_table_that_comes_in_the_middle_of_a_step_loses_nothing() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_middle");
    let server = cluster.server(0);
    let mut client = alone.client();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE later (a int PRIMARY KEY)")
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    server.failpoint("stop audit-tables");
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    let worker = server.frozen("synod audit worker");
    server.failpoint("");
    client.batch_execute("SELECT synod.audit_table('later')").unwrap();
    client.batch_execute("INSERT INTO later VALUES (2)").unwrap();
    client.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    server.resume_process(worker);
    wait_for(&mut client, "public.t", 2);
    wait_for(&mut client, "public.later", 1);
    end(&mut client, &["t", "later"]);
}

/// A commit that waits for a standby is in the WAL, and nobody sees it yet: no step may pass it by without the table.
#[test]
fn a_table_that_comes_with_a_commit_that_waits_for_a_standby_loses_nothing() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_waiting");
    let server = cluster.server(0);
    let mut client = alone.client();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE later (a int PRIMARY KEY, v text)")
        .unwrap();
    // The worker itself waits for no standby.
    client
        .batch_execute("ALTER DATABASE audit_waiting SET synchronous_commit = local")
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    let standby = |name: &str| {
        server.configure(&[("synchronous_standby_names", name)]);
        server.client().batch_execute("SELECT pg_reload_conf()").unwrap();
    };
    let mut observer = server.client();
    let mut wait_for_commits = |count: i64| {
        let sql = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = 'audit_waiting' AND backend_type = 'client backend' AND wait_event = 'SyncRep'";
        wait_until(PATIENCE, &format!("{count} commits to wait"), || {
            (observer.query_one(sql, &[]).ok()?.get::<_, i64>(0) == count).then_some(())
        });
    };
    let [mut first, mut second, mut third] = [(); 3].map(|()| {
        let mut client = alone.client();
        client.batch_execute("SET synchronous_commit = on").unwrap();
        client
    });
    standby("nobody");
    // The setting counts from a moment on.
    let counts = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&counts);
    let trying = std::thread::spawn(move || {
        while !until.load(Ordering::SeqCst) {
            first
                .batch_execute("SELECT pg_logical_emit_message(true, 'a', 'b')")
                .unwrap();
        }
    });
    wait_for_commits(1);
    counts.store(true, Ordering::SeqCst);
    let adding = std::thread::spawn(move || second.batch_execute("SELECT synod.audit_table('later')").unwrap());
    wait_for_commits(2);
    // So much that the position is noted though there is nothing to write.
    let sql = "INSERT INTO later SELECT n, repeat('x', 500) FROM generate_series(1, 200) AS n";
    let writing = std::thread::spawn(move || third.batch_execute(sql).unwrap());
    wait_for_commits(3);
    server.failpoint("stop audit-tables");
    let worker = server.frozen("synod audit worker");
    server.failpoint("");
    standby("");
    for thread in [trying, adding, writing] {
        thread.join().unwrap();
    }
    server.resume_process(worker);
    wait_for(&mut client, "public.later", 200);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    wait_for(&mut client, "public.t", 1);
    end(&mut client, &["t", "later"]);
}

/// The rows that a node copies when it joins are nobody's changes, and what came before them is missing.
#[test]
fn a_node_that_copies_its_tables_stops_its_audit() {
    let cluster = CLUSTER.lease();
    cluster.create_table("shared", "CREATE TABLE shared (a int PRIMARY KEY)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO shared VALUES (1)")
        .unwrap();
    let mut server = Server::new("copies", &[("wal_level", "logical"), ("max_worker_processes", "16")]);
    server.start();
    let mut client = server.client();
    client
        .batch_execute(
            "CREATE EXTENSION synod; CREATE TABLE own (a int PRIMARY KEY); CREATE TABLE shared (a int PRIMARY KEY)",
        )
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('own')").unwrap();
    client.batch_execute("INSERT INTO own VALUES (1)").unwrap();
    wait_for(&mut client, "public.own", 1);
    let join = "SELECT synod.join_group($1, 'copies', $2)";
    client
        .execute(join, &[&cluster.server(0).dsn(), &server.dsn()])
        .unwrap();
    let (reason, hint) = wait_stopped(&mut client, "stopped", "; in transaction ");
    assert!(reason.contains("were copied from another node"), "{reason}");
    client.batch_execute(statement(&hint)).unwrap();
    client.batch_execute("SELECT synod.audit_table('shared')").unwrap();
    cluster
        .client(1)
        .batch_execute("INSERT INTO shared VALUES (2)")
        .unwrap();
    client.batch_execute("INSERT INTO own VALUES (2)").unwrap();
    wait_for(&mut client, "public.own", 2);
    wait_for(&mut client, "public.shared", 1);
    assert_eq!(gaps(&mut client).len(), 1);
    end(&mut client, &["own", "shared"]);
    client.batch_execute("SELECT synod.leave_group()").unwrap();
    cluster.client(0).batch_execute("DROP TABLE shared").unwrap();
}
