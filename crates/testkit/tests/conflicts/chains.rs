//! A statement that meets a row which another node has changed since its snapshot goes on with the row as it is now, as on one
//! server: also where the change gave the row another key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, assert_converged, assert_sound, sqlstate, wait_until};

use super::CLUSTER;

/// Runs `statement` on the first node; while it waits for the row with id 1, which a transaction there has locked, the second
/// node runs `meanwhile`, which is applied on the first before the lock goes. Rows that the statement counted, or its SQLSTATE.
fn overtaken(cluster: &Cluster, table: &str, statement: &str, meanwhile: &str) -> Result<u64, String> {
    let (mut one, mut blocker, mut look) = (cluster.client(0), cluster.client(0), cluster.client(0));
    blocker
        .batch_execute(&format!("BEGIN; SELECT FROM {table} WHERE id = 1 FOR UPDATE"))
        .unwrap();
    let pid: i32 = one.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            let result = one.execute(statement, &[]);
            result.map_err(|error| sqlstate(&error).unwrap_or("lost").to_owned())
        });
        wait_until(Duration::from_secs(20), "the statement waits for the row", || {
            let waits = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
            look.query_opt(waits, &[&pid]).unwrap()
        });
        cluster.client(1).batch_execute(meanwhile).unwrap();
        // Applied here.
        look.query(&format!("SELECT FROM {table}"), &[]).unwrap();
        blocker.batch_execute("COMMIT").unwrap();
        running.join().unwrap()
    })
}

/// `id:seen` of each row.
fn seen(client: &mut Client, table: &str) -> String {
    let rows = format!("SELECT string_agg(id || ':' || seen, ' ' ORDER BY id) FROM {table}");
    client.query_one(&rows, &[]).unwrap().get(0)
}

/// Found by a key, and by all of their columns.
const FOLLOWED: [(&str, &str); 2] = [
    ("followed", "id int PRIMARY KEY, email text UNIQUE"),
    ("followed_by_all", "id int UNIQUE, email text UNIQUE"),
];

fn make_followed(cluster: &Cluster, table: &str, columns: &str) {
    let definition =
        format!("CREATE TABLE {table} ({columns}, place int UNIQUE DEFERRABLE, seen int NOT NULL DEFAULT 0)");
    cluster.create_table(table, &definition);
}

#[test]
fn a_row_that_gets_another_key_is_followed() {
    let cluster = CLUSTER.lease();
    for (table, columns) in FOLLOWED {
        make_followed(&cluster, table, columns);
        let fill = || {
            let rows = format!("DELETE FROM {table}; INSERT INTO {table} VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)");
            cluster.client(0).batch_execute(&rows).unwrap();
        };
        // What happens meanwhile, and which rows were counted how often.
        for (meanwhile, expected) in [
            ("UPDATE t SET email = 'new' WHERE id = 2", "1:1 2:1 3:1"),
            ("UPDATE t SET seen = 0 WHERE id = 2", "1:1 2:1 3:1"),
            ("UPDATE t SET id = 12 WHERE id = 2", "1:1 3:1 12:1"),
            (
                "UPDATE t SET id = 12 WHERE id = 2; UPDATE t SET id = 22, email = NULL WHERE id = 12",
                "1:1 3:1 22:1",
            ),
            ("UPDATE t SET place = 5 - place WHERE id > 1", "1:1 2:1 3:1"),
            ("UPDATE t SET place = place + 1, seen = 5 WHERE id > 1", "1:1 2:6 3:6"),
            (
                "UPDATE t SET id = 9 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 9",
                "1:1 2:1 3:1",
            ),
            (
                "UPDATE t SET id = 12 WHERE id = 2; SAVEPOINT s; UPDATE t SET id = 13 WHERE id = 3; ROLLBACK TO s",
                "1:1 3:1 12:1",
            ),
            (
                "UPDATE t SET email = 'new' WHERE id = 2; DELETE FROM t WHERE id = 2",
                "1:1 3:1",
            ),
            // The row of the snapshot is gone, the other one is not in it.
            (
                "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 'b', 2)",
                "1:1 2:0 3:1",
            ),
            (
                "DELETE FROM t WHERE id = 3; UPDATE t SET id = 3 WHERE id = 2",
                "1:1 3:1",
            ),
        ] {
            fill();
            let counted = expected.matches(':').count() - expected.matches(":0").count();
            let meanwhile = format!("BEGIN; {}; COMMIT", meanwhile.replace(" t ", &format!(" {table} ")));
            let every = format!("UPDATE {table} SET seen = seen + 1");
            assert_eq!(
                overtaken(&cluster, table, &every, &meanwhile),
                Ok(counted as u64),
                "{meanwhile}"
            );
            assert_eq!(seen(&mut cluster.client(2), table), expected, "{meanwhile}");
            assert_converged(&cluster, &[table]);
        }
        for statement in [
            "SELECT FROM t FOR UPDATE",
            "SELECT FROM t FOR NO KEY UPDATE",
            "MERGE INTO t USING generate_series(1, 3) n ON id = n WHEN MATCHED THEN UPDATE SET seen = n",
            "DELETE FROM t WHERE true",
        ] {
            fill();
            let statement = statement.replace(" t ", &format!(" {table} "));
            let meanwhile = format!("UPDATE {table} SET email = 'new' WHERE id = 2");
            assert_eq!(overtaken(&cluster, table, &statement, &meanwhile), Ok(3), "{statement}");
        }
        assert_converged(&cluster, &[table]);
    }
}

