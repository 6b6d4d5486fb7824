//! What needs no round of its own: rows found by their keys, and a leader with a lease.

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, failed, sqlstate, wait_until};

use crate::{CLUSTER, READ, ROUNDS, make_table, simple};

#[test]
fn a_key_freed_or_taken_elsewhere_is_so_here_too() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let (mut writer, mut other) = (cluster.client(0), cluster.client(1));
    const INSERT: &str = "INSERT INTO seen (id, v) VALUES (1077, 0)";
    // A plain INSERT looks at what is here. If that was out of date it may be told to try again, once: the next try is
    // answered with what is so.
    let insert = |client: &mut Client| match client.batch_execute(INSERT) {
        Err(error) if sqlstate(&error) == Some("40001") => client.batch_execute(INSERT),
        told => told,
    };
    for _ in 0..ROUNDS {
        insert(&mut writer).unwrap();
        let taken = insert(&mut other).unwrap_err();
        assert_eq!(sqlstate(&taken), Some("23505"), "{taken:?}");
        writer.batch_execute("DELETE FROM seen WHERE id = 1077").unwrap();
        insert(&mut other).unwrap();
        other.batch_execute("DELETE FROM seen WHERE id = 1077").unwrap();
    }
}

/// Was a 23505 at COMMIT for a row that was gone everywhere else when the INSERT began: nobody can confirm what a deferred check says.
#[test]
fn a_key_that_is_checked_late_waits() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster.create_table(
        "at_commit",
        "CREATE TABLE at_commit (id int PRIMARY KEY, a int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    );
    cluster.create_table(
        "at_end",
        "CREATE TABLE at_end (id int PRIMARY KEY, a int UNIQUE DEFERRABLE)",
    );
    cluster.create_table(
        "excluded",
        "CREATE TABLE excluded (id int PRIMARY KEY, a int, EXCLUDE (a WITH =) DEFERRABLE INITIALLY DEFERRED)",
    );
    cluster.create_table(
        "in_parts",
        "CREATE TABLE in_parts (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
         CREATE TABLE in_parts_1 PARTITION OF in_parts FOR VALUES FROM (1) TO (100);
         ALTER TABLE in_parts_1 ADD UNIQUE (a) DEFERRABLE INITIALLY DEFERRED",
    );
    let tables = ["at_commit", "at_end", "excluded", "in_parts"];
    for table in tables {
        let row = format!("INSERT INTO {table} VALUES (1, 1)");
        cluster.client(0).batch_execute(&row).unwrap();
    }
    let deaf = Deaf::new(&cluster);
    let mut client = cluster.client(deaf.node);
    client.batch_execute("SET synod.read_timeout = '100ms'").unwrap();
    for table in tables {
        deaf.elsewhere(&format!("DELETE FROM {table}"));
        let sql = format!("INSERT INTO {table} VALUES (2, 1)");
        // Not because its row is in the way.
        failed(&sql, client.batch_execute(&sql), &["57P03"]);
    }
    deaf.hears();
    client.batch_execute("SET synod.read_timeout = '20s'").unwrap();
    for table in tables {
        let sql = format!("INSERT INTO {table} VALUES (2, 1)");
        client
            .batch_execute(&sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// Was a 23505 for a row that was gone everywhere else when the COPY began: what it fails for was not confirmed.
#[test]
fn a_copy_of_rows_into_a_table_waits() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster
        .client(0)
        .batch_execute("INSERT INTO seen VALUES (700, 1)")
        .unwrap();
    let copy = |client: &mut Client| {
        let mut rows = client.copy_in("COPY seen FROM STDIN")?;
        std::io::Write::write_all(&mut rows, b"700\t2\n").expect("it is buffered");
        rows.finish()
    };
    let deaf = Deaf::new(&cluster);
    let mut client = cluster.client(deaf.node);
    client.batch_execute("SET synod.read_timeout = '100ms'").unwrap();
    deaf.elsewhere("DELETE FROM seen WHERE id = 700");
    failed("COPY", copy(&mut client), &["57P03"]);
    deaf.hears();
    let mut client = cluster.client(deaf.node);
    assert_eq!(copy(&mut client).unwrap(), 1);
    client.batch_execute("DELETE FROM seen WHERE id = 700").unwrap();
}

/// LOCK TABLE of a view did not wait: what was committed elsewhere before it began was a rival of the lock (40001 at COMMIT).
#[test]
fn a_lock_of_what_a_view_reads_waits() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster.on_all(
        "CREATE OR REPLACE VIEW seen_twice AS SELECT * FROM (SELECT v FROM seen_view WHERE id > 1) AS v;
         CREATE OR REPLACE VIEW seen_not AS SELECT * FROM others",
    );
    let deaf = Deaf::new(&cluster);
    let mut client = cluster.client(deaf.node);
    client.batch_execute("SET synod.read_timeout = '100ms'").unwrap();
    for (locked, strong) in [
        ("seen", true),
        ("seen_view", true),
        ("seen_twice", true),
        ("seen_not", false),
    ] {
        let sql = format!("BEGIN; LOCK TABLE {locked} IN SHARE MODE");
        let told = client.batch_execute(&sql);
        client.batch_execute("ROLLBACK").unwrap();
        if strong {
            failed(&sql, told, &["57P03"]);
        } else {
            told.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
}

/// The log worker of a follower is frozen, so that its node learns nothing of what the others commit.
struct Deaf<'a> {
    cluster: &'a Cluster,
    node: usize,
    worker: i32,
}

impl<'a> Deaf<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let node = cluster.follower();
        let workers = cluster.server(node).processes_titled("synod log worker");
        assert_eq!(workers.len(), 1, "{workers:?}");
        // A barrier first: what was committed until now is here.
        // And a write: the first one of a server's life waits in any case.
        let sql = "SELECT count(*) FROM seen; UPDATE seen SET v = v WHERE id = 99";
        cluster.client(node).batch_execute(sql).unwrap();
        cluster.server(node).pause_process(workers[0]);
        Self {
            cluster,
            node,
            worker: workers[0],
        }
    }

    /// A write on another node that has returned.
    fn elsewhere(&self, sql: &str) {
        self.cluster.client(self.cluster.leader()).batch_execute(sql).unwrap();
    }

    /// Until so many statements wait there for what they cannot hear.
    fn wait_for(&self, statements: i64) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event IS NOT NULL AND query ~ '^(UPDATE|DELETE)'";
        let mut client = self.cluster.client(self.node);
        wait_until(Duration::from_secs(20), "statements that wait for the log", || {
            let count: i64 = client.query_one(waiting, &[]).unwrap().get(0);
            (count == statements).then_some(())
        });
    }

    fn hears(&self) {
        self.cluster.server(self.node).resume_process(self.worker);
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        self.hears();
    }
}

