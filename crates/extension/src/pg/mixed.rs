//! A transaction that writes strong tables may not write other permanent tables, unless the user allows it: a crash between
//! the log's decision and the local commit keeps the one part and loses the other.
//!
//! Where it is allowed (`synod.mixed_transactions`), the local commit is as durable as the user's `synchronous_commit` says when
//! COMMIT returns. Whenever the record is left to the apply worker (a crash, 08007), the local part is gone.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::errors::UserError;
use crate::settings::{MIXED_TRANSACTIONS, MixedTransactions};

thread_local! {
    /// The subtransactions in which such tables were written, as far as they stand.
    static WROTE_OTHER: RefCell<Vec<pg_sys::SubTransactionId>> = const { RefCell::new(Vec::new()) };
}

/// An ordinary permanent table was written in this transaction.
pub fn note() {
    // SAFETY: inside a transaction.
    let current = unsafe { pg_sys::GetCurrentSubTransactionId() };
    WROTE_OTHER.with_borrow_mut(|wrote| {
        if !wrote.contains(&current) {
            wrote.push(current);
        }
    });
}

/// From the subtransaction callback: what was rolled back is no part of the transaction.
pub fn on_subxact(event: pg_sys::SubXactEvent::Type, mine: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    WROTE_OTHER.with_borrow_mut(|wrote| {
        let ends = [
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB,
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB,
        ];
        let Some(at) = wrote.iter().position(|it| *it == mine && ends.contains(&event)) else {
            return;
        };
        wrote.swap_remove(at);
        if event == pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB && !wrote.contains(&parent) {
            wrote.push(parent);
        }
    });
}

/// Forget, at the end of the transaction.
pub fn reset() {
    WROTE_OTHER.with_borrow_mut(Vec::clear);
}

/// Whether this transaction has a local part, for whose sake the commit must be durable here.
pub fn wrote_other_tables() -> bool {
    WROTE_OTHER.with_borrow(|wrote| !wrote.is_empty())
}

/// Before the append: refuse, unless the user accepts what a crash can do.
pub fn check() -> Result<(), UserError> {
    if wrote_other_tables() && MIXED_TRANSACTIONS.get() == MixedTransactions::Refuse {
        return Err(refused());
    }
    Ok(())
}

/// 0A000
fn refused() -> UserError {
    UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot write strong tables and other permanent tables in one transaction",
        "A crash could keep one part of the transaction and lose the other.",
        "Use two transactions, replicate the other tables with synod.replicate_table, or see synod.mixed_transactions.",
    )
}
