//! Reading the stream of changes.

use std::io::Read;

use super::{
    ADD_TABLE, CONTEXT, DDL, DELETE, DEPART, END, INSERT, MAX_ITEM_BYTES, OLDEST_VERSION, REMOVE_TABLE, REPLACE,
    SEQUENCE, SERVICE, TRUNCATE, UPDATE, USE_TABLE, VALUE_BINARY, VALUE_NULL, VALUE_TEXT, VERSION,
    VERSION_WITH_GENERATED, WHAT,
};
use crate::row::Cell;
use crate::wire::Decoder;
use crate::{Change, DdlStatement, DecodeError, MAX_COLUMNS, Row, Service, TableDefinition, TableId};

/// Reads the stream, a change at a time, in bounded memory.
pub struct BodyReader<R> {
    source: R,
    item_limit: u64,
    /// `None` before the first byte is read.
    version: Option<u8>,
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
            version: None,
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

    /// Whether new rows have the values of stored generated columns. If not, who writes them has to compute these.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub fn has_generated(&mut self) -> Result<bool, DecodeError> {
        Ok(self.begin()? >= VERSION_WITH_GENERATED)
    }

    fn begin(&mut self) -> Result<u8, DecodeError> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let version = self.byte()?;
        self.version = Some(version);
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            self.ended = true;
            return Err(DecodeError::Unknown {
                what: "write set version",
                number: version.into(),
            });
        }
        Ok(version)
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
            UPDATE | REPLACE => {
                read_row(&mut decoder, buffer.len(), key)?;
                read_row(&mut decoder, buffer.len(), new)?;
                let (key, new) = (Row::from_cells(key, buffer), Row::from_cells(new, buffer));
                let table = of_table()?;
                if kind == UPDATE {
                    Change::Update { table, key, new }
                } else {
                    Change::Replace { table, key, new }
                }
            }
            DELETE | DEPART => {
                read_row(&mut decoder, buffer.len(), key)?;
                let (table, key) = (of_table()?, Row::from_cells(key, buffer));
                if kind == DELETE {
                    Change::Delete { table, key }
                } else {
                    Change::Depart { table, key }
                }
            }
            TRUNCATE => read_truncate(&mut decoder)?,
            SEQUENCE => Change::Sequence {
                table: of_table()?,
                column: decoder.varint_u16()?,
                last_value: decoder.i64()?,
            },
            DDL => return Ok(Change::Ddl(Box::new(DdlStatement::decode(buffer)?))),
            ADD_TABLE => return Ok(Change::AddTable(Box::new(TableDefinition::decode(buffer)?))),
            REMOVE_TABLE => Change::RemoveTable(TableId(decoder.u64()?)),
            SERVICE => return Ok(Change::Service(Box::new(Service::decode(buffer)?))),
            CONTEXT => {
                let text = std::str::from_utf8(buffer);
                return text
                    .map(Change::Context)
                    .map_err(|_| DecodeError::corrupt(WHAT, "a context is not UTF-8"));
            }
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

/// The counterpart of [`put_row`](super::put_row): `cells` point into the item, which is `item_length` long and ends where `decoder`
/// does.
pub(crate) fn read_row(
    decoder: &mut Decoder<'_>,
    item_length: usize,
    cells: &mut Vec<Cell>,
) -> Result<(), DecodeError> {
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
