//! SQL: named logs.

use pgrx::prelude::*;
use pgrx::{PgLogLevel, PgSqlErrorCode};
use synod_change::{Append, MAX_LOG_NAME, MAX_LOG_VALUE, Service, ValueKind};

use crate::errors::UserError;
use crate::pg::arguments::Arguments;
use crate::pg::service::{self, log};
use crate::pg::submit;

/// `synod.append(log, text, after)`
#[pg_extern(sql = false)]
fn append_text(fcinfo: pg_sys::FunctionCallInfo) -> Option<i64> {
    append(&Arguments::of(fcinfo), ValueKind::Text)
}

/// `synod.append(log, bytea, after)`
#[pg_extern(sql = false)]
fn append_bytea(fcinfo: pg_sys::FunctionCallInfo) -> Option<i64> {
    append(&Arguments::of(fcinfo), ValueKind::Bytea)
}

/// `synod.append(log, jsonb, after)`
#[pg_extern(sql = false)]
fn append_jsonb(fcinfo: pg_sys::FunctionCallInfo) -> Option<i64> {
    append(&Arguments::of(fcinfo), ValueKind::Jsonb)
}

/// `None`: it was appended, but trimmed before its round could be read.
fn append(arguments: &Arguments, kind: ValueKind) -> Option<i64> {
    let name = arguments.get::<String>(0)?;
    let value = match kind {
        ValueKind::Jsonb => arguments.jsonb_text(1)?,
        ValueKind::Bytea | ValueKind::Text => arguments.get::<Vec<u8>>(1)?,
    };
    let after = arguments.get::<i64>(2);
    match appended(&name, kind, value, after) {
        Ok(round) => round.map(|round| round as i64),
        Err(error) => error.raise(),
    }
}

fn appended(name: &str, kind: ValueKind, value: Vec<u8>, after: Option<i64>) -> Result<Option<u64>, UserError> {
    check_name(name)?;
    service::check_may_write(c"synod.append()")?;
    if value.len() > MAX_LOG_VALUE {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "the value is too long for an entry of a log",
            format!("It has {} bytes; {MAX_LOG_VALUE} are allowed.", value.len()),
            "Put it into a replicated table, and its key into the log.",
        ));
    }
    let after = after
        .map(|after| u64::try_from(after).map_err(|_| moved_on(name, after)))
        .transpose()?;
    let node = crate::node::required()?;
    let append = Append {
        log: name.into(),
        after,
        time_us: submit::now_us() as i64,
        kind,
        value,
    };
    let csn = service::call(node, Service::Append(append), Vec::new())?;
    crate::pg::failpoint::hit("appended");
    if let Some(round) = log::round_at(csn) {
        return Ok(Some(round));
    }
    match after {
        // Without a condition it was appended, whatever became of it since.
        None => {
            trimmed_since(name, csn).report(PgLogLevel::WARNING);
            Ok(None)
        }
        Some(after) if may_be_trimmed(name, after, csn) => Err(trimmed_since(name, csn)),
        Some(after) => Err(moved_on(name, after as i64)),
    }
}

/// Whether the entry behind `after` could be that of this CSN, and trimmed since. The last entry of a log never is.
fn may_be_trimmed(name: &str, after: u64, csn: u64) -> bool {
    log::first_kept(name).is_some_and(|(round, at)| round > after.saturating_add(1) && at > csn)
}

fn trimmed_since(name: &str, csn: u64) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        format!("log \"{name}\" was trimmed before the round of the new entry could be read"),
        format!("What was asked for stands in the shared log at CSN {csn}; the log has later entries."),
        "Do not append it again without reading the log.",
    )
}

/// `synod.trim_log(log, before)`
#[pg_extern(sql = false)]
fn trim_log(name: &str, before: i64) {
    let trimmed = || {
        check_name(name)?;
        service::check_may_write(c"synod.trim_log()")?;
        let trim = Service::Trim {
            log: name.into(),
            before: u64::try_from(before).unwrap_or(0),
        };
        service::call(crate::node::required()?, trim, Vec::new())
    };
    if let Err(error) = trimmed() {
        error.raise();
    }
}

fn moved_on(name: &str, after: i64) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("round {after} is not the last of log \"{name}\""),
        format!(
            "Its last round known here is {}; nothing was appended.",
            log::last_applied(name)
        ),
        "Read the log, decide again, and append after its last round.",
    )
}

fn check_name(name: &str) -> Result<(), UserError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
    if (1..=MAX_LOG_NAME).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_INVALID_NAME,
        "invalid name of a log",
        format!("It has 1 to {MAX_LOG_NAME} characters, each a letter or digit of ASCII or one of _ - . : /"),
        "Its entries are announced on the channel synod_ and this name.",
    ))
}
