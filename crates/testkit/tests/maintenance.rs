//! Maintenance is in nobody's way for long (T7): VACUUM, ANALYZE and autovacuum give way to what the group has committed.

use std::time::{Duration, Instant};

use synod_testkit::{Options, SharedCluster, StopMode, apply_past, assert_converged, sqlstate, wait_until};

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    settings: &[
        ("synod.lock_grace", "500ms"),
        ("autovacuum_naptime", "1s"),
        ("deadlock_timeout", "1min"),
    ],
    ..Options::DEFAULT
});

/// `lock_grace`, plus the 50 ms of the promise, plus what two busy cores add.
const GIVE_WAY: Duration = Duration::from_millis(2500);

/// Maintenance that runs in its own time on node 1 while node 2 empties or writes the table.
#[test]
fn maintenance_gives_way() {
    let cluster = CLUSTER.lease();
    // A page each 100 ms: the table outlasts every patience.
    let slow = "vacuum_cost_delay = 100; SET vacuum_cost_limit = 1";
    cluster.create_table("kept_up", "CREATE TABLE kept_up (id int PRIMARY KEY, filler text)");
    for (sql, write) in [
        ("VACUUM kept_up", "TRUNCATE kept_up"),
        ("ANALYZE kept_up", "TRUNCATE kept_up"),
    ] {
        cluster
            .client(1)
            .batch_execute(
                "DELETE FROM kept_up; INSERT INTO kept_up SELECT i, repeat('x', 1000) FROM generate_series(1, 400) i",
            )
            .unwrap();
        assert_converged(&cluster, &["kept_up"]);
        let mut keeper = cluster.client(0);
        keeper.batch_execute(&format!("SET {slow}")).unwrap();
        let pid: i32 = keeper.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let (took, result) = std::thread::scope(|scope| {
            let keeping = scope.spawn(move || keeper.batch_execute(sql));
            let mut observer = cluster.client(0);
            wait_until(Duration::from_secs(10), "maintenance to be at it", || {
                let query = "SELECT coalesce(wait_event = 'VacuumDelay', false) FROM pg_stat_activity WHERE pid = $1";
                observer
                    .query_one(query, &[&pid])
                    .unwrap()
                    .get::<_, bool>(0)
                    .then_some(())
            });
            let took = apply_past(&cluster, write);
            (took, keeping.join().unwrap())
        });
        assert!(took < GIVE_WAY, "{sql}: gave way only after {took:?}");
        let error = result.expect_err("maintenance lost and was not told");
        assert_eq!(sqlstate(&error), Some("40001"), "{sql}: {error:?}");
    }
    assert_converged(&cluster, &["kept_up"]);
}

#[test]
fn autovacuum_gives_way() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "kept_clean",
        "CREATE TABLE kept_clean (id int PRIMARY KEY, filler text) WITH (autovacuum_vacuum_threshold = 1,
             autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
    );
    cluster
        .client(1)
        .batch_execute("INSERT INTO kept_clean SELECT i, repeat('x', 1000) FROM generate_series(1, 400) i")
        .unwrap();
    // A transaction of its own, else its net effect is no more than the INSERT.
    cluster
        .client(1)
        .batch_execute("UPDATE kept_clean SET filler = repeat('y', 1000)")
        .unwrap();
    assert_converged(&cluster, &["kept_clean"]);
    let (mut observer, mut writer) = (cluster.client(0), cluster.client(1));
    let mut written = Instant::now();
    wait_until(Duration::from_secs(60), "autovacuum", || {
        if written.elapsed() > Duration::from_secs(10) {
            // It was done before anybody looked.
            writer
                .batch_execute("UPDATE kept_clean SET filler = repeat('z', 1000)")
                .ok();
            written = Instant::now();
        }
        let query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query LIKE '%VACUUM%kept_clean%'";
        (observer.query_one(query, &[]).unwrap().get::<_, i64>(0) > 0).then_some(())
    });
    let took = apply_past(&cluster, "TRUNCATE kept_clean");
    assert!(took < GIVE_WAY, "autovacuum gave way only after {took:?}");
    assert_converged(&cluster, &["kept_clean"]);
}

/// Whoever ends the launcher has another one at once, which looks after the workers that are there as well.
#[test]
fn the_launcher_comes_back_and_looks_after_what_it_finds() {
    let cluster = CLUSTER.lease();
    cluster.create_table("launched", "CREATE TABLE launched (id int PRIMARY KEY)");
    let server = cluster.server(cluster.follower());
    let patience = Duration::from_secs(20);
    let another = |title: &str| {
        let before = server.pid_of(title);
        server.terminate_process(before);
        wait_until(patience, &format!("another {title}"), || {
            server.processes_titled(title).into_iter().find(|pid| *pid != before)
        });
    };
    another("synod launcher");
    another("synod apply worker");
    another("synod log worker");
    wait_until(patience, "the node to write", || {
        server.client().batch_execute("INSERT INTO launched VALUES (1)").ok()
    });
    assert_converged(&cluster, &["launched"]);
}

