//! Whoever holds a lock that apply needs gives way: what the group has committed cannot be undone, a local transaction can.
//!
//! ```text
//! apply worker waits for a lock ── timer (2 ms) ──> wakes the log worker
//! log worker: Watcher::look ── who blocks it? ──> doomed + SIGINT, or a set latch; SIGTERM after synod.lock_grace
//! the blocker: the cancel becomes 40001; every later entry, and its commit, refuse with 40001 until it ends
//! ```
//!
//! This file is the blocker's side, `give_way/interrupt.rs` how its cancel finds the right transaction and nobody else.
//! `give_way/watcher.rs` is the log worker's, `give_way/timer.rs` the apply worker's. A doom names one transaction of one
//! process (pid and local transaction id), so one that comes late hits nobody.

use std::sync::atomic::Ordering;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;

use super::protect::Failure;
use super::{compat, latch, shmem};
use crate::errors::{self, UserError};

pub mod interrupt;
pub mod timer;
mod watcher;

pub use watcher::Watcher;

/// Whether this process' transaction has to give way. Reads atomics only: also called by a signal handler.
pub fn is_doomed() -> bool {
    let transaction = compat::local_transaction_id();
    // SAFETY: reads a global of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    transaction != 0
        && shmem::slot(latch::my_number())
            .is_some_and(|slot| slot.doomed.load(Ordering::SeqCst) == doom(pid, transaction))
}

/// What [`super::slot::Slot::doomed`] says of this transaction.
fn doom(pid: i32, transaction: u32) -> u64 {
    u64::from(pid.unsigned_abs()) << 32 | u64::from(transaction)
}

/// 40001 if this transaction has to give way.
pub fn check() -> Result<(), UserError> {
    if is_doomed() { Err(errors::gave_way()) } else { Ok(()) }
}

/// As [`check`], raised. At the entry of every command and before commit; ROLLBACK must stay possible.
pub fn check_doomed() {
    if let Err(error) = check() {
        error.raise();
    }
}

/// The cancel that made this transaction give way is no user's: clients know 40001 as "try again".
pub fn replacement(failure: &Failure) -> Option<UserError> {
    (failure.is(PgSqlErrorCode::ERRCODE_QUERY_CANCELED) && is_doomed()).then(errors::gave_way)
}

/// As [`replacement`] for cancels that came where no hook of ours is on the stack (parse analysis, plans taken from the
/// cache), and for the end of a session that kept the lock for too long, in the words that the server has for a standby.
pub fn report_instead(code: i32, level: i32) -> Option<UserError> {
    let is = |level_wanted: pgrx::PgLogLevel, code_wanted: PgSqlErrorCode| {
        level == level_wanted as i32 && code == code_wanted as i32
    };
    if is(pgrx::PgLogLevel::ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED) && is_doomed() {
        return Some(errors::gave_way());
    }
    if is(pgrx::PgLogLevel::FATAL, PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN) && is_doomed() {
        return Some(errors::gave_way_for_good());
    }
    if is(pgrx::PgLogLevel::FATAL, PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN) && ends_for_temporary() {
        return Some(errors::temporary_object_in_the_way());
    }
    None
}

/// Whether the apply worker has told this process to end, for its temporary object's sake.
fn ends_for_temporary() -> bool {
    // SAFETY: reads a global of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    shmem::slot(latch::my_number()).is_some_and(|slot| slot.ended_for_temporary.load(Ordering::SeqCst) == pid)
}
