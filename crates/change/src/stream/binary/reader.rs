//! Reading frames. The bytes may be anyone's: no input makes it panic, or take more memory than a multiple of the input.

use std::collections::HashSet;

use super::place::Here;
use super::{
    APART, BEGIN, BEGIN_PREPARE, CASCADE, COMMIT, COMMIT_PREPARED, CONTEXT, DDL, DELETE, DELETE_WITHOUT_OLD, HEADER,
    INSERT, MAGIC, MESSAGE, PREPARE, RESTART_IDENTITY, ROLLBACK_PREPARED, STREAM_ABORT, STREAM_COMMIT, STREAM_PREPARE,
    STREAM_START, STREAM_STOP, TABLE, TRUNCATE, UPDATE, UPDATE_WITH_OLD, VERSION, WHAT, frame, table, transaction,
};
use crate::body::read_row;
use crate::row::Cell;
use crate::stream::{Change, Ddl, Emptied, Event, Message, Table, Transaction};
use crate::wire::Decoder;
use crate::{DecodeError, Row};

/// Reads the stream of one reading session, from its header on. A header within begins another session.
#[derive(Debug, Default)]
pub struct Reader {
    begun: bool,
    properties: Vec<(String, String)>,
    /// By slot.
    tables: Vec<Table>,
    /// The oids of those: each has one slot, as long as the session lasts.
    oids: HashSet<u32>,
    here: Here,
    old: Vec<Cell>,
    new: Vec<Cell>,
}

impl Reader {
    /// One that waits for a header.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the header said of the source.
    #[must_use]
    pub fn properties(&self) -> &[(String, String)] {
        &self.properties
    }

    /// How many bytes the first frame takes; `None` until its first nine bytes are there. For whoever reads from a file: a message of
    /// the replication protocol holds whole frames.
    #[must_use]
    pub fn frame_length(bytes: &[u8]) -> Option<u64> {
        frame::length(bytes)
    }

