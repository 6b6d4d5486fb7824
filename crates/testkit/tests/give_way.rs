//! A transaction that the group has committed does not wait for local locks: their holders give way (T7).

use std::time::{Duration, Instant};

use postgres::{Client, Error};
use synod_testkit::{Cluster, Options, Rng, SharedCluster, assert_converged, sqlstate, try_wait_until, wait_until};

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    nodes: 3,
    partitions: false,
    settings: &[("synod.lock_grace", "500ms")],
    ..Options::DEFAULT
});

/// `lock_grace`, plus the 50 ms of the promise, plus what two busy cores add.
const GIVE_WAY: Duration = Duration::from_millis(2500);

fn make_tables(cluster: &Cluster) {
    let exists: bool = cluster
        .client(0)
        .query_one("SELECT to_regclass('fought') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if !exists {
        cluster.on_all("CREATE TABLE fought (id int PRIMARY KEY, v int); CREATE TABLE fought_child (id int PRIMARY KEY, parent int REFERENCES fought); CREATE TABLE aside (id int)");
        cluster.replicate_together(&["fought", "fought_child", "aside"]);
    }
    cluster.client(1).batch_execute("DELETE FROM fought_child; DELETE FROM fought; INSERT INTO fought SELECT i, 0 FROM generate_series(1, 10) i").unwrap();
    assert_converged(cluster, &["fought"]);
}

/// Runs `write` on node 2; node 1 must show `seen` (a query giving true) within the time to give way, without a barrier.
#[track_caller]
fn overtake(cluster: &Cluster, write: &str, seen: &str) -> Duration {
    let mut observer = cluster.client(0);
    observer
        .batch_execute("SET synod.read_consistency = 'local'; SET lock_timeout = '10s'")
        .unwrap();
    cluster
        .client(1)
        .batch_execute(write)
        .unwrap_or_else(|error| panic!("{write}: {error:?}"));
    let start = Instant::now();
    let applied = try_wait_until(Duration::from_secs(15), || {
        observer.query_one(seen, &[]).unwrap().get::<_, bool>(0).then_some(())
    });
    assert!(
        applied.is_some(),
        "{write} is not applied where its rows are locked: {}",
        cluster.server(0).log_tail(10)
    );
    start.elapsed()
}

const UPDATE: &str = "UPDATE fought SET v = v + 100 WHERE id = 1";
const UPDATED: &str = "SELECT v >= 100 FROM fought WHERE id = 1";

/// Starts `sql` on a thread; once the holder is seen in the state to test, the rest goes on.
fn in_background(client: &mut Client, sql: String) -> impl FnOnce() -> (Duration, Result<(), Error>) {
    let start = Instant::now();
    let result = client.batch_execute(&sql);
    let elapsed = start.elapsed();
    move || (elapsed, result)
}

/// Until the process is in `pg_sleep`.
#[track_caller]
fn wait_until_asleep(cluster: &Cluster, pid: i32) {
    let mut observer = cluster.client(0);
    wait_until(Duration::from_secs(10), "the holder to be busy", || {
        let query = "SELECT state = 'active' AND wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1";
        let asleep: Option<bool> = observer.query_one(query, &[&pid]).unwrap().get(0);
        (asleep == Some(true)).then_some(())
    });
}

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
    let took = overtake_blind(&cluster, UPDATE);
    assert!(took < GIVE_WAY, "gave way only after {took:?}");
    assert!(
        holder.batch_execute("COMMIT").is_err(),
        "the holder lost and was not told"
    );
    assert_converged(&cluster, &["fought"]);
}

/// Like [`overtake`], for locks that also block the observer's read: watches the applied position.
#[track_caller]
fn overtake_blind(cluster: &Cluster, write: &str) -> Duration {
    let position = |client: &mut Client| -> i64 {
        client
            .query_one("SELECT applied_csn::text::bigint FROM synod.stat_apply", &[])
            .unwrap()
            .get(0)
    };
    let (mut writer, mut observer) = (cluster.client(1), cluster.client(0));
    writer
        .batch_execute(write)
        .unwrap_or_else(|error| panic!("{write}: {error:?}"));
    let start = Instant::now();
    let target = position(&mut writer);
    wait_until(Duration::from_secs(15), "the write to be applied past the lock", || {
        (position(&mut observer) >= target).then_some(())
    });
    start.elapsed()
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
    let took = overtake_blind(&cluster, "TRUNCATE fought_child");
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
        let took = overtake_blind(&cluster, "TRUNCATE fought_child");
        assert!(took < GIVE_WAY, "gave way only after {took:?}");
        let error = sleeper.join().unwrap().expect_err("the reader lost and was not told");
        assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    });
    reader
        .batch_execute("SELECT count(*) FROM fought_child")
        .expect("the session lives on");
    assert_converged(&cluster, &["fought_child"]);
}

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