#[test]
fn a_row_found_by_its_key_needs_no_round_and_the_commit_proves_it() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster
        .client(0)
        .batch_execute("INSERT INTO seen VALUES (500, 1), (501, 1)")
        .unwrap();
    for (here, there) in [
        (
            "UPDATE seen SET v = v + 1 WHERE id = 500",
            "UPDATE seen SET v = 7 WHERE id = 500",
        ),
        (
            "DELETE FROM seen WHERE id = 500 AND v = 7",
            "UPDATE seen SET v = 8 WHERE id = 500",
        ),
        (
            "UPDATE seen SET v = v + 1 WHERE id = 501",
            "DELETE FROM seen WHERE id = 501",
        ),
        (
            "UPDATE seen SET v = 0 WHERE 500::bigint = id",
            "UPDATE seen SET id = 502 WHERE id = 500",
        ),
    ] {
        let deaf = Deaf::new(&cluster);
        let mut client = cluster.client(deaf.node);
        deaf.elsewhere(there);
        // It does not wait, and finds the old row. A savepoint later is no reason to wait, either.
        client.batch_execute("SET synod.read_timeout = '60s'; BEGIN").unwrap();
        assert_eq!(client.execute(here, &[]).unwrap(), 1, "{here}");
        client.batch_execute("SAVEPOINT s; ROLLBACK TO s").unwrap();
        deaf.hears();
        failed(here, client.batch_execute("COMMIT"), &["40001"]);
    }
}

#[test]
fn a_row_that_came_elsewhere_is_found_by_its_key() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let deaf = Deaf::new(&cluster);
    deaf.elsewhere("INSERT INTO seen VALUES (600, 1), (601, 1)");
    let clients = [
        ("UPDATE seen SET v = v + 1 WHERE id = 600", 1),
        ("DELETE FROM seen WHERE id = 601", 1),
        ("UPDATE seen SET v = v + 1 WHERE id = 602", 0),
    ]
    .map(|(sql, rows)| (cluster.client(deaf.node), sql, rows));
    std::thread::scope(|scope| {
        for (mut client, sql, rows) in clients {
            scope.spawn(move || assert_eq!(client.execute(sql, &[]).unwrap(), rows, "{sql}"));
        }
        deaf.wait_for(3);
        deaf.hears();
    });
    let left = "SELECT sum(v)::int FROM seen WHERE id BETWEEN 600 AND 602";
    assert_eq!(simple(&mut cluster.client(deaf.node), left), 2);
}

