//! Writing frames.

use std::collections::HashMap;

use super::place::Here;
use super::{
    APART, BEGIN, BEGIN_PREPARE, CASCADE, COMMIT, COMMIT_PREPARED, CONTEXT, DDL, DELETE, DELETE_WITHOUT_OLD, HEADER,
    INSERT, MAGIC, MESSAGE, PREPARE, RESTART_IDENTITY, ROLLBACK_PREPARED, STREAM_ABORT, STREAM_COMMIT, STREAM_PREPARE,
    STREAM_START, STREAM_STOP, TABLE, TRUNCATE, UPDATE, UPDATE_WITH_OLD, VERSION, frame, table, transaction,
};
use crate::body::put_row;
use crate::stream::option::boolean;
use crate::stream::{Change, Ddl, Emptied, Event, Format, Message, OptionError, Place, Table, Transaction};
use crate::wire::{put_bytes, put_varint};

/// A table that the reader knows.
#[derive(Clone, Copy, Debug)]
struct Told {
    version: u64,
    slot: u64,
}

/// Writes the stream of one reading session.
#[derive(Debug, Default)]
pub struct Writer {
    properties: Vec<(String, String)>,
    binary_values: bool,
    begun: bool,
    /// By the tables' oid: a reader keeps one version of each.
    tables: HashMap<u32, Told>,
    last_table: Option<Told>,
    here: Here,
}

impl Writer {
    /// `properties`: what the header says of the source.
    #[must_use]
    pub fn new(properties: Vec<(String, String)>) -> Self {
        Self {
            properties,
            ..Self::default()
        }
    }

