//! `binary`, read in Rust and written again as `json`, is what the server says in `json`.

use synod_change::stream::binary::Reader;
use synod_change::stream::{Change, Encoding, Environment, Event, new_format};
use synod_change::{DecodeError, Value};

use crate::Source;

/// What `binary` carries, in JSON.
pub fn as_json(messages: &[Vec<u8>], options: &[(&str, &str)]) -> Vec<String> {
    let environment = Environment {
        time: |_, _| (),
        encoding: Encoding::Utf8,
        text_encoding: "UTF8",
        setting: |_| Vec::new(),
    };
    let mut json = new_format("json", environment).expect("there is json");
    for (option, value) in options {
        json.set(option, Some(value.as_bytes())).unwrap();
    }
    let mut lines = Vec::new();
    let mut tell = |event: &Event<'_>| {
        let mut line = Vec::new();
        json.write(event, &mut line);
        if !line.is_empty() {
            lines.push(String::from_utf8(line).unwrap());
        }
    };
    let mut reader = Reader::new();
    for message in messages {
        let told = reader.read(message, |event| {
            // As the server tells such a format: one table at a time.
            event.each_table(|event, _| {
                tell(event);
                Ok::<(), DecodeError>(())
            })
        });
        told.unwrap();
    }
    lines
}

/// Both say the same of what the slot has.
#[track_caller]
pub fn assert_binary_is_json(source: &mut Source) {
    let options = [
        ("include-ids", "on"),
        ("include-xids", "on"),
        ("include-lsn", "on"),
        ("include-unchanged", "on"),
        ("include-before", "on"),
    ];
    source.run(&["SET extra_float_digits = 1; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'"]);
    let mut json = source.peek("json", &[&options[..], &[("skip-empty-xacts", "on")]].concat());
    for line in &json {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "{line}");
    }
    let binary = as_json(&source.peek_binary(&[]), &options);
    // In a database in another encoding JSON says with escapes what is in the text here.
    if json.iter().any(|line| line.contains("\\u")) || binary.iter().any(|line| !line.is_ascii()) {
        let meaning = |lines: &[String]| {
            lines
                .iter()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<serde_json::Value>>()
        };
        assert_eq!(meaning(&binary), meaning(&json));
        json = binary.clone();
    }
    assert_eq!(binary, json);
    assert!(!json.is_empty());
}

/// Values of each row of a stream in binary, with their types.
fn cells(messages: &[Vec<u8>]) -> Vec<(String, Cell)> {
    let (mut reader, mut cells) = (Reader::new(), Vec::new());
    for message in messages {
        let told = reader.read(message, |event| {
            let Event::Row(_, change) = event else { return Ok(()) };
            let (table, rows) = match change {
                Change::Insert { table, new } => (table, [Some(new), None]),
                Change::Update { table, old, new } => (table, [old.as_ref(), Some(new)]),
                Change::Delete { table, old } => (table, [old.as_ref(), None]),
                Change::Truncate { .. } => return Ok(()),
            };
            for row in rows.into_iter().flatten() {
                for (column, value) in table.columns.iter().zip(row.iter()) {
                    let name = String::from_utf8(column.type_name.clone()).unwrap();
                    cells.push((name, Cell::of(value)));
                }
            }
            Ok::<(), DecodeError>(())
        });
        told.unwrap();
    }
    cells
}

#[derive(Debug, PartialEq, Eq)]
enum Cell {
    Nothing,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Cell {
    fn of(value: Value<'_>) -> Self {
        match value {
            Value::Null | Value::Same => Self::Nothing,
            Value::Text(text) => Self::Text(text.to_vec()),
            Value::Binary(bytes) => Self::Binary(bytes.to_vec()),
        }
    }
}

/// With `binary-values` the types that the documentation names come as their send functions write them; all else as without it.
#[track_caller]
pub fn assert_binary_values(source: &mut Source) {
    const SENDERS: [(&str, &str); 13] = [
        ("boolean", "boolsend"),
        ("smallint", "int2send"),
        ("integer", "int4send"),
        ("bigint", "int8send"),
        ("oid", "oidsend"),
        ("real", "float4send"),
        ("double precision", "float8send"),
        ("uuid", "uuid_send"),
        ("bytea", "byteasend"),
        ("date", "date_send"),
        ("time without time zone", "time_send"),
        ("timestamp without time zone", "timestamp_send"),
        ("timestamp with time zone", "timestamptz_send"),
    ];
    let texts = cells(&source.peek_binary(&[]));
    let binaries = cells(&source.peek_binary(&[("binary-values", "on")]));
    assert_eq!(texts.len(), binaries.len());
    let mut seen = std::collections::BTreeSet::new();
    for ((type_name, text), (_, binary)) in texts.into_iter().zip(binaries) {
        let sender = SENDERS
            .iter()
            .find(|(name, _)| *name == type_name)
            .map_or("", |(_, sender)| sender);
        match (&text, &binary) {
            (Cell::Text(text), Cell::Binary(bytes)) => {
                let text = String::from_utf8(text.clone()).unwrap();
                let sql = format!("SELECT pg_catalog.{sender}($1::text::{type_name})");
                let sent: Vec<u8> = source.client.query_one(&sql, &[&text]).unwrap().get(0);
                assert_eq!(bytes, &sent, "{type_name} {text}");
                seen.insert(sender);
            }
            _ => {
                assert_eq!(text, binary, "{type_name}");
                assert!(sender.is_empty() || text == Cell::Nothing, "{type_name} came as text");
            }
        }
    }
    assert_eq!(seen.len(), SENDERS.len(), "{seen:?}");
}
