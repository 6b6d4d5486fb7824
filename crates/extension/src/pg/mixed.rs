//! A transaction that writes strong tables may not write other permanent tables: a crash between the log's decision and
//! the local commit would keep one part and lose the other.

use std::cell::Cell;

use crate::errors::UserError;

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

/// Asked before the append.
pub fn wrote_other_tables() -> bool {
    WROTE_OTHER.get()
}

/// 0A000
pub fn refused() -> UserError {
    UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot write strong tables and other permanent tables in one transaction",
        "A crash could keep one part of the transaction and lose the other.",
        "Use two transactions, or replicate the other tables with synod.replicate_table.",
    )
}
