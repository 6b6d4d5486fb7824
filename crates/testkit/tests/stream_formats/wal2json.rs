//! wal2json as the yardstick of `json`: itself, on the same changes with the same options; and its own regression scripts, as far as
//! they are about format-version 2, with our plugin's name: the same scripts, the same output.
//!
//! The plugin comes from Debian's package for PostgreSQL 15, the scripts from its source package, where the mirror has it. What is
//! changed in them is all here: the plugin's name; `format` is json; and `without-identity` is skip, as wal2json leaves out
//! changes of rows without an identity, which are told here unless asked. Left out is what is about format-version 1 (an
//! object for each transaction, which `json` refuses), and WARNINGs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use synod_testkit::{PgInstall, Run, fetch_source, fetch_wal2json, wait_until};

use crate::{database, server};

const DEADLINE: Duration = Duration::from_secs(30);

/// They ask for format-version 1 alone: `json_says_what_the_server_says`, `options_say_what_they_mean` and others see to what they test.
const VERSION_1_ONLY: [&str; 7] = [
    "cmdline",
    "include_lsn",
    "include_timestamp",
    "include_xids",
    "savepoint",
    "specialvalue",
    "typmod",
];

#[test]
fn the_scripts_of_wal2json_give_what_they_expect() {
    let source = match fetch_source("bookworm", "wal2json", "") {
        Ok(source) => source,
        // Some mirrors have the package and not its source. The other test compares with the plugin itself.
        Err(why) => return eprintln!("left out: {why}"),
    };
    let makefile = fs::read_to_string(source.join("Makefile"))
        .unwrap()
        .replace("\\\n", " ");
    let tests = makefile
        .lines()
        .find_map(|line| line.strip_prefix("REGRESS = "))
        .expect("the Makefile lists its tests");
    let mut left_out = Vec::new();
    let mut seen = 0;
    drop(database("wal2json", "UTF8"));
    // As pg_regress has its sessions.
    let settings = [
        "TimeZone = 'PST8PDT'",
        "DateStyle = 'Postgres, MDY'",
        "lc_monetary = 'C'",
        "bytea_output = 'hex'",
    ];
    for setting in settings {
        server()
            .client()
            .batch_execute(&format!("ALTER DATABASE wal2json SET {setting}"))
            .unwrap();
    }
    for test in tests.split_whitespace() {
        let script = fs::read_to_string(source.join(format!("sql/{test}.sql"))).unwrap();
        let expected = asked(&fs::read_to_string(source.join(format!("expected/{test}.out"))).unwrap());
        if expected.is_empty() {
            left_out.push(test);
            continue;
        }
        let output = run(test, &script);
        let given = asked(&output);
        assert_eq!(given.len(), expected.len(), "{test}: {output}");
        for ((statement, given), (_, expected)) in given.iter().zip(&expected) {
            assert_eq!(given, expected, "{test}: {statement}");
        }
        seen += expected.len();
    }
    left_out.sort_unstable();
    assert_eq!(left_out, VERSION_1_ONLY);
    assert!(seen >= 30, "{seen} statements");
}

/// Tables with every kind of identity and columns of many types.
const TABLES: &[&str] = &[
    "CREATE TYPE mood AS ENUM ('happy'); CREATE DOMAIN small AS varchar(20); CREATE DOMAIN \"Odd Name\" AS integer CHECK (VALUE > 0)",
    "CREATE TABLE keyed (id serial PRIMARY KEY, a smallint, b bigint DEFAULT 6, n numeric(7,3), f real, d double precision, \
     t text NOT NULL DEFAULT 'a ''default''', c char(5), v varchar(30), bits bit varying(20), bytes bytea, flag boolean, j json, jb jsonb, \
     ts timestamp, tz timestamptz, m mood, s small, o \"Odd Name\", arr text[], oid_ oid, search tsvector)",
    "CREATE TABLE by_index (a integer NOT NULL, b integer NOT NULL, v text); CREATE UNIQUE INDEX i ON by_index (a, b); \
     ALTER TABLE by_index REPLICA IDENTITY USING INDEX i",
    "CREATE TABLE whole (a integer, v text); ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE \"Odd \"\"name\"\"\" (\"Column \\ 1\" integer PRIMARY KEY); CREATE SCHEMA \"S p\"; \
     CREATE TABLE \"S p\".t (a integer PRIMARY KEY, b integer)",
    "CREATE TABLE toasted (id integer PRIMARY KEY, large text, other integer); ALTER TABLE toasted ALTER large SET STORAGE EXTERNAL",
];

