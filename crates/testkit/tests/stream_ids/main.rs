//! Events of the change stream on replicated tables: the same, under the same ids and in the same order, on every node, whatever
//! the transactions do; and a gap is never silent.

mod cost;
mod filters;
mod forged;
mod gaps;
mod publications;
mod reader;
mod replay;

use postgres::Client;
use synod_testkit::random_transactions::{TABLES, make_schema, random_transaction};
use synod_testkit::{Cluster, Options, Rng, SharedCluster, assert_converged};

use reader::{Cell, Reading, make_slot, read_with};

const SETTINGS: &[(&str, &str)] = &[("wal_level", "logical")];

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    settings: SETTINGS,
    ..Options::DEFAULT
});

/// Partitions are told as themselves.
const STORED: [&str; 7] = ["account", "tree", "box", "doc", "whole", "part_low", "part_high"];

fn make_slots(cluster: &Cluster, slot: &str) {
    (0..cluster.len()).for_each(|node| make_slot(&mut cluster.client(node), slot));
}

/// What every node's slot has.
fn read_all(cluster: &Cluster, slot: &str, options: &str) -> Vec<Reading> {
    (0..cluster.len())
        .map(|node| read_with(&mut cluster.client(node), slot, options).expect("the slot can be read"))
        .collect()
}

fn drop_slots(cluster: &Cluster, slot: &str) {
    for node in 0..cluster.len() {
        let mut client = cluster.client(node);
        client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).unwrap();
    }
}

/// Every node told the same; ids ascend; each record names the one before.
#[track_caller]
fn assert_alike(readings: &[Reading]) {
    for (node, reading) in readings.iter().enumerate().skip(1) {
        for (number, (here, first)) in reading.lines.iter().zip(&readings[0].lines).enumerate() {
            assert_eq!(here, first, "line {number} as n{} and n1 tell it", node + 1);
        }
        assert_eq!(reading.lines.len(), readings[0].lines.len(), "lines of n{}", node + 1);
    }
    for reading in readings {
        let ids: Vec<(u64, u64)> = reading.told.iter().map(|told| (told.csn, told.ordinal)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "ids ascend");
        for pair in reading.records.windows(2) {
            assert_eq!(pair[1].1, Some(pair[0].0), "each record names the one before");
        }
    }
}

/// What comes of the events is what the tables hold.
#[track_caller]
fn assert_complete(reading: &Reading, client: &mut Client) {
    for table in STORED {
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for told in reading.told.iter().filter(|told| told.table == table) {
            replay::replay(&mut rows, &told.what, table == "whole");
        }
        rows.sort();
        let mut there = replay::content(client, table);
        there.sort();
        assert_eq!(rows, there, "content of {table}");
    }
}

fn any_node(rng: &mut Rng) -> usize {
    usize::try_from(rng.below(3)).unwrap()
}

#[test]
fn random_transactions_are_told_alike() {
    let mut cluster = CLUSTER.lease();
    make_schema(&cluster);
    make_slots(&cluster, "alike");
    for table in TABLES {
        let empty = format!("TRUNCATE {table} CASCADE");
        cluster.client(0).batch_execute(&empty).unwrap();
    }
    let seed = std::env::var("SYNOD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut rng = Rng::new(seed.unwrap_or(1));
    let mut clients: Vec<Client> = (0..cluster.len()).map(|node| cluster.client(node)).collect();
    for _ in 0..150 {
        let node = any_node(&mut rng);
        random_transaction(&mut clients[node], &mut rng);
    }
    std::thread::scope(|scope| {
        for (node, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut rng = Rng::new(100 + node as u64);
                (0..50).for_each(|_| random_transaction(client, &mut rng));
            });
        }
    });
    drop(clients);
    assert_converged(&cluster, TABLES);
    let mut readings = read_all(&cluster, "alike", "");
    assert_alike(&readings);
    let told = &readings[0].told;
    assert!(told.len() > 300, "{} events", told.len());

    // A node dies, comes back, and goes on where it was.
    cluster.server_mut(1).kill9();
    for number in 0..40 {
        let mut client = cluster.client(number % 2 * 2);
        random_transaction(&mut client, &mut rng);
    }
    cluster.server_mut(1).start();
    for _ in 0..40 {
        let mut client = cluster.client(any_node(&mut rng));
        random_transaction(&mut client, &mut rng);
    }
    assert_converged(&cluster, TABLES);
    for (before, after) in readings.iter_mut().zip(read_all(&cluster, "alike", "")) {
        before.append(after);
    }
    assert_alike(&readings);
    assert_complete(&readings[2], &mut cluster.client(0));
    drop_slots(&cluster, "alike");
}

/// Larger than any buffer on the way, and cut into many messages.
#[test]
fn a_large_transaction_is_told_alike() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "large_one",
        "CREATE TABLE large_one (id int PRIMARY KEY, filler text, n int)",
    );
    make_slots(&cluster, "large");
    let mut client = cluster.client(1);
    client
        .batch_execute(
            "BEGIN;
             INSERT INTO large_one SELECT i, repeat(md5(i::text), i % 40), 0 FROM generate_series(1, 8000) i;
             UPDATE large_one SET n = 1 WHERE id % 3 = 0;
             INSERT INTO large_one SELECT 10000 + i, string_agg(md5(random()::text), ''), 0 FROM generate_series(1, 2) i, generate_series(1, 40000) GROUP BY i;
             COMMIT",
        )
        .unwrap();
    client
        .batch_execute("UPDATE large_one SET n = n + 1 WHERE id % 50 = 0 OR id > 9000")
        .unwrap();
    assert_converged(&cluster, &["large_one"]);
    let readings = read_all(&cluster, "large", "");
    assert_alike(&readings);
    assert_eq!(readings[0].told.len(), 8002 + 162);
    drop_slots(&cluster, "large");
}

