//! Databases that are not in UTF-8.

use serde_json::Value as Json;
use synod_testkit::Run;

use crate::reading::{as_json, assert_binary_is_json};
use crate::{Source, database, replay, rows, server};

/// What the encodings have in common with the texts that are written in them.
const CASES: &[(&str, &str, &str)] = &[
    ("latin1", "LATIN1", "Größe «1» ÿ"),
    ("euc_jp", "EUC_JP", "漢字とカナ ソ表能"),
    ("win1251", "WIN1251", "Размер №1"),
];

const LETTERS: &str = "\"\\'\\\\";

fn setup(text: &str) -> String {
    let name = text.split(' ').next().unwrap();
    format!(
        "CREATE TABLE \"{name}\" (\"{name}\" text PRIMARY KEY, v text, a text[]);
         CREATE DOMAIN \"d{name}\" AS text; CREATE TABLE plain (id integer PRIMARY KEY, v \"d{name}\")"
    )
}

fn fill(source: &mut Source, text: &str) {
    let name = text.split(' ').next().unwrap();
    source.run(&[
        &format!("INSERT INTO \"{name}\" VALUES ('{text}', E'{LETTERS} {text}', ARRAY['{text}', NULL])"),
        &format!("UPDATE \"{name}\" SET v = '{name}', \"{name}\" = '{name}2'"),
        &format!("INSERT INTO plain VALUES (1, '{text}')"),
        &format!("SELECT pg_logical_emit_message(true, '{name}', 'x')"),
    ]);
}

#[test]
fn databases_in_other_encodings_are_told_in_all_formats() {
    for (name, encoding, text) in CASES {
        let table = text.split(' ').next().unwrap();
        let mut source = Source::new(name, encoding, &setup(text));
        fill(&mut source, text);
        let json = source.peek("json", &[("include-transaction", "off")]);
        assert!(json.iter().all(|line| line.is_ascii()), "{json:?}");
        let insert: Json = serde_json::from_str(&json[0]).unwrap();
        assert_eq!(insert["table"], table);
        assert_eq!(insert["columns"][0]["name"], table);
        assert_eq!(insert["columns"][0]["value"], *text);
        assert_eq!(insert["columns"][1]["value"], format!("\"'\\ {text}"));
        let keys = source.peek("keys", &[]);
        assert!(keys.iter().all(|line| line.is_ascii()), "{keys:?}");
        let update: Json = serde_json::from_str(&keys[1]).unwrap();
        assert_eq!(
            (&update["old_key"][table], &update["key"][table]),
            (&Json::from(*text), &Json::from(format!("{table}2")))
        );
        assert_binary_is_json(&mut source);

        // Into the same encoding, and into UTF-8: by way of a client, and as a walsender sends it.
        let as_sent = as_sent(&source.name);
        for (target, encoding, script) in [
            ("same", *encoding, None),
            ("unicode", "UTF8", None),
            ("sent", "UTF8", Some(&as_sent)),
        ] {
            let target = format!("{name}_{target}");
            let mut there = database(&target, encoding);
            there.batch_execute(&setup(text)).unwrap();
            match script {
                None => replay(&target, &source.peek("sql", &[])),
                Some(file) => {
                    let said = server().psql(
                        &target,
                        &["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", file],
                        "",
                    );
                    assert_eq!(said, "");
                }
            }
            for table in [format!("\"{table}\""), "plain".into()] {
                assert_eq!(rows(&mut there, &table), rows(&mut source.client, &table), "{target}");
            }
        }
    }
}

/// The file that `pg_recvlogical` makes of `sql`.
fn as_sent(slot: &str) -> String {
    let server = server();
    let mut client = server.client_to(slot);
    client
        .batch_execute(&format!(
            "SELECT pg_copy_logical_replication_slot('{slot}', '{slot}_sent')"
        ))
        .unwrap();
    let end: String = client
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .unwrap()
        .get(0);
    let file = Run::current()
        .new_directory("sent")
        .join("changes.sql")
        .display()
        .to_string();
    let (port, socket) = (server.port().to_string(), server.socket());
    let directory = socket.parent().unwrap().display().to_string();
    let arguments = [
        "-U",
        "postgres",
        "-h",
        &directory,
        "-p",
        &port,
        "-d",
        slot,
        "-S",
        &format!("{slot}_sent"),
        "--start",
        "--no-loop",
        "-o",
        "format=sql",
        "--endpos",
        &end,
        "-f",
        &file,
    ];
    Run::current().program("pg_recvlogical", &arguments).unwrap();
    file
}

#[test]
fn bytes_of_no_encoding_are_told_and_replayed_as_they_are() {
    let setup = "CREATE TABLE t (id integer PRIMARY KEY, v text)";
    let mut source = Source::new("sql_ascii", "SQL_ASCII", setup);
    source.run(&[
        "INSERT INTO t VALUES (1, 'plain')",
        "INSERT INTO t VALUES (2, convert_from('\\xe9ff', 'SQL_ASCII'))",
        "INSERT INTO t VALUES (3, 'é')",
    ]);
    let lines = source.peek("json", &[("include-transaction", "off")]);
    let columns: Vec<Json> = lines
        .iter()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["columns"][1].clone())
        .collect();
    assert_eq!(columns[0]["value"], "plain");
    assert_eq!(
        (&columns[1]["value"], &columns[1]["encoding"]),
        (&Json::from("e9ff"), &Json::from("hex"))
    );
    assert_eq!(columns[2]["value"], "é");
    // What is no text is no text for this client either: what was sent is read from a file.
    let file = as_sent("sql_ascii");
    let mut there = database("sql_ascii_again", "SQL_ASCII");
    there.batch_execute(setup).unwrap();
    assert_eq!(
        server().psql("sql_ascii_again", &["-q", "-v", "ON_ERROR_STOP=1", "-f", &file], ""),
        ""
    );
    let bytes = "SELECT string_agg(v::bytea::text, ',' ORDER BY id) FROM t";
    let told = |client: &mut postgres::Client| client.query_one(bytes, &[]).unwrap().get::<_, String>(0);
    assert_eq!(told(&mut there), told(&mut source.client));
    let binary = source.peek_binary(&[]);
    assert!(binary.concat().windows(2).any(|bytes| bytes == b"\xe9\xff"));
    // Read as if it were in UTF-8 it is not; the tables can be named all the same.
    assert!(as_json(&binary[..1], &[]).iter().any(|line| line.contains("plain")));
}
