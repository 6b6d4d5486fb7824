//! SQL: which tables are audited.
//!
//! The replication slot is made before a table is noted, so that no change that commits after the call is missed; the worker
//! drops it when no table is left, under a lock that keeps both apart.

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, Spi};

use crate::errors::{self, UserError};
use crate::pg::audit;

/// `synod.audit_table(table)`
#[pg_extern(sql = false)]
fn audit_table(table: pg_sys::Oid) {
    if let Err(error) = begin(table) {
        error.raise();
    }
}

/// `synod.unaudit_table(table)`
#[pg_extern(sql = false)]
fn unaudit_table(table: pg_sys::Oid) {
    let ended = run(
        "UPDATE synod.audited SET until = pg_catalog.pg_current_wal_insert_lsn()
          WHERE relation OPERATOR(pg_catalog.=) $1 AND until IS NULL RETURNING relation",
        &[table.into()],
    );
    match ended {
        Ok(true) => audit::wake_launcher_and_worker(),
        Ok(false) => UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} is not audited", audit::name_of(table)),
            "Nothing was changed.",
            "See synod.audited.",
        )
        .raise(),
        Err(error) => error.raise(),
    }
}

/// `synod.skip_audit(up_to)`
#[pg_extern(sql = false)]
fn skip_audit(up_to: i64) {
    if let Err(error) = skip(&audit::lsn(up_to.cast_unsigned())) {
        error.raise();
    }
}

/// What committed from the position up to there is not audited, ever. Only while auditing has stopped: nothing is left out of what can
/// be read.
fn skip(up_to: &str) -> Result<(), UserError> {
    let slot = audit::slot_name();
    let refused = |message: String, hint: &str| {
        let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        Err(UserError::new(code, message, "Nothing was changed.", hint))
    };
    let arguments = [slot.as_str().into(), up_to.into()];
    let stopped = "SELECT FROM synod.audit_state WHERE slot_name OPERATOR(pg_catalog.=) $1::pg_catalog.name AND reason IS NOT NULL
                      AND $2::pg_catalog.pg_lsn IS NOT NULL FOR UPDATE";
    if !run(stopped, &arguments)? {
        return refused(
            "auditing of this database has not stopped".into(),
            "See synod.stat_audit.",
        );
    }
    let there = "SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1 AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    if !read(there, &arguments[..1])? {
        return refused(
            format!("replication slot {slot} is gone"),
            "Call synod.audit_table for one of the audited tables: it goes on from there.",
        );
    }
    let gap = "INSERT INTO synod.audit_gaps (began, ended, reason, noted_by)
        SELECT position, $2::pg_catalog.pg_lsn, reason, SESSION_USER FROM synod.audit_state
         WHERE slot_name OPERATOR(pg_catalog.=) $1::pg_catalog.name AND position OPERATOR(pg_catalog.<) $2::pg_catalog.pg_lsn
           AND $2::pg_catalog.pg_lsn OPERATOR(pg_catalog.<=) pg_catalog.pg_current_wal_flush_lsn() RETURNING 1";
    if !run(gap, &arguments)? {
        return refused(
            format!("{up_to} is not between the position of the audit and the end of the WAL"),
            "The hint in synod.stat_audit has the one that is meant.",
        );
    }
    run(
        "UPDATE synod.audit_state SET position = $2::pg_catalog.pg_lsn, reason = NULL, hint = NULL, failed_at = NULL
          WHERE slot_name OPERATOR(pg_catalog.=) $1::pg_catalog.name RETURNING 1",
        &arguments,
    )?;
    warn_of_gap(&format!(
        "What committed up to {up_to} and was not audited is left out."
    ));
    audit::wake_launcher_and_worker();
    Ok(())
}

fn warn_of_gap(detail: &str) {
    UserError::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        "the audit of this database has a gap",
        detail,
        "Watch synod.stat_audit; see synod.audit_gaps, synod.audit_max_wal and max_slot_wal_keep_size.",
    )
    .report(pgrx::PgLogLevel::WARNING);
}

