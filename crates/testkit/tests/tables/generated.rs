//! Stored generated columns whose function answers differently on each node, and later: every node has what was stored where the row
//! was written.

use std::io::Write;

use synod_testkit::{Cluster, assert_converged, failed, refused};

use crate::CLUSTER;

/// Declared immutable like many that ask the server: its settings, text search configurations, locale.
const ANSWER: &str = "CREATE FUNCTION answer(text) RETURNS text IMMUTABLE LANGUAGE sql
    AS $$ SELECT $1 || ' by ' || current_setting('port') $$";
const SCHEMA: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, v text, n int, w text GENERATED ALWAYS AS (answer(v)) STORED,
                        long text GENERATED ALWAYS AS (repeat(answer(v), 500)) STORED);
    CREATE UNIQUE INDEX ON plain (w, id);
    CREATE TABLE by_answer (v text, n int, w text GENERATED ALWAYS AS (answer(v)) STORED PRIMARY KEY);
    CREATE TABLE refers (id int PRIMARY KEY, w text REFERENCES by_answer ON DELETE CASCADE);
    CREATE TABLE keyless (v text, w text GENERATED ALWAYS AS (answer(v)) STORED);
    CREATE TABLE nothing_else (w text GENERATED ALWAYS AS (answer('x')) STORED);
    CREATE TABLE split (id int PRIMARY KEY, v text, w text GENERATED ALWAYS AS (answer(v)) STORED) PARTITION BY RANGE (id);
    CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (100);
    CREATE TABLE split_2 PARTITION OF split FOR VALUES FROM (100) TO (1000)";
const ROOTS: &[&str] = &["plain", "by_answer", "refers", "keyless", "nothing_else", "split"];
const TABLES: &[&str] = &[
    "plain",
    "by_answer",
    "refers",
    "keyless",
    "nothing_else",
    "split_1",
    "split_2",
];

fn run(cluster: &Cluster, node: usize, sql: &str) {
    let done = cluster.client(node).batch_execute(sql);
    done.unwrap_or_else(|error| panic!("node {node}: {sql}: {error:?}"));
    assert_converged(cluster, TABLES);
}

/// Every node has the answer of the node with this number.
fn assert_answer(cluster: &Cluster, of: usize, sql: &str) {
    let port = cluster.server(of).port().to_string();
    for node in 0..cluster.len() {
        let found: String = cluster.client(node).query_one(sql, &[]).unwrap().get(0);
        assert!(
            found.ends_with(&format!(" by {port}")),
            "node {node}: {sql}: {found}, not of node {of}, port {port}"
        );
    }
}

#[test]
fn values_of_generated_columns_travel_with_their_rows() {
    let cluster = CLUSTER.lease();
    let mut first = cluster.client(0);
    first.batch_execute(ANSWER).unwrap();
    first.batch_execute(SCHEMA).unwrap();
    // Rows that are there when the tables are replicated.
    first
        .batch_execute(
            "INSERT INTO plain (id, v) SELECT i, 'v' || i FROM generate_series(1, 5) i; INSERT INTO by_answer VALUES ('a', 1), ('b', 2);
             INSERT INTO keyless VALUES ('k'), ('k'), ('l'); INSERT INTO split VALUES (1, 'one'), (101, 'far')",
        )
        .unwrap();
    cluster.replicate_together(ROOTS);
    assert_converged(&cluster, TABLES);
    assert_answer(&cluster, 0, "SELECT w FROM plain WHERE id = 5");
    run(
        &cluster,
        1,
        "INSERT INTO plain (id, v) VALUES (6, 'six'), (7, NULL); INSERT INTO by_answer VALUES ('a', 3);
         INSERT INTO keyless VALUES ('k'); INSERT INTO nothing_else DEFAULT VALUES; INSERT INTO split VALUES (2, 'two')",
    );
    assert_answer(&cluster, 1, "SELECT w FROM plain WHERE id = 6");
    assert_answer(&cluster, 1, "SELECT w FROM split WHERE id = 2");
    let mut third = cluster.client(2);
    let mut copy = third.copy_in("COPY plain (id, v) FROM STDIN").unwrap();
    copy.write_all(b"8\teight\n9\t\\N\n").unwrap();
    copy.finish().unwrap();
    assert_converged(&cluster, TABLES);
    assert_answer(&cluster, 2, "SELECT w FROM plain WHERE id = 8");
    // What the column is computed from, and what not: the value stays.
    run(&cluster, 2, "UPDATE plain SET v = v || '!' WHERE id < 3");
    run(&cluster, 1, "UPDATE plain SET n = id WHERE id < 5");
    assert_answer(&cluster, 2, "SELECT w FROM plain WHERE id = 2");
    assert_answer(&cluster, 0, "SELECT w FROM plain WHERE id = 3");
    // Rows move, with the value of where they were moved.
    run(
        &cluster,
        2,
        "UPDATE split SET id = 103 WHERE id = 2; UPDATE split SET id = 3 WHERE id = 101",
    );
    assert_answer(&cluster, 2, "SELECT w FROM split WHERE id = 103");
    rows_are_found_by_generated_columns(&cluster);
    the_function_is_replaced(&cluster);
    partitions_come_and_go(&cluster);
}

