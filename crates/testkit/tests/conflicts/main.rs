//! Transactions of several nodes that touch the same rows, keys and parents: exactly one wins, and nobody loses without
//! a rival (T2, T3).

use postgres::Client;
use synod_testkit::{Cluster, Options, SharedCluster, assert_converged, checksum, sqlstate};

mod by_the_way;
mod chains;
mod exchanges;
mod locks;

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// Sends COMMIT on all connections at once; the SQLSTATEs of those that failed.
fn commit_together(clients: &mut [Client]) -> Vec<Option<String>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    client
                        .batch_execute("COMMIT")
                        .err()
                        .map(|error| sqlstate(&error).unwrap_or("lost").to_owned())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Opens a transaction with `sql` on each node, commits all at once; the number of winners. Losers must have 40001.
#[track_caller]
fn race(cluster: &Cluster, statements: &[&str]) -> usize {
    let mut clients: Vec<Client> = (0..statements.len()).map(|node| cluster.client(node)).collect();
    let mut running = Vec::new();
    for (mut client, sql) in clients.drain(..).zip(statements) {
        client
            .batch_execute(&format!("BEGIN; {sql}"))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        running.push(client);
    }
    let results = commit_together(&mut running);
    for result in results.iter().flatten() {
        assert_eq!(result, "40001", "{statements:?}");
    }
    results.iter().filter(|result| result.is_none()).count()
}

#[test]
fn a_hot_row_of_one_node_never_conflicts_with_itself() {
    let cluster = CLUSTER.lease();
    cluster.create_table("hot", "CREATE TABLE hot (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO hot VALUES (1, 0)")
        .unwrap();
    let node = cluster.leader();
    const SESSIONS: i32 = 32;
    const EACH: i32 = 20;
    for node in [node, (node + 1) % 3] {
        // An UPDATE by key does not wait for what the other node has just committed; a read does.
        cluster.client(node).batch_execute("SELECT v FROM hot").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                scope.spawn(|| {
                    let mut client = cluster.client(node);
                    for _ in 0..EACH {
                        client
                            .batch_execute("UPDATE hot SET v = v + 1 WHERE id = 1")
                            .expect("no rival on another node");
                    }
                });
            }
        });
    }
    let value: i32 = cluster.client(2).query_one("SELECT v FROM hot", &[]).unwrap().get(0);
    assert_eq!(value, 2 * SESSIONS * EACH);
    assert_converged(&cluster, &["hot"]);
}

/// What a node stores of an index as it likes is no part of what the index is called in the group.
#[test]
fn storage_parameters_of_one_node_change_no_key() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "stored",
        "CREATE TABLE stored (id int PRIMARY KEY, a int CONSTRAINT stored_a UNIQUE, b int)",
    );
    cluster
        .client(0)
        .batch_execute("CREATE UNIQUE INDEX stored_partial ON stored (a) WHERE b > 0")
        .unwrap();
    let race_for = |a: i32| {
        let insert = |id: i32| format!("INSERT INTO stored VALUES ({id}, {a}, 0)");
        race(&cluster, &[&insert(3 * a), &insert(3 * a + 1), &insert(3 * a + 2)])
    };
    assert_eq!(race_for(1), 1);
    cluster
        .client(1)
        .batch_execute("SET synod.ddl = local; ALTER INDEX stored_a SET (fillfactor = 50, deduplicate_items = on)")
        .unwrap();
    assert_eq!(race_for(2), 1, "with a fill factor of its own on one node");
    cluster
        .client(2)
        .batch_execute("ALTER INDEX stored_a SET (fillfactor = 60)")
        .unwrap();
    assert_eq!(race_for(3), 1, "with one on every node");
    assert_converged(&cluster, &["stored"]);
}

#[test]
fn one_update_of_a_row_wins() {
    let cluster = CLUSTER.lease();
    cluster.create_table("rows", "CREATE TABLE rows (id int PRIMARY KEY, v int, w int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO rows SELECT i, 0, 0 FROM generate_series(0, 20) i")
        .unwrap();
    for id in 0..20 {
        let sql = format!("UPDATE rows SET v = v + 1 WHERE id = {id}");
        assert_eq!(race(&cluster, &[&sql, &sql, &sql]), 1, "row {id}");
    }
    let total: i64 = cluster
        .client(1)
        .query_one("SELECT sum(v) FROM rows", &[])
        .unwrap()
        .get(0);
    assert_eq!(total, 20);
    // Different rows are no conflict.
    assert_eq!(
        race(
            &cluster,
            &[
                "UPDATE rows SET w = 1 WHERE id = 1",
                "UPDATE rows SET w = 2 WHERE id = 2",
                "DELETE FROM rows WHERE id = 3"
            ]
        ),
        3
    );
    assert_converged(&cluster, &["rows"]);
}

