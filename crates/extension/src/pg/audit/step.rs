//! One step of auditing: read on, write the rows and how far they go in one transaction, then let the slot go as far.
//!
//! The end of the WAL is read before the transaction's snapshot is taken: whichever `audit_table` had committed up to there is visible to
//! the step that reads it, or the step does not read on. (A commit is in the WAL before others see it, long before when it waits for a
//! standby.)

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use super::failure::{At, Failure, lsn, transaction};
use super::reader::{Reader, Told};
use super::slot_name;
use crate::errors::UserError;
use crate::pg::scratch::ActiveSnapshot;
use crate::pg::{catalog, failpoint};

/// Changes told in a step, if no transaction has more.
const STEP_CHANGES: u64 = 10_000;
/// The position is noted at the latest when so much WAL without audited changes was read: the slot holds it until then.
const NOTE_BYTES: u64 = 64 << 10;

const STEP: &str = include_str!("step.sql");

/// The worker's work.
#[derive(Default)]
pub struct Auditor {
    reader: Option<Reader>,
    /// What fails is about this transaction alone.
    alone: bool,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// There is more to do.
    More,
    /// All that there was.
    Something,
    /// There was nothing.
    Nothing,
    /// Somebody is changing what is audited.
    Later,
    /// Nothing is audited any more.
    Ended,
}

/// `synod.audit_state`.
struct State {
    position: u64,
    one_by_one_until: u64,
    failed: bool,
}

impl Auditor {
    /// One step.
    pub fn step(&mut self) -> Result<Stepped, Failure> {
        // SAFETY: reads shared memory; the timeline is not asked for.
        let until = unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) };
        let (stepped, noted) = transaction(|| self.read_and_write(until))?;
        failpoint::armed("audit-written");
        if let (Some(noted), Some(reader)) = (noted, &self.reader) {
            // Whatever synchronous_commit says: the slot must not pass rows that a crash takes back.
            // SAFETY: outside a transaction; what this process has committed.
            unsafe { pg_sys::XLogFlush(pg_sys::XactLastCommitEnd) };
            reader.confirm(noted);
        }
        Ok(stepped)
    }

    /// Where it was when a step failed.
    pub fn at(&self) -> Option<At> {
        let reader = self.reader.as_ref()?;
        Some(At {
            end: reader.end(),
            transaction: self.alone.then(|| reader.last()),
        })
    }

    /// What it did, and the position if it noted one.
    fn read_and_write(&mut self, until: u64) -> Result<(Stepped, Option<u64>), pgrx::spi::Error> {
        self.alone = false;
        if !is_wanted()? {
            self.end()?;
            return Ok((Stepped::Ended, None));
        }
        let tables = tables()?;
        failpoint::armed("audit-tables");
        let tables = match tables {
            Tables::None => return Ok((self.end_unless_wanted()?, None)),
            Tables::Unsettled => return Ok((Stepped::Later, None)),
            Tables::Some(tables) => tables,
        };
        let state = state()?;
        let reader = self.reader_for(&tables, &state)?;
        if reader.end() >= until {
            return Ok((Stepped::Nothing, None));
        }
        let one_by_one = reader.end() < state.one_by_one_until;
        let limit = if one_by_one { 1 } else { STEP_CHANGES };
        self.alone = one_by_one;
        let Some(reader) = &mut self.reader else {
            return Ok((Stepped::Nothing, None));
        };
        let told = reader.read(until, limit);
        let end = reader.end();
        self.alone &= told.count > 0;
        let written = if told.count > 0 { write(&told)? } else { 0 };
        failpoint::hit("audit");
        let position = end.max(state.position);
        let ended = forget_tables(position)?;
        let noted = written > 0 || ended || state.failed || position - state.position >= NOTE_BYTES;
        if noted {
            note(&state, position);
        }
        let stepped = match told.count {
            _ if ended || end < until => Stepped::More,
            0 => Stepped::Nothing,
            _ => Stepped::Something,
        };
        Ok((stepped, noted.then_some(position)))
    }

    /// The one there is, or one that tells of these tables, from what is noted on.
    fn reader_for(&mut self, tables: &str, state: &State) -> Result<&Reader, pgrx::spi::Error> {
        if let Some(reader) = self.reader.take_if(|reader| !reader.is_for(tables)) {
            reader.close();
        }
        let slot = slot_name();
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                check_slot(&slot, None)?;
                let reader = Reader::open(&slot, state.position, tables);
                // Nobody else can move it now.
                check_slot(&slot, Some(state.position))?;
                reader
            }
        };
        Ok(self.reader.insert(reader))
    }

    /// No table is left: unless one comes, the slot goes.
    fn end_unless_wanted(&mut self) -> Result<Stepped, pgrx::spi::Error> {
        // Against audit_table(), which holds a weaker lock from before it looks for the slot.
        Spi::run("LOCK TABLE synod.audited IN EXCLUSIVE MODE")?;
        let _now = ActiveSnapshot::push();
        if Spi::get_one::<bool>("SELECT EXISTS (SELECT FROM synod.audited)")? == Some(true) {
            return Ok(Stepped::More);
        }
        self.end()?;
        Spi::run("DELETE FROM synod.audit_state")?;
        Ok(Stepped::Ended)
    }

    fn end(&mut self) -> Result<(), pgrx::spi::Error> {
        if let Some(reader) = self.reader.take() {
            reader.close();
        }
        Spi::run(&format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'",
            slot_name()
        ))
    }
}

