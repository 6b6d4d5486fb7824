//! What a transaction did is what every node gets: triggers, cascades, savepoints and key swaps included (T1), and no
//! way around the capture (T11).

use postgres::Client;
use synod_testkit::random_transactions::{TABLES, make_schema, random_transaction};
use synod_testkit::{Options, Rng, Run, Session, SharedCluster, assert_converged, assert_sound, checksum, failed};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// Long enough to be stored out of line.
const LONG: &str = "repeat(md5(random()::text), 400)";

#[test]
fn random_transactions_leave_equal_tables() {
    let cluster = CLUSTER.lease();
    make_schema(&cluster);
    let first_seed = std::env::var("SYNOD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = first_seed.map_or((1..=8).collect(), |seed| vec![seed]);
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let mut clients: Vec<Client> = (0..cluster.len()).map(|node| cluster.client(node)).collect();
        for _ in 0..25 {
            let node = usize::try_from(rng.below(3)).unwrap();
            random_transaction(&mut clients[node], &mut rng);
        }
        let result = std::panic::catch_unwind(|| assert_converged(&cluster, TABLES));
        assert!(result.is_ok(), "tables differ after SYNOD_TEST_SEED={seed}");
    }
    let rows: i64 = TABLES
        .iter()
        .map(|table| checksum(&mut cluster.client(0), table).unwrap().0)
        .sum();
    assert!(rows > 0, "the random transactions left nothing to compare");
    assert_sound(&cluster, TABLES);
}

#[test]
fn concurrent_random_transactions_leave_equal_tables() {
    let cluster = CLUSTER.lease();
    make_schema(&cluster);
    std::thread::scope(|scope| {
        for node in 0..cluster.len() {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut rng = Rng::new(1000 + node as u64);
                let mut client = cluster.client(node);
                for _ in 0..60 {
                    random_transaction(&mut client, &mut rng);
                }
            });
        }
    });
    assert_converged(&cluster, TABLES);
    assert_sound(&cluster, TABLES);
}

/// Each case: statements run in one transaction, and the rows of `account` (id, amount, rank) that must result.
#[test]
fn chains_of_changes_have_their_net_effect() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "chain",
        "CREATE TABLE chain (id int PRIMARY KEY, v int UNIQUE DEFERRABLE, t text)",
    );
    let cases = [
        ("INSERT INTO chain VALUES (1, 1); DELETE FROM chain WHERE id = 1", ""),
        (
            "INSERT INTO chain VALUES (1, 1); UPDATE chain SET v = 2; UPDATE chain SET id = 5",
            "5,2",
        ),
        ("INSERT INTO chain VALUES (6, 3); UPDATE chain SET v = 5 - v", "5,3 6,2"),
        (
            "DELETE FROM chain WHERE id = 5; INSERT INTO chain VALUES (5, 9)",
            "5,9 6,2",
        ),
        (
            "UPDATE chain SET id = 100 WHERE id = 5; UPDATE chain SET id = 5 WHERE id = 6; UPDATE chain SET id = 6 WHERE id = 100",
            "5,2 6,9",
        ),
        (
            "SAVEPOINT a; DELETE FROM chain; ROLLBACK TO a; UPDATE chain SET v = v + 100 WHERE id = 5",
            "5,102 6,9",
        ),
        (
            "SAVEPOINT a; UPDATE chain SET v = 1 WHERE id = 5; RELEASE a; SAVEPOINT b; UPDATE chain SET v = 7 WHERE id = 5; ROLLBACK TO b",
            "5,1 6,9",
        ),
        ("DELETE FROM chain; INSERT INTO chain VALUES (6, 1), (5, 9)", "5,9 6,1"),
        (
            "MERGE INTO chain c USING (VALUES (5), (7)) s(id) ON c.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, 70)",
            "6,1 7,70",
        ),
        ("TRUNCATE chain; INSERT INTO chain VALUES (8, 8)", "8,8"),
        ("INSERT INTO chain VALUES (9, 9); TRUNCATE chain", ""),
    ];
    for (number, (script, expected)) in cases.iter().enumerate() {
        let mut writer = cluster.client(number % 3);
        writer
            .batch_execute(&format!("BEGIN; {script}; COMMIT"))
            .unwrap_or_else(|error| panic!("{script}: {error:?}"));
        for node in cluster.nodes() {
            let query = "SELECT coalesce(string_agg(id || ',' || v, ' ' ORDER BY id), '') FROM chain";
            let rows: String = node.server.client().query_one(query, &[]).unwrap().get(0);
            assert_eq!(&rows, expected, "{script} as {} sees it", node.name);
        }
    }
    assert_converged(&cluster, &["chain"]);
}

