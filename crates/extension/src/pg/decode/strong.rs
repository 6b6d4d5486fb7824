//! Replicated tables: told from the messages that `pg/teller.rs` writes, alike on every node, not from the WAL's own changes of
//! their rows, which are left out.
//!
//! A local transaction is one of these:
//! - **made here**: changes of ordinary tables, if any, and a record's items, whose header comes last. Its commit record carries the
//!   record's CSN, so that it is known when its first item is told;
//! - **applied here**: one record behind the other, each with its header ahead of its items. Each is told as a transaction of its
//!   own. Only the end of the last one tells where the next WAL record begins: a reader that confirmed it earlier would lose the rest;
//! - any other: told as it is.
//!
//! Invariants: every change of a replicated table that is left out has a message in its transaction that stands for it, or the
//! reader gets an error (the transaction was made when no slot of ours was there). Ordinals count a record's items whatever the
//! reader asked for.

use std::rc::Rc;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DecodeError;
use synod_change::stream::record_message::{Item, ItemReader, RecordHeader, RecordMessage};
use synod_change::stream::{Event, EventId, Place, Transaction};

use super::rows::Version;
use super::session::{Call, Session};
use super::transaction;
use crate::errors::UserError;
use crate::identity::Identity;
use crate::pg::relcache::Relation;
use crate::pg::{capture, server, shmem, turn};

/// What is told of a table's own changes in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They are.
    Ordinary,
    /// They are not: messages tell of them.
    Replicated,
    /// Nothing is told of it: it is the extension's.
    Own,
}

impl Standing {
    /// As the catalog says, which is that of the change.
    ///
    /// # Safety
    /// In a callback that was passed `relation`.
    pub unsafe fn of(relation: pg_sys::Relation, schema: &[u8]) -> Self {
        if schema == b"synod" {
            return Self::Own;
        }
        // SAFETY: by contract; a trigger's array has as many elements as it says.
        let captured = unsafe {
            let triggers = (*relation).trigdesc;
            !triggers.is_null()
                && std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize)
                    .iter()
                    .any(capture::trigger::is_ours)
        };
        if captured { Self::Replicated } else { Self::Ordinary }
    }
}

/// A record that is being told.
#[derive(Clone, Debug)]
struct Record {
    group: Rc<str>,
    csn: u64,
    previous_csn: Option<u64>,
    /// `None`: the local transaction's.
    commit_time_us: Option<i64>,
    /// The last ordinal taken.
    ordinal: u64,
    /// Made elsewhere, and the reader does not want that.
    unwanted: bool,
}

impl Record {
    fn is(&self, transaction: &mut Transaction<'_>) {
        transaction.commit_time_us = self.commit_time_us.or(transaction.commit_time_us);
        transaction.previous_csn = self.previous_csn;
        // That is how this node keeps its place in the group's log, and of no interest to anybody else.
        (transaction.origin, transaction.origin_id, transaction.origin_lsn) = (None, 0, 0);
    }
}

/// Where a reader is among the group's records.
#[derive(Debug, Default)]
pub struct Records {
    /// The group, as headers have it, and as text.
    group: Option<([u8; 16], Rc<str>)>,
    /// The last record seen, told or not.
    last_csn: Option<u64>,
    /// Everything above this one, up to what comes next, has been told or has nothing to tell.
    covered: Option<u64>,
    /// The record at hand.
    current: Option<Record>,
    /// What came before it in the same local transaction (of no record: `Some(None)`) and has been told but for its end.
    unfinished: Option<Option<Record>>,
    items: ItemReader,
    /// The ordinal of the next DDL message.
    ddl: Option<u64>,
    /// The local transaction commits for the group.
    of_group: bool,
    /// A change of a replicated table was left out.
    left_out: bool,
    /// There was a message that says what stands for it.
    accounted: bool,
    /// Several events come from one message.
    telling: bool,
}

/// Where a change of definitions stands.
pub enum DdlPlace {
    /// It is this node's alone.
    Local,
    /// It is a change of the record at hand: group, CSN and ordinal.
    Record(Rc<str>, u64, u64),
    /// The record is not told.
    Unwanted,
}

impl Records {
    /// A local transaction begins.
    ///
    /// # Safety
    /// In a callback that was passed `txn`.
    pub unsafe fn begin(&mut self, txn: *mut pg_sys::ReorderBufferTXN) {
        self.current = None;
        self.unfinished = None;
        self.items = ItemReader::default();
        self.ddl = None;
        self.left_out = false;
        self.accounted = false;
        self.telling = false;
        // SAFETY: by contract.
        let origin = unsafe { transaction::of(txn, true).origin };
        self.of_group = origin.is_some_and(|name| name == turn::origin_name(server::database()).as_bytes());
    }

