//! Whoever holds a lock that apply needs gives way: what the group has committed cannot be undone, a local transaction can.
//!
//! ```text
//! apply worker waits for a lock ── timer (2 ms) ──> wakes the log worker
//! log worker: Watcher::look ── who blocks it? ──> doomed + SIGINT, or a set latch; SIGTERM after synod.lock_grace
//! the blocker: the cancel becomes 40001; every later entry, and its commit, refuse with 40001 until it ends
//! ```
//!
//! This file is the blocker's side. `give_way/watcher.rs` is the log worker's, `give_way/timer.rs` the apply worker's.
//! A doom is meant for one transaction of one process (pid and local transaction id), so one that comes late hits nobody.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;

use super::protect::Failure;
use super::{compat, latch, shmem};
use crate::errors::{self, UserError};

pub mod timer;
mod watcher;

pub use watcher::{Watcher, overdue};

/// A signal that took longer to arrive was not the watcher's.
const LATE_SIGNAL_US: u64 = 1_000_000;

thread_local! {
    /// The transaction block failed because it had to give way, whether or not its client has heard of it.
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this process' transaction has to give way.
pub fn is_doomed() -> bool {
    let Some(slot) = shmem::slot(latch::my_number()) else {
        return false;
    };
    if !slot.doomed.load(Ordering::SeqCst) {
        return false;
    }
    let transaction = slot.doomed_transaction.load(Ordering::SeqCst);
    // SAFETY: reads a global of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    slot.doomed_pid.load(Ordering::SeqCst) == pid && (transaction == 0 || transaction == compat::local_transaction_id())
}

/// 40001 if this transaction has to give way.
pub fn check() -> Result<(), UserError> {
    FAILED.set(is_doomed());
    if FAILED.get() { Err(errors::gave_way()) } else { Ok(()) }
}

/// A command begins that no failed transaction block would let through, or one that ends it.
pub fn forget_failure() {
    FAILED.set(false);
}

/// As [`check`], raised. At the entry of every command and before commit; ROLLBACK must stay possible.
pub fn check_doomed() {
    if let Err(error) = check() {
        error.raise();
    }
}

/// The cancel that made this transaction give way is no user's: clients know 40001 as "try again".
pub fn replacement(failure: &Failure) -> Option<UserError> {
    let cancelled = failure.is(PgSqlErrorCode::ERRCODE_QUERY_CANCELED);
    if !cancelled || !cancel_is_ours() {
        return None;
    }
    FAILED.set(true);
    Some(errors::gave_way())
}

/// Whether a cancel was sent by the watcher: to this transaction, or to one before it that ended meanwhile.
fn cancel_is_ours() -> bool {
    let sent = shmem::slot(latch::my_number()).map_or(0, |slot| slot.signalled_us.swap(0, Ordering::SeqCst));
    is_doomed() || (sent != 0 && watcher::monotonic_us().saturating_sub(sent) < LATE_SIGNAL_US)
}

/// While a commit waits for the log: a pending cancel that the watcher meant for an earlier transaction is dropped.
pub fn absorb_stray_cancel() -> bool {
    if is_doomed() || !cancel_is_ours() {
        return false;
    }
    // SAFETY: this process' own flag; a user's cancel within the same moment is lost, as one that comes a moment later is.
    unsafe { pg_sys::QueryCancelPending = 0 };
    true
}

/// As [`replacement`] for cancels that came where no hook of ours is on the stack (parse analysis, deferred triggers), and
/// for what a failed block says to the next command: drivers that send two things at once may have missed the first error.
///
/// # Safety
/// `report` is the argument of `emit_log_hook`.
pub unsafe fn rewrite_report(report: *mut pg_sys::ErrorData) {
    // SAFETY: by contract; the texts are allocated where the report's own are.
    unsafe {
        let code = (*report).sqlerrcode;
        let cancelled = code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED as i32 && cancel_is_ours();
        let failed = code == PgSqlErrorCode::ERRCODE_IN_FAILED_SQL_TRANSACTION as i32 && FAILED.get();
        if (*report).elevel != pgrx::PgLogLevel::ERROR as i32 || !(cancelled || failed) {
            return;
        }
        FAILED.set(true);
        let error = errors::gave_way();
        let context = (*report).assoc_context;
        let text = |text: &str| {
            std::ffi::CString::new(text).map_or(std::ptr::null_mut(), |text| {
                pg_sys::MemoryContextStrdup(context, text.as_ptr())
            })
        };
        (*report).sqlerrcode = error.code as i32;
        (*report).message = text(&error.message);
        (*report).detail = text(&error.detail);
        (*report).hint = text(&error.hint);
    }
}
