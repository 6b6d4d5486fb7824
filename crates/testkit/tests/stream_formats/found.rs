//! `sql` finds the row that was changed by a key of any type, and replays what no transaction block may hold.

use crate::{Source, database, replay, rows, server};

/// Types that a literal without a type cannot be compared with, or only with other rows' values for equal; two values each.
const KEYS: &[(&str, &str, &str)] = &[
    ("kinds.pair", "ROW(1, 'a')", "ROW(2, 'b')"),
    ("kinds.couple", "ROW(1, 'a')", "ROW(2, 'b')"),
    ("kinds.temper", "'cross'", "'happy'"),
    ("kinds.\"M ood\"", "'cross'", "'happy'"),
    ("kinds.numbers", "'{1,2}'", "'{}'"),
    ("kinds.span", "'[1,2)'", "'empty'"),
    ("regclass", "'pg_class'", "'pg_type'"),
    ("kinds.relation", "'pg_class'", "'pg_type'"),
    ("regtype", "'integer'", "'text'"),
    ("regrole", "'postgres'", "'pg_monitor'"),
    ("citext", "'a'", "'b'"),
];

const KINDS: &str = "CREATE SCHEMA kinds; CREATE TYPE kinds.pair AS (a integer, b text); CREATE DOMAIN kinds.couple AS kinds.pair;
    CREATE TYPE kinds.\"M ood\" AS ENUM ('cross', 'happy'); CREATE DOMAIN kinds.temper AS kinds.\"M ood\";
    CREATE DOMAIN kinds.numbers AS integer[]; CREATE DOMAIN kinds.span AS int4range; CREATE DOMAIN kinds.relation AS regclass";

fn keys() -> Vec<(String, String, &'static str, &'static str)> {
    let has_citext = server()
        .client()
        .query_one(
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'",
            &[],
        )
        .unwrap()
        .get::<_, i64>(0)
        > 0;
    KEYS.iter()
        .filter(|(kind, ..)| has_citext || *kind != "citext")
        .enumerate()
        .map(|(number, (kind, one, other))| (format!("k{number}"), (*kind).to_owned(), *one, *other))
        .collect()
}

#[test]
fn a_row_is_found_by_a_key_of_any_type() {
    let keys = keys();
    let mut setup = KINDS.to_owned();
    if keys.iter().any(|(_, kind, ..)| kind == "citext") {
        setup += "; CREATE EXTENSION citext";
    }
    for (table, kind, ..) in &keys {
        setup += &format!(
            "; CREATE TABLE {table} (k {kind} PRIMARY KEY, v integer); CREATE TABLE w{table} (k {kind}, v integer)"
        );
        setup += &format!("; ALTER TABLE w{table} REPLICA IDENTITY FULL");
    }
    let mut source = Source::new("found", "UTF8", &setup);
    for (table, _, one, other) in &keys {
        for table in [table.clone(), format!("w{table}")] {
            source.run(&[
                &format!("INSERT INTO {table} VALUES ({one}, 1), ({other}, 2)"),
                &format!("UPDATE {table} SET v = 3 WHERE v = 1"),
                &format!("DELETE FROM {table} WHERE v = 2"),
                &format!("UPDATE {table} SET k = {other}"),
            ]);
        }
    }
    let mut there = database("found_again", "UTF8");
    there.batch_execute(&setup).unwrap();
    replay("found_again", &source.peek("sql", &[]));
    for (table, kind, ..) in &keys {
        for table in [table.clone(), format!("w{table}")] {
            let here = rows(&mut source.client, &table);
            assert_eq!(rows(&mut there, &table), here, "{kind} in {table}");
            assert_eq!(here.len(), 1);
        }
    }
}

#[test]
fn definitions_that_run_outside_of_a_block_are_replayed_there() {
    let mut server = synod_testkit::Server::new(
        "alone",
        &[("wal_level", "logical"), ("autovacuum", "off"), ("fsync", "off")],
    );
    server.start();
    let mut client = server.client();
    for statement in [
        "CREATE DATABASE alone_again",
        "SELECT pg_create_logical_replication_slot('alone', 'synod')",
        "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE TABLE p (id integer PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE q PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE SCHEMA other; CREATE TABLE other.t (id integer)",
        "SET search_path = other",
        "CREATE INDEX CONCURRENTLY i ON t (id) -- with a comment",
        "RESET search_path",
        "CREATE INDEX CONCURRENTLY i ON t (v)",
        "CREATE INDEX CONCURRENTLY j ON t (v)",
        "DROP INDEX CONCURRENTLY j",
        "ALTER TABLE p DETACH PARTITION q CONCURRENTLY",
        "SET check_function_bodies = off",
        "CREATE FUNCTION early() RETURNS integer LANGUAGE sql AS 'SELECT x FROM not_there'",
        "INSERT INTO t VALUES (1, 'after')",
        "CREATE ROLE owner; GRANT CREATE ON SCHEMA public TO owner",
        "CREATE TABLE owned (id integer)",
        "ALTER TABLE owned OWNER TO owner",
        "DROP OWNED BY owner",
    ] {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let sql = "SELECT string_agg(data, E'\\n') || E'\\n' FROM pg_logical_slot_get_changes('alone', NULL, NULL, 'format', 'sql', 'include-ddl', 'on')";
    let script: String = client.query_one(sql, &[]).unwrap().get(0);
    let options = ["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"];
    assert_eq!(server.psql("alone_again", &options, &script), "", "{script}");
    let shape = "SELECT string_agg(c.oid::regclass || ' ' || relkind::text || ' ' || relispartition, ', ' ORDER BY c.oid::regclass::text COLLATE \"C\")
                   FROM pg_class c WHERE relnamespace IN ('public'::regnamespace, 'other'::regnamespace)";
    let mut there = server.client_to("alone_again");
    let [here, again] =
        [&mut client, &mut there].map(|client| client.query_one(shape, &[]).unwrap().get::<_, String>(0));
    assert_eq!(again, here, "{script}");
    assert!(here.contains("other.i i") && !here.contains("j i"), "{here}");
    assert_eq!(
        there.query_one("SELECT v FROM t", &[]).unwrap().get::<_, String>(0),
        "after"
    );
}