#[test]
fn a_failure_because_of_a_row_found_by_its_key_is_confirmed() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster.create_table(
        "purse",
        "CREATE TABLE purse (id int PRIMARY KEY, money int CHECK (money >= 0))",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO purse VALUES (1, 10)")
        .unwrap();
    let deaf = Deaf::new(&cluster);
    const PAY: &str = "UPDATE purse SET money = money - 50 WHERE id = 1";
    let mut client = cluster.client(deaf.node);
    deaf.elsewhere("UPDATE purse SET money = 100 WHERE id = 1");
    std::thread::scope(|scope| {
        let paid = scope.spawn(|| {
            // What is not known to be true is not told.
            failed(PAY, client.batch_execute(PAY), &["40001"]);
            client.batch_execute(PAY).unwrap();
            failed(PAY, client.batch_execute(&format!("{PAY}; {PAY}")), &["23514"]);
        });
        deaf.wait_for(1);
        deaf.hears();
        paid.join().unwrap();
    });
}

#[test]
fn what_tells_more_than_a_commit_can_prove_waits() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster.on_all(
        "CREATE OR REPLACE FUNCTION seen_read(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT v FROM seen WHERE id = $1); END';
         CREATE OR REPLACE FUNCTION seen_watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE OR REPLACE FUNCTION seen_write() RETURNS void LANGUAGE sql AS 'UPDATE seen SET v = v + 1 WHERE id = 1'",
    );
    cluster.create_table(
        "twins",
        "CREATE TABLE twins (id int PRIMARY KEY, a int, b int, UNIQUE (a, b))",
    );
    cluster.create_table(
        "late",
        "CREATE TABLE late (id int PRIMARY KEY, a int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    );
    cluster.create_table("watched", "CREATE TABLE watched (id int PRIMARY KEY, v int)");
    cluster.on_all("CREATE TRIGGER watch BEFORE UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION seen_watch()");
    for table in ["twins", "late"] {
        let rows = format!("INSERT INTO {table} SELECT i, i FROM generate_series(1, 5) i");
        cluster.client(0).batch_execute(&rows).unwrap();
    }
    cluster
        .client(0)
        .batch_execute("INSERT INTO watched VALUES (1, 0)")
        .unwrap();
    let deaf = Deaf::new(&cluster);
    let mut client = cluster.client(deaf.node);
    client
        .batch_execute("SET synod.read_timeout = '60s'; SET synod.commit_timeout = '100ms'")
        .unwrap();
    // By its key, in any plan: goes on until the commit.
    for (setup, sql) in [
        ("", "UPDATE seen SET v = v + 1 WHERE id = 1"),
        ("SET LOCAL enable_indexscan = off", "UPDATE seen SET v = 0 WHERE id = 1"),
        (
            "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off",
            "UPDATE seen SET v = 0 WHERE id = 1 AND v > -1",
        ),
        (
            "SET LOCAL plan_cache_mode = force_generic_plan; PREPARE by_key(bigint) AS UPDATE seen SET v = 1 WHERE id = $1",
            "EXECUTE by_key(1)",
        ),
    ] {
        client
            .batch_execute(&format!("BEGIN; {setup}; {sql}; ROLLBACK"))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client.batch_execute("SET synod.read_timeout = '100ms'").unwrap();
    let by_key = "UPDATE seen SET v = v + 1 WHERE id = 1";
    for sql in [
        &format!("{by_key} RETURNING v"),
        &format!("EXPLAIN ANALYZE {by_key}"),
        &format!("SAVEPOINT s; {by_key}"),
        &format!("DO 'BEGIN {by_key}; END'"),
        "SELECT seen_write()",
        "UPDATE seen SET v = seen_read(2) WHERE id = 1",
        "UPDATE seen SET v = (SELECT max(v) FROM seen) WHERE id = 1",
        "UPDATE seen SET v = 1 FROM twins WHERE seen.id = 1 AND twins.id = 1",
        "UPDATE seen SET v = 1 WHERE id = (random() * 10)::int",
        "UPDATE seen SET v = 1 WHERE id = v",
        "UPDATE seen SET v = 1 WHERE id IN (1, 2)",
        "UPDATE seen SET v = 1 WHERE id <= 1",
        "UPDATE seen SET v = 1 WHERE v = 1",
        "UPDATE twins SET b = 1 WHERE a = 1",
        "UPDATE late SET a = 9 WHERE id = 1",
        "UPDATE watched SET v = 1 WHERE id = 1",
        "WITH w AS (DELETE FROM seen WHERE id = 2) UPDATE seen SET v = 1 WHERE id = 1",
    ] {
        failed(
            sql,
            client.batch_execute(&format!("BEGIN; {sql}; ROLLBACK")),
            &["57P03"],
        );
        client.batch_execute("ROLLBACK").unwrap();
    }
    let fixed = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {by_key}");
    failed(&fixed, client.batch_execute(&fixed), &["57P03"]);
}

#[test]
fn under_a_lease_a_leader_asks_nobody() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let node = cluster.leader();
    let server = cluster.server(node);
    let mut client = cluster.client(node);
    let worker = server.processes_titled("synod log worker")[0];
    // With its log worker frozen the node can ask nobody. The lease lasts half a second at most, so not every try counts.
    let mut reads_frozen = |timeout: &str| {
        client
            .batch_execute(&format!("SET synod.read_timeout = '{timeout}'; {READ}"))
            .unwrap();
        server.pause_process(worker);
        let read = client.simple_query(READ);
        server.resume_process(worker);
        read.is_ok()
    };
    assert!(!reads_frozen("50ms"), "no lease yet");
    let set = |value: &str| {
        let mut client = cluster.client(node);
        client
            .batch_execute(&format!("ALTER SYSTEM SET synod.leader_lease = {value}"))
            .unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    };
    set("on");
    wait_until(Duration::from_secs(20), "a read under the lease", || {
        reads_frozen("50ms").then_some(())
    });
    // It ends by itself.
    server.pause_process(worker);
    wait_until(Duration::from_secs(20), "the end of the lease", || {
        let mut client = cluster.client(node);
        client.batch_execute("SET synod.read_timeout = '20ms'").unwrap();
        client.simple_query(READ).is_err().then_some(())
    });
    server.resume_process(worker);
    wait_until(Duration::from_secs(20), "reads again", || {
        cluster.client(node).simple_query(READ).ok()
    });
    set("off");
    wait_until(Duration::from_secs(20), "no lease any more", || {
        (!reads_frozen("50ms")).then_some(())
    });
}

