//! The worker `synod audit worker for database N`.

use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, Spi, pg_guard, pg_sys};

use super::{exempt, sleeper, slot_name};
use crate::pg::scratch::ActiveSnapshot;
use crate::pg::{failpoint, latch, worker};

/// Changes told in a step, if no transaction has more.
const STEP_CHANGES: u32 = 2000;
/// What is old is removed in pieces of so many rows.
const REMOVED_AT_ONCE: u32 = 10_000;
/// How often something old is looked for.
const REMOVE_EVERY: Duration = Duration::from_secs(60);
/// The latch wakes the worker; this is for wake-ups that got lost.
const LONG: Duration = Duration::from_secs(10);
/// A commit wakes the worker before its WAL is on disk, when it is asynchronous: look again soon, a few times.
const SOON: Duration = Duration::from_millis(150);
const LOOKS: u32 = 6;

/// Held by the one worker of a database: "synod au" in bytes.
const LOCK: i64 = 0x7379_6e6f_6420_6175;

const STEP: &str = include_str!("step.sql");

/// What a step found.
struct Stepped {
    told: i64,
    /// How far the slot can be advanced.
    up_to: Option<String>,
}

/// Entry point; the argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn synod_audit_worker_main(argument: pg_sys::Datum) {
    worker::start_with_interrupts();
    crate::pg::wait_event::set_default(crate::pg::wait_event::WaitEvent::Apply);
    connect(argument.value() as u32);
    exempt();
    // A worker that an earlier launcher has started may still be there.
    if transaction(|| Spi::get_one::<bool>(&format!("SELECT pg_try_advisory_lock({LOCK})"))) != Ok(Some(true)) {
        return;
    }
    match transaction(gives_up) {
        Ok(false) => {}
        Ok(true) => {
            pgrx::warning!(
                "auditing of this database has given up its replication slot: synod.audit_max_wal was reached while it could not go on"
            );
            return;
        }
        Err(reason) => return fail(&reason),
    }
    sleeper::register();
    let mut looks = 0;
    let mut removed = Instant::now();
    loop {
        latch::reset();
        latch::check_for_interrupts();
        worker::reload_if_asked();
        sleeper::will_sleep(true);
        let began = Instant::now();
        let told = match look() {
            Ok(Some(told)) => told,
            Ok(None) => {
                sleeper::unregister();
                return;
            }
            Err(reason) => return fail(&reason),
        };
        if removed.elapsed() >= REMOVE_EVERY {
            removed = Instant::now();
            if let Err(reason) = transaction(remove_old) {
                return fail(&reason);
            }
        }
        if told >= i64::from(STEP_CHANGES) {
            continue;
        }
        looks = if told > 0 { 0 } else { looks + 1 };
        // Every look reads the WAL from where the slot must begin: it may take a part of the time only.
        let pause = if looks >= LOOKS {
            LONG
        } else {
            SOON.max(began.elapsed() * 3)
        };
        let before = Instant::now();
        latch::wait(pause);
        if before.elapsed() < pause {
            looks = 0;
        }
    }
}

/// As the bootstrap superuser, with settings of its own.
fn connect(database: u32) {
    const SETTINGS: [(&std::ffi::CStr, &std::ffi::CStr); 10] = [
        (c"application_name", c"synod audit"),
        (c"search_path", c"pg_catalog"),
        (c"synod.ddl", c"local"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"DateStyle", c"ISO, YMD"),
        (c"TimeZone", c"UTC"),
    ];
    // SAFETY: start of a background worker with database access; the settings exist in all supported versions.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(database), pg_sys::InvalidOid, 0);
        for (name, value) in SETTINGS {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Run something in a transaction; an error rolls it back and is its reason.
fn transaction<R>(work: impl FnOnce() -> Result<R, pgrx::spi::Error>) -> Result<R, String> {
    let work = std::panic::AssertUnwindSafe(|| {
        // SAFETY: main loop of a background worker, in no transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        let result = {
            let _snapshot = ActiveSnapshot::push();
            work().map_err(|error| error.to_string())?
        };
        // SAFETY: in the transaction begun above.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(result)
    });
    let outcome = PgTryBuilder::new(work)
        .catch_others(|error| Err(reason(&error)))
        .catch_rust_panic(|error| Err(reason(&error)))
        .execute();
    if outcome.is_err() {
        // SAFETY: valid in any state.
        unsafe { pg_sys::AbortCurrentTransaction() }
    }
    outcome
}

fn reason(error: &CaughtError) -> String {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = error;
    let mut reason = report.message().to_owned();
    if let Some(detail) = report.detail() {
        reason.push_str(": ");
        reason.push_str(detail);
    }
    reason
}

/// After a failure that has lasted until too much WAL was kept the slot goes. True if it did.
fn gives_up() -> Result<bool, pgrx::spi::Error> {
    let limit = i64::from(crate::settings::AUDIT_MAX_WAL_MB.get()) << 20;
    if limit == 0 || Spi::get_one::<bool>("SELECT to_regclass('synod.audit_state') IS NULL")? == Some(true) {
        return Ok(false);
    }
    let sql = format!(
        "SELECT pg_drop_replication_slot(s.slot_name) FROM pg_replication_slots AS s JOIN synod.audit_state AS a USING (slot_name)
          WHERE a.reason IS NOT NULL AND pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) > {limit}"
    );
    Spi::connect(|client| Ok(!client.select(sql.as_str(), None, &[])?.is_empty()))
}

