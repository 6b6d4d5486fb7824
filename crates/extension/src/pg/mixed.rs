//! A transaction that writes strong tables may not write other permanent tables, unless the user allows it: a crash between
//! the log's decision and the local commit keeps the one part and loses the other.
//!
//! Where it is allowed (`synod.mixed_transactions`), the local commit is as durable as the user's `synchronous_commit` says when
//! COMMIT returns. Whenever the record is left to the apply worker (a crash, 08007), the local part is gone.

use std::cell::Cell;

use crate::errors::UserError;
use crate::settings::{MIXED_TRANSACTIONS, MixedTransactions};

thread_local! {
    static WROTE_OTHER: Cell<bool> = const { Cell::new(false) };
}

/// An ordinary permanent table was written in this transaction.
pub fn note() {
    WROTE_OTHER.set(true);
}

/// Forget, at the end of the transaction.
pub fn reset() {
    WROTE_OTHER.set(false);
}

/// Whether this transaction has a local part, for whose sake the commit must be durable here.
pub fn wrote_other_tables() -> bool {
    WROTE_OTHER.get()
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
