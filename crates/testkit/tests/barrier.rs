//! A strong read never misses a write that returned before it began, whatever the form of the read (T8).

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, Options, SharedCluster, StopMode, failed, sqlstate, wait_until};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// Alternations of write and read per form: a barrier that does nothing loses within a few.
const ROUNDS: i32 = 25;

fn make_table(cluster: &Cluster) {
    let exists: bool = cluster
        .client(0)
        .query_one("SELECT to_regclass('seen') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if exists {
        return;
    }
    cluster.create_table("seen", "CREATE TABLE seen (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO seen SELECT i, 0 FROM generate_series(1, 100) i")
        .unwrap();
    cluster.on_all(
        "CREATE FUNCTION seen_stable() RETURNS int STABLE LANGUAGE sql AS 'SELECT v FROM seen WHERE id = 1';
         CREATE FUNCTION seen_volatile() RETURNS int VOLATILE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT v FROM seen WHERE id = 1); END';
         CREATE PROCEDURE seen_after_commit(INOUT v int) LANGUAGE plpgsql AS
             'BEGIN COMMIT; SELECT s.v INTO v FROM seen s WHERE s.id = 1; END';
         CREATE VIEW seen_view AS SELECT * FROM seen",
    );
}

fn simple(client: &mut Client, sql: &str) -> i32 {
    let messages = client
        .simple_query(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let value = messages.iter().rev().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.unwrap_or_else(|| panic!("{sql}: no row")).trim().parse().unwrap()
}

fn copied(client: &mut Client, sql: &str) -> i32 {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut client.copy_out(sql).unwrap(), &mut text).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("1\t"))
        .expect("row 1")
        .parse()
        .unwrap()
}

/// After each acknowledged write on one node, `read` on another sees it.
#[track_caller]
fn never_stale(cluster: &Cluster, form: &str, setup: &str, mut read: impl FnMut(&mut Client) -> i32) {
    let mut writer = cluster.client(0);
    let mut readers = [cluster.client(1), cluster.client(2)];
    for reader in &mut readers {
        reader
            .batch_execute(setup)
            .unwrap_or_else(|error| panic!("{form}: {setup}: {error:?}"));
    }
    for round in 0..ROUNDS {
        let written: i32 = writer
            .query_one("UPDATE seen SET v = v + 1 WHERE id = 1 RETURNING v", &[])
            .unwrap()
            .get(0);
        let reader = &mut readers[usize::try_from(round % 2).unwrap()];
        assert_eq!(read(reader), written, "{form}, round {round}");
    }
}

const READ: &str = "SELECT v FROM seen WHERE id = 1";

#[test]
fn plain_reads() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    never_stale(&cluster, "simple protocol", "", |client| simple(client, READ));
    never_stale(&cluster, "extended protocol", "", |client| {
        client.query_one(READ, &[]).unwrap().get(0)
    });
    never_stale(&cluster, "a view", "", |client| {
        simple(client, "SELECT v FROM seen_view WHERE id = 1")
    });
    never_stale(
        &cluster,
        "EXECUTE",
        "PREPARE p AS SELECT v FROM seen WHERE id = 1",
        |client| simple(client, "EXECUTE p"),
    );
    let generic = "SET plan_cache_mode = force_generic_plan; PREPARE g(int) AS SELECT v FROM seen WHERE id = $1";
    never_stale(&cluster, "a generic plan", generic, |client| {
        simple(client, "EXECUTE g(1)")
    });
    never_stale(
        &cluster,
        "EXPLAIN ANALYZE, then the read in one message",
        "",
        |client| simple(client, &format!("EXPLAIN (ANALYZE, COSTS off) {READ}; {READ}")),
    );
    let parallel = "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET parallel_leader_participation = off; SET enable_indexscan = off";
    never_stale(&cluster, "parallel workers", parallel, |client| {
        simple(client, "SELECT max(v) FROM seen")
    });
    never_stale(&cluster, "SELECT FOR UPDATE", "", |client| {
        simple(client, "SELECT v FROM seen WHERE id = 1 FOR SHARE")
    });
}

#[test]
fn reads_inside_of_other_commands() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    never_stale(&cluster, "COPY table", "", |client| {
        copied(client, "COPY seen TO STDOUT")
    });
    never_stale(&cluster, "COPY query", "", |client| {
        copied(client, "COPY (SELECT * FROM seen WHERE id = 1) TO STDOUT")
    });
    never_stale(&cluster, "CREATE TABLE AS", "", |client| {
        simple(
            client,
            &format!("DROP TABLE IF EXISTS pg_temp.made; CREATE TEMP TABLE made AS {READ}; SELECT v FROM made"),
        )
    });
    never_stale(&cluster, "a cursor", "", |client| {
        simple(
            client,
            &format!("BEGIN; DECLARE c CURSOR FOR {READ}; FETCH 1 FROM c; COMMIT"),
        )
    });
    never_stale(&cluster, "DO", "CREATE TEMP TABLE done (v int)", |client| {
        simple(
            client,
            "DO 'BEGIN DELETE FROM done; INSERT INTO done SELECT v FROM seen WHERE id = 1; END'; SELECT v FROM done",
        )
    });
    never_stale(&cluster, "CALL with COMMIT", "", |client| {
        simple(client, "CALL seen_after_commit(0)")
    });
    never_stale(&cluster, "a STABLE function", "", |client| {
        simple(client, "SELECT seen_stable()")
    });
    never_stale(&cluster, "a VOLATILE function", "", |client| {
        simple(client, "SELECT seen_volatile()")
    });
    never_stale(&cluster, "a subquery in VALUES", "", |client| {
        simple(client, &format!("VALUES (({READ}))"))
    });
}

