//! Which functions read strong tables: learnt by each session from what it sees them do.
//!
//! A plan does not say what its functions read. A function that is not known yet is taken for one that reads, so that the
//! barrier comes before the query's snapshot is in use; a query that ran without such a read clears its functions of the
//! suspicion, unless parallel workers may have run them, whose reads are not seen here (`workers`). A wrong guess is safe: a
//! read without the barrier passes it then, and fails with 40001 if it came too late.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgrx::pg_sys;

use super::super::{catalog, list};
use super::{snapshot, workers};

/// Functions remembered; beyond it all are forgotten.
const FUNCTIONS: usize = 4096;

thread_local! {
    /// By the hash of the function's pg_proc entry: whether it has been seen to read a strong table.
    static KNOWN: RefCell<HashMap<u32, bool>> = RefCell::new(HashMap::new());
    /// Queries on strong tables started so far.
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// A query that reads a strong table is about to start.
pub fn strong_table_read() {
    READS.set(READS.get() + 1);
}

/// Whether functions that this plan calls may read strong tables.
///
/// # Safety
/// `plan` is valid.
pub unsafe fn may_read(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract.
    let called = unsafe { called(plan) };
    if called.is_empty() {
        return false;
    }
    clear_our_own();
    KNOWN.with_borrow(|known| called.iter().any(|hash| known.get(hash) != Some(&false)))
}

/// The extension's own functions are no suspects: who looks at `synod.stat_apply` of a node that cannot follow must not wait
/// until it does.
fn clear_our_own() {
    if !KNOWN.with_borrow(HashMap::is_empty) {
        return;
    }
    let own = catalog::own_functions();
    KNOWN.with_borrow_mut(|known| {
        for function in own {
            // SAFETY: computes a hash.
            let hash = unsafe {
                pg_sys::GetSysCacheHashValue(
                    pg_sys::SysCacheIdentifier::PROCOID as i32,
                    function.into(),
                    pg_sys::Datum::from(0),
                    pg_sys::Datum::from(0),
                    pg_sys::Datum::from(0),
                )
            };
            known.insert(hash, false);
        }
    });
}

/// Whether the plan calls user-defined functions.
///
/// # Safety
/// `plan` is valid.
pub unsafe fn calls_any(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract.
    unsafe { !called(plan).is_empty() }
}

/// Watches the outermost query of a command.
pub struct Watch {
    functions: Vec<u32>,
    reads_before: u64,
    has_workers: bool,
}

impl Watch {
    /// From now until it is dropped.
    ///
    /// # Safety
    /// `plan` is valid.
    pub unsafe fn new(plan: *const pg_sys::PlannedStmt) -> Self {
        let functions = if snapshot::enclosing() == 0 {
            // SAFETY: by contract.
            unsafe { called(plan) }
        } else {
            Vec::new()
        };
        Self {
            functions,
            reads_before: READS.get(),
            // SAFETY: by contract.
            has_workers: unsafe { workers::are_in(plan) },
        }
    }
}

impl Watch {
    /// The query returned, or failed.
    pub fn end(self, failed: bool) {
        let read = READS.get() != self.reads_before;
        if self.functions.is_empty() || (!read && (failed || self.has_workers)) {
            return;
        }
        KNOWN.with_borrow_mut(|known| {
            if known.len() > FUNCTIONS {
                known.clear();
            }
            for hash in self.functions {
                *known.entry(hash).or_insert(false) |= read;
            }
        });
    }
}

/// Hashes of the user-defined functions that the plan depends on.
unsafe fn called(plan: *const pg_sys::PlannedStmt) -> Vec<u32> {
    // SAFETY: invalItems is a list of PlanInvalItem.
    unsafe {
        list::pointers::<pg_sys::PlanInvalItem>((*plan).invalItems)
            .into_iter()
            .filter(|item| (**item).cacheId == pg_sys::SysCacheIdentifier::PROCOID as i32)
            .map(|item| (*item).hashValue)
            .collect()
    }
}
