//! What went wrong, in the operator's terms, and how long to wait before the next try.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;

use super::source::SourceError;
use super::{Doing, session};
use crate::pg::apply::ApplyError;
use crate::pg::shmem::NodeShared;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Failures that a fresh snapshot may cure are tried again at once so many times.
const FRESH_TRIES: u32 = 1;

/// A failure to apply.
#[derive(Debug)]
pub struct Failure {
    /// For `synod.stat_apply`, the server log and readers.
    pub reason: String,
    code: PgSqlErrorCode,
    kind: Kind,
    /// For whoever runs the node; empty, or a sentence that the reason ends with.
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Deadlock, lock time-out: gone with the next try.
    Passing,
    /// Rows differ from what the record expects: once more, with a fresh snapshot.
    Divergence,
    /// Stays until somebody does something.
    Lasting,
}

impl Failure {
    /// An error raised by the server, or by our own code as such.
    pub fn from_server(error: &CaughtError) -> Self {
        let report = match error {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => report,
        };
        let code = report.sql_error_code();
        let kind = match code {
            PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
            | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            | PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
            | PgSqlErrorCode::ERRCODE_QUERY_CANCELED => Kind::Passing,
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION | PgSqlErrorCode::ERRCODE_EXCLUSION_VIOLATION => Kind::Divergence,
            _ => Kind::Lasting,
        };
        let mut reason = report.message().to_owned();
        if let Some(detail) = report.detail() {
            reason.push_str(": ");
            reason.push_str(detail);
        }
        Self {
            reason,
            code,
            kind,
            advice: String::new(),
        }
    }

    /// The node is held before the last record of the run.
    pub fn held() -> Self {
        Self {
            reason: "this node is held for a moment".into(),
            code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            kind: Kind::Passing,
            advice: String::new(),
        }
    }

    /// What is to be done about it.
    pub fn with_advice(mut self, advice: &str) -> Self {
        self.advice = format!(". {advice}");
        self
    }

    /// What was in the way is not any more, or will not be in a moment.
    pub fn that_passes(mut self) -> Self {
        self.kind = Kind::Passing;
        self
    }

    /// Say at which record and table it happened, and who is in the way if a prepared transaction is.
    pub fn while_doing(mut self, doing: &Doing, node: &NodeShared) -> Self {
        let prepared = node.blocking_prepared.swap(0, Ordering::SeqCst);
        if self.code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED && prepared != 0 {
            self.kind = Kind::Lasting;
            self.code = PgSqlErrorCode::ERRCODE_OBJECT_IN_USE;
            self.reason = match session::prepared_transaction(prepared) {
                Some(gid) => format!("the prepared transaction \"{gid}\" holds a lock that it needs"),
                None => "a prepared transaction held a lock that it needs".into(),
            };
        }
        let at = doing.csn.get();
        let table = doing.table.borrow();
        let statement = crate::pg::ddl::replay::take_current();
        self.reason = match table.as_ref() {
            _ if statement.is_some() => {
                format!("CSN {at}, {}: {}", statement.unwrap_or_default(), self.reason)
            }
            Some(table) => format!("CSN {at}, table {}: {}", table.name, self.reason),
            None => format!("CSN {at}: {}", self.reason),
        };
        let said = self.reason.trim_end_matches('.').len();
        if !self.advice.is_empty() {
            self.reason.truncate(said);
            self.reason.push_str(&self.advice);
        }
        self
    }

    /// To the server log.
    pub fn log(&self) {
        pgrx::ereport!(
            WARNING,
            self.code,
            "synod stops applying changes of the group",
            format!(
                "{}. It tries again by itself; see synod.stat_apply.",
                self.reason.trim_end_matches(['.', ';'])
            )
        );
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        let (code, kind) = match &error {
            ApplyError::SchemaDiffers { .. } | ApplyError::UnknownTable(_) | ApplyError::Row { .. } => {
                (PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, Kind::Lasting)
            }
            ApplyError::Diverged { .. } => (PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, Kind::Divergence),
            ApplyError::Unreadable(_) => (PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, Kind::Lasting),
        };
        Self {
            reason: error.to_string(),
            code,
            kind,
            advice: String::new(),
        }
    }
}

/// The node's own small files.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self {
            reason: error.to_string(),
            code: PgSqlErrorCode::ERRCODE_IO_ERROR,
            kind: Kind::Lasting,
            advice: String::new(),
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self {
            reason: error.to_string(),
            code: PgSqlErrorCode::ERRCODE_IO_ERROR,
            kind: Kind::Lasting,
            advice: String::new(),
        }
    }
}

/// How long to wait before the next try.
#[derive(Default)]
pub struct Pause {
    tries: u32,
    last: Option<Duration>,
}

impl Pause {
    /// Whether to try again at once.
    pub fn passes(&mut self, failure: &Failure) -> bool {
        match failure.kind {
            Kind::Passing => true,
            Kind::Divergence if self.tries < FRESH_TRIES => {
                self.tries += 1;
                true
            }
            _ => false,
        }
    }

    /// The next pause: each twice as long as the one before.
    pub fn next(&mut self) -> Duration {
        let next = self.last.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.last = Some(next);
        next
    }
}
