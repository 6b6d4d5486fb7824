//! Commits and waits that stand in the way.

use std::time::{Duration, Instant};

use postgres::Client;
use synod_testkit::{Cluster, assert_converged, sqlstate, try_wait_until, wait_until};

use crate::{CLUSTER, GIVE_WAY, UPDATE, gave_way, make_tables};

/// Apply on node 1 waits for a prepared transaction from here on, behind an insert into `aside`. Returns the session
/// that ends it, by [`let_apply_go`]; node 1 has to be read with `local` consistency meanwhile.
fn hold_apply(cluster: &Cluster) -> Client {
    let mut holder = cluster.client(0);
    holder
        .batch_execute(
            "SET synod.read_consistency = local;
             BEGIN; LOCK TABLE aside IN SHARE MODE; PREPARE TRANSACTION 'holds_apply'",
        )
        .unwrap();
    cluster
        .client(1)
        .batch_execute("INSERT INTO aside VALUES (500)")
        .unwrap();
    holder
}

fn let_apply_go(holder: &mut Client) {
    holder.batch_execute("ROLLBACK PREPARED 'holds_apply'").unwrap();
}

/// The last commit that node 1 knows to be decided.
fn decided(client: &mut Client) -> i64 {
    client
        .query_one("SELECT decided_csn FROM synod.stat_apply", &[])
        .unwrap()
        .get(0)
}

/// It has read a table, which no key stands for. So it is certified to commit, in turn behind a transaction that truncates the
/// table.
#[test]
fn a_commit_in_turn_that_is_in_the_way_is_told_that_it_is_committed() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut committer = cluster.client(0);
    committer
        .batch_execute(
            "SET synod.read_consistency = local; BEGIN;
             SELECT count(*) FROM fought_child; UPDATE fought SET v = 5 WHERE id = 5",
        )
        .unwrap();
    let id: String = committer
        .query_one("SELECT synod.current_transaction_id()::text", &[])
        .unwrap()
        .get(0);
    let mut apply = hold_apply(&cluster);
    let before = gave_way(&mut apply, "gave_way_committed");
    cluster.client(1).batch_execute("TRUNCATE fought_child").unwrap();
    let known: i64 = cluster
        .client(1)
        .query_one("SELECT applied_csn FROM synod.stat_apply", &[])
        .unwrap()
        .get(0);
    wait_until(Duration::from_secs(10), "node 1 to know of the TRUNCATE", || {
        (decided(&mut apply) >= known).then_some(())
    });
    let error = std::thread::scope(|scope| {
        let commit = scope.spawn(|| committer.batch_execute("COMMIT"));
        wait_until(Duration::from_secs(10), "the commit to be decided", || {
            (decided(&mut apply) > known).then_some(())
        });
        let_apply_go(&mut apply);
        commit
            .join()
            .unwrap()
            .expect_err("its locks had to go before it could commit")
    });
    assert_eq!(sqlstate(&error), Some("08007"), "{error:?}");
    let message = error.as_db_error().unwrap().message();
    assert!(message.contains("is committed"), "{message}");
    for node in 0..cluster.len() {
        let row = cluster
            .client(node)
            .query_one(
                "SELECT v, synod.transaction_status($1)::text FROM fought WHERE id = 5",
                &[&id],
            )
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (5, "committed".to_owned()), "on node {node}");
    }
    assert_eq!(gave_way(&mut apply, "gave_way_committed"), before + 1);
    assert_converged(&cluster, &["fought", "fought_child"]);
}

/// A row that came and went has left its index entries: others' rows with its keys conflict with it.
#[test]
fn a_row_that_came_and_went_conflicts_with_one_that_came() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    for passing in [
        "INSERT INTO fought VALUES (77, 1); DELETE FROM fought WHERE id = 77",
        "INSERT INTO fought VALUES (77, 1); UPDATE fought SET id = 78 WHERE id = 77; DELETE FROM fought WHERE id = 78",
        "UPDATE fought SET id = 77 WHERE id = 7; UPDATE fought SET id = 7 WHERE id = 77",
    ] {
        let mut committer = cluster.client(0);
        committer.batch_execute("SET synod.read_consistency = local").unwrap();
        committer
            .batch_execute(&format!("BEGIN; {passing}; UPDATE fought SET v = 5 WHERE id = 5"))
            .unwrap();
        let mut apply = hold_apply(&cluster);
        let mut writer = cluster.client(1);
        writer.batch_execute("INSERT INTO fought VALUES (77, 2)").unwrap();
        let known = decided(&mut writer);
        wait_until(Duration::from_secs(10), "node 1 to know of the insert", || {
            (decided(&mut apply) >= known).then_some(())
        });
        let error = committer.batch_execute("COMMIT").expect_err("the row is in the way");
        assert_eq!(sqlstate(&error), Some("40001"), "{passing}: {error:?}");
        let_apply_go(&mut apply);
        writer.batch_execute("DELETE FROM fought WHERE id = 77").unwrap();
    }
    assert_converged(&cluster, &["fought", "aside"]);
}

