//! `sql`: what is in the literals is what was in the rows, and nothing gets out of them.

use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::stream::{Column, Encoding, ReplicaIdentity, Table, TypeClass, new_format};

use super::clean::{clean, environment};
use super::made::{self, OwnedEvent, OwnedValue, What, simple};
use super::shop::shop;
use crate::fixtures::fixture;

fn written(events: &[OwnedEvent], tables: &[Table], options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let mut format = new_format("sql", environment(Encoding::Utf8)).unwrap();
    for (option, value) in options {
        assert!(format.options().contains(option), "{option}");
        format.set(option, Some(value.as_bytes())).unwrap();
    }
    let write = |event: &OwnedEvent| {
        let mut out = Vec::new();
        event.with(tables, |event| format.write(event, &mut out));
        out
    };
    events.iter().map(write).collect()
}

/// A lexeme of SQL.
#[derive(Clone, Debug, PartialEq)]
enum Lexeme {
    /// A name in quotes, without them.
    Name(Vec<u8>),
    /// What a string holds.
    Literal(Vec<u8>),
    /// Something else, up to the next of the others.
    Words(String),
    End,
}

/// As the server reads it, whatever `standard_conforming_strings` is: a string with a backslash must be an E'' one. `None`: something
/// is not closed.
fn lexed(mut text: &[u8]) -> Option<Vec<Lexeme>> {
    let mut lexemes = Vec::new();
    while let Some((first, rest)) = text.split_first() {
        let escapes = *first == b'E' && rest.first() == Some(&b'\'');
        if text.starts_with(b"--") {
            let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
            text = &text[end..];
        } else if escapes || matches!(first, b'\'' | b'"') {
            let quote = if escapes { b'\'' } else { *first };
            let (inner, after) = quoted(&text[1 + usize::from(escapes)..], quote, escapes)?;
            assert!(escapes || quote == b'"' || !inner.contains(&b'\\'));
            lexemes.push(if quote == b'"' {
                Lexeme::Name(inner)
            } else {
                Lexeme::Literal(inner)
            });
            text = after;
        } else if *first == b';' {
            lexemes.push(Lexeme::End);
            text = rest;
        } else {
            let stops = |at: &usize| {
                matches!(text[*at], b'\'' | b'"' | b';')
                    || text[*at..].starts_with(b"--")
                    || text[*at..].starts_with(b"E'")
            };
            let end = (1..text.len()).find(stops).unwrap_or(text.len());
            let words = String::from_utf8_lossy(&text[..end]).trim().to_owned();
            if !words.is_empty() {
                lexemes.push(Lexeme::Words(words));
            }
            text = &text[end..];
        }
    }
    Some(lexemes)
}

