//! Parallel workers: the leader's barrier covers the plan that they run a part of, but not what functions in it read, for the leader does
//! not see that: it can neither learn from it which functions read strong tables, nor fail when it could not wait.
//!
//! So before a plan with workers starts, its leader publishes up to where it has passed the barrier. A query that a function in a worker
//! starts has a snapshot that covers that, or passes a barrier of its own. Called by the barrier only; a crash here loses nothing.

use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use super::{SESSION, pass, reads_strong_table, snapshot};
use crate::errors::UserError;
use crate::pg::shmem::{self, NodeShared};
use crate::pg::{compat, latch};
use crate::settings::{self, ReadConsistency};

/// Whether this process is one.
pub fn is_one() -> bool {
    // SAFETY: reads a global of this process.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether a plan may have workers.
///
/// # Safety
/// `plan` is valid.
pub unsafe fn are_in(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract.
    unsafe { (*plan).parallelModeNeeded }
}

/// In the leader, behind its barrier for the plan.
///
/// # Safety
/// `plan` is valid, and about to start.
pub unsafe fn tell(plan: *const pg_sys::PlannedStmt) {
    // SAFETY: by contract.
    if unsafe { are_in(plan) }
        && let Some(slot) = shmem::slot(latch::my_number())
    {
        slot.passed.store(passed(), Ordering::SeqCst);
    }
}

/// As [`crate::pg::slot::Slot::passed`] has it.
fn passed() -> u64 {
    let transaction = compat::local_transaction_id();
    SESSION.with(|session| {
        if snapshot::is_fixed() {
            // The one snapshot of the transaction covers what is needed.
            return u64::from(session.covered_transaction.get() == transaction);
        }
        let command = session.command.get();
        let passed = session.passed.get();
        passed
            .filter(|it| it.command == command && it.transaction == transaction)
            .map_or(0, |it| it.csn + 1)
    })
}

/// In a worker: a query is about to start.
///
/// # Safety
/// `query` is the argument of `ExecutorStart_hook`.
pub unsafe fn before_executor_start(query: *mut pg_sys::QueryDesc) -> Result<(), UserError> {
    let consistency = settings::READ_CONSISTENCY.get();
    // The outermost one is the worker's part of the leader's plan.
    if snapshot::enclosing() == 0 || consistency == ReadConsistency::Local {
        return Ok(());
    }
    // SAFETY: by contract.
    unsafe {
        if !reads_strong_table((*query).plannedstmt) {
            return Ok(());
        }
        let node = crate::node::required()?;
        if is_covered_by_leader(node, (*query).snapshot) {
            return Ok(());
        }
        pass(node, query, consistency)
    }
}

/// # Safety
/// In a parallel worker; `snapshot` is valid.
unsafe fn is_covered_by_leader(node: &NodeShared, snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: a worker belongs to the lock group of its leader, which outlives it.
    unsafe {
        let leader = (*pg_sys::MyProc).lockGroupLeader;
        if leader.is_null() {
            return false;
        }
        let passed = shmem::slot(latch::number_of(leader)).map_or(0, |slot| slot.passed.load(Ordering::SeqCst));
        passed
            .checked_sub(1)
            .is_some_and(|csn| node.recent.covers(csn, snapshot))
    }
}