/// Statements that change all rows, while other nodes change and swap their keys: each changes every row, or none.
#[test]
fn no_statement_passes_over_a_row_that_gets_another_key() {
    const ROWS: u64 = 8;
    for (table, columns) in FOLLOWED {
        let (cluster, table) = (CLUSTER.lease(), &format!("{table}_by_many"));
        make_followed(&cluster, table, columns);
        let fill = format!("INSERT INTO {table} SELECT i, 'e' || i, i FROM generate_series(1, {ROWS}) i");
        cluster.client(0).batch_execute(&fill).unwrap();
        let counted = AtomicU64::new(0);
        let changes = [
            "UPDATE t SET email = gen_random_uuid() WHERE place % 3 = 0",
            "UPDATE t SET email = gen_random_uuid(), place = 9 - place",
            "UPDATE t SET place = 9 - place",
            "UPDATE t SET id = -id WHERE place < 5; UPDATE t SET id = abs(id)",
            "UPDATE t SET id = id + 100 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 4; UPDATE t SET id = 4 WHERE id = 103",
        ];
        std::thread::scope(|scope| {
            for session in 0..2 {
                let (cluster, counted) = (&cluster, &counted);
                scope.spawn(move || {
                    let mut client = cluster.client(session);
                    for _ in 0..25 {
                        let every = format!("UPDATE {table} SET seen = seen + 1");
                        match client.execute(&every, &[]) {
                            Ok(rows) => {
                                assert_eq!(rows, ROWS, "{table}");
                                counted.fetch_add(rows, Ordering::SeqCst);
                            }
                            Err(error) => assert!(gives_up(&error), "{error:?}"),
                        }
                    }
                });
            }
            for (node, most) in [(1, 3), (2, 5)] {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(node);
                    for change in changes[..most].iter().cycle().take(40) {
                        let sql = change.replace(" t ", &format!(" {table} "));
                        if let Err(error) = client.batch_execute(&format!("BEGIN; {sql}; COMMIT")) {
                            assert!(gives_up(&error), "{error:?}");
                            let _ = client.batch_execute("ROLLBACK");
                        }
                    }
                });
            }
        });
        let sum = format!("SELECT sum(seen)::bigint FROM {table}");
        let sum: i64 = cluster.client(2).query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(sum as u64, counted.into_inner(), "{table}");
        assert_converged(&cluster, &[table]);
        assert_sound(&cluster, &[table]);
    }
}

/// Whether the transaction may be tried again.
fn gives_up(error: &postgres::Error) -> bool {
    matches!(sqlstate(error), Some("40001" | "40P01"))
}

