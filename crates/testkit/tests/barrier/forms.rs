//! Every form of a read waits for the group.

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, StopMode, failed, sqlstate, wait_until};

use crate::{CLUSTER, READ, ROUNDS, make_table, simple};

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
    never_stale(&cluster, "a function in parallel workers", parallel, |client| {
        simple(client, "SELECT max(seen_in_worker()) FROM others")
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

/// A utility statement that fails before it begins leaves nothing behind: the session's next commands are commands of their own.
#[test]
fn reads_behind_a_statement_that_could_not_begin() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let failures = [
        ("SET synod.stream_context = on", "CREATE TABLE nowhere.made AS SELECT 1"),
        (r#"SET synod.context = '{"a": "\u0000"}'"#, "TRUNCATE seen"),
    ];
    let mut writer = cluster.client(0);
    for (node, (setting, fails)) in (1..).zip(failures) {
        let mut reader = cluster.client(node);
        reader.batch_execute(setting).unwrap();
        reader.batch_execute(fails).expect_err(fails);
        for round in 0..ROUNDS {
            reader.batch_execute("BEGIN").unwrap();
            simple(&mut reader, READ);
            let written: i32 = writer
                .query_one("UPDATE seen SET v = v + 1 WHERE id = 1 RETURNING v", &[])
                .unwrap()
                .get(0);
            assert_eq!(simple(&mut reader, READ), written, "{fails}, round {round}");
            reader.batch_execute("COMMIT").unwrap();
        }
    }
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