fn quoted(text: &[u8], quote: u8, escapes: bool) -> Option<(Vec<u8>, &[u8])> {
    let mut inner = Vec::new();
    let mut at = 0;
    loop {
        match *text.get(at..)? {
            [byte, next, ..] if byte == quote && next == quote || escapes && byte == b'\\' => {
                assert!(byte == quote || matches!(next, b'\\' | b'\''));
                inner.push(next);
                at += 2;
            }
            [byte, ..] if byte == quote => return Some((inner, &text[at + 1..])),
            [byte, ..] => {
                inner.push(byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_gets_out_of_a_literal_a_name_or_a_comment(
        mut tables in made::tables(),
        mut events in vec(made::event(), 1..12),
        emit in any::<bool>(),
        skip in any::<bool>(),
    ) {
        // DDL is SQL that someone else wrote.
        events.retain(|event| !matches!(event.what, What::Ddl(..)));
        clean(&mut tables, &mut events, Encoding::Unknown);
        tables.iter_mut().flat_map(|table| &mut table.columns).for_each(name_types);
        let options = [
            ("messages", if emit { "emit" } else { "comment" }),
            ("without-identity", if skip { "skip" } else { "tell" }),
            ("include-header", "off"),
        ];
        for (message, event) in written(&events, &tables, &options).iter().zip(&events) {
            let text = String::from_utf8_lossy(message).into_owned();
            let lexemes = lexed(message);
            prop_assert!(lexemes.is_some(), "{}", text);
            let lexemes = lexemes.unwrap();
            let statements = lexemes.iter().filter(|lexeme| **lexeme == Lexeme::End).count();
            // An lc_monetary may come before one.
            prop_assert!(statements <= 2, "{}", text);
            prop_assert!(lexemes.last().is_none_or(|last| *last == Lexeme::End), "{}", text);
            if let What::Insert(table, new) = &event.what
                && is_whole(&tables[*table], new)
            {
                prop_assert_eq!(inserted(&lexemes), expected(&tables[*table], new), "{}", text);
            }
        }
    }
}

/// The server quotes names of types itself (`format_type`).
fn name_types(column: &mut Column) {
    let names = [
        &mut column.type_name,
        &mut column.full_type_name,
        &mut column.base_type_name,
        &mut column.full_base_type_name,
    ];
    for name in names.into_iter().chain(&mut column.literal_type) {
        name.retain(u8::is_ascii_alphabetic);
        name.push(b't');
    }
}

/// Another row is told as a statement that fails.
fn is_whole(table: &Table, new: &[OwnedValue]) -> bool {
    let mut values = table.columns.iter().zip(new);
    values.all(|(column, value)| column.generated || !matches!(value, OwnedValue::Same))
}

/// What stands in the literals of an INSERT.
fn inserted(lexemes: &[Lexeme]) -> Vec<Vec<u8>> {
    let literal = |lexeme: &Lexeme| match lexeme {
        Lexeme::Literal(text) => Some(text.clone()),
        _ => None,
    };
    lexemes.iter().filter_map(literal).collect()
}

fn expected(table: &Table, new: &[OwnedValue]) -> Vec<Vec<u8>> {
    let literal = |(column, value): (&Column, &OwnedValue)| match value {
        _ if column.generated || matches!(column.class, TypeClass::Integer | TypeClass::Boolean) => None,
        OwnedValue::Text(text) | OwnedValue::Binary(text) => Some(text.clone()),
        _ => None,
    };
    table.columns.iter().zip(new).filter_map(literal).collect()
}

#[test]
fn every_kind_of_event_has_its_statement() {
    let (tables, events) = shop();
    let lines = |options| {
        written(&events, &tables, options)
            .into_iter()
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(&b'\n')
    };
    let more = lines(&[
        ("messages", "emit"),
        ("without-identity", "skip"),
        ("replica-role", "on"),
        ("include-xids", "on"),
        ("include-timestamp", "on"),
        ("include-lsn", "on"),
    ]);
    fixture("stream_sql_v1.txt", &[&lines(&[])[..], b"\n\n", &more, b"\n"].concat());
}

fn column(name: &str, type_oid: u32, class: TypeClass) -> Column {
    Column {
        name: name.into(),
        type_oid,
        class,
        ..Column::default()
    }
}

fn text(text: &str) -> OwnedValue {
    OwnedValue::Text(text.into())
}

/// The last statement of an update or delete of a table with these columns.
fn statement(columns: Vec<Column>, identity: ReplicaIdentity, what: What) -> String {
    let table = Table {
        schema: "s".into(),
        name: "t".into(),
        columns,
        identity,
        ..Table::default()
    };
    let message = written(&[simple(what)], &[table], &[("include-header", "off")]).concat();
    String::from_utf8(message).unwrap()
}

#[test]
fn a_row_is_found_by_its_key_or_by_all_its_values() {
    let columns = |key: bool| {
        let mut columns = vec![
            column("a", 23, TypeClass::Integer),
            column("b", 25, TypeClass::Text),
            column("c", 700, TypeClass::Number),
        ];
        columns[0].in_primary_key = key;
        columns.iter_mut().for_each(|column| column.in_identity = true);
        columns
    };
    let old = || vec![text("1"), OwnedValue::Null, text("1.1")];
    let new = || vec![text("2"), text("x"), text("1.1")];
    assert_eq!(
        statement(columns(true), ReplicaIdentity::Full, What::Delete(0, Some(old()))),
        r#"DELETE FROM ONLY "s"."t" WHERE "a" = 1;"#
    );
    assert_eq!(
        statement(
            columns(false),
            ReplicaIdentity::Full,
            What::Update(0, Some(old()), new())
        ),
        r#"UPDATE ONLY "s"."t" SET "a" = 2, "b" = 'x', "c" = '1.1' WHERE ctid = (SELECT ctid FROM ONLY "s"."t" WHERE "a" = 1 AND "b" IS NOT DISTINCT FROM NULL AND pg_catalog.format('%s', "c") COLLATE pg_catalog."C" = '1.1' LIMIT 1);"#
    );
    let keyed = || {
        let mut columns = columns(false);
        columns[1].in_identity = false;
        columns[2].in_identity = false;
        columns
    };
    // Its key is as it was, a value is out of line.
    assert_eq!(
        statement(
            keyed(),
            ReplicaIdentity::Index,
            What::Update(0, None, vec![text("1"), OwnedValue::Same, text("NaN")])
        ),
        r#"UPDATE ONLY "s"."t" SET "c" = 'NaN' WHERE "a" = 1;"#
    );
    assert_eq!(
        statement(
            keyed(),
            ReplicaIdentity::Index,
            What::Update(0, None, vec![text("1"), OwnedValue::Same, OwnedValue::Same])
        ),
        ""
    );
}

#[test]
fn what_cannot_be_set_is_inserted_anew() {
    let mut columns = vec![
        column("a", 23, TypeClass::Integer),
        column("b", 25, TypeClass::Text),
        column("c", 25, TypeClass::Text),
    ];
    (columns[0].in_identity, columns[0].identity, columns[2].generated) = (true, Some('a'), true);
    let update = |old: Option<Vec<OwnedValue>>, key: &str| {
        let new = vec![text(key), OwnedValue::Same, OwnedValue::Null];
        statement(columns.clone(), ReplicaIdentity::Default, What::Update(0, old, new))
    };
    let old = vec![text("1"), OwnedValue::Null, OwnedValue::Null];
    assert_eq!(update(Some(old.clone()), "1"), "");
    assert_eq!(
        update(Some(old), "2"),
        r#"WITH old AS (DELETE FROM ONLY "s"."t" WHERE "a" = 1 RETURNING *) INSERT INTO "s"."t" ("a", "b") OVERRIDING SYSTEM VALUE SELECT 2, old."b" FROM old;"#
    );
}

#[test]
fn a_value_that_cannot_be_set_and_is_no_key_is_looked_after() {
    let mut columns = vec![column("a", 23, TypeClass::Integer), column("b", 23, TypeClass::Integer)];
    (columns[0].in_identity, columns[1].identity) = (true, Some('a'));
    let new = vec![text("2"), text("7")];
    let old = vec![text("1"), OwnedValue::Null];
    assert_eq!(
        statement(columns, ReplicaIdentity::Default, What::Update(0, Some(old), new)),
        r#"WITH old AS (DELETE FROM ONLY "s"."t" WHERE "a" = 1 AND ("b" <> 7) RETURNING *) INSERT INTO "s"."t" ("a", "b") OVERRIDING SYSTEM VALUE SELECT 2, 7 FROM old;
UPDATE ONLY "s"."t" SET "a" = 2 WHERE "a" = 1;"#
    );
}

#[test]
fn what_cannot_be_replayed_fails_there() {
    let plain = || vec![column("a", 23, TypeClass::Integer)];
    let key = || {
        let mut columns = plain();
        columns[0].in_identity = true;
        columns
    };
    let fails = |columns, identity, what| {
        let statement = statement(columns, identity, what);
        assert!(statement.starts_with("DO 'BEGIN RAISE EXCEPTION"), "{statement}");
    };
    fails(plain(), ReplicaIdentity::Default, What::Delete(0, None));
    fails(
        plain(),
        ReplicaIdentity::Nothing,
        What::Update(0, None, vec![text("1")]),
    );
    fails(key(), ReplicaIdentity::Default, What::Delete(0, None));
    fails(
        key(),
        ReplicaIdentity::Default,
        What::Delete(0, Some(vec![OwnedValue::Same])),
    );
    let mut masked = key();
    masked[0].masked = true;
    fails(masked, ReplicaIdentity::Full, What::Delete(0, Some(vec![text("1")])));
}