#[test]
fn reads_in_transactions() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    never_stale(&cluster, "READ COMMITTED block", "", |client| {
        simple(client, &format!("BEGIN; {READ}; {READ}; COMMIT"))
    });
    never_stale(&cluster, "REPEATABLE READ", "", |client| {
        simple(
            client,
            &format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {READ}; COMMIT"),
        )
    });
    never_stale(&cluster, "SET TRANSACTION", "", |client| {
        simple(
            client,
            &format!("BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {READ}; COMMIT"),
        )
    });
    never_stale(
        &cluster,
        "a default of REPEATABLE READ",
        "SET default_transaction_isolation = 'repeatable read'",
        |client| simple(client, READ),
    );
    never_stale(&cluster, "a read-only transaction", "", |client| {
        simple(client, &format!("BEGIN READ ONLY; {READ}; COMMIT"))
    });
}

#[test]
fn a_statement_later_in_an_open_transaction_is_strong_too() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let (mut writer, mut reader) = (cluster.client(0), cluster.client(1));
    reader.batch_execute("BEGIN").unwrap();
    for _ in 0..ROUNDS {
        let written: i32 = writer
            .query_one("UPDATE seen SET v = v + 1 WHERE id = 1 RETURNING v", &[])
            .unwrap()
            .get(0);
        assert_eq!(simple(&mut reader, READ), written);
    }
}

#[test]
fn commit_and_chain_takes_a_new_snapshot_or_fails() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let (mut writer, mut reader) = (cluster.client(0), cluster.client(2));
    for _ in 0..ROUNDS {
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        simple(&mut reader, READ);
        let written: i32 = writer
            .query_one("UPDATE seen SET v = v + 1 WHERE id = 1 RETURNING v", &[])
            .unwrap()
            .get(0);
        reader.batch_execute("COMMIT AND CHAIN").unwrap();
        match reader.query_one(READ, &[]) {
            Ok(row) => assert_eq!(row.get::<_, i32>(0), written),
            Err(error) => assert_eq!(sqlstate(&error), Some("40001")),
        }
        reader.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn an_imported_snapshot_that_is_too_old_is_not_read_with() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let (mut owner, mut reader) = (cluster.client(1), cluster.client(1));
    owner.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let export = "SELECT pg_export_snapshot()";
    let snapshot: String = owner.query_one(export, &[]).unwrap().get(0);
    cluster
        .client(0)
        .batch_execute("UPDATE seen SET v = v + 1 WHERE id = 1")
        .unwrap();
    let import = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'");
    reader.batch_execute(&import).unwrap();
    failed("a read of the past", reader.query_one(READ, &[]), &["40001"]);
}

#[test]
fn an_open_cursor_stays_where_it_was() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let mut reader = cluster.client(1);
    reader
        .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT v FROM seen ORDER BY id")
        .unwrap();
    let first = simple(&mut reader, "FETCH 1 FROM c");
    cluster
        .client(0)
        .batch_execute("UPDATE seen SET v = v + 1000 WHERE id BETWEEN 2 AND 50")
        .unwrap();
    assert!(simple(&mut reader, "SELECT v FROM seen WHERE id = 2") >= 1000);
    for row in reader.query("FETCH 49 FROM c", &[]).unwrap() {
        assert!(
            row.get::<_, i32>(0) < 1000,
            "a cursor saw a later state than its first row"
        );
    }
    reader.batch_execute("COMMIT").unwrap();
    cluster
        .client(0)
        .batch_execute("UPDATE seen SET v = 0 WHERE id > 1")
        .unwrap();
    assert!(first >= 0);
}

#[test]
fn a_session_reads_its_own_writes_in_session_mode() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let mut client = cluster.client(1);
    client.batch_execute("SET synod.read_consistency = 'session'").unwrap();
    for _ in 0..ROUNDS {
        let written: i32 = client
            .query_one("UPDATE seen SET v = v + 1 WHERE id = 1 RETURNING v", &[])
            .unwrap()
            .get(0);
        assert!(simple(&mut client, READ) >= written);
    }
}

#[test]
fn without_a_majority_reads_fail_in_time_or_are_local() {
    let mut cluster = Cluster::start(3);
    make_table(&cluster);
    cluster.server_mut(1).stop(StopMode::Fast);
    cluster.server_mut(2).stop(StopMode::Fast);
    let mut client = cluster.client(0);
    client
        .batch_execute("SET synod.read_timeout = '1s'; SET synod.commit_timeout = '1s'")
        .unwrap();
    let started = std::time::Instant::now();
    failed("a strong read", client.simple_query(READ), &["57P03"]);
    // The first writes after the loss may have been proposed: unknown. Once no leader is known they are refused.
    wait_until(Duration::from_secs(20), "57P03 for writes", || {
        let error = client
            .batch_execute("UPDATE seen SET v = v + 1 WHERE id = 1")
            .unwrap_err();
        assert!(matches!(sqlstate(&error), Some("57P03" | "08007")), "{error:?}");
        (sqlstate(&error) == Some("57P03")).then_some(())
    });
    assert!(started.elapsed() < Duration::from_secs(25));
    client.batch_execute("SET synod.read_consistency = 'local'").unwrap();
    assert!(simple(&mut client, READ) >= 0);
    cluster.start_all();
    wait_until(Duration::from_secs(30), "writes after the majority is back", || {
        client.batch_execute("UPDATE seen SET v = v + 1 WHERE id = 1").ok()
    });
}

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
        cluster.client(node).batch_execute("SELECT count(*) FROM seen").unwrap();
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