    /// It ends.
    fn end(&mut self) {
        self.current = None;
        self.of_group = false;
    }

    /// Whether what the local transaction is told as is not known before something of it comes.
    pub fn puts_off(&self) -> bool {
        self.of_group
    }

    /// Whether more events may come in the same call of the server.
    pub fn go_on(&self) -> bool {
        self.telling
    }

    /// A change of a replicated table is left out.
    pub fn leave_out(&mut self) {
        self.left_out = true;
    }

    /// For a change of definitions that comes now.
    pub fn take_ddl(&mut self) -> DdlPlace {
        match (&self.current, self.ddl.take()) {
            (Some(record), _) if record.unwanted => DdlPlace::Unwanted,
            (Some(record), Some(ordinal)) => DdlPlace::Record(Rc::clone(&record.group), record.csn, ordinal),
            _ => DdlPlace::Local,
        }
    }

    fn group(&mut self, bytes: [u8; 16]) -> Rc<str> {
        match &self.group {
            Some((known, text)) if *known == bytes => Rc::clone(text),
            _ => {
                let text: Rc<str> = crate::text::uuid(&bytes).into();
                self.group = Some((bytes, Rc::clone(&text)));
                text
            }
        }
    }

    /// The record that comes next is this one, or (`begun`) the one at hand is.
    fn pass(&mut self, header: &RecordHeader, begun: bool) {
        if self.last_csn != Some(header.previous_csn) {
            if !begun {
                self.covered = Some(header.previous_csn);
            } else if let Some(record) = &mut self.current {
                record.previous_csn = Some(header.previous_csn);
            }
        }
        self.last_csn = Some(header.csn);
    }

    /// The header of the local transaction's own record has come: `begun` or not.
    ///
    /// # Safety
    /// As for [`Self::made_here`].
    unsafe fn complete(&mut self, header: &RecordHeader, begun: bool, txn: *mut pg_sys::ReorderBufferTXN) {
        self.pass(header, begun);
        // SAFETY: by contract.
        unsafe { self.made_here(header.group, txn) }
        // Pieces before the header, of which nothing was told, did not know it.
        if let (false, Some(record)) = (begun, &mut self.current) {
            record.previous_csn = self.covered;
        }
    }

    /// The local transaction's own record, whose header has not come yet.
    unsafe fn made_here(&mut self, group: [u8; 16], txn: *mut pg_sys::ReorderBufferTXN) {
        if self.current.is_none() {
            self.current = Some(Record {
                group: self.group(group),
                // SAFETY: in a callback that was passed it.
                csn: unsafe { (*txn).origin_lsn },
                previous_csn: self.covered,
                commit_time_us: None,
                ordinal: 0,
                unwanted: false,
            });
        }
    }
}

/// The transaction as the reader is told of it, as a part of `record`. `ends`: what comes behind it is another local transaction.
///
/// # Safety
/// As for [`transaction::of`].
unsafe fn dressed<'a>(call: Call, record: Option<&'a Record>, ends: bool) -> Transaction<'a> {
    // SAFETY: by contract.
    let mut told = unsafe { transaction::of(call.txn, !call.streaming) };
    if let Some(record) = record {
        record.is(&mut told);
        told.csn = Some((&record.group, record.csn));
        if !ends {
            told.end_lsn = None;
        }
    }
    told
}

impl Session {
    /// Tell that what is at hand begins, and first that what came before it ends.
    ///
    /// # Safety
    /// In a callback that may write.
    pub(super) unsafe fn tell_begin(&mut self, call: Call, prepared: bool, last: bool) {
        // SAFETY: by contract.
        unsafe {
            if let Some(record) = self.records.unfinished.take() {
                self.tell(call, &Event::Commit(dressed(call, record.as_ref(), false)), false);
            }
            if self.records.of_group && self.records.current.is_none() {
                // Changes of ordinary tables come first.
                let known = self.records.group.as_ref().map(|(bytes, _)| *bytes);
                if let Some(group) = known.or_else(|| shmem::my_node().map(|node| node.group())) {
                    self.records.made_here(group, call.txn);
                }
            }
            let record = self.records.current.clone();
            if let Some(record) = &record {
                self.records.covered = Some(record.csn);
            }
            let told = dressed(call, record.as_ref(), true);
            let event = match (call.streaming, prepared) {
                (true, _) => Event::StreamStart(told),
                (false, true) => Event::BeginPrepare(told),
                (false, false) => Event::Begin(told),
            };
            self.tell(call, &event, last);
        }
    }