/// The row is another node's, and so is the key.
fn rows_are_found_by_generated_columns(cluster: &Cluster) {
    run(cluster, 2, "INSERT INTO refers SELECT n, w FROM by_answer");
    run(cluster, 1, "UPDATE by_answer SET n = n + 10");
    run(cluster, 2, "DELETE FROM by_answer WHERE v = 'a' AND n = 11");
    run(
        cluster,
        0,
        "DELETE FROM refers; UPDATE by_answer SET v = 'c' WHERE n = 13",
    );
    assert_answer(cluster, 0, "SELECT w FROM by_answer WHERE n = 13");
    run(
        cluster,
        2,
        "DELETE FROM keyless WHERE v = 'l'; UPDATE keyless SET v = 'm'",
    );
    assert_answer(cluster, 2, "SELECT min(w) FROM keyless");
    run(cluster, 0, "DELETE FROM keyless; DELETE FROM nothing_else");
}

/// Rows that are there keep what they have, as on one server.
fn the_function_is_replaced(cluster: &Cluster) {
    run(
        cluster,
        1,
        "CREATE OR REPLACE FUNCTION answer(text) RETURNS text IMMUTABLE LANGUAGE sql
             AS $$ SELECT upper($1) || ' by ' || current_setting('port') $$",
    );
    run(cluster, 0, "UPDATE plain SET n = -1");
    assert_answer(cluster, 2, "SELECT w FROM plain WHERE id = 2");
    run(cluster, 0, "UPDATE plain SET v = 'new' WHERE id = 2");
    assert_answer(cluster, 0, "SELECT w FROM plain WHERE id = 2 AND w LIKE 'NEW%'");
    run(
        cluster,
        2,
        "ALTER FUNCTION answer(text) SET search_path = pg_catalog; INSERT INTO plain (id, v) VALUES (10, 'ten')",
    );
    assert_answer(cluster, 2, "SELECT w FROM plain WHERE id = 10");
}

fn partitions_come_and_go(cluster: &Cluster) {
    run(
        cluster,
        1,
        "CREATE TABLE split_3 (id int PRIMARY KEY, v text, w text GENERATED ALWAYS AS (answer(v)) STORED);
         INSERT INTO split_3 VALUES (1000, 'thousand'), (1001, NULL)",
    );
    run(
        cluster,
        1,
        "ALTER TABLE split ATTACH PARTITION split_3 FOR VALUES FROM (1000) TO (2000)",
    );
    assert_converged(cluster, &["split_3"]);
    assert_answer(cluster, 1, "SELECT w FROM split WHERE id = 1000");
    run(
        cluster,
        0,
        "ALTER TABLE split DETACH PARTITION split_3; UPDATE split_3 SET v = 'alone' WHERE id = 1001",
    );
    assert_converged(cluster, &["split_3"]);
    assert_answer(cluster, 0, "SELECT w FROM split_3 WHERE id = 1001");
}

/// What `synod repair` does: nobody else gets a value into a generated column, or past the log.
#[test]
fn rows_are_put_by_a_repair_only() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE mended (gone int, id int PRIMARY KEY, v varchar(5), w text GENERATED ALWAYS AS (upper(v)) STORED, list int[]);
         ALTER TABLE mended DROP COLUMN gone; CREATE TABLE untouched (id int PRIMARY KEY, v text);
         CREATE ROLE mender IN ROLE synod_admin; GRANT SELECT ON mended TO mender",
    );
    cluster.replicate_together(&["mended", "untouched"]);
    let mut client = cluster.client(0);
    client
        .batch_execute("INSERT INTO mended VALUES (1, 'one'); INSERT INTO untouched VALUES (1, 'one')")
        .unwrap();
    let whole = "SELECT synod._put_row(ROW(2, 'two', 'given', '{1,2}')::mended)";
    for sql in [whole, "SELECT synod._put_row(ROW(2, 'two'))"] {
        refused(sql, client.batch_execute(sql), &["55000"]);
    }
    let within = |client: &mut postgres::Client, begin: &str, sql: &str| {
        client
            .batch_execute(&format!("SET synod.read_consistency = local; {begin}"))
            .unwrap();
        let csn: i64 = client.query_one("SELECT synod._hold(20000)", &[]).unwrap().get(0);
        client
            .batch_execute(&format!("SELECT synod._begin_repair('mended'::regclass, {csn})"))
            .and_then(|()| client.batch_execute(sql))
    };
    for (begin, sql, code) in [
        ("BEGIN", "SELECT synod._put_row(t) FROM untouched AS t", "55000"),
        ("BEGIN", "SELECT synod._put_row(t) FROM mended AS t", "23505"),
        ("BEGIN READ ONLY", whole, "25006"),
        ("SET ROLE mender; BEGIN", whole, "42501"),
    ] {
        failed(sql, within(&mut client, begin, sql), &[code]);
        client.batch_execute("ROLLBACK; RESET ROLE").unwrap();
    }
    client
        .batch_execute("GRANT INSERT ON mended TO mender; ALTER TABLE mended ENABLE ROW LEVEL SECURITY")
        .unwrap();
    refused(whole, within(&mut client, "SET ROLE mender; BEGIN", whole), &["42501"]);
    client
        .batch_execute("ROLLBACK; RESET ROLE; ALTER TABLE mended DISABLE ROW LEVEL SECURITY")
        .unwrap();
    within(&mut client, "SET ROLE mender; BEGIN", whole).unwrap();
    let row = client
        .query_one("SELECT t::text FROM mended AS t WHERE id = 2", &[])
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "(2,two,given,\"{1,2}\")");
    // Its rows would come when the hold is over.
    let prepare = "PREPARE TRANSACTION 'mended'";
    failed(prepare, client.batch_execute(prepare), &["0A000"]);
    client.batch_execute("ROLLBACK; RESET ROLE").unwrap();
    assert_converged(&cluster, &["mended", "untouched"]);
}
