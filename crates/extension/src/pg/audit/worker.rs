//! The worker `synod audit worker for database N`.

use std::time::{Duration, Instant};

use pgrx::{Spi, pg_guard, pg_sys};

use super::failure::transaction;
use super::step::{Auditor, Stepped};
use super::{exempt, sleeper};
use crate::pg::{latch, worker};

/// What is old is removed in pieces of so many rows.
const REMOVED_AT_ONCE: usize = 10_000;
/// How often something old is looked for.
const REMOVE_EVERY: Duration = Duration::from_secs(60);
/// The latch wakes the worker; this is for wake-ups that got lost.
const LONG: Duration = Duration::from_secs(10);
/// A commit wakes the worker before its WAL is on disk, when it is asynchronous: look again soon, a few times.
const SOON: Duration = Duration::from_millis(150);
const LOOKS: u32 = 6;

/// Held by the one worker of a database: "synod au" in bytes.
const LOCK: i64 = 0x7379_6e6f_6420_6175;

/// What auditing depends on, whatever the database or the role says.
const SETTINGS: [worker::Setting; 3] = [
    (c"application_name", c"synod audit"),
    (c"search_path", c"pg_catalog"),
    (c"synod.ddl", c"local"),
];

/// Entry point; the argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn synod_audit_worker_main(argument: pg_sys::Datum) {
    worker::start_with_interrupts();
    crate::pg::wait_event::set_default(crate::pg::wait_event::WaitEvent::Apply);
    worker::connect(argument.value() as u32, &SETTINGS);
    exempt();
    // A worker that an earlier launcher has started may still be there.
    if transaction(|| Spi::get_one::<bool>(&format!("SELECT pg_try_advisory_lock({LOCK})"))) != Ok(Some(true)) {
        return;
    }
    match transaction(gives_up) {
        Ok(false) => {}
        Ok(true) => {
            sleeper::unregister();
            pgrx::warning!(
                "auditing of this database has given up its replication slot: synod.audit_max_wal was reached while it could not go on"
            );
            return;
        }
        Err(failure) => return failure.report(None),
    }
    sleeper::register();
    run();
}

/// Until nothing is audited any more, or something fails.
fn run() {
    let mut auditor = Auditor::default();
    let mut looks = 0;
    let mut removed: Option<Instant> = None;
    loop {
        latch::reset();
        latch::check_for_interrupts();
        worker::reload_if_asked();
        sleeper::will_sleep(true);
        let stepped = match auditor.step() {
            Ok(Stepped::Ended) => return sleeper::unregister(),
            Ok(stepped) => stepped,
            Err(failure) => {
                failure.report(auditor.at());
                // Without a slot there is nothing to start another one for.
                if !super::is_on() {
                    sleeper::unregister();
                }
                return;
            }
        };
        if removed.is_none_or(|removed| removed.elapsed() >= REMOVE_EVERY) {
            removed = match transaction(remove_old) {
                Ok(true) => None,
                Ok(false) => Some(Instant::now()),
                Err(failure) => return failure.report(None),
            };
        }
        match stepped {
            _ if removed.is_none() => continue,
            Stepped::More => continue,
            Stepped::Nothing => looks += 1,
            _ => looks = 0,
        }
        let pause = if looks >= LOOKS { LONG } else { SOON };
        let before = Instant::now();
        latch::wait(pause);
        if before.elapsed() < pause {
            looks = 0;
        }
    }
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

/// What is older than `synod.audit_retention`; true if there may be more of it.
fn remove_old() -> Result<bool, pgrx::spi::Error> {
    let minutes = crate::settings::AUDIT_RETENTION_MINUTES.get();
    if minutes <= 0 {
        return Ok(false);
    }
    let sql = format!(
        "DELETE FROM synod.audit WHERE event_id IN (SELECT event_id FROM synod.audit
           WHERE changed_at < now() - interval '{minutes} minutes' ORDER BY changed_at LIMIT {REMOVED_AT_ONCE})"
    );
    Spi::connect_mut(|client| Ok(client.update(sql.as_str(), None, &[])?.len() >= REMOVED_AT_ONCE))
}