#[test]
fn update_and_delete_of_a_row_conflict() {
    let cluster = CLUSTER.lease();
    cluster.create_table("mortal", "CREATE TABLE mortal (id int PRIMARY KEY, v int)");
    for id in 0..10 {
        cluster
            .client(0)
            .execute("INSERT INTO mortal VALUES ($1, 0)", &[&id])
            .unwrap();
        // Each node must have the row before it can touch it.
        for node in cluster.nodes() {
            assert_eq!(
                checksum(
                    &mut node.server.client(),
                    &format!("(SELECT * FROM mortal WHERE id = {id})")
                )
                .unwrap()
                .0,
                1
            );
        }
        let (update, delete) = (
            format!("UPDATE mortal SET v = 1 WHERE id = {id}"),
            format!("DELETE FROM mortal WHERE id = {id}"),
        );
        assert_eq!(race(&cluster, &[&update, &delete]), 1);
    }
    assert_converged(&cluster, &["mortal"]);
}

#[test]
fn one_insert_of_a_key_wins_whatever_its_type() {
    let cluster = CLUSTER.lease();
    // Object ids that differ between nodes must not matter.
    cluster
        .client(1)
        .batch_execute("CREATE TYPE padding1 AS ENUM ('a'); CREATE TYPE padding2 AS ENUM ('b', 'c')")
        .unwrap();
    cluster
        .client(2)
        .batch_execute("CREATE TABLE padding3 (a serial PRIMARY KEY)")
        .unwrap();
    cluster.on_all("CREATE TYPE colour AS ENUM ('red', 'green')");
    cluster.on_all("CREATE TYPE pair AS (a int, b text)");
    cluster.on_all("CREATE DOMAIN positive AS int CHECK (value > 0)");
    let available = "SELECT FROM pg_available_extensions WHERE name = 'citext'";
    let citext = !cluster.client(0).query(available, &[]).unwrap().is_empty();
    if citext {
        cluster.on_all("CREATE EXTENSION citext");
    }
    let types = [
        ("int2", "1", "1"),
        ("int8", "1", "1"),
        ("numeric", "1.0", "1.00"),
        ("numeric", "'NaN'", "'NaN'"),
        ("float8", "0.0", "'-0.0'"),
        ("float4", "'NaN'", "'NaN'"),
        ("text", "'a'", "'a'"),
        ("varchar(10)", "'a'", "'a'"),
        ("char(4)", "'a'", "'a  '"),
        ("bytea", "'\\x00'", "'\\x00'"),
        ("bool", "'t'", "'yes'"),
        (
            "uuid",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        ),
        ("date", "'2000-01-01'", "'1 jan 2000'"),
        ("timestamptz", "'2000-01-01 12:00+00'", "'2000-01-01 14:00+02'"),
        ("interval", "'1 day'", "'24 hours'"),
        ("inet", "'10.0.0.1'", "'10.0.0.1/32'"),
        ("colour", "'green'", "'green'"),
        ("colour[]", "'{red,green}'", "'{red,green}'"),
        ("int[]", "'{1,2}'", "ARRAY[1,2]"),
        ("jsonb", "'{\"a\": 1, \"b\": 2}'", "'{\"b\": 2, \"a\": 1.0}'"),
        ("int4range", "'[1,4]'", "'[1,5)'"),
        ("pair", "(1, 'x')", "(1, 'x')"),
        ("positive", "1", "1"),
        ("citext", "'Word'", "'wORD'"),
    ];
    for (number, (kind, one, other)) in types.iter().enumerate() {
        if *kind == "citext" && !citext {
            continue;
        }
        let table = format!("key{number}");
        cluster.create_table(
            &table,
            &format!("CREATE TABLE {table} (k {kind} PRIMARY KEY, node int)"),
        );
        let (first, second) = (
            format!("INSERT INTO {table} VALUES ({one}, 1)"),
            format!("INSERT INTO {table} VALUES ({other}, 2)"),
        );
        assert_eq!(race(&cluster, &[&first, &second]), 1, "{kind}: {one} and {other}");
        assert_converged(&cluster, &[&table]);
        assert_eq!(checksum(&mut cluster.client(2), &table).unwrap().0, 1, "{kind}");
    }
}

