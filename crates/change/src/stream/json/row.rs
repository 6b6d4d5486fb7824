//! Rows in JSON.

use super::prepared::Prepared;
use super::text::put_string;
use super::{Json, put_hex_string};
use crate::stream::{Change, Column, Emptied, Encoding, Place, ReplicaIdentity, Table, TypeClass};
use crate::{Row, Value};

/// How a value is written that JSON, or the database's encoding, has more than one way for.
#[derive(Clone, Copy)]
pub(in crate::stream) struct Style {
    /// Of the database.
    pub(in crate::stream) encoding: Encoding,
    /// Numbers in quotes.
    pub(in crate::stream) numbers_as_strings: bool,
    /// NaN and the infinities as strings, otherwise as null.
    pub(in crate::stream) special_as_strings: bool,
    /// Text that is not UTF-8 as digits, which a member `encoding` beside it says; otherwise as strings have it.
    pub(in crate::stream) hex_member: bool,
}

impl Json {
    pub(super) fn row(&mut self, place: &Place<'_>, change: &Change<'_>, out: &mut Vec<u8>) {
        let (action, table, old, new) = match *change {
            Change::Insert { table, new } => ("I", table, None, Some(new)),
            Change::Update { table, old, new } => ("U", table, old, Some(new)),
            Change::Delete { table, old } => ("D", table, old, None),
            Change::Truncate { tables, .. } => {
                if let (Some(Emptied { table, .. }), true) = (tables.first(), self.options.wants_action(b'T')) {
                    self.truncate(place, table, out);
                }
                return;
            }
        };
        if !self.options.wants_action(action.as_bytes()[0]) {
            return;
        }
        let start = out.len();
        self.begin_object(action, place, out);
        let options = &self.options;
        let style = Style {
            encoding: self.environment.encoding,
            numbers_as_strings: options.numbers_as_strings,
            special_as_strings: options.special_as_strings,
            hex_member: true,
        };
        let prepared = self
            .tables
            .get(table.version, || Prepared::new(table, options, style.encoding));
        let identity = old
            .or(new)
            .filter(|_| action != "I" && (old.is_some() || action == "U") && prepared.has_identity);
        if action != "I" && identity.is_none() && options.skip_without_identity {
            out.truncate(start);
            return;
        }
        out.extend_from_slice(&prepared.name);
        if options.row_objects {
            put_objects(out, prepared, table, (identity, new), style);
            out.push(b'}');
            return;
        }
        if let Some(new) = new {
            out.extend_from_slice(b",\"columns\":[");
            put_columns(out, prepared, table, new, style);
            out.push(b']');
        }
        if let Some(identity) = identity {
            out.extend_from_slice(b",\"identity\":[");
            put_some(out, prepared, table, identity, style, |column| column.in_identity);
            out.push(b']');
        }
        out.extend_from_slice(&prepared.primary_key);
        if options.include_unchanged
            && let Some(new) = new
            // One that a filter lets come into view, too.
            && (action == "U" || new.iter().any(|value| value == Value::Same))
        {
            put_unchanged(out, prepared, new);
        }
        if options.include_before && action != "I" {
            out.extend_from_slice(b",\"before\":");
            match old.filter(|_| table.identity == ReplicaIdentity::Full) {
                Some(old) => {
                    out.push(b'[');
                    put_some(out, prepared, table, old, style, |_| true);
                    out.push(b']');
                }
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }

    /// One table: [`crate::stream::Format::one_table_at_a_time`].
    fn truncate(&mut self, place: &Place<'_>, table: &Table, out: &mut Vec<u8>) {
        self.begin_object("T", place, out);
        let (options, encoding) = (&self.options, self.environment.encoding);
        let prepared = self
            .tables
            .get(table.version, || Prepared::new(table, options, encoding));
        out.extend_from_slice(&prepared.name);
        out.push(b'}');
    }
}

/// The new version of a row: all but what did not change and is not in the WAL.
fn put_columns(out: &mut Vec<u8>, prepared: &Prepared, table: &Table, row: Row<'_>, style: Style) {
    let from = out.len();
    for ((parts, column), value) in prepared.columns.iter().zip(&table.columns).zip(row.iter()) {
        if value == Value::Same {
            continue;
        }
        if out.len() > from {
            out.push(b',');
        }
        out.extend_from_slice(&parts.before);
        put_value(out, column, value, style);
        out.extend_from_slice(&parts.after);
    }
}

/// Some of a row's columns, without what is known of them beside their types.
fn put_some(
    out: &mut Vec<u8>,
    prepared: &Prepared,
    table: &Table,
    row: Row<'_>,
    style: Style,
    wanted: impl Fn(&super::prepared::PreparedColumn) -> bool,
) {
    let from = out.len();
    for ((parts, column), value) in prepared.columns.iter().zip(&table.columns).zip(row.iter()) {
        if value == Value::Same || !wanted(parts) {
            continue;
        }
        if out.len() > from {
            out.push(b',');
        }
        out.extend_from_slice(&parts.before);
        put_value(out, column, value, style);
        out.push(b'}');
    }
}

/// Both versions of a row and what names it, each as an object. In the new one is also what did not change, if the old one has it.
fn put_objects(
    out: &mut Vec<u8>,
    prepared: &Prepared,
    table: &Table,
    (old, new): (Option<Row<'_>>, Option<Row<'_>>),
    style: Style,
) {
    if let Some(new) = new {
        out.extend_from_slice(b",\"new\":");
        put_object(out, prepared, table, (new, old), style, |_| true);
    }
    if let Some(old) = old {
        out.extend_from_slice(b",\"old\":");
        put_object(out, prepared, table, (old, None), style, |column| column.in_identity);
    }
    if let Some(row) = new.or(old)
        && prepared.columns.iter().any(|column| column.in_primary_key)
    {
        out.extend_from_slice(b",\"key\":");
        put_object(out, prepared, table, (row, old), style, |column| column.in_primary_key);
    }
}

fn put_object(
    out: &mut Vec<u8>,
    prepared: &Prepared,
    table: &Table,
    (row, other): (Row<'_>, Option<Row<'_>>),
    style: Style,
    wanted: impl Fn(&super::prepared::PreparedColumn) -> bool,
) {
    out.push(b'{');
    let from = out.len();
    let mut others = other.map(|other| other.iter());
    for ((parts, column), value) in prepared.columns.iter().zip(&table.columns).zip(row.iter()) {
        let other = others.as_mut().and_then(Iterator::next);
        let value = match value {
            Value::Same => other.unwrap_or(Value::Same),
            value => value,
        };
        if value == Value::Same || !wanted(parts) {
            continue;
        }
        if out.len() > from {
            out.push(b',');
        }
        out.extend_from_slice(&parts.name);
        out.push(b':');
        let at = out.len();
        put_value(out, column, value, style);
        if is_unknown(style.encoding) && out.ends_with(HEX_MEMBER) && !value_is_utf8(value) {
            out.splice(at..at, *b"{\"value\":");
            out.push(b'}');
        }
    }
    out.push(b'}');
}

fn value_is_utf8(value: Value<'_>) -> bool {
    !matches!(value, Value::Text(text) if std::str::from_utf8(text).is_err())
}

/// Follows a value that is written in hex because it is text in no encoding.
const HEX_MEMBER: &[u8] = b",\"encoding\":\"hex\"";

fn put_unchanged(out: &mut Vec<u8>, prepared: &Prepared, row: Row<'_>) {
    out.extend_from_slice(b",\"unchanged\":[");
    let from = out.len();
    for (parts, _) in prepared
        .columns
        .iter()
        .zip(row.iter())
        .filter(|(_, value)| *value == Value::Same)
    {
        if out.len() > from {
            out.push(b',');
        }
        out.extend_from_slice(&parts.name);
    }
    out.push(b']');
}

/// A value.
pub(in crate::stream) fn put_value(out: &mut Vec<u8>, column: &Column, value: Value<'_>, style: Style) {
    let text = match value {
        Value::Text(text) => text,
        Value::Null | Value::Same => return out.extend_from_slice(b"null"),
        // No value comes so: the format does not ask for it.
        Value::Binary(bytes) => return put_hex_string(out, bytes),
    };
    match column.class {
        TypeClass::Integer | TypeClass::Number if style.numbers_as_strings => put_quoted(out, text),
        TypeClass::Integer => out.extend_from_slice(text),
        TypeClass::Number => match text {
            [b'N' | b'I', ..] | [b'-', b'I', ..] if style.special_as_strings => put_quoted(out, text),
            [b'N' | b'I', ..] | [b'-', b'I', ..] => out.extend_from_slice(b"null"),
            _ => out.extend_from_slice(text),
        },
        TypeClass::Boolean => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
        TypeClass::Bytes if text.starts_with(b"\\x") => put_quoted(out, &text[2..]),
        _ if style.hex_member && is_unknown(style.encoding) && std::str::from_utf8(text).is_err() => {
            put_hex_string(out, text);
            out.extend_from_slice(HEX_MEMBER);
        }
        _ => put_string(out, text, style.encoding),
    }
}

fn is_unknown(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Unknown | Encoding::UnknownHere)
}

/// What needs no escape.
fn put_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}