    fn tell(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            self.header(out);
        }
        match event {
            Event::Row(place, change) => self.change(place, change, out),
            Event::Begin(of) => self.transaction(BEGIN, of, out),
            Event::Commit(of) => self.transaction(COMMIT, of, out),
            Event::BeginPrepare(of) => self.transaction(BEGIN_PREPARE, of, out),
            Event::Prepare(of) => self.transaction(PREPARE, of, out),
            Event::CommitPrepared(of) => self.transaction(COMMIT_PREPARED, of, out),
            Event::RollbackPrepared(of) => self.transaction(ROLLBACK_PREPARED, of, out),
            Event::StreamStart(of) => self.transaction(STREAM_START, of, out),
            Event::StreamStop(of) => self.transaction(STREAM_STOP, of, out),
            Event::StreamPrepare(of) => self.transaction(STREAM_PREPARE, of, out),
            Event::StreamCommit(of) => self.transaction(STREAM_COMMIT, of, out),
            Event::StreamAbort(of, xid) => {
                let start = frame::begin(out, STREAM_ABORT);
                put_varint(out, (*xid).into());
                transaction::put(out, of);
                frame::end(out, start);
                self.here.enter(of);
            }
            Event::Message(place, message) => self.message(place, message, out),
            Event::Ddl(place, ddl) => self.ddl(place, ddl, out),
            Event::Context(context) => {
                let start = frame::begin(out, CONTEXT);
                out.extend_from_slice(context);
                frame::end(out, start);
            }
        }
    }

    fn header(&self, out: &mut Vec<u8>) {
        let start = frame::begin(out, HEADER);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        put_varint(out, self.properties.len() as u64);
        for (name, value) in &self.properties {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
        frame::end(out, start);
    }

    fn transaction(&mut self, kind: u8, of: &Transaction<'_>, out: &mut Vec<u8>) {
        let start = frame::begin(out, kind);
        transaction::put(out, of);
        frame::end(out, start);
        self.here.enter(of);
    }

    /// Its slot; tells of it first unless the reader knows it.
    fn table(&mut self, table: &Table, out: &mut Vec<u8>) -> u64 {
        if let Some(told) = self.last_table
            && told.version == table.version
        {
            return told.slot;
        }
        let next = self.tables.len() as u64;
        let known = self.tables.get(&table.oid).copied();
        let told = Told {
            version: table.version,
            slot: known.map_or(next, |told| told.slot),
        };
        if known.is_none_or(|known| known.version != table.version) {
            self.tables.insert(table.oid, told);
            let start = frame::begin(out, TABLE);
            put_varint(out, told.slot);
            table::put(out, table);
            frame::end(out, start);
        }
        self.last_table = Some(told);
        told.slot
    }

    fn change(&mut self, place: &Place<'_>, change: &Change<'_>, out: &mut Vec<u8>) {
        let (kind, table, old, new) = match *change {
            Change::Insert { table, new } => (INSERT, table, None, Some(new)),
            Change::Update { table, old: None, new } => (UPDATE, table, None, Some(new)),
            Change::Update { table, old, new } => (UPDATE_WITH_OLD, table, old, Some(new)),
            Change::Delete { table, old: None } => (DELETE_WITHOUT_OLD, table, None, None),
            Change::Delete { table, old } => (DELETE, table, old, None),
            Change::Truncate {
                tables,
                cascade,
                restart_identity,
            } => return self.truncate(place, tables, cascade, restart_identity, out),
        };
        let slot = self.table(table, out);
        let start = frame::begin(out, kind);
        self.here.put(place, out);
        put_varint(out, slot);
        for row in [old, new].into_iter().flatten() {
            put_row(out, row);
        }
        frame::end(out, start);
    }

    fn truncate(
        &mut self,
        place: &Place<'_>,
        tables: &[Emptied<'_>],
        cascade: bool,
        restart_identity: bool,
        out: &mut Vec<u8>,
    ) {
        let slots: Vec<u64> = tables.iter().map(|emptied| self.table(emptied.table, out)).collect();
        let start = frame::begin(out, TRUNCATE);
        self.here.put(place, out);
        self.here.skip(tables.last().map_or(0, |last| last.later));
        // How many ordinals lie between each and the one before: those of tables that the reader is not told of.
        let between = tables
            .windows(2)
            .map(|pair| pair[1].later.saturating_sub(pair[0].later).saturating_sub(1));
        let apart = between.clone().any(|ordinals| ordinals != 0);
        let flags = [(cascade, CASCADE), (restart_identity, RESTART_IDENTITY), (apart, APART)];
        out.push(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        put_slots(out, &slots);
        if apart {
            between.for_each(|ordinals| put_varint(out, ordinals));
        }
        frame::end(out, start);
    }

    fn message(&mut self, place: &Place<'_>, message: &Message<'_>, out: &mut Vec<u8>) {
        let start = frame::begin(out, MESSAGE);
        self.here.put(place, out);
        out.push(message.transactional.into());
        put_bytes(out, message.prefix);
        put_bytes(out, message.content);
        frame::end(out, start);
    }

    fn ddl(&mut self, place: &Place<'_>, ddl: &Ddl<'_>, out: &mut Vec<u8>) {
        let slots: Vec<u64> = ddl.tables.iter().map(|table| self.table(table, out)).collect();
        let start = frame::begin(out, DDL);
        self.here.put(place, out);
        for text in [ddl.tag, ddl.object_type, ddl.object, ddl.sql, ddl.search_path] {
            put_bytes(out, text);
        }
        put_slots(out, &slots);
        frame::end(out, start);
    }
}

impl Format for Writer {
    fn options(&self) -> &'static [&'static str] {
        &["binary-values"]
    }

    fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        self.binary_values = boolean(option, value)?;
        Ok(())
    }

    /// Appends an event, and before it what a reader has to know to understand it.
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        self.tell(event, out);
    }

    fn joins_messages(&self) -> bool {
        true
    }

    fn is_binary(&self) -> bool {
        true
    }

    fn wants_utf8(&self) -> bool {
        true
    }

    fn wants_exact_text(&self) -> bool {
        true
    }

    fn wants_binary_values(&self) -> bool {
        self.binary_values
    }
}

fn put_slots(out: &mut Vec<u8>, slots: &[u64]) {
    put_varint(out, slots.len() as u64);
    slots.iter().for_each(|slot| put_varint(out, *slot));
}
