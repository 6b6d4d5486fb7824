//! Writing the stream of changes.

use super::{
    ADD_TABLE, CONTEXT, DDL, DELETE, DEPART, END, INSERT, REMOVE_TABLE, REPLACE, SEQUENCE, SERVICE, TRUNCATE, UPDATE,
    USE_TABLE, VALUE_BINARY, VALUE_NULL, VALUE_SAME, VALUE_TEXT, VERSION,
};
use crate::wire::{put_varint, varint_length};
use crate::{Change, Row, TableId, Value};

/// Writes the stream. The bytes gather in a buffer that the caller may take away at any time between two changes
/// ([`take_buffer`](Self::take_buffer)), for example into a spill file; what was taken, in order, is the stream.
#[derive(Debug)]
pub struct BodyWriter {
    buffer: Vec<u8>,
    table: Option<TableId>,
    changes: u64,
    taken: u64,
}

impl Default for BodyWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl BodyWriter {
    /// An empty stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: vec![VERSION],
            table: None,
            changes: 0,
            taken: 0,
        }
    }

    /// Appends a change.
    pub fn write(&mut self, change: &Change<'_>) {
        self.changes += 1;
        match change {
            Change::Insert { table, new } => self.insert(*table, *new),
            Change::Update { table, key, new } => self.update(UPDATE, *table, *key, *new),
            Change::Replace { table, key, new } => self.update(REPLACE, *table, *key, *new),
            Change::Delete { table, key } => self.delete(DELETE, *table, *key),
            Change::Depart { table, key } => self.delete(DEPART, *table, *key),
            Change::Sequence {
                table,
                column,
                last_value,
            } => {
                self.use_table(*table);
                let mut rest = Vec::with_capacity(12);
                put_varint(&mut rest, (*column).into());
                rest.extend_from_slice(&last_value.to_le_bytes());
                self.item(SEQUENCE, &rest);
            }
            Change::Truncate {
                tables,
                restart_identity,
                cascade,
            } => {
                let mut rest = vec![u8::from(*restart_identity) | u8::from(*cascade) << 1];
                put_varint(&mut rest, tables.len() as u64);
                tables
                    .iter()
                    .for_each(|table| rest.extend_from_slice(&table.0.to_le_bytes()));
                self.item(TRUNCATE, &rest);
            }
            Change::Ddl(statement) => self.item(DDL, &statement.encode()),
            Change::AddTable(definition) => self.item(ADD_TABLE, &definition.encode()),
            Change::RemoveTable(table) => self.item(REMOVE_TABLE, &table.0.to_le_bytes()),
            Change::Service(service) => {
                let mut rest = Vec::new();
                service.encode(&mut rest);
                self.item(SERVICE, &rest);
            }
            Change::Context(context) => self.item(CONTEXT, context.as_bytes()),
        }
    }

    fn insert(&mut self, table: TableId, new: Row<'_>) {
        self.use_table(table);
        self.head(INSERT, row_length(new));
        put_row(&mut self.buffer, new);
    }

    fn update(&mut self, kind: u8, table: TableId, key: Row<'_>, new: Row<'_>) {
        self.use_table(table);
        self.head(kind, row_length(key) + row_length(new));
        put_row(&mut self.buffer, key);
        put_row(&mut self.buffer, new);
    }

    fn delete(&mut self, kind: u8, table: TableId, key: Row<'_>) {
        self.use_table(table);
        self.head(kind, row_length(key));
        put_row(&mut self.buffer, key);
    }

    fn use_table(&mut self, table: TableId) {
        if self.table != Some(table) {
            self.table = Some(table);
            self.item(USE_TABLE, &table.0.to_le_bytes());
        }
    }

    fn item(&mut self, kind: u8, rest: &[u8]) {
        self.head(kind, rest.len() as u64);
        self.buffer.extend_from_slice(rest);
    }

    fn head(&mut self, kind: u8, length: u64) {
        self.buffer.push(kind);
        put_varint(&mut self.buffer, length);
    }

    /// Number of changes written so far.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes written so far, those taken away included.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.taken + self.buffer.len() as u64
    }

    /// Bytes waiting in the buffer.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes what was written since the last time.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.taken += self.buffer.len() as u64;
        std::mem::take(&mut self.buffer)
    }

    /// Ends the stream; gives its last bytes (all of them, if none were taken before).
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(10);
        put_varint(&mut rest, self.changes);
        self.item(END, &rest);
        self.buffer
    }
}

/// A value's length and tag travel as one number.
const fn value_head(value: &Value<'_>) -> u64 {
    match value {
        Value::Null => VALUE_NULL,
        Value::Same => VALUE_SAME,
        Value::Text(bytes) => (bytes.len() as u64) << 2 | VALUE_TEXT,
        Value::Binary(bytes) => (bytes.len() as u64) << 2 | VALUE_BINARY,
    }
}

fn row_length(row: Row<'_>) -> u64 {
    let value_length = |value: Value<'_>| {
        let head = value_head(&value);
        varint_length(head) + (head >> 2)
    };
    varint_length(row.len() as u64) + row.iter().map(value_length).sum::<u64>()
}

/// The number of values, then each: tag and length as one varint, bytes.
pub(crate) fn put_row(out: &mut Vec<u8>, row: Row<'_>) {
    put_varint(out, row.len() as u64);
    for value in row.iter() {
        put_varint(out, value_head(&value));
        if let Value::Text(bytes) | Value::Binary(bytes) = value {
            out.extend_from_slice(bytes);
        }
    }
}