/// The leader of parallel workers does not see what functions in them read: neither that they do, nor whether it is up to date.
#[test]
fn functions_in_parallel_workers_read_strongly() {
    const PARALLEL: &str = "SET synod.read_timeout = '500ms'; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; \
                            SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off";
    const LOOK: &str = "SELECT max(seen_by_worker(i > 0)) FROM driver";
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    cluster.on_all(
        "CREATE TABLE driver AS SELECT i FROM generate_series(1, 500) i; ANALYZE driver;
         CREATE FUNCTION seen_by_worker(look bool) RETURNS int STABLE PARALLEL SAFE LANGUAGE plpgsql AS
             'BEGIN RETURN CASE WHEN look THEN (SELECT v FROM seen WHERE id = 1) END; END'",
    );
    let node = cluster.follower();
    let mut sessions = [(); 4].map(|()| cluster.client(node));
    sessions
        .iter_mut()
        .for_each(|session| session.batch_execute(PARALLEL).unwrap());
    let [in_workers, nowhere, fresh, fixed] = &mut sessions;
    // What the session has seen its function do.
    for _ in 0..3 {
        simple(in_workers, LOOK);
    }
    nowhere.batch_execute("SELECT seen_by_worker(false)").unwrap();
    let deaf = Deaf::new(&cluster);
    assert_eq!(deaf.node, node, "the leader has changed");
    deaf.elsewhere("UPDATE seen SET v = v + 1 WHERE id = 1");
    fixed.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    failed("a function seen in workers", in_workers.simple_query(LOOK), &["57P03"]);
    failed(
        "a function seen to read nothing",
        nowhere.simple_query(LOOK),
        &["57P03"],
    );
    failed("an unknown function", fresh.simple_query(LOOK), &["57P03"]);
    failed("a snapshot of before", fixed.simple_query(LOOK), &["57P03"]);
    deaf.hears();
    let written = simple(&mut cluster.client(deaf.cluster.leader()), READ);
    for session in &mut sessions {
        session
            .batch_execute("ROLLBACK; SET synod.read_timeout = '20s'")
            .unwrap();
        assert_eq!(simple(session, LOOK), written);
    }
}