/// Changes of all kinds.
const CHANGES: &[&str] = &[
    "INSERT INTO keyed (a, b, n, f, d, t, c, v, bits, bytes, flag, j, jb, ts, tz, m, s, o, arr, oid_, search) VALUES (1, 2, 3.5, 'NaN', \
     '-Infinity', E'\" \\\\ / \\b \\f \\n \\r \\t \\x01 ä 漢 😀', 'x', '', B'0101', '\\x00ff', true, '{\"a\": 1}', '[1, null]', '2020-01-01', \
     '2020-01-01 00:00+00', 'happy', 'sm', 5, '{a,NULL,\"b c\"}', 4294967295, 'fat cat')",
    "INSERT INTO keyed DEFAULT VALUES",
    "UPDATE keyed SET t = 'changed', f = 1e-10, d = 1e100, n = 'NaN' WHERE id = 1",
    "UPDATE keyed SET id = 50 WHERE id = 1",
    "DELETE FROM keyed WHERE id = 2",
    "INSERT INTO by_index VALUES (1, 1, 'a'); UPDATE by_index SET v = 'b'; UPDATE by_index SET a = 2; DELETE FROM by_index",
    "INSERT INTO whole VALUES (NULL, 'a'), (1, NULL); UPDATE whole SET v = 'b' WHERE a IS NULL; DELETE FROM whole WHERE a = 1",
    "INSERT INTO \"Odd \"\"name\"\"\" VALUES (1); INSERT INTO \"S p\".t VALUES (1, 2)",
    "INSERT INTO toasted VALUES (1, repeat('x', 5000), 1)",
    "UPDATE toasted SET other = 2",
    "ALTER TABLE keyed RENAME a TO renamed; ALTER TABLE keyed DROP COLUMN c; ALTER TABLE keyed ADD COLUMN extra integer DEFAULT 3",
    "UPDATE keyed SET extra = 4",
    "BEGIN; INSERT INTO whole VALUES (7, 'x'); SAVEPOINT s; INSERT INTO whole VALUES (8, 'x'); ROLLBACK TO s; COMMIT",
    "TRUNCATE keyed, by_index CASCADE",
    "SELECT pg_logical_emit_message(true, 'one', 'a \"message\"'), pg_logical_emit_message(false, 'two', 'another')",
    "CREATE TABLE nothing_told (); DROP TABLE nothing_told",
];

/// With each of these both say the same.
const OPTIONS: &[&[(&str, &str)]] = &[
    &[],
    &[
        ("include-xids", "1"),
        ("include-timestamp", "1"),
        ("include-lsn", "1"),
        ("include-origin", "1"),
    ],
    &[("include-types", "0")],
    &[("include-schemas", "0"), ("include-transaction", "0")],
    &[("include-type-oids", "1"), ("include-domain-data-type", "1")],
    &[
        ("include-column-positions", "1"),
        ("include-not-null", "1"),
        ("include-pk", "1"),
    ],
    &[("actions", "insert, truncate")],
    &[("actions", "update,delete")],
    &[("filter-tables", "public.keyed, *.toasted, S\\ p.*")],
    &[("add-tables", "public.whole,S\\ p.t,public.Odd\\ \"name\"")],
    &[("filter-msg-prefixes", "two, three")],
    &[("add-msg-prefixes", "two")],
];

