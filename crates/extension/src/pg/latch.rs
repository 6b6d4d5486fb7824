//! Waking and waiting by PGPROC number.
//!
//! A PGPROC's latch stays valid shared memory after its owner is gone, so waking a stale number is harmless (a spurious
//! wake-up of somebody else, and every wait loops on its condition).

use std::time::Duration;

use pgrx::pg_sys;

use super::wait_event::{self, WaitEvent};

/// This process' PGPROC number; -1: it has given its PGPROC back.
pub fn my_number() -> i32 {
    // SAFETY: MyProc is null or this process' PGPROC.
    unsafe {
        if pg_sys::MyProc.is_null() {
            return -1;
        }
        number_of(pg_sys::MyProc)
    }
}

/// A PGPROC's number.
///
/// # Safety
/// `process` is an element of allProcs.
pub unsafe fn number_of(process: *const pg_sys::PGPROC) -> i32 {
    // SAFETY: by contract; allProcs is one array.
    unsafe { process.offset_from((*pg_sys::ProcGlobal).allProcs) as i32 }
}

/// The PGPROC with this number.
///
/// # Safety
/// `number` came from [`my_number`] of some process of this server.
pub unsafe fn process(number: i32) -> *mut pg_sys::PGPROC {
    // SAFETY: by contract inside allProcs.
    unsafe { (*pg_sys::ProcGlobal).allProcs.add(number as usize) }
}

/// Set the latch of the process with this PGPROC number; -1 is nobody.
pub fn wake(number: i32) {
    if number < 0 {
        return;
    }
    // SAFETY: numbers come from `my_number` of a live process of this server, so they are inside allProcs.
    unsafe {
        let process = (*pg_sys::ProcGlobal).allProcs.add(number as usize);
        pg_sys::SetLatch(&raw mut (*process).procLatch);
    }
}

/// Reset this process' latch. Call before the condition is looked at.
pub fn reset() {
    // SAFETY: MyLatch is set for every process with a PGPROC.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) }
}

/// Wait for this process' latch, a time-out, or the postmaster's death (which ends the process).
/// Does not look at interrupts.
pub fn wait(timeout: Duration) {
    wait_as(wait_event::default_number(), timeout);
}

/// As [`wait`], for the commit or the read of a transaction.
pub fn wait_for(event: WaitEvent, timeout: Duration) {
    wait_as(wait_event::number(event), timeout);
}

fn wait_as(event: u32, timeout: Duration) {
    let flags = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = timeout.as_millis().clamp(1, 3_600_000) as i64;
    // SAFETY: own latch; the number is the server's.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, flags as i32, milliseconds, event);
    }
}

/// Take pending interrupts (cancel, terminate): may raise.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}
