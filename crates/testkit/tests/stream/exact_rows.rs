//! Rows into another PostgreSQL: the row that changed is found among those that are only equal to it, by keys of any type, and whatever
//! the settings of the target's database are.

use super::*;

const DEFINITIONS: &str = "\
CREATE TYPE pair AS (a int, b text); CREATE DOMAIN couple AS pair; CREATE TYPE mood AS ENUM ('cross', 'happy'); CREATE DOMAIN temper AS mood;
CREATE DOMAIN blanks AS char(5); CREATE DOMAIN word AS text;
CREATE TABLE key_pair (k pair PRIMARY KEY, v int); CREATE TABLE key_couple (k couple PRIMARY KEY, v int);
CREATE TABLE key_temper (k temper PRIMARY KEY, v int); CREATE TABLE key_class (k regclass PRIMARY KEY, v int);
CREATE TABLE f (k float8, v int); CREATE TABLE n (k numeric, v int); CREATE TABLE j (k jsonb, v int); CREATE TABLE i (k interval, v int);
CREATE TABLE h (k inet, v int); CREATE TABLE b (k blanks, v int); CREATE TABLE js (k json[], v int); CREATE TABLE w (k word, v int);
CREATE TABLE p (k pair, v int); CREATE TABLE s (k text[], b bytea[], m money, t timestamptz[])";

/// (table, two values that are easily taken for each other)
const WHOLE: [(&str, &str, &str); 9] = [
    ("f", "'0'", "'-0'"),
    ("n", "1.0", "1.00"),
    ("j", "'{\"a\": 1.0}'", "'{\"a\": 1.00}'"),
    ("i", "'1 mon'", "'30 days'"),
    ("h", "'10.0.0.1'", "'10.0.0.1/24'"),
    ("b", "'x'", "'y'"),
    ("js", "ARRAY['1'::json]", "ARRAY['1 '::json]"),
    ("w", "NULL", "''"),
    ("p", "ROW(1, 'a')", "ROW(1, NULL)"),
];

const KEYS: [(&str, &str, &str); 4] = [
    ("key_pair", "ROW(1, 'a')", "ROW(2, 'b')"),
    ("key_couple", "ROW(1, 'a')", "ROW(2, 'b')"),
    ("key_temper", "'cross'", "'happy'"),
    ("key_class", "'pg_class'", "'pg_type'"),
];

#[test]
fn the_very_row_is_changed_whatever_the_settings_of_the_target() {
    let server = server();
    let mut definitions = DEFINITIONS.to_owned();
    let mut whole = WHOLE.to_vec();
    if synod_testkit::PgInstall::from_environment().has_icu() {
        definitions += "; CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                        CREATE TABLE c (k text COLLATE loose, v int)";
        whole.push(("c", "'a'", "'A'"));
    }
    for (table, ..) in whole.iter().chain(&[("s", "", "")]) {
        definitions += &format!("; ALTER TABLE {table} REPLICA IDENTITY FULL");
    }
    let mut source = database(&server, "exact_from", &definitions);
    let mut target = database(&server, "exact_to", &definitions);
    let odd = [
        "array_nulls = off",
        "bytea_output = escape",
        "extra_float_digits = -5",
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = sql_standard",
        "TimeZone = 'Asia/Kathmandu'",
        "xmloption = document",
        "standard_conforming_strings = off",
    ];
    for setting in odd {
        target
            .batch_execute(&format!("ALTER DATABASE exact_to SET {setting}"))
            .unwrap();
    }
    let dsn = server.dsn_of("exact_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/exact_to", server.port());
    streamed(&dsn, &["--create", "--to", &to, "--until-caught-up"]);

    for (table, one, other) in whole.iter().chain(&KEYS) {
        source
            .batch_execute(&format!(
                "INSERT INTO {table} VALUES ({one}, 1), ({other}, 1); UPDATE {table} SET v = 2 WHERE ctid = '(0,2)';
                 UPDATE {table} SET v = 3 WHERE ctid = '(0,1)'; DELETE FROM {table} WHERE v = 2"
            ))
            .unwrap_or_else(|error| panic!("{table}: {error:?}"));
    }
    let arrays = "INSERT INTO s VALUES ('{NULL,x}', ARRAY[NULL, '\\x00ff'::bytea], '1234.5', ARRAY[timestamptz '2024-01-02 03:04:05+00'])";
    source
        .batch_execute(&format!(
            "{arrays}; {arrays}; UPDATE s SET m = '7.25' WHERE ctid = '(0,1)'"
        ))
        .unwrap();
    streamed(&dsn, &["--to", &to, "--until-caught-up"]);
    let tables = whole.iter().chain(&KEYS).map(|(table, ..)| *table);
    for table in tables.chain(["s"]) {
        let query = format!("SELECT x::text FROM {table} x");
        assert_eq!(checksum(&mut target, &query), checksum(&mut source, &query), "{table}");
    }
    let nulls = "SELECT FROM s WHERE k[1] IS NULL AND b[1] IS NULL";
    assert_eq!(
        checksum(&mut target, nulls).0,
        2,
        "NULL in an array is not the text NULL"
    );
    streamed(&dsn, &["--drop-slot"]);
}