/// Without a majority its record stays in the queue, and nothing is unknown: the wait ends with 40001.
#[test]
fn a_commit_that_waits_for_a_majority_gives_way() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut committer = cluster.client(0);
    committer
        .batch_execute("SET synod.read_consistency = local; SET synod.commit_timeout = '60s'")
        .unwrap();
    committer
        .batch_execute("BEGIN; INSERT INTO fought VALUES (78, 1); DELETE FROM fought WHERE id = 78; UPDATE fought SET v = 6 WHERE id = 6")
        .unwrap();
    let mut apply = hold_apply(&cluster);
    let known: i64 = {
        let mut writer = cluster.client(1);
        writer.batch_execute("INSERT INTO fought VALUES (78, 2)").unwrap();
        writer
            .query_one("SELECT applied_csn FROM synod.stat_apply", &[])
            .unwrap()
            .get(0)
    };
    wait_until(Duration::from_secs(10), "node 1 to know of the insert", || {
        (decided(&mut apply) >= known).then_some(())
    });
    (1..cluster.len()).for_each(|node| cluster.server(node).pause());
    wait_until(Duration::from_secs(20), "the majority to be gone", || {
        let row = apply.query_one("SELECT quorum FROM synod.stat_log", &[]).unwrap();
        (!row.get::<_, bool>(0)).then_some(())
    });
    let pid: i32 = committer.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let result = std::thread::scope(|scope| {
        let commit = scope.spawn(|| committer.batch_execute("COMMIT"));
        wait_until(Duration::from_secs(10), "the commit to wait", || {
            let query =
                "SELECT wait_event_type = 'Extension' AND query = 'COMMIT' FROM pg_stat_activity WHERE pid = $1";
            let waits: Option<bool> = apply.query_one(query, &[&pid]).unwrap().get(0);
            (waits == Some(true)).then_some(())
        });
        let_apply_go(&mut apply);
        commit.join().unwrap()
    });
    (1..cluster.len()).for_each(|node| cluster.server(node).resume());
    let error = result.expect_err("the commit was in the way");
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    assert_converged(&cluster, &["fought", "fought_child"]);
}

/// What it waits for is what it blocks.
#[test]
fn a_strong_read_gives_way_to_what_it_waits_for() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let (mut idle, mut reader) = (cluster.client(0), cluster.client(0));
    reader
        .batch_execute("BEGIN; UPDATE fought SET v = 1 WHERE id = 1")
        .unwrap();
    // Ended after the grace only: until then apply does not come as far as the reader's row.
    idle.batch_execute("BEGIN; UPDATE fought SET v = 2 WHERE id = 2")
        .unwrap();
    let mut writer = cluster.client(1);
    writer.batch_execute("UPDATE fought SET v = 20 WHERE id = 2").unwrap();
    writer.batch_execute(UPDATE).unwrap();
    let start = Instant::now();
    let error = reader
        .batch_execute("SELECT count(*) FROM fought")
        .expect_err("the reader was in the way");
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    assert!(start.elapsed() < GIVE_WAY, "gave way only after {:?}", start.elapsed());
    reader.batch_execute("ROLLBACK").unwrap();
    let seen: i64 = reader
        .query_one("SELECT sum(v) FROM fought WHERE id <= 2", &[])
        .unwrap()
        .get(0);
    assert_eq!(seen, 120);
}

#[test]
fn a_prepared_transaction_stops_apply_and_is_named() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut holder = cluster.client(0);
    holder
        .batch_execute("BEGIN; LOCK TABLE fought IN SHARE MODE; PREPARE TRANSACTION 'in_the_way'")
        .unwrap();
    let mut observer = cluster.client(0);
    observer.batch_execute("SET synod.read_timeout = '2s'").unwrap();
    cluster.client(1).batch_execute(UPDATE).unwrap();
    let shown = try_wait_until(Duration::from_secs(15), || {
        let row = observer.query_one("SELECT reason FROM synod.stat_apply", &[]).unwrap();
        row.get::<_, Option<String>>(0)
            .filter(|reason| reason.contains("in_the_way"))
    });
    let read = observer.batch_execute("SELECT v FROM fought WHERE id = 1");
    observer.batch_execute("ROLLBACK PREPARED 'in_the_way'").unwrap();
    assert!(shown.is_some(), "stat_apply does not name the prepared transaction");
    assert!(read.is_err(), "a strong read on a node that cannot apply");
    assert_converged(&cluster, &["fought"]);
}
