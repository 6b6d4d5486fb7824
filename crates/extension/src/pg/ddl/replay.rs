//! Running another node's statements, inside the apply worker's transaction: as its role, with its settings, at its time.
//!
//! A statement on the group's own tables must succeed, or apply stops there. Any other is left out, with a warning in the server
//! log, where it fails for a reason that will not pass: what does not belong to the group may differ from node to node. What only a
//! session's temporary object keeps from succeeding is tried again without that (`in_the_way.rs`).

use std::cell::RefCell;
use std::ffi::CString;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use synod_change::DdlStatement;

use super::{environment, in_the_way, index, makes, session};
use crate::errors::UserError;

thread_local! {
    static CURRENT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The statement that failed, for the reason why apply stopped.
pub fn take_current() -> Option<String> {
    CURRENT.take()
}

/// Run it. Raises when it fails and that must not be.
pub fn run(statement: &DdlStatement) {
    if exists(&statement.only_without) {
        return;
    }
    CURRENT.set(Some(excerpt(&statement.text)));
    // In a subtransaction, so that what is in its way can be looked for where it failed.
    if let Err(error) = in_subtransaction(|| execute(statement)) {
        let gives_way = in_the_way::look(statement, code(&error)) == Some(true);
        match reason(&error).filter(|_| !statement.of_group && !gives_way) {
            Some(reason) => {
                in_the_way::take();
                left_out(&statement.text, &reason);
            }
            None => error.rethrow(),
        }
    }
    CURRENT.set(None);
}

/// So much of a text that the reason behind it has room in the view.
fn excerpt(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether what the statement would make is here: a relation, or a schema.
fn exists(name: &str) -> bool {
    let (function, name) = match name.strip_prefix("SCHEMA ") {
        Some(schema) => ("to_regnamespace", schema),
        None => ("to_regclass", name),
    };
    let query = format!("SELECT pg_catalog.{function}($1) IS NOT NULL");
    !name.is_empty()
        && matches!(
            pgrx::Spi::get_one_with_args::<bool>(&query, &[name.into()]),
            Ok(Some(true))
        )
}

/// Do something that may fail and be as if it had not been.
pub(super) fn in_subtransaction<R>(work: impl FnOnce() -> R) -> Result<R, Box<CaughtError>> {
    // SAFETY: inside a transaction; the subtransaction ends below, or with the transaction.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = before.0;
        before
    };
    let work = std::panic::AssertUnwindSafe(|| Ok(work()));
    let outcome = PgTryBuilder::new(work)
        .catch_others(|error| Err(Box::new(error)))
        .execute();
    // SAFETY: ends the subtransaction begun above, and goes back to where it was begun.
    unsafe {
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

fn left_out(text: &str, reason: &str) {
    UserError::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        "a statement of another node was left out here",
        format!("{text}: {reason}"),
        "It concerns no table of the group, whose nodes may differ in all else: run it here by hand where it is needed.",
    )
    .report(pgrx::PgLogLevel::WARNING);
}

fn code(error: &CaughtError) -> PgSqlErrorCode {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.sql_error_code(),
    }
}

/// Why a statement that concerns no table of the group can be left out: whatever it is, but for what passes by itself (a
/// cancel, a conflict, a lack of resources) and for what the server itself got wrong. These are tried again.
fn reason(error: &CaughtError) -> Option<String> {
    use PgSqlErrorCode as Code;
    let CaughtError::PostgresError(report) = error else {
        return None;
    };
    // The class of an SQLSTATE is in its low twelve bits.
    let class = |code: Code| code as u32 & 0xfff;
    let code = report.sql_error_code();
    let tried_again = code == Code::ERRCODE_LOCK_NOT_AVAILABLE
        || [
            Code::ERRCODE_CONNECTION_EXCEPTION,
            Code::ERRCODE_TRANSACTION_ROLLBACK,
            Code::ERRCODE_INSUFFICIENT_RESOURCES,
            Code::ERRCODE_OPERATOR_INTERVENTION,
            Code::ERRCODE_SYSTEM_ERROR,
            Code::ERRCODE_INTERNAL_ERROR,
        ]
        .into_iter()
        .any(|other| class(other) == class(code));
    (!tried_again).then(|| report.message().to_owned())
}

fn execute(statement: &DdlStatement) {
    let before = makes::Before::look(statement);
    let role = CString::new(statement.role.as_str()).unwrap_or_default();
    // SAFETY: inside a transaction; identity and settings are given back below, or by the end of the (sub)transaction.
    let (user, context, level) = unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let role = if statement.role.is_empty() {
            user
        } else {
            pg_sys::get_role_oid(role.as_ptr(), true)
        };
        if role == pg_sys::InvalidOid {
            missing_role(&statement.role).raise();
        }
        let level = pg_sys::NewGUCNestLevel();
        set_all(statement);
        set_time(statement.transaction_time_us);
        pg_sys::SetUserIdAndSecContext(role, context | restrictions(role));
        (user, context, level)
    };
    let done = index::text_here(statement).map_or(Ok(()), |text| pgrx::Spi::run(&text));
    if let Err(error) = done {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not run a statement of another node: {error}"),
            "",
            "",
        )
        .raise();
    }
    // SAFETY: as above.
    unsafe {
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::CommandCounterIncrement();
    }
    before.check();
    // SAFETY: as above.
    unsafe {
        // What the statement's functions have set goes, too: nothing of it may reach what the worker does next.
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::CommandCounterIncrement();
    }
}