#[test]
fn a_truncated_table_may_be_referred_to_by_an_empty_local_one() {
    let cluster = CLUSTER.lease();
    cluster.create_table("referred", "CREATE TABLE referred (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client
        .batch_execute("SET synod.ddl = local; CREATE TABLE local_only (id int REFERENCES referred)")
        .unwrap();
    for id in 1..3 {
        cluster
            .client(1)
            .batch_execute(&format!("TRUNCATE referred; INSERT INTO referred VALUES ({id})"))
            .unwrap();
        assert_converged(&cluster, &["referred"]);
    }
    client.batch_execute("DROP TABLE local_only").unwrap();
}

#[test]
fn rows_without_a_key_may_become_equal_to_each_other() {
    let cluster = CLUSTER.lease();
    cluster.create_table("keyless", "CREATE TABLE keyless (v int)");
    for (node, sql) in [
        (0, "INSERT INTO keyless VALUES (1), (2), (3), (3)"),
        (1, "UPDATE keyless SET v = v + 1"),
        (2, "UPDATE keyless SET v = v - 1"),
        (
            0,
            "WITH gone AS (DELETE FROM keyless WHERE v = 3) UPDATE keyless SET v = v + 1 WHERE v < 3",
        ),
    ] {
        cluster.client(node).batch_execute(sql).unwrap();
        assert_converged(&cluster, &["keyless"]);
    }
    let query = "SELECT string_agg(v::text, ' ' ORDER BY v) FROM keyless";
    let rows: String = cluster.client(1).query_one(query, &[]).unwrap().get(0);
    assert_eq!(rows, "2 3");
}

#[test]
fn values_travel_unchanged() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "values_of_all_kinds",
        "CREATE TABLE values_of_all_kinds (id int PRIMARY KEY, i2 int2, i8 int8, n numeric, f4 float4, f8 float8, b bool, t text,
             v varchar(10), c char(5), y bytea, u uuid, d date, ts timestamp, tz timestamptz, iv interval, j jsonb, x xml,
             ia int[], ta text[][], r int4range, p point, ip inet, bits bit(3), m money, g int GENERATED ALWAYS AS (id * 2) STORED)",
    );
    let mut client = cluster.client(1);
    // A server may be built without libxml.
    let xml = if client.batch_execute("SELECT xml '<a/>'").is_ok() {
        "'<a/>'"
    } else {
        "NULL"
    };
    client
        .batch_execute(&format!(
            "INSERT INTO values_of_all_kinds VALUES (1, -1, 9007199254740993, 1.00, 'NaN', '-0', true, {LONG}, 'é', 'ab', '\\x00ff',
                 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'infinity', '2000-02-29 12:00', '2000-02-29 12:00+05', '1 mon -1 day', '{{\"a\": [1, null]}}',
                 {xml}, '{{1,NULL}}', '{{{{a,b}},{{c,\"d e\"}}}}', '[1,5)', '(1,2)', '10.0.0.0/8', B'101', 1.5);
             INSERT INTO values_of_all_kinds (id) VALUES (2);
             INSERT INTO values_of_all_kinds (id, t) VALUES (3, '')"
        ))
        .unwrap();
    client
        .batch_execute("UPDATE values_of_all_kinds SET i2 = 7 WHERE id = 1")
        .unwrap();
    assert_converged(&cluster, &["values_of_all_kinds"]);
    let length: i32 = cluster
        .client(2)
        .query_one("SELECT length(t) FROM values_of_all_kinds WHERE id = 1", &[])
        .unwrap()
        .get(0);
    assert_eq!(length, 32 * 400, "an unchanged value stored out of line");
}

