//! The stream of changes inside a write record.
//!
//! A version byte, then items: kind (u8), length of the rest (varint), the rest. A row item speaks of the table that the
//! last `USE_TABLE` item named, so that the table's number is not repeated with each row. The last item, `END`, holds the
//! number of changes: a stream cut short at an item's edge does not pass for a whole one.
//!
//! Memory: the reader holds one item, whose buffer grows only as bytes arrive.

use std::io::Read;

use crate::row::Cell;
use crate::wire::{Decoder, put_varint, varint_length};
use crate::{Change, DecodeError, MAX_COLUMNS, Row, TableDefinition, TableId, Value};

/// The largest item a reader takes unless told otherwise: two rows of the largest size that PostgreSQL can handle.
pub const MAX_ITEM_BYTES: u64 = 2 << 30;

const VERSION: u8 = 1;
const END: u8 = 0;
const USE_TABLE: u8 = 1;
const INSERT: u8 = 2;
const UPDATE: u8 = 3;
const DELETE: u8 = 4;
const TRUNCATE: u8 = 5;
const SEQUENCE: u8 = 6;
const ADD_TABLE: u8 = 7;
const REMOVE_TABLE: u8 = 8;

const VALUE_NULL: u64 = 0;
const VALUE_SAME: u64 = 1;
const VALUE_TEXT: u64 = 2;
const VALUE_BINARY: u64 = 3;