    /// Reads whole frames, and tells of each event in order. After an error of the bytes only a new header is understood.
    ///
    /// # Errors
    /// For bytes that are damaged or from a newer release, and what `tell` gives.
    pub fn read<E: From<DecodeError>>(
        &mut self,
        mut bytes: &[u8],
        mut tell: impl FnMut(&Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let frame = match frame::split(bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.begun = false;
                    return Err(error.into());
                }
            };
            bytes = frame.rest;
            let mut answer = Ok(());
            let read = self.frame(frame.kind, frame.payload, &mut |event| answer = tell(event));
            if let Err(error) = read {
                self.begun = false;
                return Err(error.into());
            }
            answer?;
        }
    }

    fn frame(&mut self, kind: u8, payload: &[u8], tell: &mut dyn FnMut(&Event<'_>)) -> Result<(), DecodeError> {
        let mut decoder = Decoder::new(WHAT, payload);
        if kind == HEADER {
            return self.header(decoder);
        }
        if !self.begun {
            return Err(decoder.corrupt("it does not begin with a header"));
        }
        match kind {
            TABLE => return self.table(decoder),
            INSERT | UPDATE | UPDATE_WITH_OLD | DELETE | DELETE_WITHOUT_OLD => {
                return self.change(kind, decoder, payload, tell);
            }
            TRUNCATE => return self.truncate(decoder, tell),
            MESSAGE => return self.message(decoder, tell),
            DDL => return self.ddl(decoder, tell),
            CONTEXT => {
                tell(&Event::Context(payload));
                return Ok(());
            }
            STREAM_ABORT => {
                let xid = decoder.varint_u32()?;
                let of = self.transaction(decoder)?;
                tell(&Event::StreamAbort(of, xid));
                return Ok(());
            }
            _ => {}
        }
        let event = match kind {
            BEGIN => Event::Begin,
            COMMIT => Event::Commit,
            BEGIN_PREPARE => Event::BeginPrepare,
            PREPARE => Event::Prepare,
            COMMIT_PREPARED => Event::CommitPrepared,
            ROLLBACK_PREPARED => Event::RollbackPrepared,
            STREAM_START => Event::StreamStart,
            STREAM_STOP => Event::StreamStop,
            STREAM_PREPARE => Event::StreamPrepare,
            STREAM_COMMIT => Event::StreamCommit,
            other => {
                return Err(DecodeError::Unknown {
                    what: "kind of frame",
                    number: other.into(),
                });
            }
        };
        tell(&event(self.transaction(decoder)?));
        Ok(())
    }

    fn header(&mut self, mut decoder: Decoder<'_>) -> Result<(), DecodeError> {
        if decoder.array()? != *MAGIC {
            return Err(decoder.corrupt("its header is not one"));
        }
        let version = decoder.u8()?;
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "change stream version",
                number: version.into(),
            });
        }
        let count = decoder.count(usize::MAX, 2)?;
        let properties = (0..count)
            .map(|_| Ok((decoder.string()?, decoder.string()?)))
            .collect::<Result<_, DecodeError>>()?;
        decoder.finish()?;
        *self = Self {
            begun: true,
            properties,
            ..Self::default()
        };
        Ok(())
    }

    fn transaction<'a>(&mut self, mut decoder: Decoder<'a>) -> Result<Transaction<'a>, DecodeError> {
        let transaction = transaction::read(&mut decoder)?;
        decoder.finish()?;
        self.here.enter(&transaction);
        Ok(transaction)
    }

    fn table(&mut self, mut decoder: Decoder<'_>) -> Result<(), DecodeError> {
        let slot = decoder.varint()?;
        let corrupt = decoder.corrupt("a table's slot is out of turn");
        let table = table::read(&mut decoder)?;
        decoder.finish()?;
        let slot = usize::try_from(slot).map_err(|_| corrupt.clone())?;
        let next = self.tables.len();
        match self.tables.get_mut(slot) {
            Some(known) if known.oid == table.oid => *known = table,
            None if slot == next && self.oids.insert(table.oid) => self.tables.push(table),
            _ => return Err(corrupt),
        }
        Ok(())
    }

    fn change(
        &mut self,
        kind: u8,
        mut decoder: Decoder<'_>,
        payload: &[u8],
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), DecodeError> {
        let Self {
            tables, here, old, new, ..
        } = self;
        here.read(&mut decoder)?;
        let table = known(tables, &mut decoder)?;
        let mut row = |cells: &mut Vec<Cell>| {
            read_row(&mut decoder, payload.len(), cells)?;
            if cells.len() == table.columns.len() {
                Ok(())
            } else {
                Err(decoder.corrupt("a row has not as many values as its table has columns"))
            }
        };
        if matches!(kind, UPDATE_WITH_OLD | DELETE) {
            row(old)?;
        }
        if matches!(kind, INSERT | UPDATE | UPDATE_WITH_OLD) {
            row(new)?;
        }
        decoder.finish()?;
        let (old, new) = (Row::from_cells(old, payload), Row::from_cells(new, payload));
        let change = match kind {
            INSERT => Change::Insert { table, new },
            UPDATE => Change::Update { table, old: None, new },
            UPDATE_WITH_OLD => Change::Update {
                table,
                old: Some(old),
                new,
            },
            DELETE => Change::Delete { table, old: Some(old) },
            _ => Change::Delete { table, old: None },
        };
        tell(&Event::Row(here.place(), change));
        Ok(())
    }

    fn truncate(&mut self, mut decoder: Decoder<'_>, tell: &mut dyn FnMut(&Event<'_>)) -> Result<(), DecodeError> {
        self.here.read(&mut decoder)?;
        let flags = decoder.u8()?;
        if flags & !(CASCADE | RESTART_IDENTITY | APART) != 0 {
            return Err(decoder.corrupt("an unknown flag of TRUNCATE is set"));
        }
        let tables = known_list(&self.tables, &mut decoder)?;
        let mut later = 0_u64;
        let tables = tables.into_iter().enumerate().map(|(number, table)| {
            if number > 0 {
                let between = if flags & APART == 0 { 0 } else { decoder.varint()? };
                let next = between.checked_add(1).and_then(|by| later.checked_add(by));
                later = next.ok_or(decoder.corrupt("an ordinal is out of range"))?;
            }
            Ok(Emptied { table, later })
        });
        let tables: Vec<Emptied<'_>> = tables.collect::<Result<_, DecodeError>>()?;
        decoder.finish()?;
        let change = Change::Truncate {
            tables: &tables,
            cascade: flags & CASCADE != 0,
            restart_identity: flags & RESTART_IDENTITY != 0,
        };
        tell(&Event::Row(self.here.place(), change));
        self.here.skip(later);
        Ok(())
    }

    fn message(&mut self, mut decoder: Decoder<'_>, tell: &mut dyn FnMut(&Event<'_>)) -> Result<(), DecodeError> {
        self.here.read(&mut decoder)?;
        let message = Message {
            transactional: decoder.bool()?,
            prefix: decoder.bytes()?,
            content: decoder.bytes()?,
        };
        decoder.finish()?;
        tell(&Event::Message(self.here.place(), message));
        Ok(())
    }

    fn ddl(&mut self, mut decoder: Decoder<'_>, tell: &mut dyn FnMut(&Event<'_>)) -> Result<(), DecodeError> {
        self.here.read(&mut decoder)?;
        let ddl = Ddl {
            tag: decoder.bytes()?,
            object_type: decoder.bytes()?,
            object: decoder.bytes()?,
            sql: decoder.bytes()?,
            search_path: decoder.bytes()?,
            tables: known_list(&self.tables, &mut decoder)?,
        };
        decoder.finish()?;
        tell(&Event::Ddl(self.here.place(), ddl));
        Ok(())
    }
}

fn known<'a>(tables: &'a [Table], decoder: &mut Decoder<'_>) -> Result<&'a Table, DecodeError> {
    let slot = decoder.varint()?;
    let table = usize::try_from(slot).ok().and_then(|slot| tables.get(slot));
    table.ok_or(decoder.corrupt("it names a table that was not told"))
}

fn known_list<'a>(tables: &'a [Table], decoder: &mut Decoder<'_>) -> Result<Vec<&'a Table>, DecodeError> {
    let count = decoder.count(usize::MAX, 1)?;
    (0..count).map(|_| known(tables, decoder)).collect()
}