#[test]
fn unique_indexes_of_every_shape_are_kept() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "shapes",
        "CREATE TABLE shapes (id int PRIMARY KEY, a text, b int, c int, d int, UNIQUE (c, d));
         CREATE UNIQUE INDEX ON shapes (lower(a));
         CREATE UNIQUE INDEX ON shapes (b) WHERE b > 10",
    );
    let cases = [
        ("(1, 'X', 1, 1, 1)", "(2, 'x', 2, 2, 2)", 1, "an expression"),
        ("(3, 'p', 11, 3, 3)", "(4, 'q', 11, 4, 4)", 1, "a partial index, inside"),
        ("(5, 'r', 5, 5, 5)", "(6, 's', 5, 6, 6)", 2, "a partial index, outside"),
        (
            "(7, 't', 0, 7, NULL)",
            "(8, 'u', 0, 7, NULL)",
            2,
            "NULL is not equal to NULL",
        ),
        ("(9, 'v', 0, 9, 9)", "(10, 'w', 0, 9, 9)", 1, "two columns"),
        (
            "(11, 'y', 0, 11, 9)",
            "(12, 'z', 0, 12, 9)",
            2,
            "two columns, one equal",
        ),
    ];
    for (one, other, winners, what) in cases {
        let statements = [
            format!("INSERT INTO shapes VALUES {one}"),
            format!("INSERT INTO shapes VALUES {other}"),
        ];
        assert_eq!(race(&cluster, &[&statements[0], &statements[1]]), winners, "{what}");
    }
    assert_converged(&cluster, &["shapes"]);
}

#[test]
fn a_parent_does_not_go_from_under_its_child() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE parent (id bigint PRIMARY KEY, note text); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)");
    cluster.replicate_together(&["parent", "child"]);
    for id in 0..12 {
        cluster
            .client(0)
            .batch_execute(&format!("INSERT INTO parent VALUES ({id})"))
            .unwrap();
        let insert = format!("INSERT INTO child VALUES ({id}, {id})");
        let delete = format!("DELETE FROM parent WHERE id = {id}");
        let statements = if id % 2 == 0 {
            [&insert, &delete]
        } else {
            [&delete, &insert]
        };
        for node in 0..2 {
            assert_eq!(
                checksum(
                    &mut cluster.client(node),
                    &format!("(SELECT * FROM parent WHERE id = {id})")
                )
                .unwrap()
                .0,
                1
            );
        }
        assert_eq!(race(&cluster, &[statements[0], statements[1]]), 1, "{statements:?}");
    }
    let orphans: i64 = cluster
        .client(2)
        .query_one(
            "SELECT count(*) FROM child c WHERE NOT EXISTS (SELECT FROM parent p WHERE p.id = c.parent)",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(orphans, 0);
    // A change of the parent that leaves its key alone is no rival of a new child; two children are none of each other.
    cluster
        .client(0)
        .batch_execute("INSERT INTO parent VALUES (100, 'old')")
        .unwrap();
    for node in 0..3 {
        assert_eq!(
            checksum(&mut cluster.client(node), "(SELECT * FROM parent WHERE id = 100)")
                .unwrap()
                .0,
            1
        );
    }
    assert_eq!(
        race(
            &cluster,
            &[
                "UPDATE parent SET note = 'new' WHERE id = 100",
                "INSERT INTO child VALUES (100, 100)",
                "INSERT INTO child VALUES (101, 100)"
            ]
        ),
        3
    );
    assert_converged(&cluster, &["parent", "child"]);
}

/// What is equal in an index is so by its operator class, not by the type of the column.
#[test]
fn a_class_of_another_type_decides_what_is_equal() {
    let cluster = CLUSTER.lease();
    cluster.create_table("padded", "CREATE TABLE padded (id int PRIMARY KEY, code text)");
    cluster
        .client(0)
        .batch_execute("CREATE UNIQUE INDEX padded_code ON padded (code bpchar_ops)")
        .unwrap();
    assert_eq!(
        race(
            &cluster,
            &[
                "INSERT INTO padded VALUES (1, 'a')",
                "INSERT INTO padded VALUES (2, 'a ')",
                "INSERT INTO padded VALUES (3, 'a  ')",
            ]
        ),
        1
    );
    assert_converged(&cluster, &["padded"]);
}

