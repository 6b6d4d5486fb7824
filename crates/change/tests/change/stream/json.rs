//! `json`: always JSON, in the shape of wal2json.

use std::convert::Infallible;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value as Json;
use synod_change::stream::{Change, Column, Encoding, Event, Format, ReplicaIdentity, Table, TypeClass, new_format};
use synod_change::{Row, Value};

use super::clean::{clean, environment};
use super::made::{self, OwnedEvent, OwnedValue, What, simple};
use super::shop::shop;
use crate::fixtures::fixture;

fn format(encoding: Encoding, options: &[(&str, &str)]) -> Box<dyn Format> {
    let mut format = new_format("json", environment(encoding)).unwrap();
    for (option, value) in options {
        assert!(format.options().contains(option), "{option}");
        format.set(option, Some(value.as_bytes())).unwrap();
    }
    format
}

/// A truncate of several tables comes once for each.
fn write(format: &mut dyn Format, event: &Event<'_>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut one = |event: &Event<'_>| {
        let mut out = Vec::new();
        format.write(event, &mut out);
        if !out.is_empty() {
            messages.push(out);
        }
    };
    let told: Result<(), Infallible> = event.each_table(|event, _| {
        one(event);
        Ok(())
    });
    let Ok(()) = told;
    messages
}

const ALL: &[(&str, &str)] = &[
    ("include-xids", "on"),
    ("include-timestamp", "on"),
    ("include-origin", "on"),
    ("include-lsn", "on"),
    ("include-type-oids", "on"),
    ("include-column-positions", "on"),
    ("include-not-null", "on"),
    ("include-default", "on"),
    ("include-pk", "on"),
    ("include-ids", "on"),
    ("include-csn", "on"),
    ("include-unchanged", "on"),
    ("include-before", "on"),
];