#[test]
fn it_says_what_wal2json_says() {
    if !fetch_wal2json(&PgInstall::from_environment()) {
        return;
    }
    let mut client = database("beside", "UTF8");
    // Minor releases of 2026 ask for a list of plugins; older ones do not know the setting.
    let allow = "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding', 'synod', 'wal2json'";
    if client.simple_query(allow).is_ok() {
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }
    let settings = ["SET DateStyle = 'SQL, DMY'", "SET TimeZone = 'Asia/Tokyo'"];
    for statement in settings.iter().chain(TABLES) {
        client.batch_execute(statement).unwrap();
    }
    for plugin in ["wal2json", "synod"] {
        wait_until(DEADLINE, "the plugin is allowed", || {
            let create = format!("SELECT pg_create_logical_replication_slot('beside_{plugin}', '{plugin}')");
            client.batch_execute(&create).ok()
        });
    }
    for statement in CHANGES {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let mut told = |plugin: &str, options: &[(&str, &str)]| -> Vec<String> {
        let mut sql = format!(
            "SELECT data FROM pg_logical_slot_peek_changes('beside_{plugin}', NULL, NULL, 'format-version', '2'"
        );
        for (name, value) in options {
            sql += &format!(", '{name}', '{value}'");
        }
        let rows = client.query(&(sql.clone() + ")"), &[]);
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    };
    for options in OPTIONS {
        let theirs = told("wal2json", options);
        let ours = told(
            "synod",
            &[options, &[("format", "json"), ("without-identity", "skip")][..]].concat(),
        );
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{options:?}");
        }
        assert_eq!(ours.len(), theirs.len(), "{options:?}");
        assert!(theirs.len() > 2, "{options:?}");
    }
}

fn run(test: &str, script: &str) -> String {
    let ours = script
        .replace(
            "pg_create_logical_replication_slot('regression_slot', 'wal2json')",
            "pg_create_logical_replication_slot('regression_slot', 'synod')",
        )
        .replace(
            "'format-version', '2'",
            "'format-version', '2', 'format', 'json', 'without-identity', 'skip'",
        )
        .lines()
        .filter(|line| !(line.contains("_changes(") && line.contains("'format-version', '1'")))
        .collect::<Vec<_>>()
        .join("\n");
    let file = Run::current().new_directory("wal2json").join(test);
    fs::write(&file, ours).unwrap();
    server().psql("wal2json", &["-a", "-q", "-f", &display(&file)], "")
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// The statements about format-version 2 in what psql printed, each with the rows, or the error, that followed. Errors may all come at the
/// end, where the two streams of a program were read one after the other.
fn asked(output: &str) -> Vec<(String, Vec<String>)> {
    let mut asked: Vec<(String, Option<Vec<String>>)> = Vec::new();
    let mut listening = false;
    for line in output.lines() {
        let last = asked.last_mut().filter(|_| listening);
        if line.contains("_changes(") && !line.contains("ERROR:") {
            listening = line.contains("'format-version', '2'");
            if listening {
                asked.push((line.to_owned(), None));
            }
        } else if let Some((_, error)) = line.split_once("ERROR:  ") {
            let without_rows = asked.iter_mut().find(|(_, rows)| rows.is_none());
            if let Some((_, rows)) = without_rows {
                *rows = Some(vec![error.to_owned()]);
            }
            listening = false;
        } else if let Some((_, rows)) = last {
            if line.trim() == "data" {
                *rows = Some(Vec::new());
            } else if line.starts_with('(') {
                listening = false;
            } else if let (true, Some(rows)) = (line.starts_with(" {"), rows) {
                rows.push(line.trim().to_owned());
            }
        }
    }
    asked
        .into_iter()
        .map(|(statement, rows)| (statement, rows.unwrap_or_default()))
        .collect()
}
