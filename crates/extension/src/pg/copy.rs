//! Copying replicated tables to a node that joins: the snapshot there, `COPY FROM` here, and the applied CSN with it.
//!
//! `COPY FROM` computes stored generated columns, makes the checks of domains again, and gets XML without its declaration: tables where
//! that matters are written as applied rows are ([`copy_whole`]).
//!
//! What comes out of [`copy_in`], [`copy_whole`] and [`move_origin`] is part of the caller's transaction: rows and applied CSN appear
//! together or not at all.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{CopyLine, Row, TableDefinition, TableId, Value};

use super::apply::{ApplyError, Filler};
use super::capture::trigger;
use super::client::{Client, explain};
use super::format::FixedSettings;
use super::owner::{AsOwner, Owner};
use super::relcache::Relation;
use super::service::draws;
use super::shmem::{NodeLock, NodeShared};
use super::strong_table::{self, Column, StrongTable};
use super::{catalog, compat, definition, wire};
use crate::errors::UserError;
use crate::text::from_hex;

/// Where [`read_source`] finds its bytes: COPY's callback has no argument of its own.
struct Source {
    client: Client,
    chunk: Vec<u8>,
    at: usize,
    whom: String,
    shown: Option<&'static super::progress::Join>,
}

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// Export a snapshot that shows exactly the records up to the CSN returned with it. No commit is halfway while the turn is
/// held: it is taken before a commit becomes visible and given back after `applied` has moved.
pub fn export_snapshot(node: &NodeShared) -> (String, u64) {
    // SAFETY: inside a transaction. GetLatestSnapshot's result stays valid until the next call; ExportSnapshot copies it
    // and keeps the copy registered until the transaction ends. The turn is released on error by the server.
    unsafe {
        let turn = node.lock(NodeLock::Turn, false);
        let snapshot = pg_sys::GetLatestSnapshot();
        let csn = node.applied.load(Ordering::SeqCst);
        drop(turn);
        let name = pg_sys::ExportSnapshot(snapshot);
        (CStr::from_ptr(name).to_string_lossy().into_owned(), csn)
    }
}

/// The definition of a local table under a number; `None` when there is no such table.
pub fn table_definition(
    id: TableId,
    relation: &Relation,
    number_of: &dyn Fn(pg_sys::Oid) -> Option<TableId>,
) -> TableDefinition {
    definition::of(relation, id, number_of)
}

/// The definition of a replicated table of this node.
pub fn replicated_definition(id: TableId, relation: pg_sys::Oid) -> Option<TableDefinition> {
    let relation = Relation::open_locked(relation, pg_sys::AccessShareLock)?;
    Some(table_definition(id, &relation, &catalog::number_of))
}

/// How [`open_table`] locks, until the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableLock {
    /// Against being dropped.
    Look,
    /// Against writers.
    Write,
}

/// The local table of this name.
pub fn open_table(schema: &str, name: &str, lock: TableLock) -> Option<Relation> {
    let (schema, name) = (CString::new(schema).ok()?, CString::new(name).ok()?);
    // SAFETY: inside a transaction; both look-ups answer InvalidOid for what does not exist.
    let oid = unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if namespace == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), namespace)
    };
    if oid == pg_sys::InvalidOid {
        return None;
    }
    let mode = match lock {
        TableLock::Look => pg_sys::AccessShareLock,
        TableLock::Write => pg_sys::ShareRowExclusiveLock,
    };
    Relation::open_locked(oid, mode)
}