/// One step, and the slot is told how far it went. `None`: nothing is audited any more.
fn look() -> Result<Option<i64>, String> {
    let Some(stepped) = transaction(step)? else {
        return Ok(None);
    };
    failpoint::armed("audit-written");
    if let Some(up_to) = stepped.up_to {
        // Whatever synchronous_commit says: the slot is saved at once, and must not pass rows that a crash takes back.
        // SAFETY: outside a transaction; what this process has committed.
        unsafe { pg_sys::XLogFlush(pg_sys::XactLastCommitEnd) };
        transaction(|| {
            let sql = format!(
                "SELECT pg_catalog.pg_replication_slot_advance('{}', '{up_to}')",
                slot_name()
            );
            Spi::run(&sql)
        })?;
    }
    Ok(Some(stepped.told))
}

fn step() -> Result<Option<Stepped>, pgrx::spi::Error> {
    if !is_wanted()? {
        return Ok(None);
    }
    let slot = slot_name();
    let oids = "SELECT pg_catalog.string_agg(relation::pg_catalog.text, ',') FROM synod.audited";
    let oids = Spi::get_one::<String>(oids)?.unwrap_or_default();
    // Read before the slot: everything that had committed up to there will have been told.
    let flushed = Spi::get_one::<String>("SELECT pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text")?;
    let sql = STEP
        .replace("{slot}", &slot)
        .replace("{limit}", &STEP_CHANGES.to_string())
        .replace("{oids}", &oids);
    let (told, written, up_to) = Spi::connect_mut(|client| {
        let row = client.update(sql.as_str(), None, &[])?.first();
        Ok::<_, pgrx::spi::Error>((
            row.get::<i64>(1)?.unwrap_or(0),
            row.get::<i64>(2)?.unwrap_or(0),
            row.get::<String>(3)?,
        ))
    })?;
    failpoint::hit("audit");
    let up_to = if told >= i64::from(STEP_CHANGES) {
        up_to
    } else {
        later(up_to, flushed)?
    };
    // Without rows the slot's own position will do.
    if let Some(up_to) = up_to.as_deref().filter(|_| written > 0) {
        let note =
            "UPDATE synod.audit_state SET position = GREATEST(position, $1::pg_lsn), reason = NULL, failed_at = NULL";
        Spi::run_with_args(note, &[up_to.into()])?;
    } else {
        Spi::run("UPDATE synod.audit_state SET reason = NULL, failed_at = NULL WHERE reason IS NOT NULL")?;
    }
    Ok(Some(Stepped { told, up_to }))
}

fn later(one: Option<String>, other: Option<String>) -> Result<Option<String>, pgrx::spi::Error> {
    Spi::get_one_with_args::<String>(
        "SELECT GREATEST($1::pg_lsn, $2::pg_lsn)::text",
        &[one.into(), other.into()],
    )
}

/// Whether a table is audited, or was when what is not read yet was written. If none is, the slot goes.
fn is_wanted() -> Result<bool, pgrx::spi::Error> {
    let there = "SELECT pg_catalog.to_regclass('synod.audited') IS NOT NULL";
    if Spi::get_one::<bool>(there)? != Some(true) {
        // The extension was dropped.
        drop_slot()?;
        return Ok(false);
    }
    // A table that is gone has all its changes behind it.
    Spi::run(
        "UPDATE synod.audited SET until = pg_current_wal_insert_lsn()
          WHERE until IS NULL AND NOT EXISTS (SELECT FROM pg_class WHERE oid = relation)",
    )?;
    Spi::run(
        "DELETE FROM synod.audited WHERE until <= (SELECT s.confirmed_flush_lsn FROM pg_replication_slots AS s
             JOIN synod.audit_state AS a USING (slot_name))",
    )?;
    let any = "SELECT EXISTS (SELECT FROM synod.audited)";
    if Spi::get_one::<bool>(any)? == Some(true) {
        return Ok(true);
    }
    // Against audit_table(), which holds a weaker lock from before it looks for the slot.
    Spi::run("LOCK TABLE synod.audited IN EXCLUSIVE MODE")?;
    let _now = ActiveSnapshot::push();
    if Spi::get_one::<bool>(any)? == Some(true) {
        return Ok(true);
    }
    drop_slot()?;
    Spi::run("DELETE FROM synod.audit_state")?;
    Ok(false)
}

fn drop_slot() -> Result<(), pgrx::spi::Error> {
    Spi::run(&format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'",
        slot_name()
    ))
}

/// What is older than `synod.audit_retention`.
fn remove_old() -> Result<(), pgrx::spi::Error> {
    let minutes = crate::settings::AUDIT_RETENTION_MINUTES.get();
    if minutes <= 0 {
        return Ok(());
    }
    Spi::run(&format!(
        "DELETE FROM synod.audit WHERE event_id IN (SELECT event_id FROM synod.audit
           WHERE changed_at < now() - interval '{minutes} minutes' ORDER BY changed_at LIMIT {REMOVED_AT_ONCE})"
    ))
}

/// Say why, once, and end: the launcher starts another one after a while, which has no slot half-read.
fn fail(reason: &str) {
    let known = transaction(|| {
        let known = Spi::get_one_with_args::<bool>(
            "SELECT EXISTS (SELECT FROM synod.audit_state WHERE reason = $1)",
            &[reason.into()],
        )?;
        Spi::run_with_args(
            "UPDATE synod.audit_state SET reason = $1, failed_at = now()",
            &[reason.into()],
        )?;
        Ok(known == Some(true))
    });
    if known != Ok(true) {
        pgrx::warning!("auditing of this database cannot go on: {reason}");
    }
    if let Err(reason) = known {
        pgrx::warning!("and this could not be noted in synod.audit_state: {reason}");
    }
}
