//! What of a table's statements is always the same.

use super::quote::put_name;
use crate::stream::literal::Comparison;
use crate::stream::{Column, ReplicaIdentity, Table, TypeClass};

/// The constant parts.
pub(super) struct Prepared {
    /// `"public"."t"`.
    pub(super) name: Vec<u8>,
    /// `ONLY "public"."t"`: rows of this table, not of those that inherit from it. A partitioned table has no rows of its own.
    pub(super) only: Vec<u8>,
    /// ` ("a", "b") OVERRIDING SYSTEM VALUE`, of all columns that can be written.
    pub(super) insert: Vec<u8>,
    /// Where rows of partitions are found again: their own number is not enough.
    pub(super) partitioned: bool,
    /// Which columns say which row it is.
    pub(super) identity: Identity,
    /// It has columns GENERATED ALWAYS AS IDENTITY of which the old version of a row says nothing.
    pub(super) has_loose_always: bool,
    /// In the order of the table's.
    pub(super) columns: Vec<PreparedColumn>,
    /// It has columns whose text depends on `lc_monetary`.
    pub(super) has_money: bool,
}

/// By what a row is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The values of its key: one row at most has them.
    Key,
    /// All its values: several rows may have them.
    WholeRow,
    /// Nothing, and why.
    Nothing(&'static str),
}

/// A column.
pub(super) struct PreparedColumn {
    /// Quoted.
    pub(super) name: Vec<u8>,
    pub(super) class: TypeClass,
    /// It is computed from others.
    pub(super) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be inserted, not set.
    pub(super) always: bool,
    /// It takes part in finding the row.
    pub(super) identifies: bool,
    /// If so, how.
    pub(super) comparison: Comparison,
}

const MONEY: u32 = 790;

impl Prepared {
    pub(super) fn new(table: &Table) -> Self {
        let mut name = Vec::new();
        put_name(&mut name, &table.schema);
        name.push(b'.');
        put_name(&mut name, &table.name);
        let only = if table.partitioned {
            name.clone()
        } else {
            [b"ONLY ", &name[..]].concat()
        };
        let identity = identity(table);
        let by_primary_key = table.identity == ReplicaIdentity::Full;
        let columns: Vec<_> = table
            .columns
            .iter()
            .map(|column| PreparedColumn::new(column, identity, by_primary_key))
            .collect();
        Self {
            insert: insert(&columns),
            name,
            only,
            partitioned: table.partitioned,
            identity,
            has_loose_always: identity == Identity::Key
                && columns.iter().any(|column| column.always && !column.identifies),
            columns,
            has_money: table.columns.iter().any(|column| column.type_oid == MONEY),
        }
    }
}

impl PreparedColumn {
    fn new(column: &Column, identity: Identity, by_primary_key: bool) -> Self {
        let mut name = Vec::new();
        put_name(&mut name, &column.name);
        let (identifies, comparison) = match identity {
            Identity::Key if by_primary_key => (column.in_primary_key, Comparison::of_key(column, &name)),
            Identity::Key => (column.in_identity, Comparison::of_key(column, &name)),
            // A generated column follows from the others, and the WAL may not have it.
            Identity::WholeRow => (!column.generated, Comparison::exact(column, &name)),
            Identity::Nothing(_) => (false, Comparison::default()),
        };
        Self {
            name,
            class: column.class,
            generated: column.generated,
            always: column.identity == Some('a'),
            identifies,
            comparison,
        }
    }
}

/// What identifies the rows of a table. Under FULL a primary key does it as well, and better.
fn identity(table: &Table) -> Identity {
    let full = table.identity == ReplicaIdentity::Full;
    let columns = table.columns.iter();
    let key: Vec<_> = if full {
        columns.filter(|column| column.in_primary_key).collect()
    } else {
        columns.filter(|column| column.in_identity).collect()
    };
    let of = if full && key.is_empty() {
        table.columns.iter().collect()
    } else {
        key
    };
    if !full && of.is_empty() || table.identity == ReplicaIdentity::Nothing {
        Identity::Nothing("its replica identity is nothing")
    } else if table.identity_hidden {
        Identity::Nothing("the reader does not want all columns of its replica identity")
    } else if of.iter().any(|column| column.masked) {
        Identity::Nothing("a column of its replica identity is masked")
    } else if full && !of.iter().any(|column| column.in_primary_key) {
        Identity::WholeRow
    } else {
        Identity::Key
    }
}

fn insert(columns: &[PreparedColumn]) -> Vec<u8> {
    let written: Vec<_> = columns.iter().filter(|column| !column.generated).collect();
    if written.is_empty() {
        return Vec::new();
    }
    let mut out = b" (".to_vec();
    for (number, column) in written.iter().enumerate() {
        if number > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(&column.name);
    }
    out.push(b')');
    if written.iter().any(|column| column.always) {
        out.extend_from_slice(b" OVERRIDING SYSTEM VALUE");
    }
    out
}
