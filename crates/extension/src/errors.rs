//! What users see: SQLSTATE, message, DETAIL and HINT of every error on the commit and read paths, in one table.

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys::panic::ErrorReport};

/// An error for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserError {
    /// SQLSTATE.
    pub code: PgSqlErrorCode,
    /// Primary message: short, lower case.
    pub message: String,
    /// A sentence, or empty.
    pub detail: String,
    /// A sentence, or empty.
    pub hint: String,
}

impl UserError {
    /// Message, DETAIL and HINT.
    pub fn new(
        code: PgSqlErrorCode,
        message: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            detail: detail.into(),
            hint: hint.into(),
        }
    }

    /// Raise it. Ends the transaction.
    pub fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR);
        unreachable!("ERROR does not return")
    }

    /// Raise it and end the session.
    pub fn raise_fatal(self) -> ! {
        self.report(PgLogLevel::FATAL);
        unreachable!("FATAL does not return")
    }

    /// Report at any level.
    pub fn report(self, level: PgLogLevel) {
        let mut report = ErrorReport::new(self.code, self.message, "synod");
        if !self.detail.is_empty() {
            report = report.set_detail(self.detail);
        }
        if !self.hint.is_empty() {
            report = report.set_hint(self.hint);
        }
        report.report(level);
    }
}

/// 40001: another transaction was first.
pub fn conflict(winner: u64) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not commit because of a conflict with a transaction on another node",
        format!("The transaction at CSN {winner} changed the same rows or unique keys first."),
        "The transaction might succeed if retried.",
    )
}

/// 40001: this transaction was in the way of one that is committed already.
pub fn gave_way() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "canceling statement because of a conflict with a transaction committed on another node",
        "This transaction held a lock that a committed transaction of the group needs.",
        "The transaction might succeed if retried.",
    )
}

/// 40001: as [`gave_way`], and the session ends with it.
pub fn gave_way_for_good() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "terminating connection because of a conflict with a transaction committed on another node",
        "Its transaction held a lock that a committed transaction of the group needs, for longer than synod.lock_grace.",
        "In a moment you should be able to reconnect and repeat the transaction.",
    )
}

/// 40001: a session that has what a change of definitions cannot leave behind, and that the group does not wait for.
pub fn temporary_object_in_the_way() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "terminating connection because of a conflict with a change of definitions committed on another node",
        "The session had a temporary object that depends on what was dropped or altered.",
        "In a moment you should be able to reconnect and repeat the command.",
    )
}

/// 40001: the transaction is older than what certification remembers.
pub fn too_old() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not commit because the transaction is too old to be checked for conflicts",
        "More transactions have committed since its changes than certification remembers.",
        "Retry the transaction; make it shorter.",
    )
}

/// 40001: the id that the user was told names no transaction any more.
pub fn id_is_void() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not commit because the shared log of this node has restarted",
        "What synod.current_transaction_id() returned in this transaction is not valid any more.",
        "The transaction might succeed if retried.",
    )
}

/// 40001: the group's DDL lock is not this transaction's any more.
pub fn ddl_lock_lost() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not commit because the group's DDL lock was lost",
        "The shared log of this node has restarted since the transaction took the lock.",
        "The transaction might succeed if retried.",
    )
}

/// 57P03: nothing was proposed.
pub fn no_quorum() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "no majority of the group can be reached",
        "Nothing was sent to the shared log; the transaction is rolled back.",
        "See synod.nodes and synod.stat_log; retry when a majority is back.",
    )
}

/// 57P03: what only a majority can do, asked for by a function.
pub fn no_leader() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "no majority of the group can be reached",
        "The log worker of this database runs, but no majority of the group has answered it within synod.commit_timeout. Nothing was changed.",
        "See synod.nodes and synod.stat_log for who is reachable; retry when a majority is back.",
    )
}

/// 08007: proposed, verdict unknown.
pub fn unknown(transaction: &str, why: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        "the outcome of the transaction is unknown",
        format!("{why} The transaction may still commit on every node."),
        format!("Ask synod.transaction_status('{transaction}')."),
    )
}

/// 08007: not unknown to those who read on, but SQL has no state for "committed, by somebody else".
pub fn committed_without_us(transaction: &str, why: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        "the transaction is committed, but its session could not wait for that",
        format!(
            "{why} The group has decided that it commits; this node applies it in a moment, like one of another node."
        ),
        format!("Do not repeat it. synod.transaction_status('{transaction}') says the same."),
    )
}

/// 55000: the log worker stopped.
pub fn log_stopped(reason: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the shared log of this node has stopped",
        reason.to_owned(),
        "See synod.stat_log and the server log.",
    )
}

/// 55000: apply stopped.
pub fn apply_stopped(reason: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "this node cannot apply the changes of its group",
        reason.to_owned(),
        "See synod.stat_apply; apply goes on by itself when the cause is gone. SET synod.read_consistency = local reads what is here.",
    )
}

/// 57P03: a strong read got no answer in time.
pub fn read_timeout(detail: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "the strong read got no confirmation from a majority of the group in time",
        detail.to_owned(),
        "Retry, raise synod.read_timeout, or SET synod.read_consistency = local to read what is here.",
    )
}

/// 57P03: a CSN that is waited for does not come.
pub fn not_applied(csn: u64, applied: u64) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        format!("this node has not applied CSN {csn} in time"),
        format!("It has applied everything up to CSN {applied}."),
        "Retry or raise synod.read_timeout; synod.stat_apply and synod.stat_log say what this node is doing.",
    )
}

/// 57P03: a member whose workers are not there yet, or wait for a majority.
pub fn starting() -> UserError {
    let (detail, hint) = if crate::node::starts_without_majority() {
        (
            "Its log worker runs, but no majority of the group has answered it yet; nothing was sent to the shared log.",
            "See synod.nodes and synod.stat_log for who is reachable; retry when a majority is back.",
        )
    } else {
        (
            "Its log worker or its apply worker does not run yet; nothing was sent to the shared log.",
            "Retry in a moment; if it does not pass, see the server log (is max_worker_processes high enough?).",
        )
    };
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "this node of the group is starting",
        detail,
        hint,
    )
}

/// 55000: this database is no member.
pub fn not_a_member() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "this database is not a member of a group",
        "This server has no shared log for it.",
        "Call synod.create_group or synod.join_group first.",
    )
}

/// 55000: not loaded at server start.
pub fn not_preloaded() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "synod must be loaded when the server starts",
        "Its shared memory and workers do not exist.",
        "Add synod to shared_preload_libraries and restart the server.",
    )
}

/// 55000: the session replays another origin's changes.
pub fn origin_in_use() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot write strong tables in a session that has a replication origin set up",
        "The commit of such a transaction carries the origin of the group.",
        "Call pg_replication_origin_session_reset() first.",
    )
}

/// 57014: canceled before anything was proposed.
pub fn canceled() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        "canceling statement due to user request",
        "Nothing was sent to the shared log.",
        "",
    )
}

/// 58030: the file with a large record could not be read back.
pub fn spill_lost() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_IO_ERROR,
        "could not hand the transaction to the shared log",
        "The file with its changes could not be read; nothing was proposed.",
        "See the server log.",
    )
}