/// Neither the user's triggers nor foreign keys look at what this session writes from here on: it copies what they have
/// passed already, in no particular order.
pub fn write_as_replica() {
    // SAFETY: inside a transaction; the setting exists since long.
    unsafe {
        pg_sys::SetConfigOption(
            c"session_replication_role".as_ptr(),
            c"replica".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// As [`write_as_replica`], until the end of this transaction.
pub fn write_as_replica_locally() {
    // SAFETY: inside a transaction; GUC_ACTION_LOCAL undoes the change at its end.
    unsafe {
        pg_sys::set_config_option(
            c"session_replication_role".as_ptr(),
            c"replica".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Fill a table with the COPY data that `client` is receiving. Returns the client.
pub fn copy_in(relation: &Relation, columns: &[String], client: Client, whom: &str) -> Client {
    let source = Source {
        client,
        chunk: Vec::new(),
        at: 0,
        whom: whom.into(),
        shown: super::progress::mine(),
    };
    SOURCE.with_borrow_mut(|place| *place = Some(source));
    // CHECKs, types and triggers are the owner's.
    let user = Owner::to_become(relation).map(AsOwner::enter);
    // SAFETY: inside a transaction, with a lock on the table that allows writing; as copy_table() in tablesync.c does.
    unsafe {
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        // Besides the stronger one that we have: the executor wants to see the very lock that the range table names.
        pg_sys::LockRelationOid(relation.oid(), lock);
        pg_sys::addRangeTableEntryForRelation(state, relation.raw(), lock, std::ptr::null_mut(), false, false);
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        for column in columns {
            let name = CString::new(column.as_str()).unwrap_or_default();
            names = pg_sys::lappend(names, pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())).cast());
        }
        let copy = pg_sys::BeginCopyFrom(
            state,
            relation.raw(),
            std::ptr::null_mut(),
            std::ptr::null(),
            false,
            Some(read_source),
            names,
            std::ptr::null_mut(),
        );
        pg_sys::CopyFrom(copy);
        pg_sys::EndCopyFrom(copy);
        pg_sys::CommandCounterIncrement();
    }
    drop(user);
    match SOURCE.take() {
        Some(source) => source.client,
        None => UserError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "the source of a copy is gone",
            "",
            "",
        )
        .raise(),
    }
}

/// What to ask another node for to fill a table that COPY FROM would not fill with the same, all columns in group column order; `None`: it
/// would.
pub fn whole(id: TableId, relation: &Relation) -> Option<(StrongTable, String)> {
    let table = strong_table::load(relation.oid(), id)?;
    let wanted = table.columns.iter().any(needs_whole) || has_violated_checks(relation);
    wanted.then(|| {
        let listed: Vec<String> = table.columns.iter().map(copied_as).collect();
        let sql = format!("COPY (SELECT {} FROM ONLY {}) TO STDOUT", listed.join(", "), table.name);
        (table, sql)
    })
}

/// Whether COPY FROM would not take a column's values as they are: it computes generated ones, makes the checks of domains again, and XML
/// comes without its declaration.
fn needs_whole(column: &Column) -> bool {
    let base = wire::base_type(column.type_oid);
    column.generated && !column.is_virtual || column.taken_apart || base != column.type_oid || base == pg_sys::XMLOID
}

/// Whether some CHECK is NOT VALID: rows from before it may be as it forbids.
fn has_violated_checks(relation: &Relation) -> bool {
    // SAFETY: constr and its check array belong to the pinned relation's descriptor.
    unsafe {
        let Some(constraints) = (*relation.descriptor()).constr.as_ref() else {
            return false;
        };
        (0..constraints.num_check as usize).any(|at| !(*constraints.check.add(at)).ccvalid)
    }
}

/// The expression by which the other node gives a column.
fn copied_as(column: &Column) -> String {
    let name = pgrx::spi::quote_identifier(&column.name);
    match column {
        Column { is_virtual: true, .. } => "NULL".into(),
        Column { taken_apart: true, .. } => format!("synod._travelling_form({name})"),
        _ if wire::base_type(column.type_oid) == pg_sys::XMLOID => format!("{name}::pg_catalog.text"),
        _ => name,
    }
}

/// The value that was given so.
fn as_given<'a>(column: &Column, value: Value<'a>, form: &'a mut Vec<u8>) -> Value<'a> {
    match value {
        Value::Text(text) if column.taken_apart => {
            let digits = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix("\\x"));
            *form = digits.and_then(from_hex).unwrap_or_default();
            Value::Binary(form)
        }
        Value::Text(text) if column.plain_bytes && wire::base_type(column.type_oid) == pg_sys::XMLOID => {
            Value::Binary(text)
        }
        value => value,
    }
}

/// Fill a table with the COPY data that `client` is receiving, asked for as [`whole`] says.
pub fn copy_whole(table: StrongTable, client: &mut Client, whom: &str) -> Result<(), UserError> {
    let _settings = FixedSettings::for_values();
    let shown = super::progress::mine();
    let name = table.name.clone();
    let misfit = |error: ApplyError| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {name} could not be copied"),
            format!("{error}."),
            "Make the definitions equal, then try again.",
        )
    };
    let table = Rc::new(table);
    let mut filler = Filler::open(Rc::clone(&table)).map_err(misfit)?;
    let mut line = CopyLine::default();
    // One row each.
    while let Some(chunk) = client.next_chunk().map_err(|error| explain(error, whom))? {
        pgrx::check_for_interrupts!();
        if let Some(shown) = shown {
            shown.bytes_done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        let row = line.read(&chunk);
        let mut forms = vec![Vec::new(); row.len()];
        let given = row.iter().zip(&mut forms).enumerate();
        let values: Vec<Value<'_>> = given
            .map(|(at, (value, form))| match table.columns.get(at) {
                Some(column) => as_given(column, value, form),
                None => value,
            })
            .collect();
        filler.write(Row::new(&values)).map_err(misfit)?;
    }
    filler.close();
    Ok(())
}

/// COPY's `data_source_cb`.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn read_source(buffer: *mut c_void, least: c_int, most: c_int) -> c_int {
    // SAFETY: COPY hands out a buffer of `most` bytes.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), most as usize) };
    let read = SOURCE.with_borrow_mut(|source| {
        source
            .as_mut()
            .map_or(Ok(0), |source| source.read(buffer, least as usize))
    });
    read.unwrap_or_else(|error| error.raise()) as c_int
}