    /// A local transaction ends.
    ///
    /// # Safety
    /// In the commit callback.
    pub unsafe fn commit(&mut self, call: Call) {
        // SAFETY: by contract.
        unsafe {
            if self.records.left_out && !self.records.accounted {
                not_in_the_wal((*call.txn).xid.into_inner()).raise();
            }
            self.end_items();
            let record = match self.records.unfinished.take() {
                Some(record) if !self.has_begun() => record,
                before => {
                    if !self.has_begun() {
                        if self.options.skip_empty {
                            self.records.end();
                            return pg_sys::OutputPluginUpdateProgress(call.context, true);
                        }
                        self.begin_late(call);
                    }
                    drop(before);
                    self.records.current.take()
                }
            };
            self.tell(call, &Event::Commit(dressed(call, record.as_ref(), true)), true);
            // A block of a transaction in progress may come next, which is none of this record's.
            self.records.end();
        }
    }

    /// A `synod.record` message.
    ///
    /// # Safety
    /// In the message callback.
    pub unsafe fn record(&mut self, call: Call, lsn: u64, content: &[u8]) -> Result<(), DecodeError> {
        let message = RecordMessage::decode(content)?;
        if call.streaming && !matches!(message, RecordMessage::Nothing) {
            in_progress().raise();
        }
        self.records.accounted = true;
        // SAFETY: by contract.
        unsafe {
            match message {
                RecordMessage::Begin(header, items) => {
                    self.begin_record(call, &header);
                    self.items(call, lsn, items);
                }
                RecordMessage::More(group, items) => {
                    self.records.made_here(group, call.txn);
                    self.items(call, lsn, items);
                }
                RecordMessage::End(header, items) => {
                    self.records.complete(&header, self.has_begun(), call.txn);
                    if !self.options.skip_empty {
                        self.begin_late(call);
                    }
                    self.items(call, lsn, items);
                }
                RecordMessage::Nothing => {}
                RecordMessage::Copied(csn) => copied(csn).raise(),
            }
        }
        Ok(())
    }

    /// Another record of a local transaction that applies records.
    unsafe fn begin_record(&mut self, call: Call, header: &RecordHeader) {
        self.end_items();
        self.records.pass(header, false);
        let before = self.records.current.take();
        if self.take_begun() {
            self.records.unfinished = Some(before);
        }
        let unwanted = self.options.filters.origins.leave_out_elsewhere() && my_number() != header.transaction.node;
        let record = Record {
            group: self.records.group(header.group),
            csn: header.csn,
            previous_csn: self.records.covered,
            commit_time_us: Some(header.commit_time_us),
            ordinal: 0,
            unwanted,
        };
        self.records.current = Some(record);
        if !self.options.skip_empty && !unwanted {
            // SAFETY: in the message callback.
            unsafe { self.begin_late(call) }
        }
    }

    unsafe fn items(&mut self, call: Call, lsn: u64, bytes: &[u8]) {
        let mut reader = std::mem::take(&mut self.records.items);
        let mut open = None;
        self.records.telling = true;
        // SAFETY: in the message callback.
        let read = reader.read(bytes, |item| unsafe { self.item(call, lsn, &item, &mut open) });
        self.records.telling = false;
        drop(open);
        self.records.items = reader;
        read.unwrap_or_else(|error| unreadable(&error).raise());
    }

    /// No more items come for the record at hand.
    fn end_items(&mut self) {
        self.records.ddl = None;
        let ended = self.records.items.finish();
        ended.unwrap_or_else(|error| unreadable(&error).raise());
    }

