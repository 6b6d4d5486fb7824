//! Rows into another PostgreSQL: exactly once, from several sources into one.

use super::*;

const TABLES: &str = "\
CREATE TABLE t (id bigint PRIMARY KEY, v text, big text, j json, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE nokey (a int, b json); ALTER TABLE nokey REPLICA IDENTITY FULL;
CREATE TABLE kids (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t bigint REFERENCES t)";

const ALL: [&str; 3] = ["SELECT * FROM t", "SELECT a, b::text FROM nokey", "SELECT * FROM kids"];

fn wait_for_equal(source: &mut Client, target: &mut Client) {
    for query in ALL {
        wait_until(DEADLINE, &format!("{query} to be equal"), || {
            (checksum(source, query) == checksum(target, query)).then_some(())
        });
    }
}

#[test]
fn another_postgresql_has_the_same_rows_whoever_is_killed() {
    let mut server = server();
    let mut source = database(&server, "from_here", TABLES);
    let mut target = database(&server, "to_there", TABLES);
    source
        .batch_execute(
            "INSERT INTO t SELECT i, 'v' || i, repeat(md5(i::text), 200), '{\"a\": 1}' FROM generate_series(1, 500) i;
             INSERT INTO nokey SELECT i % 3, '{}' FROM generate_series(1, 10) i; INSERT INTO kids (t) SELECT id FROM t WHERE id < 50;
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
        )
        .unwrap();
    let dsn = server.dsn_of("from_here");
    let to = format!("postgresql://postgres@127.0.0.1:{}/to_there", server.port());
    let more = ["--create", "--initial-snapshot", "--to", &to];
    let change = |client: &mut Client, round: i64| {
        client
            .batch_execute(&format!(
                "INSERT INTO t SELECT {base} + i, 'r''{round}\\', repeat(md5(i::text), 200), NULL FROM generate_series(1, 200) i;
                 UPDATE t SET v = v || '!' WHERE id % 7 = {round};
                 UPDATE t SET id = -id WHERE id = {base} + 200;
                 DELETE FROM t WHERE id = {base} + 1;
                 DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE a = 1);
                 INSERT INTO nokey VALUES (1, '[{round}]'), (NULL, NULL); UPDATE nokey SET a = 9 WHERE a IS NULL;
                 INSERT INTO kids (t) VALUES ({base} + 2)",
                base = 1_000 * (round + 1),
            ))
            .unwrap();
        for id in 0..20 {
            client
                .execute("UPDATE t SET v = $1 WHERE id = 5", &[&format!("{round}-{id}")])
                .unwrap();
        }
    };
    for round in 0..5 {
        let following = Following::start(&dsn, &more);
        change(&mut source, round);
        if round == 2 {
            // One that never was connected ends with an error: its address may be wrong.
            wait_until(DEADLINE, "it to follow", || {
                let active = "SELECT FROM pg_replication_slots WHERE slot_name = 's' AND active";
                (source.query(active, &[]).unwrap().len() == 1).then_some(())
            });
            server.kill9();
            server.start();
            (source, target) = (server.client_to("from_here"), server.client_to("to_there"));
            wait_for_equal(&mut source, &mut target);
            assert!(following.said().contains("trying again"), "{}", following.said());
        }
        if round == 4 {
            wait_for_equal(&mut source, &mut target);
        }
        following.kill9();
    }
    change(&mut source, 6);
    wait_until(DEADLINE, "the slot to be free", || {
        let ran = stream(&dsn, &[&more[..], &["--until-caught-up"]].concat());
        (ran.code == 0).then_some(())
    });
    for query in ALL {
        assert_eq!(checksum(&mut source, query), checksum(&mut target, query), "{query}");
    }
    // Emptied: the children first are in the same statement.
    source.batch_execute("TRUNCATE t, kids RESTART IDENTITY").unwrap();
    streamed(&dsn, &[&more[..], &["--until-caught-up"]].concat());
    assert_eq!(checksum(&mut target, "SELECT * FROM t").0, 0);
    assert!(checksum(&mut target, "SELECT * FROM nokey").0 > 0);

    // The target was set back behind what the slot still has.
    target
        .batch_execute("UPDATE synod_stream.position SET lsn = '0/1', commit_lsn = '0/1'")
        .unwrap();
    let ran = stream(&dsn, &[&more[..], &["--until-caught-up"]].concat());
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("is further on than the sink"), "{}", ran.err);
    // The source was: what it writes there once more would be passed over.
    target
        .batch_execute("UPDATE synod_stream.position SET lsn = 'FFFF/0', commit_lsn = 'FFFF/0'")
        .unwrap();
    let ran = stream(&dsn, &[&more[..], &["--until-caught-up"]].concat());
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("is behind the sink"), "{}", ran.err);
    streamed(&dsn, &["--drop-slot"]);
}