fn gave_way(client: &mut Client, column: &str) -> i64 {
    client
        .query_one(&format!("SELECT {column} FROM synod.stat_apply"), &[])
        .unwrap()
        .get(0)
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

#[test]
fn two_nodes_that_fight_for_the_same_rows_both_get_on() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    const EACH: i64 = 60;
    let wins: i64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|node| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(node);
                    let mut wins = 0;
                    for round in 0..EACH {
                        // Opposite orders: local deadlocks, give-way and certification at once.
                        let (one, other) = if (round + node as i64) % 2 == 0 { (1, 2) } else { (2, 1) };
                        let sql = format!(
                            "BEGIN; UPDATE fought SET v = v + 1 WHERE id = {one}; UPDATE fought SET v = v + 1 WHERE id = {other}; COMMIT"
                        );
                        match client.batch_execute(&sql) {
                            Ok(()) => wins += 1,
                            Err(error) => {
                                assert!(matches!(sqlstate(&error), Some("40001" | "40P01")), "{error:?}");
                                client.batch_execute("ROLLBACK").unwrap();
                            }
                        }
                    }
                    wins
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(wins > 0, "nobody got on");
    assert_converged(&cluster, &["fought"]);
    let sum: i64 = cluster
        .client(2)
        .query_one("SELECT sum(v) FROM fought WHERE id <= 2", &[])
        .unwrap()
        .get(0);
    assert_eq!(sum, 2 * wins);
}

/// What the transactions of [`fight`] were told.
#[derive(Default, Debug)]
struct Told {
    committed: u64,
    /// Errors by SQLSTATE.
    errors: std::collections::BTreeMap<String, u64>,
}

/// One client's transactions on four rows that everybody wants, with savepoints, sleeps and voluntary rollbacks.
fn fight(cluster: &Cluster, node: usize, seed: u64, rounds: u64) -> Told {
    let (mut client, mut rng, mut told) = (cluster.client(node), Rng::new(seed), Told::default());
    for _ in 0..rounds {
        let mut statements = vec!["BEGIN".to_owned()];
        for _ in 0..=rng.below(2) {
            if rng.chance(30) {
                statements.push("SAVEPOINT s".to_owned());
            }
            let (id, n) = (1 + rng.below(4), rng.below(8));
            statements.push(match rng.below(8) {
                0 => format!("SELECT pg_sleep(0.00{n}), v FROM fought WHERE id = {id} FOR UPDATE"),
                1 => format!("INSERT INTO fought_child VALUES ({seed} * 1000 + {n}, {id}) ON CONFLICT (id) DO UPDATE SET parent = {id}"),
                2 => format!("UPDATE fought SET v = v + 1 WHERE id = {id} AND pg_sleep(0.00{n}) IS NOT NULL"),
                _ => format!("UPDATE fought SET v = v + 1 WHERE id = {id}"),
            });
        }
        let rolls_back = rng.chance(15);
        let ran = statements.iter().try_for_each(|sql| client.batch_execute(sql));
        let ended = match ran {
            Ok(()) if !rolls_back => client.batch_execute("COMMIT").map(|()| told.committed += 1),
            Ok(()) => {
                client.batch_execute("ROLLBACK").expect("a ROLLBACK succeeds");
                continue;
            }
            Err(error) => {
                client
                    .batch_execute("ROLLBACK")
                    .unwrap_or_else(|refused| panic!("ROLLBACK failed with {refused:?} after {error:?}"));
                client
                    .batch_execute("SELECT 1")
                    .unwrap_or_else(|hit| panic!("{hit:?} hit the next command after {error:?}"));
                Err(error)
            }
        };
        if let Err(error) = ended {
            let code = sqlstate(&error).unwrap_or("connection").to_owned();
            *told.errors.entry(code).or_default() += 1;
        }
    }
    told
}

#[test]
fn under_heavy_conflict_the_losers_are_told_to_try_again() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let rounds = std::env::var("SYNOD_TEST_ROUNDS").map_or(40, |rounds| rounds.parse().unwrap());
    let told: Vec<Told> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|client| {
                let cluster = &cluster;
                scope.spawn(move || fight(cluster, client % 3, client as u64, rounds))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = Told::default();
    for told in told {
        all.committed += told.committed;
        for (code, times) in told.errors {
            *all.errors.entry(code).or_default() += times;
        }
    }
    println!("{all:?}");
    let others: Vec<_> = all
        .errors
        .keys()
        .filter(|code| !["40001", "40P01"].contains(&code.as_str()))
        .collect();
    assert!(others.is_empty(), "{all:?}");
    assert!(all.committed > 0, "nobody got on");
    assert_converged(&cluster, &["fought", "fought_child"]);
}
