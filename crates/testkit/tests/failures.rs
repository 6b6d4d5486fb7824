//! Machines that die, hang and lose each other: what was acknowledged is on every node exactly once, and what was not
//! is nowhere (issue 2, item 7; T6, T9, T10).

use std::time::{Duration, Instant};

use synod_testkit::{
    Cluster, Ledger, Options, Rng, Session, SharedCluster, StopMode, assert_converged, failed, let_pass, sqlstate,
    wait_until,
};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

const DEADLINE: Duration = Duration::from_secs(45);

/// Writes that must get through for a test to say "the group goes on".
const PROGRESS: usize = 30;

/// The nodes that are not `node`.
fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

#[test]
fn a_killed_follower_is_not_missed_and_comes_back() {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let follower = cluster.follower();
    ledger.while_writing(&mut cluster, &others(follower), PROGRESS, |cluster| {
        cluster.server_mut(follower).kill9()
    });
    cluster.start_all();
    ledger.assert_kept(&cluster);
}

#[test]
fn a_killed_leader_is_replaced_and_comes_back() {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let leader = cluster.leader();
    let pause = ledger.while_writing(&mut cluster, &others(leader), PROGRESS, |cluster| {
        cluster.server_mut(leader).kill9()
    });
    assert!(pause < Duration::from_secs(15), "writes paused for {pause:?}");
    cluster.start_all();
    ledger.assert_kept(&cluster);
}

/// Its commits then need one way less; and who ends leaves the lead to another node, without waiting for silence to be noticed.
#[test]
fn the_lead_goes_to_the_node_that_writes_and_from_the_one_that_ends() {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let writer = cluster.follower();
    wait_until(DEADLINE, "the writer leads", || {
        ledger.write_until(&cluster, &[writer], PROGRESS);
        (cluster.leader() == writer).then_some(())
    });
    ledger.while_writing(&mut cluster, &others(writer), PROGRESS, |cluster| {
        cluster.server_mut(writer).stop(StopMode::Fast)
    });
    cluster.start_all();
    ledger.assert_kept(&cluster);
}

#[test]
fn a_stopped_follower_is_not_waited_for_and_catches_up() {
    let cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let follower = cluster.follower();
    cluster.server(follower).pause();
    ledger.write_until(&cluster, &others(follower), PROGRESS);
    cluster.server(follower).resume();
    ledger.assert_kept(&cluster);
}

#[test]
fn a_stopped_leader_is_replaced_and_fenced() {
    let cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let leader = cluster.leader();
    // A transaction on its way when the leader freezes, answered when it wakes up as a leader that no longer is one.
    let mut frozen = cluster.client(leader);
    frozen
        .batch_execute("SET synod.commit_timeout = '2s'; BEGIN; INSERT INTO ledger VALUES (2000000000, 0)")
        .unwrap();
    cluster.server(leader).pause();
    ledger.write_until(&cluster, &others(leader), PROGRESS);
    cluster.server(leader).resume();
    match frozen.batch_execute("COMMIT") {
        Ok(()) => {}
        Err(error) => assert!(
            matches!(sqlstate(&error), Some("40001" | "57P03" | "08007")),
            "{error:?}"
        ),
    }
    ledger.assert_kept(&cluster);
}

#[test]
fn all_three_killed_at_once_lose_nothing() {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    for _ in 0..2 {
        ledger.write_until(&cluster, &[0, 1, 2], PROGRESS);
        for node in 0..3 {
            cluster.server_mut(node).kill9();
        }
        cluster.start_all();
    }
    ledger.write_until(&cluster, &[0, 1, 2], 3);
    ledger.assert_kept(&cluster);
}

#[test]
fn a_node_that_crashes_again_and_again() {
    crash_loop(6, 10);
}

#[test]
#[ignore = "the long form: make soak"]
fn soak_a_node_that_crashes_again_and_again() {
    let rounds = std::env::var("SYNOD_SOAK_CRASHES").map_or(60, |rounds| rounds.parse().unwrap());
    crash_loop(rounds, 1000);
}

/// Any node is killed at any moment while clients write on all of them.
fn crash_loop(rounds: u32, seed: u64) {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let mut rng = Rng::new(seed);
    for round in 0..rounds {
        let node = usize::try_from(rng.below(3)).unwrap();
        let delay = Duration::from_millis(rng.below(300));
        ledger.while_writing(&mut cluster, &[0, 1, 2], 5, |cluster| {
            let_pass(delay);
            cluster.server_mut(node).kill9();
            cluster.server_mut(node).start();
        });
        assert!(cluster.server(node).is_running(), "round {round}");
    }
    ledger.assert_kept(&cluster);
}