const WHAT: &str = "write set";

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
            Change::Update { table, key, new } => self.update(*table, *key, *new),
            Change::Delete { table, key } => self.delete(*table, *key),
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
            Change::AddTable(definition) => self.item(ADD_TABLE, &definition.encode()),
            Change::RemoveTable(table) => self.item(REMOVE_TABLE, &table.0.to_le_bytes()),
        }
    }

    fn insert(&mut self, table: TableId, new: Row<'_>) {
        self.use_table(table);
        self.head(INSERT, row_length(new));
        put_row(&mut self.buffer, new);
    }

    fn update(&mut self, table: TableId, key: Row<'_>, new: Row<'_>) {
        self.use_table(table);
        self.head(UPDATE, row_length(key) + row_length(new));
        put_row(&mut self.buffer, key);
        put_row(&mut self.buffer, new);
    }

    fn delete(&mut self, table: TableId, key: Row<'_>) {
        self.use_table(table);
        self.head(DELETE, row_length(key));
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

fn put_row(out: &mut Vec<u8>, row: Row<'_>) {
    put_varint(out, row.len() as u64);
    for value in row.iter() {
        put_varint(out, value_head(&value));
        if let Value::Text(bytes) | Value::Binary(bytes) = value {
            out.extend_from_slice(bytes);
        }
    }
}

/// Reads the stream, a change at a time, in bounded memory.
pub struct BodyReader<R> {
    source: R,
    item_limit: u64,
    begun: bool,
    ended: bool,
    table: Option<TableId>,
    changes: u64,
    buffer: Vec<u8>,
    key: Vec<Cell>,
    new: Vec<Cell>,
}

impl<R: Read> BodyReader<R> {
    /// Reads from `source`, which should be buffered or in memory.
    pub const fn new(source: R) -> Self {
        Self::with_limit(source, MAX_ITEM_BYTES)
    }

    /// With a limit of one's own on the size of an item in bytes.
    pub const fn with_limit(source: R, item_limit: u64) -> Self {
        Self {
            source,
            item_limit,
            begun: false,
            ended: false,
            table: None,
            changes: 0,
            buffer: Vec::new(),
            key: Vec::new(),
            new: Vec::new(),
        }
    }

    /// The next change, `None` at the end of a whole stream. After an error every further call fails or ends, too.
    ///
    /// # Errors
    /// For damage, for a stream that ends too early or too late, and when the source fails.
    #[allow(
        clippy::should_implement_trait,
        reason = "it lends: the change borrows from the reader"
    )]
    pub fn next(&mut self) -> Result<Option<Change<'_>>, DecodeError> {
        if self.ended {
            return Ok(None);
        }
        self.begin()?;
        loop {
            match self.read_item()? {
                END => {
                    self.end()?;
                    return Ok(None);
                }
                USE_TABLE => self.table = Some(read_table_item(&self.buffer)?),
                kind => {
                    self.changes += 1;
                    return self.decode_change(kind).map(Some);
                }
            }
        }
    }

    fn begin(&mut self) -> Result<(), DecodeError> {
        if !self.begun {
            self.begun = true;
            let version = self.byte()?;
            if version != VERSION {
                return Err(DecodeError::Unknown {
                    what: "write set version",
                    number: version.into(),
                });
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), DecodeError> {
        let mut decoder = Decoder::new(WHAT, &self.buffer);
        let count = decoder.varint()?;
        decoder.finish()?;
        if count != self.changes {
            return Err(DecodeError::corrupt(WHAT, "the number of its changes does not match"));
        }
        // Reading to the very end also makes an assembled body verify its checksum.
        if self.source.read(&mut [0])? != 0 {
            return Err(DecodeError::corrupt(WHAT, "bytes are left over"));
        }
        self.ended = true;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let mut byte = [0];
        match self.source.read_exact(&mut byte) {
            Ok(()) => Ok(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(DecodeError::corrupt(WHAT, "it ends too early"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an item into `buffer` and gives its kind.
    fn read_item(&mut self) -> Result<u8, DecodeError> {
        let kind = self.byte()?;
        let mut head = [0; 10];
        let mut used = 0;
        loop {
            head[used] = self.byte()?;
            used += 1;
            if head[used - 1] < 0x80 || used == head.len() {
                break;
            }
        }
        let length = Decoder::new(WHAT, &head[..used]).varint()?;
        if length > self.item_limit {
            return Err(DecodeError::TooLarge {
                what: WHAT,
                length,
                limit: self.item_limit,
            });
        }
        self.buffer.clear();
        // Grows as bytes arrive: a length that lies costs nothing.
        let read = self.source.by_ref().take(length).read_to_end(&mut self.buffer)?;
        if read as u64 != length {
            return Err(DecodeError::corrupt(WHAT, "it ends too early"));
        }
        Ok(kind)
    }

    fn decode_change(&mut self, kind: u8) -> Result<Change<'_>, DecodeError> {
        let Self {
            buffer,
            key,
            new,
            table,
            ..
        } = self;
        let mut decoder = Decoder::new(WHAT, buffer);
        let of_table = || table.ok_or(DecodeError::corrupt(WHAT, "a row comes before its table"));
        let change = match kind {
            INSERT => {
                read_row(&mut decoder, buffer.len(), new)?;
                Change::Insert {
                    table: of_table()?,
                    new: Row::from_cells(new, buffer),
                }
            }
            UPDATE => {
                read_row(&mut decoder, buffer.len(), key)?;
                read_row(&mut decoder, buffer.len(), new)?;
                let (key, new) = (Row::from_cells(key, buffer), Row::from_cells(new, buffer));
                Change::Update {
                    table: of_table()?,
                    key,
                    new,
                }
            }
            DELETE => {
                read_row(&mut decoder, buffer.len(), key)?;
                Change::Delete {
                    table: of_table()?,
                    key: Row::from_cells(key, buffer),
                }
            }
            TRUNCATE => read_truncate(&mut decoder)?,
            SEQUENCE => Change::Sequence {
                table: of_table()?,
                column: decoder.varint_u16()?,
                last_value: decoder.i64()?,
            },
            ADD_TABLE => return Ok(Change::AddTable(Box::new(TableDefinition::decode(buffer)?))),
            REMOVE_TABLE => Change::RemoveTable(TableId(decoder.u64()?)),
            other => {
                return Err(DecodeError::Unknown {
                    what: "kind of change",
                    number: other.into(),
                });
            }
        };
        decoder.finish()?;
        Ok(change)
    }
}

fn read_table_item(buffer: &[u8]) -> Result<TableId, DecodeError> {
    let mut decoder = Decoder::new(WHAT, buffer);
    let table = TableId(decoder.u64()?);
    decoder.finish()?;
    Ok(table)
}

fn read_row(decoder: &mut Decoder<'_>, item_length: usize, cells: &mut Vec<Cell>) -> Result<(), DecodeError> {
    cells.clear();
    let count = decoder.count(MAX_COLUMNS, 1)?;
    for _ in 0..count {
        let head = decoder.varint()?;
        let length = usize::try_from(head >> 2).map_err(|_| decoder.corrupt("a length is out of range"))?;
        let tag = head & 3;
        let start = item_length - decoder.remaining();
        decoder.take(length)?;
        let end = start + length;
        cells.push(match tag {
            VALUE_TEXT => Cell::Text { start, end },
            VALUE_BINARY => Cell::Binary { start, end },
            _ if length > 0 => return Err(decoder.corrupt("a value that is none has a length")),
            VALUE_NULL => Cell::Null,
            _ => Cell::Same,
        });
    }
    Ok(())
}

fn read_truncate(decoder: &mut Decoder<'_>) -> Result<Change<'static>, DecodeError> {
    let flags = decoder.u8()?;
    if flags > 3 {
        return Err(decoder.corrupt("an unknown flag of TRUNCATE is set"));
    }
    let count = decoder.count(usize::MAX, 8)?;
    let tables = (0..count)
        .map(|_| decoder.u64().map(TableId))
        .collect::<Result<_, _>>()?;
    Ok(Change::Truncate {
        tables,
        restart_identity: flags & 1 != 0,
        cascade: flags & 2 != 0,
    })
}