#[test]
fn copy_and_large_transactions_arrive_whole() {
    let cluster = CLUSTER.lease();
    cluster.create_table("bulk", "CREATE TABLE bulk (id int PRIMARY KEY, filler text)");
    let mut client = cluster.client(2);
    let mut input = String::new();
    for id in 0..1000 {
        input.push_str(&format!("{id}\tcopied\n"));
    }
    let mut copy = client.copy_in("COPY bulk FROM STDIN").unwrap();
    std::io::Write::write_all(&mut copy, input.as_bytes()).unwrap();
    copy.finish().unwrap();
    // About 12 MB: fragments, spill files, several rounds of everything.
    client
        .batch_execute("INSERT INTO bulk SELECT i, repeat(md5(i::text), 20) FROM generate_series(1000, 20000) i")
        .unwrap();
    client
        .batch_execute("UPDATE bulk SET filler = filler || '.' WHERE id % 2 = 0")
        .unwrap();
    client.batch_execute("DELETE FROM bulk WHERE id % 5 = 0").unwrap();
    assert_converged(&cluster, &["bulk"]);
    assert_eq!(checksum(&mut cluster.client(0), "bulk").unwrap().0, 16_000);
}

#[test]
fn a_transaction_over_the_limit_is_refused_whole() {
    let cluster = CLUSTER.lease();
    cluster.create_table("limited", "CREATE TABLE limited (id int PRIMARY KEY, filler text)");
    let mut client = cluster.client(0);
    client.batch_execute("SET synod.max_transaction_size = '1MB'").unwrap();
    let result =
        client.batch_execute("INSERT INTO limited SELECT i, repeat('x', 1000) FROM generate_series(1, 5000) i");
    let error = failed("a large transaction", result, &["54000"]);
    assert!(error.hint().is_some(), "{error:?}");
    assert_eq!(checksum(&mut cluster.client(1), "limited").unwrap().0, 0);
    client.batch_execute("INSERT INTO limited VALUES (1, 'small')").unwrap();
    assert_converged(&cluster, &["limited"]);
}