/// A run lost its connection while the target was committing (a standby did not answer, say); the next run read the position before
/// the commit was seen, and wrote the rows once more.
#[test]
fn rows_whose_commit_was_late_are_not_written_twice() {
    let server = server();
    let mut source = database(&server, "late_from", "CREATE TABLE nokey (a int)");
    let mut target = database(&server, "late_to", "CREATE TABLE nokey (a int)");
    let dsn = server.dsn_of("late_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/late_to", server.port());
    streamed(&dsn, &["--create", "--to", &to, "--until-caught-up"]);
    source.batch_execute("INSERT INTO nokey VALUES (1)").unwrap();
    let query = "SELECT pg_current_wal_flush_lsn()::text";
    let position: String = source.query_one(query, &[]).unwrap().get(0);
    target
        .batch_execute(&format!(
            "BEGIN; INSERT INTO nokey VALUES (1); UPDATE synod_stream.position SET lsn = '{position}', commit_lsn = '{position}'"
        ))
        .unwrap();
    let following = Following::start(&dsn, &["--to", &to]);
    wait_until(DEADLINE, "the next run to wait for the first one", || {
        let query =
            "SELECT FROM pg_stat_activity WHERE application_name = 'synod stream target' AND wait_event_type = 'Lock'";
        (source.query(query, &[]).unwrap().len() == 1).then_some(())
    });
    target.batch_execute("COMMIT").unwrap();
    source.batch_execute("INSERT INTO nokey VALUES (2)").unwrap();
    wait_until(DEADLINE, "what follows", || {
        let there = target.query("SELECT FROM nokey WHERE a = 2", &[]).unwrap();
        (there.len() == 1).then_some(())
    });
    assert_eq!(target.query("SELECT FROM nokey WHERE a = 1", &[]).unwrap().len(), 1);
    assert_eq!(following.terminate(), 0);
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn what_the_target_refuses_stops_or_is_parked_and_nothing_is_passed_over() {
    let server = server();
    let mut source = database(&server, "refused_from", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let mut target = database(
        &server,
        "refused_to",
        "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)",
    );
    let dsn = server.dsn_of("refused_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/refused_to", server.port());
    streamed(&dsn, &["--create", "--to", &to, "--until-caught-up"]);
    source
        .batch_execute("BEGIN; INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO t VALUES (3, 'a'); INSERT INTO t VALUES (4, 'd'); COMMIT;
                        INSERT INTO t VALUES (5, 'e')")
        .unwrap();
    target.batch_execute("INSERT INTO t VALUES (90, 'e')").unwrap();
    let ran = stream(&dsn, &["--to", &to, "--until-caught-up"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("refuses event") && ran.err.contains("duplicate key"),
        "{}",
        ran.err
    );
    assert_eq!(
        checksum(&mut target, "SELECT * FROM t").0,
        1,
        "a transaction is written whole or not at all"
    );

    let park = ["--to", &to, "--until-caught-up", "--on-refusal", "park"];
    let ran = stream(&dsn, &park);
    assert_eq!(ran.code, 1, "{ran:?}");
    let ids: Vec<i32> = target
        .query("SELECT id FROM t ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids, [1, 2, 4, 90]);
    let parked = target
        .query(
            "SELECT reason, statement FROM synod_stream.parked ORDER BY parked_at, event_id",
            &[],
        )
        .unwrap();
    assert_eq!(parked.len(), 2);
    assert!(parked[0].get::<_, String>(0).contains("duplicate key"));

    // A row that is not there is no less.
    target.batch_execute("DELETE FROM t WHERE id = 4").unwrap();
    source.batch_execute("UPDATE t SET v = 'dd' WHERE id = 4").unwrap();
    let ran = stream(&dsn, &["--to", &to, "--until-caught-up"]);
    assert!(ran.err.contains("the row is not there"), "{}", ran.err);
    assert!(ran.err.contains("session_replication_role"), "{}", ran.err);
    target
        .batch_execute("INSERT INTO t VALUES (4, 'd'); DELETE FROM t WHERE id = 90")
        .unwrap();
    streamed(&dsn, &["--to", &to, "--until-caught-up"]);
    let ran = stream(&dsn, &["--to", &to, "--replay-parked"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.out.contains("1 parked events are sent, 1 are still parked"),
        "{}",
        ran.out
    );
    assert_eq!(checksum(&mut target, "SELECT FROM t WHERE id = 5 AND v = 'e'").0, 1);
    streamed(&dsn, &["--drop-slot"]);
}

/// It stopped the run, also with `park`.
#[test]
fn what_is_refused_only_at_the_end_of_a_transaction_is_parked_with_all_of_it() {
    let server = server();
    let mut source = database(&server, "deferred_from", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let mut target = database(
        &server,
        "deferred_to",
        "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE DEFERRABLE INITIALLY DEFERRED, w int)",
    );
    let dsn = server.dsn_of("deferred_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/deferred_to", server.port());
    streamed(&dsn, &["--create", "--to", &to, "--until-caught-up"]);
    for transaction in [
        "INSERT INTO t VALUES (1, 'a')",
        "INSERT INTO t VALUES (2, 'b')",
        "INSERT INTO t SELECT n, 'n' || n FROM generate_series(10, 20) n; UPDATE t SET v = 'a' WHERE id = 13; DELETE FROM t WHERE id = 14",
        "INSERT INTO t VALUES (5, 'e')",
    ] {
        source.batch_execute(transaction).unwrap();
    }
    let ran = stream(&dsn, &["--to", &to, "--until-caught-up"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("(the whole transaction)") && ran.err.contains("duplicate key"),
        "{}",
        ran.err
    );
    let ids = |target: &mut Client| -> Vec<i32> {
        let rows = target.query("SELECT id FROM t ORDER BY id", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(ids(&mut target), [1, 2]);
    let ran = stream(&dsn, &["--to", &to, "--until-caught-up", "--on-refusal", "park"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err
            .contains("(the whole transaction) was refused and is parked there"),
        "{}",
        ran.err
    );
    assert_eq!(ids(&mut target), [1, 2, 5]);
    let parked = "SELECT count(*), count(DISTINCT transaction) FROM synod_stream.parked";
    let row = target.query_one(parked, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (13, 1));
    // Nothing of it comes again by itself.
    streamed(&dsn, &["--to", &to, "--until-caught-up"]);
    let ran = stream(&dsn, &["--to", &to, "--replay-parked"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("duplicate key"), "{}", ran.err);
    assert_eq!(ids(&mut target), [1, 2, 5]);
    target.batch_execute("DELETE FROM t WHERE id = 1").unwrap();
    let ran = streamed(&dsn, &["--to", &to, "--replay-parked"]);
    assert!(
        ran.out.contains("1 parked events are sent, 0 are still parked"),
        "{}",
        ran.out
    );
    let whole = [2, 5, 10, 11, 12, 13, 15, 16, 17, 18, 19, 20];
    assert_eq!(ids(&mut target), whole);
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn several_servers_are_rolled_up_into_one_table() {
    let server = server();
    let other = new_server("second");
    let definition = "CREATE TABLE orders (id int PRIMARY KEY, v text); INSERT INTO orders VALUES (1, 'before')";
    let mut first = database(&server, "shop", definition);
    let mut second = database(&other, "shop", definition);
    let mut target = database(
        &server,
        "warehouse",
        "CREATE SCHEMA shops; CREATE TABLE shops.sales (id int, v text, shop text, PRIMARY KEY (shop, id))",
    );
    let to = format!("postgresql://postgres@127.0.0.1:{}/warehouse", server.port());
    for (dsn, shop) in [(server.dsn_of("shop"), "one"), (other.dsn_of("shop"), "two")] {
        let more = [
            "--create",
            "--initial-snapshot",
            "--to",
            &to,
            "--rename-table",
            "public.orders=shops.sales",
            "--source-column",
            "shop",
            "--source",
            shop,
            "--until-caught-up",
        ];
        streamed(&dsn, &more);
        let client = if shop == "one" { &mut first } else { &mut second };
        client
            .batch_execute(&format!("INSERT INTO orders VALUES (2, '{shop}'), (3, 'x'); UPDATE orders SET v = 'after' WHERE id = 1; DELETE FROM orders WHERE id = 3"))
            .unwrap();
        streamed(&dsn, &more);
    }
    first
        .batch_execute("TRUNCATE orders; INSERT INTO orders VALUES (7, 'new')")
        .unwrap();
    streamed(
        &server.dsn_of("shop"),
        &[
            "--to",
            &to,
            "--rename-table",
            "public.orders=shops.sales",
            "--source-column",
            "shop",
            "--source",
            "one",
            "--once",
        ],
    );
    let rows: Vec<String> = target
        .query(
            "SELECT concat_ws(' ', shop, id, v) FROM shops.sales ORDER BY shop, id",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(rows, ["one 7 new", "two 1 after", "two 2 two"]);
    // A copy of a server has its identifier, database and slot, too.
    let query = "SELECT right(source, 9) FROM synod_stream.position ORDER BY 1";
    let sources: Vec<String> = target.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(sources, ["/shop/one", "/shop/two"]);
    streamed(&server.dsn_of("shop"), &["--drop-slot"]);
}

/// It was written with NULL in the place of a value that did not change and that the WAL does not have.
#[test]
fn a_row_that_comes_into_view_without_all_its_values_is_refused() {
    let server = server();
    let table = "CREATE TABLE t (id int PRIMARY KEY, note text); ALTER TABLE t ALTER note SET STORAGE EXTERNAL";
    let mut source = database(&server, "view_from", table);
    let mut target = database(&server, "view_to", table);
    let dsn = server.dsn_of("view_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/view_to", server.port());
    let more = [
        "--option",
        "row-filter=public.t WHERE (id > 10)",
        "--until-caught-up",
        "--to",
    ];
    streamed(&dsn, &[&more[..], &[&to, "--create"]].concat());
    source
        .batch_execute(
            "INSERT INTO t VALUES (1, repeat('n', 5000)); UPDATE t SET id = 20; INSERT INTO t VALUES (30, NULL)",
        )
        .unwrap();
    let ran = stream(&dsn, &[&more[..], &[&to]].concat());
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(
        ran.err.contains("Column \"note\"") && ran.err.contains("REPLICA IDENTITY FULL"),
        "{}",
        ran.err
    );
    assert_eq!(checksum(&mut target, "SELECT * FROM t").0, 0);

    let ran = stream(&dsn, &[&more[..], &[&to, "--on-refusal", "park"]].concat());
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(checksum(&mut target, "SELECT FROM t WHERE id = 30").0, 1);
    assert_eq!(checksum(&mut target, "SELECT FROM t WHERE id = 20").0, 0);

    // Who reads lines is told, as with an UPDATE.
    let lines = "SELECT pg_create_logical_replication_slot('lines', 'synod'); UPDATE t SET id = 5 WHERE id = 20; UPDATE t SET id = 40 WHERE id = 5";
    source.batch_execute(lines).unwrap();
    let options = "'format', 'json', 'include-unchanged', 'on', 'row-filter', 'public.t WHERE (id > 10)'";
    let told = format!(
        "SELECT data FROM pg_logical_slot_get_changes('lines', NULL, NULL, {options}) WHERE data LIKE '%\"action\":\"I\"%'"
    );
    let told: String = source.query_one(&told, &[]).unwrap().get(0);
    assert!(told.contains("\"unchanged\":[\"note\"]"), "{told}");
    source.execute("SELECT pg_drop_replication_slot('lines')", &[]).unwrap();
    streamed(&dsn, &["--drop-slot"]);
}