fn begin(table: pg_sys::Oid) -> Result<(), UserError> {
    if crate::pg::shmem::shared().is_none() {
        return Err(errors::not_preloaded());
    }
    audit::check_table(table)?;
    audit::keep_worker_from_ending()?;
    make_slot()?;
    run(
        "INSERT INTO synod.audited (relation, since) VALUES ($1, pg_catalog.pg_current_wal_insert_lsn())
             ON CONFLICT (relation) DO UPDATE SET until = NULL",
        &[table.into()],
    )?;
    if let Some(partial) = audit::without_full_identity(table) {
        notice(table, partial);
    }
    audit::wake_launcher_and_worker();
    Ok(())
}

/// The slot of this database, unless it is there and of use.
fn make_slot() -> Result<(), UserError> {
    let name = audit::slot_name();
    let there = "SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1 AND wal_status OPERATOR(pg_catalog.<>) 'lost' AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    if read(there, &[name.as_str().into()])? {
        return Ok(());
    }
    audit::check_can_make_slot()?;
    let lost = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1";
    read(lost, &[name.as_str().into()])?;
    if read("SELECT 1 FROM synod.audit_state", &[])? {
        warn_of_gap("Its replication slot, or the WAL that it had not read, is gone; it goes on from here.");
    }
    read(
        "SELECT pg_catalog.pg_create_logical_replication_slot($1, 'synod')",
        &[name.as_str().into()],
    )?;
    run(
        "INSERT INTO synod.audit_gaps (began, ended, reason, noted_by)
         SELECT a.position, s.confirmed_flush_lsn, coalesce(a.reason, 'its replication slot is gone'), SESSION_USER
           FROM synod.audit_state AS a, pg_catalog.pg_replication_slots AS s
          WHERE s.slot_name OPERATOR(pg_catalog.=) $1",
        &[name.as_str().into()],
    )?;
    run(
        "DELETE FROM synod.audit_state WHERE slot_name OPERATOR(pg_catalog.<>) $1",
        &[name.as_str().into()],
    )?;
    run(
        "INSERT INTO synod.audit_state (slot_name, position)
         SELECT slot_name, confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1
             ON CONFLICT (slot_name) DO UPDATE SET position = EXCLUDED.position, reason = NULL, hint = NULL, failed_at = NULL,
                one_by_one_until = NULL",
        &[name.as_str().into()],
    )?;
    Ok(())
}

fn notice(table: pg_sys::Oid, partial: pg_sys::Oid) {
    let (name, partial_name) = (audit::name_of(table), audit::name_of(partial));
    let of_each = if table == partial {
        ""
    } else {
        " Each partition has a setting of its own."
    };
    UserError::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("the audit of table {name} will have only the key of rows before a change"),
        "What else they held is not in the WAL.",
        format!("ALTER TABLE {partial_name} REPLICA IDENTITY FULL, if the audit shall have all of it.{of_each}"),
    )
    .report(pgrx::PgLogLevel::NOTICE);
}

/// Whether the statement gave a row. The transaction gets its number by it.
fn run(sql: &str, arguments: &[pgrx::datum::DatumWithOid<'_>]) -> Result<bool, UserError> {
    let rows = Spi::connect_mut(|client| client.update(sql, None, arguments).map(|rows| !rows.is_empty()));
    rows.map_err(|error| failed(&error))
}

/// Whether the query gave a row. The transaction can make a slot afterwards.
fn read(sql: &str, arguments: &[pgrx::datum::DatumWithOid<'_>]) -> Result<bool, UserError> {
    let rows = Spi::connect(|client| client.select(sql, None, arguments).map(|rows| !rows.is_empty()));
    rows.map_err(|error| failed(&error))
}

fn failed(error: &pgrx::spi::Error) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("could not change what is audited: {error}"),
        "",
        "",
    )
}