impl Source {
    fn read(&mut self, buffer: &mut [u8], least: usize) -> Result<usize, UserError> {
        let mut filled = 0;
        while filled < least.max(1) {
            if self.at == self.chunk.len() {
                match self.client.next_chunk().map_err(|error| explain(error, &self.whom))? {
                    Some(chunk) => {
                        if let Some(shown) = self.shown {
                            shown.bytes_done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        }
                        (self.chunk, self.at) = (chunk, 0);
                    }
                    None => break,
                }
            }
            let count = (buffer.len() - filled).min(self.chunk.len() - self.at);
            buffer[filled..filled + count].copy_from_slice(&self.chunk[self.at..self.at + count]);
            filled += count;
            self.at += count;
        }
        Ok(filled)
    }
}

/// Before the first row: the change stream must not take the rows for the group's changes.
pub fn tell(csn: u64) {
    if super::teller::is_read() {
        super::teller::copied(csn);
    }
}

/// Remove all rows of a table of the extension that nobody else uses now.
pub fn empty(relation: &Relation) {
    if catalog::has_rows(relation) {
        super::apply::truncate_relation(relation.oid());
    }
}

/// From the end of this transaction on, `relation` is the group's table `id`.
pub fn replicate(id: TableId, relation: &Relation) {
    super::replicate::enter(id, relation.oid());
}

/// No table is replicated any more; their oids.
pub fn unreplicate_all() -> Vec<pg_sys::Oid> {
    let mut tables = Vec::new();
    for (_, oid) in catalog::all() {
        if Relation::open_locked(oid, pg_sys::ShareRowExclusiveLock).is_some() {
            draws::end(oid);
            trigger::remove(oid);
            tables.push(oid);
        }
        catalog::remove(oid);
    }
    tables
}

/// Let the progress of a replication origin be `csn` when this transaction commits; it is made if it is not there. It never
/// goes back. (Dropping one and making it anew would lose its progress even if this transaction aborts.)
pub fn move_origin(name: &str, csn: u64) {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: inside a transaction that writes, so that its commit record carries the progress; no origin is set up in this
    // session (it was opened to join), and no apply worker runs.
    unsafe {
        let mut origin = pg_sys::replorigin_by_name(name.as_ptr(), true);
        if origin == 0 {
            origin = pg_sys::replorigin_create(name.as_ptr());
        }
        if csn > 0 {
            compat::replorigin_session_setup(origin);
            pg_sys::replorigin_session_origin = origin;
            pg_sys::replorigin_session_origin_lsn = csn;
            pg_sys::replorigin_session_origin_timestamp = 0;
        }
    }
}

/// Drop an origin; false when there was none.
pub fn drop_origin(name: &str) -> bool {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: inside a transaction.
    unsafe {
        let there = pg_sys::replorigin_by_name(name.as_ptr(), true) != 0;
        if there {
            pg_sys::replorigin_drop_by_name(name.as_ptr(), true, false);
        }
        there
    }
}
