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
    if !audit::has_full_identity(table) {
        notice(table);
    }
    audit::wake_launcher_and_worker();
    Ok(())
}

/// The slot of this database, unless it is there and of use.
fn make_slot() -> Result<(), UserError> {
    let name = audit::slot_name();
    let there = "SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1 AND wal_status OPERATOR(pg_catalog.<>) 'lost'";
    if read(there, &[name.as_str().into()])? {
        return Ok(());
    }
    audit::check_can_make_slot()?;
    let lost = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1";
    read(lost, &[name.as_str().into()])?;
    if read("SELECT 1 FROM synod.audit_state", &[])? {
        UserError::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            "the audit of this database has a gap",
            "Its replication slot, or the WAL that it had not read, is gone; it goes on from here.",
            "Watch synod.stat_audit; see synod.audit_max_wal and max_slot_wal_keep_size.",
        )
        .report(pgrx::PgLogLevel::WARNING);
    }
    read(
        "SELECT pg_catalog.pg_create_logical_replication_slot($1, 'synod')",
        &[name.as_str().into()],
    )?;
    run(
        "INSERT INTO synod.audit_state (slot_name, position)
         SELECT slot_name, confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1
             ON CONFLICT (slot_name) DO UPDATE SET position = EXCLUDED.position, reason = NULL, failed_at = NULL",
        &[name.as_str().into()],
    )?;
    Ok(())
}

fn notice(table: pg_sys::Oid) {
    let name = audit::name_of(table);
    UserError::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("the audit of table {name} will have only the key of rows before a change"),
        "What else they held is not in the WAL.",
        format!("ALTER TABLE {name} REPLICA IDENTITY FULL, if the audit shall have all of it."),
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
