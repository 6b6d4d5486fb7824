//! Plain INSERTs skip the barrier: they read no row, so there is nothing that could be out of date, and a quorum round per
//! row would double their cost.
//!
//! They do see one thing of the table: that a unique or exclusion key is taken. If they fail for that, the failure may be out
//! of date (the row was deleted elsewhere by now), so it is confirmed before it is told: if this node had everything when the
//! statement began, the error stands; otherwise it becomes 40001, and the session's next INSERT passes the barrier, so that a
//! retry gets a definite answer. That a key is *not* taken here is checked by certification at commit; after losing there the
//! next INSERT passes the barrier, too.
//!
//! Foreign keys are checked by queries of their own, which pass the barrier like all others.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::wait;
use crate::errors::UserError;
use crate::pg::protect::Failure;
use crate::pg::shmem::NodeShared;
use crate::pg::{list, relation};

thread_local! {
    /// The query that skipped the barrier (its address), and what was applied then.
    static SKIPPED: Cell<Option<(usize, u64)>> = const { Cell::new(None) };
    /// The last failure could not be confirmed, or was for a transaction that is not visible here yet.
    static CAREFUL: Cell<bool> = const { Cell::new(false) };
}

/// A query is about to be started: what was known of an earlier one at the same address is over.
pub fn forget(query: *const pg_sys::QueryDesc) {
    if skipped_at(query).is_some() {
        SKIPPED.set(None);
    }
}

/// Whether the query may skip the barrier; remembers that it does.
///
/// # Safety
/// `query` is the outermost query of a READ COMMITTED transaction, about to be started.
pub unsafe fn may_skip(node: &NodeShared, query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: by contract.
    let plain = unsafe { (*query).operation == pg_sys::CmdType::CMD_INSERT && is_plain((*query).plannedstmt) };
    if !plain || CAREFUL.replace(false) {
        return false;
    }
    SKIPPED.set(Some((query as usize, node.applied.load(Ordering::SeqCst))));
    true
}

/// The next INSERT passes the barrier: what it failed for may be on its way here.
pub fn be_careful() {
    CAREFUL.set(true);
}

/// INSERT without ON CONFLICT whose only strong tables are those that it inserts into.
unsafe fn is_plain(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan: its range table holds RangeTblEntry nodes, numbered from 1 in resultRelations.
    unsafe {
        let root = (*plan).planTree;
        if (*plan).hasModifyingCTE
            || (*root).type_ != pg_sys::NodeTag::T_ModifyTable
            || (*root.cast::<pg_sys::ModifyTable>()).onConflictAction != pg_sys::OnConflictAction::ONCONFLICT_NONE
        {
            return false;
        }
        let targets = (*plan).resultRelations;
        let is_target = |number: usize| (0..list::length(targets)).any(|at| list::int(targets, at) as usize == number);
        list::pointers::<pg_sys::RangeTblEntry>((*plan).rtable)
            .into_iter()
            .enumerate()
            .filter(|(at, _)| !is_target(at + 1))
            .all(|(_, entry)| (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION || !relation::is_strong((*entry).relid))
    }
}

/// What was applied when this query skipped the barrier; `None` if it did not.
pub fn skipped_at(query: *const pg_sys::QueryDesc) -> Option<u64> {
    SKIPPED
        .get()
        .filter(|(skipped, _)| *skipped == query as usize)
        .map(|(_, applied)| applied)
}

/// A query that skipped the barrier failed: whether something else must be said.
pub fn confirm(node: &NodeShared, applied: u64, failure: &Failure) -> Option<UserError> {
    let taken =
        failure.is(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION) || failure.is(PgSqlErrorCode::ERRCODE_EXCLUSION_VIOLATION);
    if !taken {
        return None;
    }
    match wait::tail(node, wait::read_deadline()) {
        Ok(tail) if tail <= applied => None,
        Ok(_) => {
            be_careful();
            Some(super::snapshot_too_old())
        }
        Err(error) => Some(error),
    }
}