fn written(events: &[OwnedEvent], tables: &[Table], encoding: Encoding, options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let mut format = format(encoding, options);
    events
        .iter()
        .flat_map(|event| event.with(tables, |event| write(&mut *format, event)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn it_is_always_json(
        mut tables in made::tables(),
        mut events in vec(made::event(), 1..12),
        encoding in prop::sample::select(vec![Encoding::Utf8, Encoding::Other, Encoding::Unknown]),
        all in any::<bool>(),
    ) {
        clean(&mut tables, &mut events, encoding);
        for message in written(&events, &tables, encoding, if all { ALL } else { &[] }) {
            let parsed: Result<Json, _> = serde_json::from_slice(&message);
            let text = String::from_utf8_lossy(&message).into_owned();
            prop_assert!(parsed.is_ok_and(|json| json["action"].is_string()), "{}", text);
            prop_assert!(message.iter().all(|byte| *byte >= b' '), "{}", text);
            prop_assert!(encoding == Encoding::Utf8 || message.is_ascii(), "{}", text);
        }
    }

    #[test]
    fn text_arrives_as_it_was(text in any::<String>(), encoding in prop::sample::select(vec![Encoding::Utf8, Encoding::Other])) {
        prop_assert_eq!(Json::String(text.clone()), told(text.as_bytes(), TypeClass::Text, encoding, &[])["value"].clone());
    }

    #[test]
    fn bytes_of_no_encoding_arrive_as_they_were(text in vec(any::<u8>(), 0..40)) {
        let column = told(&text, TypeClass::Text, Encoding::Unknown, &[]);
        let value = column["value"].as_str().unwrap();
        if column.get("encoding").is_some() {
            let digits: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(value, digits);
        } else {
            prop_assert_eq!(value.as_bytes(), text);
        }
    }
}

/// The one column of an insert, as it is told.
fn told(text: &[u8], class: TypeClass, encoding: Encoding, options: &[(&str, &str)]) -> Json {
    let table = Table {
        columns: vec![Column {
            class,
            ..Column::default()
        }],
        ..Table::default()
    };
    let event = simple(What::Insert(0, vec![OwnedValue::Text(text.to_vec())]));
    let message = written(&[event], &[table], encoding, options).concat();
    serde_json::from_slice::<Json>(&message).unwrap()["columns"][0].clone()
}

#[test]
fn rows_can_be_objects() {
    let column = |name: &str, key: bool| Column {
        name: name.into(),
        class: TypeClass::Text,
        in_primary_key: key,
        ..Column::default()
    };
    let table = Table {
        columns: vec![column("k", true), column("é", false), column("long", false)],
        identity: ReplicaIdentity::Full,
        above: Some((7, b"public.above".to_vec())),
        ..Table::default()
    };
    let text = |text: &[u8]| OwnedValue::Text(text.to_vec());
    let old = vec![text(b"1"), text("ä".as_bytes()), text(b"kept")];
    let new = vec![text(b"2"), text(b"\xff"), OwnedValue::Same];
    let event = simple(What::Update(0, Some(old), new));
    let message = written(&[event], &[table], Encoding::Unknown, &[("row-objects", "on")]).concat();
    let told = String::from_utf8(message).unwrap();
    let objects = &told[told.find("\"root\"").unwrap()..];
    assert_eq!(
        objects.trim_end(),
        "\"root\":{\"oid\":7,\"table\":\"public.above\"},\"new\":{\"k\":\"2\",\"é\":{\"value\":\"ff\",\"encoding\":\"hex\"},\"long\":\"kept\"},\
         \"old\":{\"k\":\"1\",\"é\":\"ä\",\"long\":\"kept\"},\"key\":{\"k\":\"2\"}}"
    );
}

#[test]
fn values_are_written_by_their_class() {
    let value = |class, text: &str, options: &[(&str, &str)]| {
        told(text.as_bytes(), class, Encoding::Utf8, options)["value"].to_string()
    };
    assert_eq!(value(TypeClass::Integer, "-5", &[]), "-5");
    assert_eq!(value(TypeClass::Number, "1.5", &[]), "1.5");
    for special in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(value(TypeClass::Number, special, &[]), "null");
        for option in [("special-numbers", "string"), ("numeric-data-types-as-string", "on")] {
            assert_eq!(value(TypeClass::Number, special, &[option]), format!("\"{special}\""));
        }
    }
    assert_eq!(
        value(TypeClass::Integer, "-5", &[("numeric-data-types-as-string", "on")]),
        "\"-5\""
    );
    assert_eq!(value(TypeClass::Integer, "-5", &[("special-numbers", "string")]), "-5");
    assert_eq!(value(TypeClass::Boolean, "t", &[]), "true");
    assert_eq!(value(TypeClass::Boolean, "f", &[]), "false");
    assert_eq!(value(TypeClass::Bits, "0110", &[]), "\"0110\"");
    assert_eq!(value(TypeClass::Bytes, "\\x00ff", &[]), "\"00ff\"");
    assert_eq!(value(TypeClass::Json, "{\"a\": 1}", &[]), "\"{\\\"a\\\": 1}\"");
}

#[test]
fn every_kind_of_event_has_its_object() {
    let (tables, events) = shop();
    let lines = |options| {
        let mut lines = written(&events, &tables, Encoding::Utf8, options).join(&b'\n');
        lines.push(b'\n');
        lines
    };
    fixture("stream_json_v1.txt", &[lines(&[]), lines(ALL)].concat());
}

#[test]
fn what_has_no_identity_is_told_unless_skipped() {
    let columns = vec![Column {
        name: "a".into(),
        ..Column::default()
    }];
    let row = || vec![OwnedValue::Text("1".into())];
    let events = [
        simple(What::Update(0, None, row())),
        simple(What::Delete(0, None)),
        simple(What::Delete(0, Some(row()))),
    ];
    for (identity, in_identity, skipped) in [
        (ReplicaIdentity::Nothing, false, 0),
        (ReplicaIdentity::Default, false, 0),
        (ReplicaIdentity::Default, true, 2),
        (ReplicaIdentity::Full, true, 2),
    ] {
        let mut columns = columns.clone();
        columns[0].in_identity = in_identity;
        let tables = [Table {
            columns,
            identity,
            ..Table::default()
        }];
        assert_eq!(written(&events, &tables, Encoding::Utf8, &[]).len(), 3);
        assert_eq!(
            written(&events, &tables, Encoding::Utf8, &[("without-identity", "skip")]).len(),
            skipped,
            "{identity:?}"
        );
    }
}

#[test]
fn what_was_worked_out_for_a_table_is_forgotten_with_it() {
    let mut format = format(Encoding::Utf8, &[]);
    let mut name = |name: &str, version| {
        let table = Table {
            name: name.into(),
            version,
            ..Table::default()
        };
        let place = synod_change::stream::Place {
            id: synod_change::stream::EventId::Open { xid: 1, ordinal: 1 },
            lsn: 1,
            xid: 1,
        };
        let event = Event::Row(
            place,
            Change::Insert {
                table: &table,
                new: Row::new(&[] as &[Value<'_>]),
            },
        );
        let mut out = Vec::new();
        format.write(&event, &mut out);
        format.forget(version);
        serde_json::from_slice::<Json>(&out).unwrap()["table"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(name("old", 1), "old");
    assert_eq!(name("new", 1), "new");
}

#[test]
fn options_of_wal2json_that_cannot_be_are_refused_with_the_way_out() {
    let mut format = format(Encoding::Utf8, &[("format-version", "2"), ("pretty-print", "off")]);
    for (option, value, message) in [
        ("format-version", "1", "only format-version 2 is supported"),
        ("pretty-print", "on", "option \"pretty-print\" is not supported"),
        ("write-in-chunks", "1", "option \"write-in-chunks\" is not supported"),
        (
            "include-unchanged-toast",
            "1",
            "option \"include-unchanged-toast\" is not supported",
        ),
        (
            "include-xids",
            "maybe",
            "could not parse value \"maybe\" for parameter \"include-xids\"",
        ),
        (
            "special-numbers",
            "NaN",
            "could not parse value \"NaN\" for parameter \"special-numbers\"",
        ),
    ] {
        let error = format.set(option, Some(value.as_bytes())).unwrap_err();
        assert_eq!(error.message, message);
        assert!(error.hint.ends_with('.'), "{error:?}");
    }
}