#[test]
fn an_immediate_shutdown_between_append_and_local_commit() {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let node = cluster.leader();
    for _ in 0..3 {
        ledger.while_writing(&mut cluster, &[node], 0, |cluster| {
            let start = Instant::now();
            wait_until(DEADLINE, "some writes to be on their way", || {
                (start.elapsed() > Duration::from_millis(150)).then_some(())
            });
            cluster.server_mut(node).restart(StopMode::Immediate);
        });
    }
    ledger.assert_kept(&cluster);
}

#[test]
fn a_fast_shutdown_answers_every_commit() {
    let mut cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    for node in 0..3 {
        ledger.while_writing(&mut cluster, &[0, 1, 2], 5, |cluster| {
            cluster.server_mut(node).restart(StopMode::Fast)
        });
    }
    ledger.assert_kept(&cluster);
}

#[test]
fn many_sessions_at_once() {
    let cluster = CLUSTER.lease();
    cluster.create_table("crowd", "CREATE TABLE crowd (id int PRIMARY KEY)");
    for sessions in [1, 8, 60] {
        std::thread::scope(|scope| {
            for session in 0..sessions {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(session % 3);
                    for number in 0..5 {
                        let id = i32::try_from(sessions * 10_000 + session * 10 + number).unwrap();
                        client
                            .execute("INSERT INTO crowd VALUES ($1)", &[&id])
                            .expect("different keys do not conflict");
                    }
                });
            }
        });
    }
    assert_converged(&cluster, &["crowd"]);
}

#[test]
fn a_frozen_backend_holds_nobody_up_for_long() {
    let cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    let node = cluster.leader();
    let mut rng = Rng::new(9);
    for _ in 0..5 {
        let mut victim = cluster.client(node);
        let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                for _ in 0..200 {
                    let _ = victim.batch_execute("INSERT INTO ledger SELECT min(id) - 1, 0 FROM ledger");
                }
            });
            let start = Instant::now();
            let delay = Duration::from_millis(20 + rng.below(40));
            wait_until(DEADLINE, "the moment to freeze", || {
                (start.elapsed() >= delay).then_some(())
            });
            cluster.server(node).pause_process(pid);
            // Perhaps it holds the turn, perhaps not; other nodes go on either way.
            ledger.write_until(&cluster, &others(node), 5);
            cluster.server(node).resume();
            thread.join().unwrap();
        });
    }
    ledger.assert_kept(&cluster);
}

#[test]
fn a_minority_refuses_in_time_and_the_majority_goes_on() {
    const NAME: &str = "a_minority_refuses_in_time_and_the_majority_goes_on";
    if !Cluster::partitions_possible(NAME) {
        return;
    }
    let mut cluster = Cluster::start_with(&Options {
        partitions: true,
        ..Options::DEFAULT
    });
    let ledger = Ledger::on(&cluster);
    for lost in [cluster.leader(), cluster.follower()] {
        cluster.network().isolate(lost);
        ledger.write_until(&cluster, &others(lost), PROGRESS);
        let mut client = cluster.client(lost);
        client
            .batch_execute("SET synod.commit_timeout = '2s'; SET synod.read_timeout = '2s'")
            .unwrap();
        let start = Instant::now();
        failed(
            "a strong read in the minority",
            client.simple_query("SELECT count(*) FROM ledger"),
            &["57P03"],
        );
        client.batch_execute("SET synod.read_consistency = 'local'").unwrap();
        client
            .simple_query("SELECT count(*) FROM ledger")
            .expect("a local read in the minority");
        let error = client
            .batch_execute("INSERT INTO ledger VALUES (-100, 0)")
            .expect_err("a write in the minority");
        assert!(matches!(sqlstate(&error), Some("57P03" | "08007")), "{error:?}");
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "answers took {:?}",
            start.elapsed()
        );
        cluster.network().heal();
        ledger.write_until(&cluster, &[lost], 3);
        ledger.assert_kept(&cluster);
        cluster
            .client(others(lost)[0])
            .batch_execute("DELETE FROM ledger WHERE id = -100")
            .unwrap();
    }
}

#[test]
fn links_cut_in_one_direction_stop_nobody_for_good() {
    const NAME: &str = "links_cut_in_one_direction_stop_nobody_for_good";
    if !Cluster::partitions_possible(NAME) {
        return;
    }
    let mut cluster = Cluster::start_with(&Options {
        partitions: true,
        ..Options::DEFAULT
    });
    let ledger = Ledger::on(&cluster);
    let mut rng = Rng::new(11);
    for _ in 0..4 {
        let from = usize::try_from(rng.below(3)).unwrap();
        let to = others(from)[usize::try_from(rng.below(2)).unwrap()];
        cluster.network().cut_one_way(from, to);
        // Two links are left, and with them a majority around every node but perhaps one.
        ledger.write_until(&cluster, &[0, 1, 2], 10);
        cluster.network().heal();
    }
    // Two nodes that do not see each other but both see the third.
    cluster.network().cut(0, 1);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    cluster.network().heal();
    ledger.assert_kept(&cluster);
}

