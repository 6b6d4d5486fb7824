//! Statements that skip the barrier, because the commit proves what they read (`inserts`, `points`).
//!
//! What they tell before the commit is proved when it is told: if the query's snapshot covers the tail asked for then, it was up
//! to date. If not, a failure becomes 40001, and the session's next statement passes the barrier, so that a retry gets a
//! definite answer; a statement that found no row is run again, under a snapshot that does.
//! After losing to another node, too, the next one passes the barrier: the winner is on its way here.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::{SESSION, inserts, points, wait};
use crate::errors::UserError;
use crate::pg::protect::Failure;
use crate::pg::shmem::{self, NodeShared};
use crate::settings::ReadConsistency;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Insert,
    Point,
}

thread_local! {
    /// The query that skipped the barrier, by its address.
    static SKIPPED: Cell<Option<(usize, Kind)>> = const { Cell::new(None) };
    /// The last failure could not be confirmed, or was for a transaction that is not visible here yet.
    static CAREFUL: Cell<bool> = const { Cell::new(false) };
}

/// The next statement passes the barrier: what it failed for may be on its way here.
pub fn be_careful() {
    CAREFUL.set(true);
}

/// A query is about to be started: what was known of an earlier one at the same address is over.
pub fn forget(query: *const pg_sys::QueryDesc) {
    if skipped(query).is_some() {
        SKIPPED.set(None);
    }
}

fn skipped(query: *const pg_sys::QueryDesc) -> Option<Kind> {
    SKIPPED
        .get()
        .filter(|(skipped, _)| *skipped == query as usize)
        .map(|(_, kind)| kind)
}

/// Whether the query may skip the barrier; remembers that it does.
///
/// # Safety
/// `query` is the outermost query of a READ COMMITTED transaction, about to be started.
pub unsafe fn may_skip(node: &NodeShared, query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: by contract.
    let kind = unsafe {
        if inserts::is_plain((*query).plannedstmt) {
            Kind::Insert
        } else if may_skip_reads(node) && points::is_point(query) {
            Kind::Point
        } else {
            return false;
        }
    };
    if CAREFUL.replace(false) {
        return false;
    }
    SKIPPED.set(Some((query as usize, kind)));
    true
}

/// Not where the statement may be undone alone, or its row count is used inside of the transaction. Not where a
/// barrier would fail. And not while this node knows of commits that it has not applied: the row may be among them, and the
/// barrier, which waits for them, is cheaper than a retry.
fn may_skip_reads(node: &NodeShared) -> bool {
    // SAFETY: reads this process' own state.
    let is_top = unsafe { pg_sys::GetCurrentTransactionNestLevel() } == 1;
    let in_functions = SESSION.with(|session| session.utilities.borrow().iter().any(|runs_functions| *runs_functions));
    is_top
        && !in_functions
        && super::is_working(node)
        && node.applied.load(Ordering::SeqCst) >= node.last_commit.load(Ordering::SeqCst)
}

/// A query has run: whether it must be run again, because it found no row, and its snapshot lacks what was committed
/// before. Waits until that is here.
///
/// # Safety
/// `query` has run, and not been finished.
pub unsafe fn found_nothing(query: *const pg_sys::QueryDesc) -> Result<bool, UserError> {
    // SAFETY: by contract: it has an executor state and its snapshot.
    unsafe {
        if skipped(query) != Some(Kind::Point) || (*(*query).estate).es_processed != 0 {
            return Ok(false);
        }
        SKIPPED.set(None);
        let Some(node) = shmem::my_node() else {
            return Ok(false);
        };
        let csn = super::pass_command(node, ReadConsistency::Strong)?;
        Ok(!node.recent.covers(csn, (*query).snapshot))
    }
}

/// A query failed: the error to raise instead, if it skipped the barrier and what it failed for is not certain.
///
/// # Safety
/// `query` was run, its transaction has not been aborted yet.
pub unsafe fn confirm(query: *const pg_sys::QueryDesc, failure: &Failure) -> Option<UserError> {
    let tells = match skipped(query)? {
        Kind::Insert => inserts::tells(failure),
        Kind::Point => points::tells(failure),
    };
    if failure.is(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE) {
        be_careful();
    }
    if !tells {
        return None;
    }
    let node = shmem::my_node()?;
    match wait::tail(node, wait::read_deadline()) {
        // SAFETY: by contract the query still has its snapshot.
        Ok(tail) if unsafe { node.recent.covers(tail, (*query).snapshot) } => None,
        Ok(_) => {
            be_careful();
            Some(super::snapshot_too_old())
        }
        Err(error) => Some(error),
    }
}

unsafe extern "C-unwind" {
    // The server's functions themselves: pgrx's wrappers would rewrite errors.
    #[link_name = "ExecutorStart"]
    fn start_raw(query: *mut pg_sys::QueryDesc, flags: i32);
    #[cfg(not(feature = "pg18"))]
    #[link_name = "ExecutorRun"]
    fn run_raw(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64, once: bool);
    #[cfg(feature = "pg18")]
    #[link_name = "ExecutorRun"]
    fn run_raw(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
    #[link_name = "ExecutorFinish"]
    fn finish_raw(query: *mut pg_sys::QueryDesc);
    #[link_name = "ExecutorEnd"]
    fn end_raw(query: *mut pg_sys::QueryDesc);
    #[link_name = "CreateQueryDesc"]
    fn create_raw(
        plan: *mut pg_sys::PlannedStmt,
        source: *const core::ffi::c_char,
        snapshot: pg_sys::Snapshot,
        crosscheck: pg_sys::Snapshot,
        receiver: *mut pg_sys::DestReceiver,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        instruments: i32,
    ) -> *mut pg_sys::QueryDesc;
    #[link_name = "FreeQueryDesc"]
    fn free_raw(query: *mut pg_sys::QueryDesc);
    #[link_name = "GetTransactionSnapshot"]
    fn transaction_snapshot_raw() -> pg_sys::Snapshot;
    #[link_name = "PushCopiedSnapshot"]
    fn push_raw(snapshot: pg_sys::Snapshot);
    #[link_name = "PopActiveSnapshot"]
    fn pop_raw();
}

/// Run a query that did nothing once more, under a snapshot taken now. The outer one then looks as if it had run so.
///
/// # Safety
/// [`found_nothing`] said so. Errors of the server jump over this frame, which owns nothing.
pub unsafe fn run_again(query: *mut pg_sys::QueryDesc) {
    // SAFETY: by contract: READ COMMITTED, no subtransaction. No row was found, so nothing was written, and the plan has no
    // triggers or subplans that did something else. The command id is that of the first run.
    unsafe {
        let command = (*(*query).snapshot).curcid;
        push_raw(transaction_snapshot_raw());
        (*pg_sys::GetActiveSnapshot()).curcid = command;
        let again = create_raw(
            (*query).plannedstmt,
            (*query).sourceText,
            pg_sys::GetActiveSnapshot(),
            std::ptr::null_mut(),
            pg_sys::None_Receiver,
            (*query).params,
            (*query).queryEnv,
            0,
        );
        start_raw(again, 0);
        #[cfg(not(feature = "pg18"))]
        run_raw(again, pg_sys::ScanDirection::ForwardScanDirection, 0, true);
        #[cfg(feature = "pg18")]
        run_raw(again, pg_sys::ScanDirection::ForwardScanDirection, 0);
        finish_raw(again);
        (*(*query).estate).es_processed = (*(*again).estate).es_processed;
        end_raw(again);
        free_raw(again);
        pop_raw();
    }
}