/// A member whose workers find no place in the server says so, soon, and keeps nobody else up (T15).
#[test]
fn a_server_without_room_for_the_workers_says_so() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("roomy", "CREATE TABLE roomy (id int PRIMARY KEY)");
    let node = cluster.follower();
    // One for the server's own launcher, one for ours; then one for the log worker, too, and none to apply.
    for (number, workers) in ["2", "3"].into_iter().enumerate() {
        cluster.server(node).configure(&[("max_worker_processes", workers)]);
        cluster.server_mut(node).restart(StopMode::Fast);
        let mut client = cluster.client(node);
        client
            .batch_execute("SET synod.commit_timeout = '2s'; SET synod.read_timeout = '2s'")
            .unwrap();
        for sql in ["INSERT INTO roomy VALUES (0)", "TABLE roomy", "DELETE FROM roomy"] {
            let error = client.batch_execute(sql).expect_err(sql);
            assert_eq!(sqlstate(&error), Some("57P03"), "{sql} with {workers}: {error:?}");
        }
        client
            .batch_execute("SET synod.read_consistency = local; TABLE roomy")
            .unwrap();
        let other = (node + 1) % 3;
        let write = format!("INSERT INTO roomy VALUES ({})", number + 1);
        wait_until(Duration::from_secs(20), "the others to write", || {
            cluster.client(other).batch_execute(&write).ok()
        });
    }
    cluster.server(node).configure(&[("max_worker_processes", "8")]);
    cluster.server_mut(node).restart(StopMode::Fast);
    wait_until(Duration::from_secs(20), "the workers", || {
        cluster.client(node).batch_execute("INSERT INTO roomy VALUES (3)").ok()
    });
    assert_converged(&cluster, &["roomy"]);
}

/// Other modules hook the same places, inside of us and around us.
#[test]
fn other_modules_do_not_mind() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("hooked", "CREATE TABLE hooked (id serial PRIMARY KEY, v int)");
    cluster.on_all(
        "CREATE FUNCTION hooked_sum() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(v) FROM hooked); END';
         CREATE PROCEDURE hooked_twice() LANGUAGE plpgsql AS
             'BEGIN INSERT INTO hooked (v) VALUES (1); COMMIT; INSERT INTO hooked (v) VALUES (1); COMMIT; END'",
    );
    let orders = [
        "pg_stat_statements, auto_explain, synod",
        "synod, auto_explain, pg_stat_statements",
    ];
    for (node, libraries) in orders.into_iter().enumerate() {
        cluster.server(node).configure(&[
            ("shared_preload_libraries", libraries),
            ("pg_stat_statements.track", "all"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_nested_statements", "on"),
        ]);
        cluster.server_mut(node).restart(StopMode::Fast);
    }
    for node in 0..2 {
        let mut client = cluster.client(node);
        let mut rows = move |sql: &str| {
            let messages = wait_until(Duration::from_secs(20), sql, || client.simple_query(sql).ok());
            let row = |message: &postgres::SimpleQueryMessage| matches!(message, postgres::SimpleQueryMessage::Row(_));
            messages.iter().filter(|message| row(message)).count()
        };
        rows("INSERT INTO hooked (v) SELECT i FROM generate_series(1, 100) i");
        rows("UPDATE hooked SET v = 0 WHERE id = 7");
        rows("UPDATE hooked SET v = 0 WHERE id = -1");
        rows("DELETE FROM hooked WHERE id = 8");
        assert_eq!(rows("SELECT FROM hooked WHERE id = 9 FOR UPDATE"), 1);
        assert_eq!(rows("SELECT hooked_sum()"), 1);
        rows("CALL hooked_twice()");
        rows("COPY hooked (v) FROM PROGRAM 'echo 3'");
        assert_eq!(
            rows("BEGIN; DECLARE c CURSOR FOR SELECT FROM hooked; FETCH 3 FROM c; COMMIT"),
            3
        );
        rows("BEGIN; SAVEPOINT s; INSERT INTO hooked (v) VALUES (9); ROLLBACK TO s; LOCK TABLE hooked; COMMIT");
        rows(&format!("ALTER TABLE hooked ADD COLUMN c{node} int DEFAULT 1"));
        let mut client = cluster.client(node);
        let failures = [
            ("INSERT INTO hooked (id) VALUES (7)", "23505"),
            ("SELECT 1 / (id - 9) FROM hooked WHERE id = 9", "22012"),
            ("CREATE TABLE nowhere.made AS SELECT 1", "3F000"),
        ];
        for (sql, code) in failures {
            let error = client.batch_execute(sql).expect_err(sql);
            assert_eq!(sqlstate(&error), Some(code), "{sql}: {error:?}");
        }
    }
    assert_converged(&cluster, &["hooked"]);
    for node in 0..2 {
        let server = cluster.server(node);
        let mut client = server.client();
        let create = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
        wait_until(Duration::from_secs(20), create, || client.batch_execute(create).ok());
        let query = "SELECT max(calls) FROM pg_stat_statements WHERE query LIKE 'UPDATE hooked%'";
        // One that found no row may have run again.
        let calls: Option<i64> = client.query_one(query, &[]).unwrap().get(0);
        assert!(calls >= Some(2), "node {node}: {calls:?}");
        assert!(
            server.log().contains("Query Text: UPDATE hooked"),
            "{}",
            server.log_tail(20)
        );
        server.configure(&[
            ("shared_preload_libraries", "synod"),
            ("auto_explain.log_min_duration", "-1"),
        ]);
    }
    for node in 0..2 {
        cluster.server_mut(node).restart(StopMode::Fast);
    }
    let stats = "DROP EXTENSION IF EXISTS pg_stat_statements";
    wait_until(Duration::from_secs(20), stats, || {
        cluster.client(0).batch_execute(stats).ok()
    });
    assert_converged(&cluster, &["hooked"]);
}