/// A transaction that writes ordinary tables, too, tells of them where it was made, under ids of that node.
#[test]
fn ordinary_tables_are_told_where_they_are() {
    let cluster = CLUSTER.lease();
    cluster.create_table("mixed_strong", "CREATE TABLE mixed_strong (id int PRIMARY KEY)");
    cluster.on_all("CREATE TABLE mixed_plain (id int)");
    make_slots(&cluster, "mixed");
    cluster
        .client(2)
        .batch_execute(
            "SET synod.mixed_transactions = allow;
             BEGIN; INSERT INTO mixed_plain VALUES (1); INSERT INTO mixed_strong VALUES (1); INSERT INTO mixed_plain VALUES (2); COMMIT;
             INSERT INTO mixed_strong VALUES (2)",
        )
        .unwrap();
    assert_converged(&cluster, &["mixed_strong"]);
    let readings = read_all(&cluster, "mixed", "");
    assert_alike(&readings);
    let plain: Vec<usize> = readings.iter().map(|reading| reading.local.len()).collect();
    assert_eq!(plain, [0, 0, 2], "{:?}", readings[2].local);
    drop_slots(&cluster, "mixed");
}

#[test]
fn changes_of_definitions_stand_at_their_place() {
    let cluster = CLUSTER.lease();
    cluster.create_table("reshaped", "CREATE TABLE reshaped (id int PRIMARY KEY, a text)");
    make_slots(&cluster, "ddl");
    let mut client = cluster.client(1);
    client.batch_execute("SET synod.stream_context = on").unwrap();
    for script in [
        "INSERT INTO reshaped VALUES (1, 'before'); ALTER TABLE reshaped ADD COLUMN b int DEFAULT 7; UPDATE reshaped SET b = 8; \
         ALTER TABLE reshaped ALTER COLUMN a TYPE varchar(40); INSERT INTO reshaped VALUES (2, 'after', 9)",
        "UPDATE reshaped SET b = 10; SAVEPOINT s; ALTER TABLE reshaped ADD COLUMN c int; UPDATE reshaped SET c = 1; ROLLBACK TO s; \
         UPDATE reshaped SET a = 'again' WHERE id = 1; ALTER TABLE reshaped DROP COLUMN b; DELETE FROM reshaped WHERE id = 2",
        "ALTER TABLE reshaped RENAME TO renamed; INSERT INTO renamed VALUES (3, 'new name')",
    ] {
        client.batch_execute(&format!("BEGIN; {script}; COMMIT")).unwrap();
    }
    assert_converged(&cluster, &["renamed"]);
    let readings = read_all(&cluster, "ddl", ", 'include-ddl', 'on', 'include-context', 'on'");
    assert_alike(&readings);
    let told = &readings[0];
    assert_eq!(told.told.len(), 7, "{:#?}", told.lines);
    drop_slots(&cluster, "ddl");
}

/// A long key that an update left as it was, was not told: nothing said which row it was of.
#[test]
fn a_long_key_is_told_with_each_update() {
    let cluster = CLUSTER.lease();
    cluster.create_table("long_key", "CREATE TABLE long_key (k text PRIMARY KEY, n int, v text)");
    make_slots(&cluster, "long_key");
    let mut client = cluster.client(0);
    for sql in [
        "INSERT INTO long_key SELECT s, 1, s FROM repeat('k', 5000) s",
        "UPDATE long_key SET n = 2",
    ] {
        client.batch_execute(sql).unwrap();
    }
    assert_converged(&cluster, &["long_key"]);
    let readings = read_all(&cluster, "long_key", "");
    assert_alike(&readings);
    let [_, update] = &readings[0].told[..] else {
        panic!("{:?}", readings[0].told)
    };
    let reader::What::Update(None, new) = &update.what else {
        panic!("{update:?}")
    };
    assert_eq!(new[0], Cell::Text("k".repeat(5000)));
    assert_eq!(new[2], Cell::Same);
    drop_slots(&cluster, "long_key");
}

/// A key that was replaced by an equal one that is written otherwise was not told: caches that go by its text kept the row.
#[test]
fn a_key_that_is_written_otherwise_is_told() {
    let cluster = CLUSTER.lease();
    cluster.create_table("equal_key", "CREATE TABLE equal_key (k numeric PRIMARY KEY, n int)");
    make_slots(&cluster, "equal_key");
    let mut client = cluster.client(1);
    for sql in [
        "INSERT INTO equal_key VALUES (1.0, 1)",
        "UPDATE equal_key SET n = 2",
        "UPDATE equal_key SET k = 1.00",
    ] {
        client.batch_execute(sql).unwrap();
    }
    assert_converged(&cluster, &["equal_key"]);
    let readings = read_all(&cluster, "equal_key", "");
    assert_alike(&readings);
    let told: Vec<String> = readings[0].told.iter().map(|told| format!("{:?}", told.what)).collect();
    assert_eq!(
        told[1..],
        [
            "Update(None, [Text(\"1.0\"), Text(\"2\")])",
            "Update(Some([Text(\"1.0\"), Null]), [Text(\"1.00\"), Text(\"2\")])",
        ]
    );
    drop_slots(&cluster, "equal_key");
}
