//! The apply worker's side: while it works on a transaction, a timer looks every [`PATIENCE_MS`] whether it waits for a lock
//! and, if so, wakes the log worker. The timer only sets a latch; it is safe at any instruction.

use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use pgrx::pg_sys;

use crate::pg::shmem::NodeShared;
use crate::pg::{compat, latch};

/// How long apply waits for a lock before others have to give way.
pub const PATIENCE_MS: i32 = 2;

unsafe extern "C-unwind" {
    /// utils/misc/timeout.c; not bound by pgrx.
    #[link_name = "RegisterTimeout"]
    fn register_raw(id: i32, handler: Option<unsafe extern "C-unwind" fn()>) -> i32;
    #[link_name = "enable_timeout_every"]
    fn enable_every_raw(id: i32, first: pg_sys::TimestampTz, delay_ms: i32);
    #[link_name = "disable_timeout"]
    fn disable_raw(id: i32, keep_indicator: bool);
    /// Not pgrx's wrapper: that one must not run inside a signal handler.
    #[link_name = "SetLatch"]
    fn set_latch_raw(latch: *mut pg_sys::Latch);
}

static TIMEOUT: AtomicI32 = AtomicI32::new(-1);
static NODE: AtomicPtr<NodeShared> = AtomicPtr::new(std::ptr::null_mut());

/// Once, at the apply worker's start.
pub fn init(node: &'static NodeShared) {
    NODE.store(std::ptr::from_ref(node).cast_mut(), Ordering::SeqCst);
    // SAFETY: a background worker with time-outs initialised; the handler is a plain function.
    let id = unsafe { register_raw(compat::USER_TIMEOUT, Some(looked)) };
    TIMEOUT.store(id, Ordering::SeqCst);
}

/// A transaction begins.
pub fn start() {
    let id = TIMEOUT.load(Ordering::Relaxed);
    if id >= 0 {
        // SAFETY: registered in `init`.
        unsafe {
            let first = pg_sys::GetCurrentTimestamp() + i64::from(PATIENCE_MS) * 1000;
            enable_every_raw(id, first, PATIENCE_MS);
        }
    }
}

/// It ended.
pub fn stop() {
    let id = TIMEOUT.load(Ordering::Relaxed);
    if id >= 0 {
        // SAFETY: registered in `init`.
        unsafe { disable_raw(id, false) }
    }
}

/// In the signal handler: atomics and SetLatch only.
unsafe extern "C-unwind" fn looked() {
    // SAFETY: points at shared memory that lives as long as the process, or is null.
    let Some(node) = (unsafe { NODE.load(Ordering::SeqCst).as_ref() }) else {
        return;
    };
    // SAFETY: own PGPROC; a log worker's number is one of `latch::my_number`, so inside allProcs.
    unsafe {
        let number = node.log_worker.load(Ordering::SeqCst);
        if number >= 0 && super::watcher::waits_for_lock(latch::process(latch::my_number())) {
            set_latch_raw(&raw mut (*latch::process(number)).procLatch);
        }
    }
}