#[test]
fn the_capture_cannot_be_switched_off() {
    let cluster = CLUSTER.lease();
    cluster.create_table("guarded", "CREATE TABLE guarded (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    let triggers: Vec<String> = client
        .query(
            "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'guarded'::regclass",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(!triggers.is_empty());
    for trigger in &triggers {
        for sql in [
            format!("DROP TRIGGER \"{trigger}\" ON guarded"),
            format!("ALTER TABLE guarded DISABLE TRIGGER \"{trigger}\""),
            format!("ALTER TABLE guarded ENABLE REPLICA TRIGGER \"{trigger}\""),
        ] {
            assert!(client.batch_execute(&sql).is_err(), "{sql} succeeded");
        }
    }
    // Refused at once, or every write after it is; never a write that only this node sees.
    if client.batch_execute("ALTER TABLE guarded DISABLE TRIGGER ALL").is_ok() {
        failed(
            "a write past the capture",
            client.batch_execute("INSERT INTO guarded VALUES (1)"),
            &["55000"],
        );
        client.batch_execute("ALTER TABLE guarded ENABLE TRIGGER ALL").unwrap();
    }
    client
        .batch_execute(
            "SET session_replication_role = replica; INSERT INTO guarded VALUES (2); RESET session_replication_role",
        )
        .unwrap();
    cluster
        .client(1)
        .batch_execute("INSERT INTO guarded VALUES (3)")
        .unwrap();
    assert_converged(&cluster, &["guarded"]);
    assert!(checksum(&mut cluster.client(2), "guarded").unwrap().0 >= 2);
}

#[test]
fn a_dump_is_clean_and_can_be_restored_elsewhere() {
    let cluster = CLUSTER.lease();
    cluster.create_table("dumped", "CREATE TABLE dumped (id int PRIMARY KEY)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO dumped VALUES (1), (2)")
        .unwrap();
    let dsn = cluster.server(0).client_dsn("postgres");
    let dump = Run::current()
        .program("pg_dump", &["-t", "dumped", "-d", &dsn])
        .unwrap();
    assert!(
        !dump.contains("CREATE TRIGGER"),
        "the capture trigger is in the dump:\n{dump}"
    );
    let mut server = synod_testkit::Server::new("restored", &[("shared_preload_libraries", "")]);
    server.start();
    let output = server.psql("postgres", &["-q", "-v", "ON_ERROR_STOP=1"], &dump);
    assert!(!output.contains("ERROR"), "{output}");
    assert_eq!(checksum(&mut server.client(), "dumped").unwrap().0, 2);
}

#[test]
fn what_cannot_be_atomic_is_refused() {
    let cluster = CLUSTER.lease();
    cluster.create_table("atomic", "CREATE TABLE atomic (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client
        .batch_execute("CREATE TABLE plain (id int); CREATE TEMPORARY TABLE scratch (id int)")
        .unwrap();
    let mixed = "BEGIN; INSERT INTO atomic VALUES (1); INSERT INTO plain VALUES (1); COMMIT";
    failed(
        "strong and plain tables in one transaction",
        client.batch_execute(mixed),
        &["0A000"],
    );
    client.batch_execute("ROLLBACK").unwrap();
    failed(
        "PREPARE TRANSACTION",
        client.batch_execute("BEGIN; INSERT INTO atomic VALUES (2); PREPARE TRANSACTION 'p'"),
        &["0A000"],
    );
    client.batch_execute("ROLLBACK").unwrap();
    failed(
        "SERIALIZABLE",
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO atomic VALUES (3); COMMIT"),
        &["0A000"],
    );
    client.batch_execute("ROLLBACK").unwrap();
    // Temporary tables and reads of plain tables do not hurt.
    client
        .batch_execute("BEGIN; INSERT INTO scratch SELECT count(*) FROM plain; INSERT INTO atomic SELECT 10 + id FROM scratch; COMMIT")
        .unwrap();
    assert_converged(&cluster, &["atomic"]);
    assert_eq!(checksum(&mut client, "atomic").unwrap().0, 1);
    assert_eq!(checksum(&mut client, "plain").unwrap().0, 0);
}

#[test]
fn a_session_retries_what_conflicts() {
    let cluster = CLUSTER.lease();
    cluster.create_table("contended", "CREATE TABLE contended (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO contended VALUES (1, 0)")
        .unwrap();
    const EACH: i32 = 40;
    std::thread::scope(|scope| {
        for node in cluster.nodes() {
            scope.spawn(move || {
                let mut session = Session::new(&node.server);
                for _ in 0..EACH {
                    let outcome = session.transact("", |transaction| {
                        let value: i32 = transaction
                            .query_one("SELECT v FROM contended WHERE id = 1", &[])?
                            .get(0);
                        transaction.execute(
                            "UPDATE contended SET v = $1 WHERE id = 1 AND v = $2",
                            &[&(value + 1), &value],
                        )
                    });
                    assert!(matches!(outcome, synod_testkit::Outcome::Committed(_)), "{outcome:?}");
                }
            });
        }
    });
    assert_converged(&cluster, &["contended"]);
}

/// A native subscription replays rows with an origin of its own, past ordinary triggers: refused, never applied on one node
/// alone.
#[test]
fn a_native_subscription_cannot_write_past_the_log() {
    let cluster = CLUSTER.lease();
    cluster.create_table("fed_from_outside", "CREATE TABLE fed_from_outside (id int PRIMARY KEY)");
    let mut publisher = synod_testkit::Server::new(
        "publisher",
        &[("shared_preload_libraries", ""), ("wal_level", "logical")],
    );
    publisher.start();
    publisher
        .client()
        .batch_execute("CREATE TABLE fed_from_outside (id int PRIMARY KEY); INSERT INTO fed_from_outside VALUES (1); CREATE PUBLICATION p FOR TABLE fed_from_outside")
        .unwrap();
    let mut client = cluster.client(0);
    let refusals = || {
        cluster
            .server(0)
            .log()
            .matches("replays another replication origin")
            .count()
    };
    for copy_data in [true, false] {
        let before = refusals();
        client
            .batch_execute(&format!(
                "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (copy_data = {copy_data})",
                publisher.dsn()
            ))
            .unwrap();
        publisher
            .client()
            .execute(
                "INSERT INTO fed_from_outside VALUES ($1)",
                &[&(10 + i32::from(copy_data))],
            )
            .unwrap();
        // Both the first copy of the rows and what follows.
        synod_testkit::wait_until(
            std::time::Duration::from_secs(30),
            "the subscription to be refused",
            || (refusals() > before).then_some(()),
        );
        client.batch_execute("DROP SUBSCRIPTION s").unwrap();
    }
    assert_converged(&cluster, &["fed_from_outside"]);
    assert_eq!(checksum(&mut cluster.client(0), "fed_from_outside").unwrap().0, 0);
}
