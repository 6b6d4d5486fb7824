//! `keys`: which rows changed, and how, in one object per change: what a cache has to forget.
//!
//! A row is told by its replica identity, or by its primary key where that is the whole row; without either its key is null, and whoever
//! caches rows of the table must forget them all. Nothing is told before it is committed: what is forgotten earlier could be
//! cached again as it was.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

use super::digits::{put_id, put_lsn, put_number};
use super::json::row::{Style, put_value};
use super::json::text::put_string;
use super::option::{boolean, without_identity};
use super::per_table::PerTable;
use super::{Change, Ddl, Environment, Event, Format, OptionError, Place, ReplicaIdentity, Table, Transaction};
use crate::{Row, Value};

/// How many keys of a transaction are remembered to leave out repetitions: 16 MB of them. Then it begins anew, and some are told twice.
const REMEMBERED: usize = 1_000_000;

/// The format, with its options.
pub struct Keys {
    environment: Environment,
    include_ids: bool,
    include_transaction: bool,
    include_xids: bool,
    include_lsn: bool,
    include_timestamp: bool,
    numbers_as_strings: bool,
    /// Changes of rows without a key are not told.
    skip_without_identity: bool,
    deduplicate: bool,
    /// Hashes of what this transaction told. Two keys with one hash are less likely than a broken disk: 128 bits.
    told: HashSet<u128>,
    tables: PerTable<Prepared>,
    stamp: Vec<u8>,
}

const OPTIONS: &[&str] = &[
    "include-ids",
    "include-transaction",
    "include-xids",
    "include-lsn",
    "include-timestamp",
    "numeric-data-types-as-string",
    "without-identity",
    "deduplicate",
];

struct Prepared {
    /// `,"table":"public.t"`.
    table: Vec<u8>,
    /// For each column of the key its number and `"id":`.
    key: Vec<(usize, Vec<u8>)>,
}

impl Prepared {
    fn new(table: &Table, environment: Environment) -> Self {
        let mut name = b",\"table\":".to_vec();
        put_string(&mut name, &table.quoted_name, environment.encoding);
        let in_key = |(_, column): &(usize, &super::Column)| match table.identity {
            _ if table.identity_hidden => false,
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Full => column.in_primary_key,
            ReplicaIdentity::Default | ReplicaIdentity::Index => column.in_identity,
        };
        let key = table.columns.iter().enumerate().filter(in_key);
        let key = key.map(|(number, column)| {
            let mut name = Vec::new();
            put_string(&mut name, &column.name, environment.encoding);
            name.push(b':');
            (number, name)
        });
        Self {
            table: name,
            key: key.collect(),
        }
    }
}

impl Keys {
    /// With its defaults.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            include_ids: true,
            include_transaction: false,
            include_xids: false,
            include_lsn: false,
            include_timestamp: false,
            numbers_as_strings: false,
            skip_without_identity: false,
            deduplicate: false,
            told: HashSet::new(),
            tables: PerTable::default(),
            stamp: Vec::new(),
        }
    }

    fn boundary(&mut self, operation: &str, of: &Transaction<'_>, out: &mut Vec<u8>) {
        self.told.clear();
        self.stamp.clear();
        if self.include_xids {
            self.stamp.extend_from_slice(b",\"xid\":");
            put_number(&mut self.stamp, of.xid.into());
        }
        if let (true, Some(time)) = (self.include_timestamp, of.commit_time_us) {
            self.stamp.extend_from_slice(b",\"timestamp\":\"");
            (self.environment.time)(time, &mut self.stamp);
            self.stamp.push(b'"');
        }
        if self.include_transaction {
            begin(operation, out);
            out.extend_from_slice(&self.stamp);
            if let (true, Some(lsn)) = (self.include_lsn, of.commit_lsn) {
                put_quoted_lsn(out, lsn);
            }
            out.push(b'}');
        }
    }

    fn change(&mut self, place: &Place<'_>, change: &Change<'_>, out: &mut Vec<u8>) {
        let (operation, table, old, new) = match *change {
            Change::Insert { table, new } => ("I", table, None, Some(new)),
            Change::Update { table, old, new } => ("U", table, old, Some(new)),
            Change::Delete { table, old } => ("D", table, old, None),
            Change::Truncate { tables, .. } => match tables.first() {
                Some(emptied) => ("T", emptied.table, None, None),
                None => return,
            },
        };
        let start = out.len();
        begin(operation, out);
        let (style, environment) = (self.style(), self.environment);
        let prepared = self.tables.get(table.version, || Prepared::new(table, environment));
        let about = out.len();
        out.extend_from_slice(&prepared.table);
        let known = operation != "T" && !prepared.key.is_empty() && (old.is_some() || new.is_some());
        if known {
            put_key(out, "key", prepared, table, new, old, style);
            if let (Some(old), Some(new)) = (old, new)
                && changed(prepared, old, new)
            {
                put_key(out, "old_key", prepared, table, Some(old), None, style);
            }
        } else if operation != "T" {
            out.extend_from_slice(b",\"key\":null");
        }
        let unknown = !known && operation != "T";
        if unknown && self.skip_without_identity || self.deduplicate && !self.is_new(&out[about..]) {
            return out.truncate(start);
        }
        self.end(place, out);
    }

    /// What was told of a row in this transaction need not be told again.
    fn is_new(&mut self, about: &[u8]) -> bool {
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        self.told.insert(xxh3_128(about))
    }

    fn style(&self) -> Style {
        Style {
            encoding: self.environment.encoding,
            numbers_as_strings: self.numbers_as_strings,
            special_as_strings: true,
            hex_member: false,
        }
    }

    fn ddl(&self, place: &Place<'_>, ddl: &Ddl<'_>, out: &mut Vec<u8>) {
        begin("DDL", out);
        out.extend_from_slice(b",\"tag\":");
        put_string(out, ddl.tag, self.environment.encoding);
        out.extend_from_slice(b",\"object\":");
        put_string(out, ddl.object, self.environment.encoding);
        self.end(place, out);
    }

    fn end(&self, place: &Place<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.stamp);
        if self.include_lsn {
            put_quoted_lsn(out, place.lsn);
        }
        if self.include_ids {
            out.extend_from_slice(b",\"id\":\"");
            put_id(out, &place.id);
            out.push(b'"');
        }
        out.push(b'}');
    }
}

