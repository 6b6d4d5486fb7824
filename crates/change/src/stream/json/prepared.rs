//! What of a table's rows is always the same.

use super::Options;
use super::text::put_string;
use crate::stream::digits::put_number;
use crate::stream::{Column, Encoding, ReplicaIdentity, Table};

/// The constant parts.
pub(super) struct Prepared {
    /// `,"schema":"public","table":"t"`.
    pub(super) name: Vec<u8>,
    /// For each column.
    pub(super) columns: Vec<PreparedColumn>,
    /// `,"pk":[...]`, if asked for.
    pub(super) primary_key: Vec<u8>,
    /// A row can be told by some of its columns, or by all.
    pub(super) has_identity: bool,
}

/// What surrounds a value.
pub(super) struct PreparedColumn {
    /// `{"name":"a","type":"integer","value":`.
    pub(super) before: Vec<u8>,
    /// `}`, in `columns` with what is known of the column before it.
    pub(super) after: Vec<u8>,
    /// `"a"`.
    pub(super) name: Vec<u8>,
    /// The old version of a row has it.
    pub(super) in_identity: bool,
    /// It is of the primary key.
    pub(super) in_primary_key: bool,
}

impl Prepared {
    pub(super) fn new(table: &Table, options: &Options, encoding: Encoding) -> Self {
        let mut name = Vec::new();
        put_table(&mut name, table, options, encoding);
        let full = table.identity == ReplicaIdentity::Full;
        let columns: Vec<_> = table
            .columns
            .iter()
            .map(|column| PreparedColumn::new(column, full, options, encoding))
            .collect();
        Self {
            name,
            primary_key: if options.include_pk {
                primary_key(table, options, encoding)
            } else {
                Vec::new()
            },
            has_identity: columns.iter().any(|column| column.in_identity),
            columns,
        }
    }
}

impl PreparedColumn {
    fn new(column: &Column, full: bool, options: &Options, encoding: Encoding) -> Self {
        let mut before = Vec::new();
        put_column(&mut before, column, options, encoding);
        before.extend_from_slice(b",\"value\":");
        let mut name = Vec::new();
        put_string(&mut name, &column.name, encoding);
        let mut after = Vec::new();
        put_properties(&mut after, column, options, encoding);
        after.push(b'}');
        Self {
            before,
            after,
            name,
            in_identity: full || column.in_identity,
            in_primary_key: column.in_primary_key,
        }
    }
}

/// `,"schema":"public","table":"t"`.
pub(super) fn put_table(out: &mut Vec<u8>, table: &Table, options: &Options, encoding: Encoding) {
    if options.include_schemas {
        out.extend_from_slice(b",\"schema\":");
        put_string(out, &table.schema, encoding);
    }
    out.extend_from_slice(b",\"table\":");
    put_string(out, &table.name, encoding);
    if options.include_table_oids {
        out.extend_from_slice(b",\"oid\":");
        put_number(out, table.oid.into());
    }
    if let Some((oid, name)) = &table.above {
        out.extend_from_slice(b",\"root\":{\"oid\":");
        put_number(out, (*oid).into());
        out.extend_from_slice(b",\"table\":");
        put_string(out, name, encoding);
        out.push(b'}');
    }
}

/// `{"name":"a","type":"integer"`, open.
pub(super) fn put_column(out: &mut Vec<u8>, column: &Column, options: &Options, encoding: Encoding) {
    out.extend_from_slice(b"{\"name\":");
    put_string(out, &column.name, encoding);
    if options.include_types {
        let type_name = match (options.include_domain_data_type, options.include_typmod) {
            (false, true) => &column.full_type_name,
            (false, false) => &column.type_name,
            (true, true) => &column.full_base_type_name,
            (true, false) => &column.base_type_name,
        };
        out.extend_from_slice(b",\"type\":");
        put_string(out, unquoted(type_name), encoding);
    }
    if options.include_type_oids {
        out.extend_from_slice(b",\"typeoid\":");
        put_number(out, column.type_oid.into());
    }
}

/// What is known of a column beside its type.
pub(super) fn put_properties(out: &mut Vec<u8>, column: &Column, options: &Options, encoding: Encoding) {
    if options.include_not_null {
        let optional: &[u8] = if column.not_null { b"false" } else { b"true" };
        out.extend_from_slice(b",\"optional\":");
        out.extend_from_slice(optional);
    }
    if options.include_column_positions {
        out.extend_from_slice(b",\"position\":");
        put_number(out, column.number.unsigned_abs().into());
    }
    if options.include_default {
        out.extend_from_slice(b",\"default\":");
        match &column.default {
            Some(default) if !column.generated => put_string(out, default, encoding),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

/// A type whose name is one quoted identifier stands without its quotes, as wal2json has it.
fn unquoted(name: &[u8]) -> &[u8] {
    match name {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => inner,
        _ => name,
    }
}

fn primary_key(table: &Table, options: &Options, encoding: Encoding) -> Vec<u8> {
    let mut out = b",\"pk\":[".to_vec();
    for (number, column) in table.columns.iter().filter(|column| column.in_primary_key).enumerate() {
        if number > 0 {
            out.push(b',');
        }
        put_column(&mut out, column, options, encoding);
        out.push(b'}');
    }
    out.push(b']');
    out
}