#[test]
fn a_returning_node_catches_up_with_much() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("missed", "CREATE TABLE missed (id int PRIMARY KEY, filler text)");
    let node = cluster.follower();
    cluster.server_mut(node).kill9();
    let mut session = Session::new(cluster.server(others(node)[0]));
    for batch in 0..20 {
        let sql = format!(
            "INSERT INTO missed SELECT i, repeat('x', 1000) FROM generate_series({batch} * 500, {batch} * 500 + 499) i"
        );
        let outcome = session.transact("", |transaction| transaction.batch_execute(&sql));
        assert!(matches!(outcome, synod_testkit::Outcome::Committed(())), "{outcome:?}");
    }
    drop(session);
    cluster.server_mut(node).start();
    assert_converged(&cluster, &["missed"]);
}

#[test]
fn a_full_disk_stops_one_node_and_loses_nothing() {
    const NAME: &str = "a_full_disk_stops_one_node_and_loses_nothing";
    if !Cluster::small_disks_possible(NAME) {
        return;
    }
    let full = 2;
    let mut cluster = Cluster::start_with(&Options {
        small_disk: Some((full, 300)),
        ..Options::DEFAULT
    });
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], PROGRESS);
    cluster.server(full).disk().fill();
    // More than the space that files already have.
    let mut session = Session::new(cluster.server(0));
    for batch in 0..40 {
        let outcome = session.transact("", |transaction| {
            transaction.execute(
                "INSERT INTO ledger SELECT -1000 - $1 * 1000 - i, 0 FROM generate_series(1, 1000) i",
                &[&batch],
            )
        });
        assert!(
            matches!(outcome, synod_testkit::Outcome::Committed(1000)),
            "{outcome:?}"
        );
    }
    drop(session);
    ledger.write_until(&cluster, &others(full), PROGRESS);
    cluster.server(full).disk().free();
    // PostgreSQL itself may have ended for want of space; what stopped must go on when there is space again.
    if cluster.server_mut(full).has_ended() {
        cluster.server_mut(full).start();
    }
    ledger.assert_kept(&cluster);
}

#[test]
fn a_table_is_replicated_from_the_first_moment_after_a_crash() {
    let mut cluster = CLUSTER.lease();
    for round in 0..2 {
        let table = format!("young{round}");
        cluster.create_table(&table, &format!("CREATE TABLE {table} (id int PRIMARY KEY)"));
        let node = cluster.follower();
        cluster.server_mut(node).kill9();
        cluster.server_mut(node).start();
        // Captured or refused; never a write that only this node has.
        let _ = cluster
            .client(node)
            .batch_execute(&format!("INSERT INTO {table} VALUES (1)"));
        assert_converged(&cluster, &[&table]);
    }
}

/// The log's disk of a node hangs, as network storage does for seconds, while `meanwhile` happens.
fn while_its_disk_hangs(cluster: &Cluster, node: usize, meanwhile: impl FnOnce()) {
    let server = cluster.server(node);
    let file = server.synod_directory("postgres").join("hung");
    std::fs::write(&file, "").unwrap();
    server.failpoint("disk");
    meanwhile();
    std::fs::remove_file(&file).unwrap();
    server.failpoint("");
}

/// Round and leader, as a node knows them.
fn rule(cluster: &Cluster, node: usize) -> (i64, Option<String>) {
    let query = "SELECT round, leader::text FROM synod.stat_log";
    let row = cluster.client(node).query_one(query, &[]).unwrap();
    (row.get(0), row.get(1))
}

/// A leader's sync was waited for by who answers the others: they had to elect another one first.
#[test]
fn a_disk_that_hangs_stops_nobody_else() {
    let cluster = CLUSTER.lease();
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 3);
    for leads in [true, false] {
        let node = if leads { cluster.leader() } else { cluster.follower() };
        let [other, another] = others(node);
        let before = rule(&cluster, other);
        while_its_disk_hangs(&cluster, node, || {
            ledger.write_until(&cluster, &[other], 1);
            assert_eq!(rule(&cluster, other), before, "there was an election");
            ledger.write_until(&cluster, &[other, another], PROGRESS);
            if leads {
                wait_until(DEADLINE, "one with a disk to lead", || {
                    let leader = rule(&cluster, other).1;
                    (leader.is_some() && leader != before.1).then_some(())
                });
            }
            ledger.write_until(&cluster, &[other, another], 3);
        });
        ledger.write_until(&cluster, &[node], 3);
    }
    ledger.assert_kept(&cluster);
}
