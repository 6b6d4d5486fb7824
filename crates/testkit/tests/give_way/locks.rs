//! Whoever holds a lock: running, idle, in a savepoint, reading.

use std::time::Duration;

use postgres::{Client, Error};
use synod_testkit::{Cluster, apply_past, assert_converged, sqlstate, wait_until};

use crate::{CLUSTER, GIVE_WAY, UPDATE, UPDATED, gave_way, in_background, make_tables, overtake, wait_until_asleep};

/// The holder runs `sql` on node 1 while node 2 writes; the holder's error.
#[track_caller]
fn holder_loses(cluster: &Cluster, begin: &str, sql: &str, write: &str, seen: &str) -> (Client, Error) {
    let mut holder = cluster.client(0);
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    holder
        .batch_execute(begin)
        .unwrap_or_else(|error| panic!("{begin}: {error:?}"));
    let (mut holder, result) = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let (_, result) = in_background(&mut holder, sql.to_owned())();
            (holder, result)
        });
        wait_until_asleep(cluster, pid);
        let took = overtake(cluster, write, seen);
        assert!(took < GIVE_WAY, "{sql}: gave way only after {took:?}");
        thread.join().unwrap()
    });
    let error = result.expect_err("the holder lost and was not told");
    let _ = holder.batch_execute("ROLLBACK");
    (holder, error)
}

#[test]
fn an_active_statement_is_cancelled_with_40001() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let (mut holder, error) = holder_loses(
        &cluster,
        "BEGIN; UPDATE fought SET v = 1 WHERE id = 1",
        "SELECT pg_sleep(30)",
        UPDATE,
        UPDATED,
    );
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    holder
        .batch_execute("UPDATE fought SET v = v + 1 WHERE id = 1")
        .expect("the session lives on");
    assert_converged(&cluster, &["fought"]);
}

#[test]
fn a_table_lock_gives_way() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut holder = cluster.client(0);
    holder.batch_execute("BEGIN; LOCK TABLE fought IN SHARE MODE").unwrap();
    let took = apply_past(&cluster, UPDATE);
    assert!(took < GIVE_WAY, "gave way only after {took:?}");
    assert!(
        holder.batch_execute("COMMIT").is_err(),
        "the holder lost and was not told"
    );
    assert_converged(&cluster, &["fought"]);
}

#[test]
fn an_idle_transaction_is_ended_after_the_grace() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut holder = cluster.client(0);
    holder
        .batch_execute("BEGIN; UPDATE fought SET v = 1 WHERE id = 1")
        .unwrap();
    let took = overtake(&cluster, UPDATE, UPDATED);
    assert!(took < GIVE_WAY, "gave way only after {took:?}");
    assert!(
        holder.batch_execute("COMMIT").is_err(),
        "the holder lost and was not told"
    );
    assert_converged(&cluster, &["fought"]);
}

/// A query's portal goes with the next command: where that is ROLLBACK, or a COMMIT, it must end the transaction all the same.
#[test]
fn a_doomed_transaction_can_always_end() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut observer = cluster.client(0);
    for end in ["ROLLBACK", "COMMIT"] {
        let mut holder = cluster.client(0);
        holder
            .batch_execute("BEGIN; UPDATE fought SET v = 1 WHERE id = 1")
            .unwrap();
        holder.query_one("SELECT v FROM fought WHERE id = 2", &[]).unwrap();
        let before = gave_way(&mut observer, "gave_way");
        cluster.client(1).batch_execute(UPDATE).unwrap();
        wait_until(Duration::from_secs(10), "the holder to be told", || {
            (gave_way(&mut observer, "gave_way") > before).then_some(())
        });
        // On a slow machine the grace may be over by now.
        match holder.batch_execute(end) {
            Ok(()) => assert_eq!(end, "ROLLBACK"),
            Err(error) => assert!(
                holder.is_closed() || (end, sqlstate(&error)) == ("COMMIT", Some("40001")),
                "{error:?}"
            ),
        }
        if !holder.is_closed() {
            holder
                .batch_execute("BEGIN; SELECT 1; COMMIT")
                .expect("the transaction is over");
        }
    }
    assert_converged(&cluster, &["fought"]);
}

