//! Auditing: a background worker per database reads a replication slot and writes what it tells of audited tables into `synod.audit`.
//!
//! ```text
//! slot synod_audit_<database oid>  is there from the first audit_table() on: the launcher starts a worker for each
//! step                             read on -> rows and position in one transaction -> the slot is told how far
//! ```
//! Exactly once: a worker begins at the stored position, however far the slot went back in a crash; a slot that is further than
//! the position has lost something, and auditing stops until somebody says that this is known (`audit/failure.rs`).
//! Memory is bounded by `logical_decoding_work_mem` and `work_mem`. An error ends the worker, with its reason in
//! `synod.audit_state`; the launcher starts it again.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::relcache::{Relation, qualified};
use super::{context, hierarchy, launcher, shmem};
use crate::errors::UserError;

mod failure;
mod reader;
pub mod sleeper;
mod step;
mod worker;

const PREFIX: &[u8] = b"synod_audit_";

/// The slot of this database.
pub fn slot_name() -> String {
    // SAFETY: reads this process' own global.
    let database = unsafe { pg_sys::MyDatabaseId };
    format!("{}{}", String::from_utf8_lossy(PREFIX), u32::from(database))
}

/// As `pg_lsn` prints it.
pub fn lsn(position: u64) -> String {
    failure::lsn(position)
}

/// Databases of this server that have such a slot. Without a lock: whoever makes one wakes the launcher afterwards.
pub fn databases() -> Vec<u32> {
    slots().collect()
}

/// Whether this database is audited: who changes its tables is then always asked.
pub fn is_on() -> bool {
    // SAFETY: reads this process' own globals.
    let (database, logical) = unsafe {
        (
            pg_sys::MyDatabaseId.to_u32(),
            pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32,
        )
    };
    logical && slots().any(|audited| audited == database)
}

fn slots() -> impl Iterator<Item = u32> {
    // SAFETY: the array lives in shared memory as long as the server; plain bytes of it are read.
    unsafe {
        let control = pg_sys::ReplicationSlotCtl;
        let count = match control.is_null() {
            true => 0,
            false => pg_sys::max_replication_slots.max(0) as usize,
        };
        (0..count).filter_map(move |at| {
            let slot = (&raw mut (*control).replication_slots)
                .cast::<pg_sys::ReplicationSlot>()
                .add(at);
            let used = std::ptr::read_volatile(&raw const (*slot).in_use);
            let name = (&raw const (*slot).data.name.data).cast::<[u8; PREFIX.len()]>();
            if !used || std::ptr::read_volatile(name) != *PREFIX {
                return None;
            }
            Some(std::ptr::read_volatile(&raw const (*slot).data.database).to_u32())
        })
    }
}

/// Until this transaction ends the worker does not find that nothing is audited any more. Needs no transaction number.
pub fn keep_worker_from_ending() -> Result<(), UserError> {
    // SAFETY: look-ups inside a transaction; the lock goes with it.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"synod".as_ptr(), true);
        let table = pg_sys::get_relname_relid(c"audited".as_ptr(), schema);
        if table == pg_sys::InvalidOid {
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                "relation \"synod.audited\" does not exist",
                "The extension in this database is older than the library.",
                "ALTER EXTENSION synod UPDATE.",
            ));
        }
        pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as i32);
    }
    Ok(())
}

/// There is something to do, or to start.
pub fn wake_launcher_and_worker() {
    sleeper::wake_at_commit();
    launcher::wake();
}

/// `schema.name`.
pub fn name_of(table: pg_sys::Oid) -> String {
    match Relation::open(table) {
        Some(relation) => qualified(&relation.schema(), &relation.name()),
        None => u32::from(table).to_string(),
    }
}

/// The one whose rows before a change are not in the WAL: the table, or its first partition without REPLICA IDENTITY FULL.
pub fn without_full_identity(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let members = hierarchy::members(table, pg_sys::AccessShareLock);
    members.into_iter().find(|member| {
        Relation::open(*member)
            .is_some_and(|it| !hierarchy::is_partitioned(&it) && it.class().relreplident as u8 != b'f')
    })
}

/// Whether changes of the table, and of its partitions, are in the WAL.
pub fn check_table(table: pg_sys::Oid) -> Result<(), UserError> {
    let members = hierarchy::members(table, pg_sys::AccessShareLock);
    members.into_iter().try_for_each(check_alone)
}

fn check_alone(table: pg_sys::Oid) -> Result<(), UserError> {
    let Some(relation) = Relation::open(table) else {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", u32::from(table)),
            "It was dropped.",
            "Name a table.",
        ));
    };
    let class = relation.class();
    let name = name_of(table);
    let refused = |what: &str, hint: &str| {
        Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot audit {name}"),
            format!("It is {what}."),
            hint.to_owned(),
        ))
    };
    if class.relkind as u8 != pg_sys::RELKIND_RELATION && !hierarchy::is_partitioned(&relation) {
        return refused("no table", "Name a table.");
    }
    if class.relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
        return refused(
            "temporary or unlogged: its changes are not in the WAL",
            "ALTER TABLE ... SET LOGGED first.",
        );
    }
    if u32::from(table) < pg_sys::FirstNormalObjectId || relation.schema() == "synod" {
        return refused("a table of the system", "Name a table of yours.");
    }
    Ok(())
}

/// Whether this transaction can make a slot.
pub fn check_can_make_slot() -> Result<(), UserError> {
    // SAFETY: reads this process' own state.
    let (logical, wrote) = unsafe {
        (
            pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32,
            pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId,
        )
    };
    if !logical {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "auditing needs wal_level = logical",
            "Changes of tables are read from the WAL.",
            "ALTER SYSTEM SET wal_level = logical, and restart the server.",
        ));
    }
    if wrote {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "cannot begin to audit in a transaction that has written",
            "The first table that is audited in a database needs a replication slot, which cannot be made then.",
            "Call synod.audit_table in a transaction of its own.",
        ));
    }
    Ok(())
}

/// What this process writes is nobody's.
fn exempt() {
    super::capture::set_applying(true);
    super::barrier::exempt_this_process();
    context::reset();
}

/// Where workers sleep, in shared memory.
fn shared() -> Option<&'static sleeper::Sleepers> {
    shmem::shared().map(|shared| &shared.auditors)
}
