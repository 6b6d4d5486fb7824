//! `keys`: which rows changed.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use synod_change::stream::{Column, Encoding, ReplicaIdentity, Table, TypeClass, new_format};

use super::clean::{clean, environment};
use super::made::{self, OwnedEvent, OwnedValue, What, simple};
use super::shop::shop;
use crate::fixtures::fixture;

fn written(events: &[OwnedEvent], tables: &[Table], encoding: Encoding, options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let mut format = new_format("keys", environment(encoding)).unwrap();
    for (option, value) in options {
        assert!(format.options().contains(option), "{option}");
        format.set(option, Some(value.as_bytes())).unwrap();
    }
    let write = |event: &OwnedEvent| {
        let mut out = Vec::new();
        event.with(tables, |event| format.write(event, &mut out));
        out
    };
    events.iter().map(write).filter(|message| !message.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn it_is_always_json(
        mut tables in made::tables(),
        mut events in vec(made::event(), 1..12),
        encoding in prop::sample::select(vec![Encoding::Utf8, Encoding::Other, Encoding::Unknown]),
    ) {
        clean(&mut tables, &mut events, encoding);
        for table in &mut tables {
            table.quoted_name = table.name.clone();
        }
        for message in written(&events, &tables, encoding, &[("include-transaction", "on")]) {
            let parsed: Result<Json, _> = serde_json::from_slice(&message);
            prop_assert!(parsed.is_ok_and(|json| json["op"].is_string()), "{}", String::from_utf8_lossy(&message));
            prop_assert!(encoding == Encoding::Utf8 || message.is_ascii());
        }
    }
}

#[test]
fn every_kind_of_event_has_its_object() {
    let (tables, events) = shop();
    let all = [
        ("include-transaction", "on"),
        ("include-xids", "on"),
        ("include-timestamp", "on"),
        ("include-lsn", "on"),
    ];
    let lines = |options| written(&events, &tables, Encoding::Utf8, options).join(&b'\n');
    fixture(
        "stream_keys_v1.txt",
        &[&lines(&[])[..], b"\n", &lines(&all), b"\n"].concat(),
    );
}

fn text(text: &str) -> OwnedValue {
    OwnedValue::Text(text.into())
}

/// A table with a key (id, part) and a value.
fn table(identity: ReplicaIdentity) -> Table {
    let column = |name: &str, class, in_key| Column {
        name: name.into(),
        class,
        in_identity: in_key || identity == ReplicaIdentity::Full,
        in_primary_key: in_key,
        ..Column::default()
    };
    let columns = vec![
        column("id", TypeClass::Integer, true),
        column("part", TypeClass::Text, true),
        column("value", TypeClass::Text, false),
    ];
    Table {
        quoted_name: "s.t".into(),
        columns,
        identity,
        ..Table::default()
    }
}

fn told(identity: ReplicaIdentity, whats: Vec<What>, options: &[(&str, &str)]) -> Vec<Json> {
    let events: Vec<_> = whats.into_iter().map(simple).collect();
    let options = [&[("include-ids", "off")], options].concat();
    let messages = written(&events, &[table(identity)], Encoding::Utf8, &options);
    messages
        .iter()
        .map(|message| serde_json::from_slice(message).unwrap())
        .collect()
}

#[test]
fn a_row_is_told_by_its_key_and_by_the_old_one_if_that_changed() {
    let row = |id: &str| vec![text(id), text("p"), text("v")];
    let key = |id: &str| vec![text(id), text("p"), OwnedValue::Null];
    let whats = || {
        vec![
            What::Insert(0, row("1")),
            What::Update(0, None, row("1")),
            What::Update(0, Some(key("1")), row("2")),
            // Out of line and as it was: the old version has it.
            What::Update(0, Some(key("2")), vec![text("2"), OwnedValue::Same, text("w")]),
            What::Delete(0, Some(key("2"))),
            What::Truncate(vec![(0, 0)], false, false),
        ]
    };
    let key = |id: i32| json!({"id": id, "part": "p"});
    let expected = vec![
        json!({"op": "I", "table": "s.t", "key": key(1)}),
        json!({"op": "U", "table": "s.t", "key": key(1)}),
        json!({"op": "U", "table": "s.t", "key": key(2), "old_key": key(1)}),
        json!({"op": "U", "table": "s.t", "key": key(2)}),
        json!({"op": "D", "table": "s.t", "key": key(2)}),
        json!({"op": "T", "table": "s.t"}),
    ];
    for identity in [ReplicaIdentity::Default, ReplicaIdentity::Full] {
        assert_eq!(told(identity, whats(), &[]), expected);
    }
    let nothing = told(ReplicaIdentity::Nothing, whats(), &[]);
    assert!(
        nothing[..5]
            .iter()
            .all(|told| told["key"] == Json::Null && told.get("key").is_some())
    );
    assert_eq!(
        told(ReplicaIdentity::Nothing, whats(), &[("without-identity", "skip")]),
        expected[5..]
    );
}

#[test]
fn what_was_told_in_a_transaction_is_not_repeated_if_asked() {
    let row = |id: &str| vec![text(id), text("p"), text("v")];
    let whats = vec![
        What::Begin,
        What::Insert(0, row("1")),
        What::Update(0, None, row("1")),
        What::Insert(0, row("2")),
        What::Commit,
        What::Begin,
        What::Delete(0, Some(row("1"))),
        What::Commit,
    ];
    let told = told(ReplicaIdentity::Default, whats, &[("deduplicate", "on")]);
    let short: Vec<_> = told
        .iter()
        .map(|told| (told["op"].as_str().unwrap(), told["key"]["id"].as_i64().unwrap()))
        .collect();
    assert_eq!(short, [("I", 1), ("I", 2), ("D", 1)]);
}