#[test]
fn a_savepoint_does_not_shelter() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let begin = "BEGIN; UPDATE fought SET v = 5 WHERE id = 1; SAVEPOINT s";
    let mut holder = cluster.client(0);
    holder.batch_execute(begin).unwrap();
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| holder.batch_execute("SELECT pg_sleep(30)"));
        wait_until_asleep(&cluster, pid);
        cluster.client(1).batch_execute(UPDATE).unwrap();
        let error = sleeper.join().unwrap().expect_err("the holder lost and was not told");
        assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    });
    // The lock is held outside of the savepoint: going back to it must not go on.
    let later = holder
        .batch_execute("ROLLBACK TO s")
        .and_then(|()| holder.batch_execute("UPDATE fought SET v = 6 WHERE id = 2; COMMIT"));
    assert!(later.is_err(), "a doomed transaction went on");
    let mut observer = cluster.client(0);
    observer.batch_execute("SET synod.read_consistency = 'local'").unwrap();
    wait_until(GIVE_WAY, "the update past the savepoint", || {
        observer
            .query_one(UPDATED, &[])
            .unwrap()
            .get::<_, bool>(0)
            .then_some(())
    });
    assert_converged(&cluster, &["fought"]);
}

#[test]
fn an_exception_block_does_not_swallow_it() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let body = "DO $$ BEGIN
        UPDATE fought SET v = 1 WHERE id = 1;
        FOR i IN 1..300 LOOP
            BEGIN PERFORM pg_sleep(0.1); EXCEPTION WHEN OTHERS THEN NULL; END;
        END LOOP;
    END $$";
    let (_, error) = holder_loses(&cluster, "SELECT 1", body, UPDATE, UPDATED);
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    assert_converged(&cluster, &["fought"]);
}

#[test]
fn a_new_child_gives_way_to_the_deleted_parent() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let (_, error) = holder_loses(
        &cluster,
        "BEGIN; INSERT INTO fought_child VALUES (1, 3)",
        "SELECT pg_sleep(30)",
        "DELETE FROM fought WHERE id = 3",
        "SELECT NOT EXISTS (SELECT FROM fought WHERE id = 3)",
    );
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    assert_converged(&cluster, &["fought", "fought_child"]);
}

#[test]
fn a_unique_key_in_the_making_gives_way() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let (_, error) = holder_loses(
        &cluster,
        "BEGIN; INSERT INTO fought VALUES (77, 1)",
        "SELECT pg_sleep(30)",
        "INSERT INTO fought VALUES (77, 2)",
        "SELECT EXISTS (SELECT FROM fought WHERE id = 77 AND v = 2)",
    );
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    assert_converged(&cluster, &["fought"]);
}

#[test]
fn a_reader_is_in_the_way_of_truncate_only_for_the_grace() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut reader = cluster.client(0);
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM fought_child")
        .unwrap();
    let took = apply_past(&cluster, "TRUNCATE fought_child");
    assert!(took < GIVE_WAY * 3, "gave way only after {took:?}");
    assert_converged(&cluster, &["fought_child"]);
}

#[test]
fn an_active_reader_is_cancelled_for_truncate() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let mut reader = cluster.client(0);
    let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| reader.batch_execute("SELECT count(*) FROM fought_child, pg_sleep(30)"));
        wait_until_asleep(&cluster, pid);
        let took = apply_past(&cluster, "TRUNCATE fought_child");
        assert!(took < GIVE_WAY, "gave way only after {took:?}");
        let error = sleeper.join().unwrap().expect_err("the reader lost and was not told");
        assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    });
    reader
        .batch_execute("SELECT count(*) FROM fought_child")
        .expect("the session lives on");
    assert_converged(&cluster, &["fought_child"]);
}
