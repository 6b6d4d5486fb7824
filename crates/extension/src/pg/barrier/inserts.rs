//! Plain INSERTs skip the barrier (see [`super::skip`]): they read no row, so there is nothing that could be out of date, and
//! a quorum round per row would double their cost.
//!
//! They do see one thing of the table: that a unique or exclusion key is taken. If they fail for that, the failure is confirmed
//! before it is told; a deferrable key may fail at the commit, too late for that, so whoever inserts into such a table waits. That a
//! key is *not* taken here is checked by certification at commit.
//!
//! Foreign keys are checked by queries of their own, which pass the barrier like all others.

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::pg::protect::Failure;
use crate::pg::{list, relation};

/// INSERT without ON CONFLICT whose only strong tables are those that it inserts into, without deferrable keys.
///
/// # Safety
/// `plan` is valid, its relations are locked.
pub(super) unsafe fn is_plain(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan: its range table holds RangeTblEntry nodes, numbered from 1 in resultRelations.
    unsafe {
        let root = (*plan).planTree;
        if (*plan).commandType != pg_sys::CmdType::CMD_INSERT
            || (*plan).hasModifyingCTE
            || (*root).type_ != pg_sys::NodeTag::T_ModifyTable
            || (*root.cast::<pg_sys::ModifyTable>()).onConflictAction != pg_sys::OnConflictAction::ONCONFLICT_NONE
        {
            return false;
        }
        let targets = (*plan).resultRelations;
        let late = (0..list::length(targets)).any(|at| {
            let number = list::int(targets, at) as usize;
            let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, number - 1);
            relation::by_oid((*entry).relid).is_some_and(|table| relation::may_fail_late(&table))
        });
        if late {
            return false;
        }
        let is_target = |number: usize| (0..list::length(targets)).any(|at| list::int(targets, at) as usize == number);
        list::pointers::<pg_sys::RangeTblEntry>((*plan).rtable)
            .into_iter()
            .enumerate()
            .filter(|(at, _)| !is_target(at + 1))
            .all(|(_, entry)| (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION || !relation::is_strong((*entry).relid))
    }
}

/// Whether a failure says something about what is in the table.
pub(super) fn tells(failure: &Failure) -> bool {
    failure.is(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION) || failure.is(PgSqlErrorCode::ERRCODE_EXCLUSION_VIOLATION)
}