#[test]
fn inserts_without_a_key_commute() {
    let cluster = CLUSTER.lease();
    cluster.create_table("keyless", "CREATE TABLE keyless (a int, b text)");
    for _ in 0..5 {
        assert_eq!(
            race(
                &cluster,
                &[
                    "INSERT INTO keyless VALUES (1, 'x')",
                    "INSERT INTO keyless VALUES (1, 'x')",
                    "INSERT INTO keyless VALUES (2, 'y')"
                ]
            ),
            3
        );
    }
    assert_eq!(checksum(&mut cluster.client(0), "keyless").unwrap().0, 15);
    // One of ten equal rows.
    cluster
        .client(1)
        .batch_execute("DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 1)")
        .unwrap();
    assert_eq!(checksum(&mut cluster.client(2), "keyless").unwrap().0, 14);
    assert!(
        race(
            &cluster,
            &[
                "UPDATE keyless SET b = 'z' WHERE a = 2",
                "DELETE FROM keyless WHERE a = 2"
            ]
        ) == 1
    );
    assert_converged(&cluster, &["keyless"]);
}

#[test]
fn repeatable_read_keeps_its_snapshot_and_the_first_committer_wins() {
    let cluster = CLUSTER.lease();
    cluster.create_table("snap", "CREATE TABLE snap (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO snap VALUES (1, 0), (2, 0)")
        .unwrap();
    let mut old = cluster.client(0);
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let read =
        |client: &mut Client| -> i32 { client.query_one("SELECT v FROM snap WHERE id = 1", &[]).unwrap().get(0) };
    assert_eq!(read(&mut old), 0);
    cluster
        .client(1)
        .batch_execute("UPDATE snap SET v = 1 WHERE id = 1")
        .unwrap();
    assert_eq!(read(&mut cluster.client(0)), 1);
    assert_eq!(read(&mut old), 0);
    let error = old.batch_execute("UPDATE snap SET v = 2 WHERE id = 1").unwrap_err();
    assert_eq!(sqlstate(&error), Some("40001"));
    old.batch_execute("ROLLBACK").unwrap();
    assert_converged(&cluster, &["snap"]);
}

/// The key of the parent and that of the child are not written alike: they must meet all the same.
#[test]
fn a_parent_of_another_type_does_not_go_either() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "SET timezone = 'UTC';
         CREATE TABLE day (id date PRIMARY KEY); CREATE TABLE of_day (id int PRIMARY KEY, day timestamp REFERENCES day);
         CREATE TABLE moment (id timestamptz PRIMARY KEY); CREATE TABLE at_moment (id int PRIMARY KEY, moment date REFERENCES moment);
         CREATE TABLE amount (id numeric PRIMARY KEY); CREATE TABLE of_amount (id int PRIMARY KEY, amount int REFERENCES amount)",
    );
    cluster.replicate_together(&["day", "of_day", "moment", "at_moment", "amount", "of_amount"]);
    for (parent, child, value) in [
        ("day", "of_day", "'2026-02-03'"),
        ("moment", "at_moment", "'2026-02-03 00:00+00'"),
        ("amount", "of_amount", "7"),
    ] {
        for round in 0..4 {
            cluster
                .client(0)
                .batch_execute(&format!(
                    "DELETE FROM {child}; DELETE FROM {parent}; INSERT INTO {parent} VALUES ({value})"
                ))
                .unwrap();
            assert_converged(&cluster, &[parent]);
            let insert = format!("INSERT INTO {child} VALUES ({round}, {value})");
            let delete = format!("DELETE FROM {parent}");
            let statements = if round % 2 == 0 {
                [&insert, &delete]
            } else {
                [&delete, &insert]
            };
            assert_eq!(race(&cluster, &[statements[0], statements[1]]), 1, "{statements:?}");
        }
        let orphans: i64 = cluster
            .client(2)
            .query_one(
                &format!("SELECT (SELECT count(*) FROM {child}) * (1 - (SELECT count(*) FROM {parent}))"),
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(orphans, 0, "{child}");
        assert_converged(&cluster, &[parent, child]);
    }
}