/// Whether the extension is still there. A table that is gone has all its changes behind it.
fn is_wanted() -> Result<bool, pgrx::spi::Error> {
    if Spi::get_one::<bool>("SELECT to_regclass('synod.audited') IS NOT NULL")? != Some(true) {
        return Ok(false);
    }
    Spi::run(
        "UPDATE synod.audited SET until = pg_current_wal_insert_lsn()
          WHERE until IS NULL AND NOT EXISTS (SELECT FROM pg_class WHERE oid = relation)",
    )?;
    Ok(true)
}

/// What is audited.
enum Tables {
    /// Their numbers.
    Some(String),
    None,
    /// There may be one that others do not see yet, though its commit is in the WAL.
    Unsettled,
}

fn tables() -> Result<Tables, pgrx::spi::Error> {
    let Some(audited) = catalog::named("synod", "audited") else {
        return Ok(Tables::Unsettled);
    };
    // audit_table() has a lock that conflicts until its transaction is visible.
    // SAFETY: inside a transaction; without waiting, and released below or by abort.
    if !unsafe { pg_sys::ConditionalLockRelationOid(audited, pg_sys::ShareLock as i32) } {
        return Ok(Tables::Unsettled);
    }
    let tables = Spi::get_one("SELECT string_agg(relation::text, ',' ORDER BY relation) FROM synod.audited")?;
    // SAFETY: locked above.
    unsafe { pg_sys::UnlockRelationOid(audited, pg_sys::ShareLock as i32) };
    Ok(tables.map_or(Tables::None, Tables::Some))
}

fn state() -> Result<State, pgrx::spi::Error> {
    let sql = format!(
        "SELECT (position - '0/0')::bigint, coalesce(one_by_one_until - '0/0', 0)::bigint, reason IS NOT NULL
           FROM synod.audit_state WHERE slot_name = '{}'",
        slot_name()
    );
    Spi::connect(|client| {
        let row = client.select(sql.as_str(), None, &[])?.first();
        if row.is_empty() {
            UserError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "synod.audit_state does not say how far the audit is",
                "",
                "Drop the replication slot, and call synod.audit_table for one of the tables.",
            )
            .raise();
        }
        Ok(State {
            position: row.get::<i64>(1)?.unwrap_or(0).cast_unsigned(),
            one_by_one_until: row.get::<i64>(2)?.unwrap_or(0).cast_unsigned(),
            failed: row.get::<bool>(3)? == Some(true),
        })
    })
}

