//! `binary`, read in Rust and written again as `json`, is what the server says in `json`.

use synod_change::DecodeError;
use synod_change::stream::binary::Reader;
use synod_change::stream::{Change, Encoding, Environment, Event, Place, new_format};

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
            match event {
                // As the server tells such a format: one table at a time.
                Event::Row(
                    place,
                    Change::Truncate {
                        tables,
                        cascade,
                        restart_identity,
                    },
                ) => {
                    for (number, tables) in tables.chunks(1).enumerate() {
                        let place = Place {
                            id: place.id.later(number as u64),
                            ..*place
                        };
                        let (cascade, restart_identity) = (*cascade, *restart_identity);
                        tell(&Event::Row(
                            place,
                            Change::Truncate {
                                tables,
                                cascade,
                                restart_identity,
                            },
                        ));
                    }
                }
                event => tell(event),
            }
            Ok::<(), DecodeError>(())
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
    let binary = as_json(&source.peek_binary(), &options);
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
