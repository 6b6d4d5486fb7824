//! What stops auditing, where operators see it: `synod.stat_audit` and the server log.
//!
//! A batch that fails is read again one transaction at a time, so that all before the one that cannot be audited is, and that one
//! is named: `synod.skip_audit` leaves it out. Never by itself: an audit with a gap says so.

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, Spi, pg_sys};

use super::slot_name;
use crate::errors::UserError;
use crate::pg::scratch::ActiveSnapshot;

/// Why something could not be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    code: PgSqlErrorCode,
    reason: String,
    hint: String,
}

/// What was being read when it failed.
pub struct At {
    /// What committed before was read; it is read one by one up to there.
    pub end: u64,
    /// Where the last commit begins, and its transaction, if the failure is about that one.
    pub transaction: Option<(u64, u32)>,
}

impl Failure {
    /// Of nothing that the server said.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            code: PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            reason: reason.into(),
            hint: String::new(),
        }
    }

    fn of(error: &CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = error;
        let mut reason = report.message().to_owned();
        if let Some(detail) = report.detail() {
            reason.push_str(": ");
            reason.push_str(detail.trim_end_matches('.'));
        }
        Self {
            code: report.sql_error_code(),
            reason,
            hint: report.hint().unwrap_or_default().to_owned(),
        }
    }

    /// Whether it is about what was read, as opposed to the server's state, which passes.
    fn is_about_data(&self) -> bool {
        use PgSqlErrorCode::*;
        !matches!(
            self.code,
            ERRCODE_INSUFFICIENT_RESOURCES
                | ERRCODE_DISK_FULL
                | ERRCODE_OUT_OF_MEMORY
                | ERRCODE_TOO_MANY_CONNECTIONS
                | ERRCODE_CONFIGURATION_LIMIT_EXCEEDED
                | ERRCODE_IO_ERROR
                | ERRCODE_UNDEFINED_FILE
                | ERRCODE_QUERY_CANCELED
                | ERRCODE_LOCK_NOT_AVAILABLE
                | ERRCODE_OBJECT_IN_USE
                | ERRCODE_T_R_DEADLOCK_DETECTED
                | ERRCODE_T_R_SERIALIZATION_FAILURE
        )
    }

    /// Says why, once, and notes it. The worker then ends: the launcher starts another one after a while, which has no slot half-read.
    pub fn report(mut self, at: Option<At>) {
        let end = at.as_ref().map_or(0, |at| at.end);
        let culprit = at.as_ref().and_then(|at| at.transaction);
        if at.is_some() && self.is_about_data() {
            self.hint = "It goes on one transaction at a time now, to find the one that cannot be audited.".into();
        }
        if let Some((commit, xid)) = culprit
            && self.is_about_data()
        {
            self.reason
                .push_str(&format!("; in transaction {xid}, which committed at {}", lsn(commit)));
            self.hint = format!(
                "Everything before it is audited, and it is tried again by itself. To leave it out of the audit for good: SELECT synod.skip_audit('{}').",
                lsn(end)
            );
        }
        let known = transaction(|| {
            let slot = slot_name();
            let known = Spi::get_one_with_args::<bool>(
                "SELECT EXISTS (SELECT FROM synod.audit_state WHERE slot_name = $1::name AND reason = $2)",
                &[slot.as_str().into(), self.reason.as_str().into()],
            )?;
            Spi::run_with_args(
                "UPDATE synod.audit_state SET reason = $2, hint = NULLIF($3, ''), failed_at = now(),
                        one_by_one_until = GREATEST(one_by_one_until, NULLIF($4::pg_lsn, '0/0')) WHERE slot_name = $1::name",
                &[
                    slot.as_str().into(),
                    self.reason.as_str().into(),
                    self.hint.as_str().into(),
                    lsn(end).into(),
                ],
            )?;
            Ok(known == Some(true))
        });
        if known != Ok(true) {
            let (message, hint) = (
                format!("auditing of this database cannot go on: {}", self.reason),
                self.hint,
            );
            UserError::new(self.code, message, "", hint).report(PgLogLevel::WARNING);
        }
        if let Err(other) = known {
            pgrx::warning!("and this could not be noted in synod.audit_state: {}", other.reason);
        }
    }
}

/// As `pg_lsn` prints it.
pub fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position as u32)
}

/// Run something in a transaction; an error rolls it back and is its reason.
pub fn transaction<R>(work: impl FnOnce() -> Result<R, pgrx::spi::Error>) -> Result<R, Failure> {
    let work = std::panic::AssertUnwindSafe(|| {
        // SAFETY: main loop of a background worker, in no transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        let result = {
            let _snapshot = ActiveSnapshot::push();
            work().map_err(|error| Failure::new(error.to_string()))?
        };
        // SAFETY: in the transaction begun above.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(result)
    });
    let outcome = PgTryBuilder::new(work)
        .catch_others(|error| Err(Failure::of(&error)))
        .catch_rust_panic(|error| Err(Failure::of(&error)))
        .execute();
    if outcome.is_err() {
        // SAFETY: valid in any state.
        unsafe { pg_sys::AbortCurrentTransaction() }
    }
    outcome
}