/// Raises unless the slot is the one that this audit needs, and is no further than what is recorded.
fn check_slot(slot: &str, recorded: Option<u64>) -> Result<(), pgrx::spi::Error> {
    let raise = |message: String, hint: String| -> ! {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message,
            "",
            hint,
        )
        .raise()
    };
    const ANEW: &str =
        "SELECT synod.audit_table(...) for one of the audited tables makes a new slot, and notes the gap.";
    let sql = format!(
        "SELECT plugin::text, wal_status = 'lost' OR restart_lsn IS NULL, (confirmed_flush_lsn - '0/0')::bigint
           FROM pg_replication_slots WHERE slot_name = '{slot}' AND database = current_database()"
    );
    let (plugin, lost, confirmed) = Spi::connect(|client| {
        let row = client.select(sql.as_str(), None, &[])?.first();
        match row.is_empty() {
            true => Ok::<_, pgrx::spi::Error>((None, None, None)),
            false => Ok((row.get::<String>(1)?, row.get::<bool>(2)?, row.get::<i64>(3)?)),
        }
    })?;
    let Some(plugin) = plugin else {
        raise(format!("its replication slot {slot} is gone"), ANEW.into())
    };
    if plugin != "synod" {
        raise(
            format!("its replication slot {slot} was replaced by one of the plugin {plugin}"),
            format!("Drop that slot. {ANEW}"),
        );
    }
    if lost == Some(true) {
        raise(
            format!("the WAL that its replication slot {slot} had not read is gone"),
            ANEW.into(),
        );
    }
    let confirmed = confirmed.unwrap_or(0).cast_unsigned();
    if let Some(recorded) = recorded.filter(|recorded| *recorded < confirmed) {
        let (from, to) = (lsn(recorded), lsn(confirmed));
        raise(
            format!(
                "its replication slot {slot} was moved: what committed from {from} up to {to} has not been audited"
            ),
            format!(
                "Find out who may use it (REPLICATION). To note the gap and go on behind it: SELECT synod.skip_audit('{to}')."
            ),
        );
    }
    Ok(())
}

/// Rows for what was told; how many.
fn write(told: &Told) -> Result<i64, pgrx::spi::Error> {
    let sql = STEP.replace("{slot}", &slot_name());
    Spi::connect_mut(|client| {
        // SAFETY: connected to SPI, inside the transaction that has the tuplestore; SPI copies neither, and forgets them when it ends.
        unsafe {
            let relation = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>())
                .cast::<pg_sys::EphemeralNamedRelationData>();
            (*relation).md.name = c"audit_told".as_ptr().cast_mut();
            (*relation).md.tupdesc = told.descriptor;
            (*relation).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            (*relation).md.enrtuples = told.count as f64;
            (*relation).reldata = told.store.cast();
            pg_sys::SPI_register_relation(relation);
        }
        let row = client.update(sql.as_str(), None, &[])?.first();
        Ok(row.get::<i64>(1)?.unwrap_or(0))
    })
}

/// Tables of which everything was read that there will be; whether there were any.
fn forget_tables(position: u64) -> Result<bool, pgrx::spi::Error> {
    let sql = format!(
        "WITH gone AS (DELETE FROM synod.audited WHERE until <= '{}' RETURNING 1) SELECT EXISTS (SELECT FROM gone)",
        lsn(position)
    );
    Ok(Spi::connect_mut(|client| client.update(sql.as_str(), None, &[])?.first().get::<bool>(1))? == Some(true))
}

/// Raises when somebody else has moved it.
fn note(state: &State, position: u64) {
    let sql = format!(
        "UPDATE synod.audit_state SET position = '{to}', reason = NULL, hint = NULL, failed_at = NULL,
                one_by_one_until = CASE WHEN one_by_one_until > '{to}' THEN one_by_one_until END
          WHERE slot_name = '{}' AND position = '{}'",
        slot_name(),
        lsn(state.position),
        to = lsn(position)
    );
    let updated = Spi::connect_mut(|client| client.update(sql.as_str(), None, &[]).map(|rows| rows.len()));
    if updated != Ok(1) {
        UserError::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "the position of the audit was changed meanwhile",
            "",
            "",
        )
        .raise();
    }
}