    /// One change of the record. `open`: the table of the change before.
    unsafe fn item(&mut self, call: Call, lsn: u64, item: &Item<'_>, open: &mut Option<Relation>) {
        use pg_sys::ReorderBufferChangeType as Kind;
        let Some(record) = &mut self.records.current else {
            return;
        };
        let first = record.ordinal + 1;
        record.ordinal += item.ordinals();
        self.records.ddl = None;
        if record.unwanted {
            return;
        }
        let (group, csn) = (Rc::clone(&record.group), record.csn);
        // SAFETY: in the message callback, in the server's transaction around it; rows are of the table that their item names.
        unsafe {
            let place = Place {
                id: EventId::Group {
                    group: &group,
                    csn,
                    ordinal: first,
                },
                lsn,
                xid: (*call.txn).xid.into_inner(),
            };
            let (relation, kind, new, old) = match item {
                Item::Insert { relation, new } => (*relation, Kind::REORDER_BUFFER_CHANGE_INSERT, Some(*new), None),
                Item::Update { relation, old, new } => {
                    (*relation, Kind::REORDER_BUFFER_CHANGE_UPDATE, Some(*new), *old)
                }
                Item::Delete { relation, old } => (*relation, Kind::REORDER_BUFFER_CHANGE_DELETE, None, *old),
                Item::Truncate {
                    restart_identity,
                    relations,
                } => {
                    let tables: Vec<Relation> = relations.iter().map(|oid| opened(*oid)).collect();
                    let raw: Vec<pg_sys::Relation> = tables.iter().map(Relation::raw).collect();
                    return self.tell_truncate(call, place, &raw, false, *restart_identity);
                }
                Item::Ddl => {
                    self.records.ddl = Some(first);
                    return;
                }
                Item::TooLarge { relation } => too_large(&opened(*relation).name()).raise(),
            };
            if open.as_ref().is_none_or(|open| open.oid().to_u32() != relation) {
                *open = Some(opened(relation));
            }
            let Some(table) = open else { return };
            let versions = [new, old].map(|bytes| bytes.map(|bytes| Version::Message(table, bytes)));
            self.tell_row(call, place, table.raw(), kind, versions);
        }
    }
}

/// A table, as the catalog was when the message was written. Nothing else has rows that a message tells of.
fn opened(oid: u32) -> Relation {
    let relation = (oid >= pg_sys::FirstNormalObjectId)
        .then(|| Relation::open(oid.into()))
        .flatten();
    let is_table = |relation: &Relation| {
        let kind = relation.class().relkind as u8;
        kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_PARTITIONED_TABLE
    };
    relation.filter(is_table).unwrap_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("the WAL tells of a change of a table with OID {oid}, which was not there"),
            "",
            "Take a new snapshot and a new slot.",
        )
        .raise()
    })
}

/// Whether an origin is surely not that under which this node keeps its place in its group's log. Which one that is is not known
/// before the workers of a `member` have begun, and a reader may be there earlier.
pub fn is_foreign(origin: pg_sys::RepOriginId, member: bool) -> bool {
    match shmem::my_node().map(|node| node.origin.load(std::sync::atomic::Ordering::Acquire)) {
        None => !member,
        Some(0) => false,
        Some(ours) => ours != u32::from(origin),
    }
}

/// This node's number, also before its workers have begun.
fn my_number() -> u32 {
    let known = shmem::my_node().map(|node| node.node_id.load(std::sync::atomic::Ordering::Acquire));
    let stored = || {
        let database = server::database();
        let identity = Identity::load(&crate::node::directory(database), database)
            .ok()
            .flatten();
        identity.map(|identity| identity.node.0)
    };
    let number = known.filter(|number| *number != 0).or_else(stored);
    number.unwrap_or_else(|| nobody().raise())
}

/// Whether this database is a member of a group: its transactions are told when they have committed, not before, because only then
/// is it known what they are to the group.
pub fn is_member() -> bool {
    let directory = crate::node::directory(server::database());
    directory.join(crate::identity::FILE_NAME).exists()
}

fn not_in_the_wal(xid: u32) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("what transaction {xid} changed in replicated tables cannot be told"),
        "It was committed while this database had no slot with the plugin synod: the WAL has its changes in the order of this node only.",
        "Drop this slot; make one with pg_create_logical_replication_slot, not by copying a slot of another plugin, and take a new snapshot of the tables.",
    )
}

fn copied(csn: u64) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the change stream of this slot has ended: the replicated tables were copied from another node",
        format!("What the group changed up to CSN {csn} has not passed through this node's WAL one by one."),
        "Go on with a slot of another node that has told everything so far; or drop this slot, make a new one, and take a new snapshot of the tables.",
    )
}

fn nobody() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "what was made on this node cannot be told from what was made elsewhere",
        "The WAL is of a time when this database was a member of a group. It is none now.",
        "Leave out the option \"origins\" (\"only-local\").",
    )
}

fn in_progress() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "changes of replicated tables cannot be told before their transaction has committed",
        "This database has become a member of a group since the reader began.",
        "Begin to read again; or set the option stream-changes to off.",
    )
}

fn too_large(table: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("a row of table {table} is too large for the change stream"),
        "A message holds less than 1 GB.",
        "Drop this slot, make a new one, and take a new snapshot of the tables.",
    )
}

pub fn unreadable(error: &DecodeError) -> UserError {
    let (code, hint) = match error {
        DecodeError::Unknown { .. } => (
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "Install the release of synod that wrote it.",
        ),
        _ => (PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, ""),
    };
    UserError::new(
        code,
        "cannot read a message of synod in the WAL",
        format!("{error}."),
        hint,
    )
}
