//! Named logs: `synod.log_entry` (log, round, csn, node_id, appended_at, value_type, value).
//!
//! Invariants: written by apply workers only, in the order of CSNs; rounds of a log ascend by one from 1; the last entry of a
//! log is never removed, so that no round is given out twice.

use std::ffi::CString;

use pgrx::datum::IntoDatum;
use pgrx::pg_sys;
use synod_change::{Append, ValueKind};

use super::own_table::{Condition, OwnTable};
use crate::pg::apply::Origin;

const LOG: i16 = 1;
const ROUND: i16 = 2;
const CSN: i16 = 3;

/// Above this share of the server's queue of notifications, entries are no longer announced: a full queue would stop apply.
const MAX_QUEUE_USAGE: f64 = 0.75;

unsafe extern "C-unwind" {
    #[link_name = "Async_Notify"]
    fn notify_raw(channel: *const core::ffi::c_char, payload: *const core::ffi::c_char);
}

fn open(lock: u32) -> Option<OwnTable> {
    OwnTable::open(c"log_entry", c"log_entry_pkey", lock)
}

/// A log's name as a datum.
fn text(value: &str) -> pg_sys::Datum {
    value.into_datum().unwrap_or(pg_sys::Datum::from(0))
}

fn last_round(table: &OwnTable, log: pg_sys::Datum) -> u64 {
    let of_log = Condition::equal(LOG, pg_sys::F_TEXTEQ, log);
    table
        .first(&[of_log], true, |row| row.get(ROUND).value() as u64)
        .unwrap_or(0)
}

/// Add an entry, unless it was to follow another one than the last, and tell who listens.
pub fn append(append: Append, origin: Origin) {
    let Some(table) = open(pg_sys::RowExclusiveLock) else {
        return;
    };
    let log = text(&append.log);
    let last = last_round(&table, log);
    if append.after.is_some_and(|after| after != last) {
        return;
    }
    let value_type = match append.kind {
        ValueKind::Bytea => pg_sys::BYTEAOID,
        ValueKind::Text => pg_sys::TEXTOID,
        ValueKind::Jsonb => pg_sys::JSONBOID,
    };
    let value = append.value.into_datum().unwrap_or(pg_sys::Datum::from(0));
    let round = last + 1;
    table.insert(&mut [
        log,
        pg_sys::Datum::from(round),
        pg_sys::Datum::from(origin.csn),
        pg_sys::Datum::from(origin.node),
        pg_sys::Datum::from(append.time_us),
        value_type.into(),
        value,
    ]);
    // SAFETY: both were allocated by `into_datum`, and copied into the table.
    unsafe {
        pg_sys::pfree(log.cast_mut_ptr());
        pg_sys::pfree(value.cast_mut_ptr());
    }
    announce(&append.log, round);
}

fn announce(log: &str, round: u64) {
    // SAFETY: a function without arguments.
    let usage = unsafe { pgrx::direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]) };
    if usage.is_some_and(|usage| usage > MAX_QUEUE_USAGE) {
        pgrx::warning!(
            "the entry {round} of log \"{log}\" is not announced: the queue of notifications is nearly full"
        );
        return;
    }
    let (Ok(channel), Ok(payload)) = (CString::new(format!("synod_{log}")), CString::new(round.to_string())) else {
        return;
    };
    // SAFETY: inside a transaction; both are copied; the name was checked to fit a channel's.
    unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| notify_raw(channel.as_ptr(), payload.as_ptr()));
    }
}

/// Remove the entries of rounds below `before`, but not the last.
pub fn trim(log: &str, before: u64) {
    let Some(table) = open(pg_sys::RowExclusiveLock) else {
        return;
    };
    let log = text(log);
    let bound = before.min(last_round(&table, log));
    let conditions = [
        Condition::equal(LOG, pg_sys::F_TEXTEQ, log),
        Condition {
            column: ROUND,
            strategy: pg_sys::BTLessStrategyNumber,
            function: pg_sys::F_INT8LT,
            value: pg_sys::Datum::from(bound),
        },
    ];
    table.scan(&conditions, false, |row| {
        row.delete();
        true
    });
}

/// What an earlier group left: its CSNs mean nothing any more.
pub fn begin_group() {
    let Some(table) = OwnTable::open(c"log_entry", c"log_entry_csn_idx", pg_sys::RowExclusiveLock) else {
        return;
    };
    let left = Condition {
        column: CSN,
        strategy: pg_sys::BTGreaterStrategyNumber,
        function: pg_sys::F_INT8GT,
        value: pg_sys::Datum::from(0_u64),
    };
    table.scan(&[left], false, |row| {
        let mut values: Vec<pg_sys::Datum> = (1..=7).map(|column| row.get(column)).collect();
        values[CSN as usize - 1] = pg_sys::Datum::from(0_u64);
        row.replace(&mut values);
        true
    });
}

/// The round of the entry that was appended at this CSN, once that is applied; `None` when it was not to be.
pub fn round_at(csn: u64) -> Option<u64> {
    let table = OwnTable::open(c"log_entry", c"log_entry_csn_idx", pg_sys::AccessShareLock)?;
    let at = Condition::equal(CSN, pg_sys::F_INT8EQ, pg_sys::Datum::from(csn));
    table.first(&[at], false, |row| row.get(ROUND).value() as u64)
}

/// The first entry of a log that was not trimmed: its round and CSN.
pub fn first_kept(log: &str) -> Option<(u64, u64)> {
    let of_log = Condition::equal(LOG, pg_sys::F_TEXTEQ, text(log));
    open(pg_sys::AccessShareLock)?.first(&[of_log], false, |row| {
        (row.get(ROUND).value() as u64, row.get(CSN).value() as u64)
    })
}

/// The last round of a log that is applied here; 0: it has no entry.
pub fn last_applied(log: &str) -> u64 {
    open(pg_sys::AccessShareLock).map_or(0, |table| last_round(&table, text(log)))
}