/// Do something under the settings of a statement.
pub(super) fn under_its_settings<R>(statement: &DdlStatement, work: impl FnOnce() -> R) -> R {
    // SAFETY: inside a transaction; the settings are given back below, or by the end of the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        set_all(statement);
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        result
    }
}

/// # Safety
/// Inside a transaction and a nest level of settings of its own.
unsafe fn set_all(statement: &DdlStatement) {
    // SAFETY: by contract.
    unsafe {
        set(c"check_function_bodies", "off", true);
        for (name, value) in &statement.settings {
            if let Some(name) = environment::setting(name) {
                let must = statement.of_group || environment::is_essential(name);
                if name == c"search_path" {
                    set(name, &environment::without_temporary(value), must);
                } else {
                    set(name, value, must);
                }
            } else if let Some(name) = name.strip_prefix(session::TAKEN_OVER) {
                set(&CString::new(name).unwrap_or_default(), value, true);
            }
        }
    }
}

/// The statement may call functions of the role's choice, and the worker is a superuser: nothing that they leave behind (a
/// deferred trigger, a cursor, a prepared statement) may run once the worker is itself again. The server refuses these things in a
/// restricted operation. A superuser's functions could have had it simpler.
fn restrictions(role: pg_sys::Oid) -> i32 {
    // SAFETY: a look-up inside a transaction.
    let restricted = match unsafe { pg_sys::superuser_arg(role) } {
        true => 0,
        false => pg_sys::SECURITY_RESTRICTED_OPERATION,
    };
    (pg_sys::SECURITY_LOCAL_USERID_CHANGE | restricted) as i32
}

fn missing_role(role: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("role \"{role}\" does not exist"),
        "It changed a definition on another node; roles belong to each server.",
        "Create the role on this server.",
    )
}

/// A setting that this server does not take is an error where `must`, and else a warning.
unsafe fn set(name: &std::ffi::CStr, value: &str, must: bool) {
    let level = if must {
        pgrx::PgLogLevel::ERROR
    } else {
        pgrx::PgLogLevel::WARNING
    };
    let value = CString::new(value).unwrap_or_default();
    // SAFETY: inside a transaction and a nest level of its own; the apply worker is a superuser.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            level as i32,
            false,
        );
    }
}

/// What `now()` says in this transaction. The server has a function for it that is meant for parallel workers, and insists.
unsafe fn set_time(microseconds: i64) {
    // SAFETY: two clocks of this process; the next transaction sets them anew.
    unsafe {
        let number = pg_sys::ParallelWorkerNumber;
        pg_sys::ParallelWorkerNumber = 0;
        pg_sys::SetParallelStartTimestamps(microseconds, microseconds);
        pg_sys::ParallelWorkerNumber = number;
    }
}