/// Rows that get the keys of each other, and of rows that go, are in all indexes afterwards.
#[test]
fn rows_that_exchange_keys_are_found_by_them() {
    let cluster = CLUSTER.lease();
    let rest = "code int NOT NULL, name text, UNIQUE (name) DEFERRABLE, EXCLUDE (code WITH =) DEFERRABLE";
    cluster.on_all(&format!(
        "CREATE TABLE exchanged (id int PRIMARY KEY, {rest}); CREATE TABLE exchanged_by_all (id int UNIQUE DEFERRABLE, {rest});
         CREATE UNIQUE INDEX ON exchanged ((code + 1)) WHERE name IS NOT NULL;
         CREATE UNIQUE INDEX ON exchanged_by_all ((code + 1)) WHERE name IS NOT NULL;
         CREATE TABLE exchanged_heir (id int PRIMARY KEY, head int UNIQUE DEFERRABLE REFERENCES exchanged ON UPDATE CASCADE ON DELETE CASCADE);
         CREATE TABLE twin (code int, name text UNIQUE DEFERRABLE)"
    ));
    let tables = ["exchanged", "exchanged_by_all", "exchanged_heir", "twin"];
    cluster.replicate_together(&tables);
    for (number, change) in [
        "INSERT INTO t SELECT i, i, 'n' || i FROM generate_series(1, 200) i",
        "INSERT INTO exchanged_heir SELECT i, i FROM generate_series(1, 50) i; INSERT INTO twin SELECT i FROM generate_series(1, 20) i; INSERT INTO twin VALUES (1, 'a'), (1, 'b'), (1, 'c'), (NULL, NULL)",
        "UPDATE t SET id = -id; UPDATE t SET id = 201 + id",
        "UPDATE t SET name = 'n' || (201 - code), id = id + 1000",
        "UPDATE t SET id = id - 1000; UPDATE t SET code = code + 1000, name = NULL WHERE id % 2 = 0",
        "DELETE FROM t WHERE id = 100; UPDATE t SET id = 100 WHERE id = 101; INSERT INTO t VALUES (101, 5000, 'x')",
        "UPDATE t SET code = code + 20000; SAVEPOINT s; UPDATE t SET code = code + 20000; ROLLBACK TO s; UPDATE t SET code = code - 40000",
        "UPDATE t SET code = 0 WHERE id = 7; UPDATE t SET code = 9000 WHERE id = 8; UPDATE t SET code = 9001 WHERE id = 7; DELETE FROM t WHERE id = 8",
        "UPDATE t SET name = name; UPDATE t SET name = 'y' || id WHERE name IS NULL AND id < 20",
        "DELETE FROM twin WHERE code IS NOT NULL AND name IS NULL",
        "UPDATE twin SET name = CASE name WHEN 'a' THEN 'b' WHEN 'b' THEN 'c' ELSE 'a' END WHERE name IS NOT NULL",
        "UPDATE twin SET name = CASE name WHEN 'a' THEN 'b' ELSE 'a' END WHERE name < 'c'; DELETE FROM twin WHERE name = 'c'",
        "UPDATE twin SET name = 'd' WHERE name IS NULL; UPDATE twin SET name = NULL WHERE name = 'a'; ALTER TABLE twin ADD more int; UPDATE twin SET name = 'a' WHERE name IS NULL",
    ]
    .iter()
    .enumerate()
    {
        let both = change.replace(" t ", " exchanged ") + ";" + &change.replace(" t ", " exchanged_by_all ");
        let change = if change.contains(" t ") { &both } else { *change };
        let sql = format!("BEGIN; SET CONSTRAINTS ALL DEFERRED; {change}; COMMIT");
        cluster
            .client(number % 3)
            .batch_execute(&sql)
            .unwrap_or_else(|error| panic!("{change}: {error:?}"));
        for node in 0..3 {
            let mut client = cluster.client(node);
            client.batch_execute("SET enable_seqscan = off").unwrap();
            // So that new versions of rows may lie in front of those that have yet to change.
            client.batch_execute("VACUUM (INDEX_CLEANUP on) twin").unwrap();
            for table in ["exchanged", "exchanged_by_all"] {
                let missed = format!(
                    "SELECT count(*) FROM (SELECT * FROM {table} OFFSET 0) e
                     WHERE NOT EXISTS (SELECT FROM {table} f WHERE f.id = e.id OFFSET 0)
                        OR NOT EXISTS (SELECT FROM {table} f WHERE f.code = e.code OFFSET 0)
                        OR name IS NOT NULL AND NOT EXISTS (SELECT FROM {table} f WHERE f.name = e.name OFFSET 0)"
                );
                let missed: i64 = client.query_one(&missed, &[]).unwrap().get(0);
                assert_eq!(missed, 0, "{table} on node {node}: {change}");
            }
        }
        assert_sound(&cluster, &tables);
        assert_converged(&cluster, &tables);
    }
}

/// A row that refers to one whose other key is changing elsewhere waits for that. It may have to try again, but is never told that there
/// is no such row.
#[test]
fn a_parent_that_gets_another_key_is_still_a_parent() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE);
         CREATE TABLE letter (id int PRIMARY KEY, person int REFERENCES person)",
    );
    cluster.replicate_together(&["person", "letter"]);
    cluster
        .client(0)
        .batch_execute("INSERT INTO person VALUES (1, 'old')")
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = cluster.client(1);
            for turn in 0..40 {
                let sql = format!("UPDATE person SET email = 'e{turn}'");
                if let Err(error) = client.batch_execute(&sql) {
                    assert!(gives_up(&error), "{error:?}");
                }
            }
        });
        scope.spawn(|| {
            let mut client = cluster.client(0);
            for id in 0..40 {
                if let Err(error) = client.batch_execute(&format!("INSERT INTO letter VALUES ({id}, 1)")) {
                    assert!(gives_up(&error), "{error:?}");
                }
            }
        });
    });
    assert_converged(&cluster, &["person", "letter"]);
}

#[test]
fn a_row_that_moves_to_another_partition_is_a_conflict() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "moved",
        "CREATE TABLE moved (id int, part int, seen int NOT NULL DEFAULT 0) PARTITION BY LIST (part);
         CREATE TABLE moved_1 PARTITION OF moved FOR VALUES IN (1);
         CREATE TABLE moved_2 PARTITION OF moved FOR VALUES IN (2)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO moved VALUES (1, 1), (2, 1), (3, 1)")
        .unwrap();
    let result = overtaken(
        &cluster,
        "moved",
        "UPDATE moved SET seen = seen + 1",
        "UPDATE moved SET part = 2 WHERE id = 2",
    );
    assert_eq!(result, Err("40001".to_owned()));
    assert_converged(&cluster, &["moved"]);
}