impl Format for Keys {
    fn options(&self) -> &'static [&'static str] {
        OPTIONS
    }

    fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        let flag = match option {
            "include-ids" => &mut self.include_ids,
            "include-transaction" => &mut self.include_transaction,
            "include-xids" => &mut self.include_xids,
            "include-lsn" => &mut self.include_lsn,
            "include-timestamp" => &mut self.include_timestamp,
            "numeric-data-types-as-string" => &mut self.numbers_as_strings,
            "deduplicate" => &mut self.deduplicate,
            _ => {
                self.skip_without_identity = without_identity(option, value)?;
                return Ok(());
            }
        };
        *flag = boolean(option, value)?;
        Ok(())
    }

    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Row(place, change) => self.change(place, change, out),
            Event::Begin(of) => self.boundary("B", of, out),
            Event::Commit(of) => self.boundary("C", of, out),
            Event::Ddl(place, ddl) => self.ddl(place, ddl, out),
            // Say nothing of rows, or do not come: `tells_open_transactions`, `tells_prepared_transactions`.
            Event::Message(..)
            | Event::Context(_)
            | Event::BeginPrepare(_)
            | Event::Prepare(_)
            | Event::CommitPrepared(_)
            | Event::RollbackPrepared(_)
            | Event::StreamStart(_)
            | Event::StreamStop(_)
            | Event::StreamAbort(..)
            | Event::StreamPrepare(_)
            | Event::StreamCommit(_) => {}
        }
    }

    fn forget(&mut self, version: u64) {
        self.tables.forget(version);
    }

    fn wants_utf8(&self) -> bool {
        true
    }

    fn wants_exact_text(&self) -> bool {
        true
    }

    fn one_table_at_a_time(&self) -> bool {
        true
    }

    fn tells_open_transactions(&self) -> bool {
        false
    }

    fn tells_prepared_transactions(&self) -> bool {
        false
    }
}

fn begin(operation: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"op\":\"");
    out.extend_from_slice(operation.as_bytes());
    out.push(b'"');
}

/// `,"key":{"id":1}` of one row; a value that is not in it did not change, and is in the other.
fn put_key(
    out: &mut Vec<u8>,
    name: &str,
    prepared: &Prepared,
    table: &Table,
    row: Option<Row<'_>>,
    other: Option<Row<'_>>,
    style: Style,
) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    let mut separator = b'{';
    for (number, name) in &prepared.key {
        let in_row = row
            .and_then(|row| row.get(*number))
            .filter(|value| *value != Value::Same);
        let value = in_row.or(other.and_then(|row| row.get(*number)));
        out.push(separator);
        out.extend_from_slice(name);
        put_value(out, &table.columns[*number], value.unwrap_or(Value::Null), style);
        separator = b',';
    }
    out.push(b'}');
}

fn changed(prepared: &Prepared, old: Row<'_>, new: Row<'_>) -> bool {
    let differs = |number: usize| new.get(number) != Some(Value::Same) && old.get(number) != new.get(number);
    prepared.key.iter().any(|(number, _)| differs(*number))
}

fn put_quoted_lsn(out: &mut Vec<u8>, lsn: u64) {
    out.extend_from_slice(b",\"lsn\":\"");
    put_lsn(out, lsn);
    out.push(b'"');
}
