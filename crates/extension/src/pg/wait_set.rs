//! Waiting for this process' latch and descriptors, all at once.

use std::os::fd::RawFd;
use std::time::Duration;

use pgrx::pg_sys;

/// A fixed set of things to wait for.
pub struct WaitSet(*mut pg_sys::WaitEventSet);

impl WaitSet {
    /// The latch, the postmaster's death (which ends the process), and these descriptors becoming readable.
    pub fn new(readable: &[RawFd]) -> Self {
        // SAFETY: a process with a latch; the descriptors outlive the set (the log worker keeps both until its end).
        unsafe {
            let set = super::compat::create_wait_event_set(2 + readable.len() as i32);
            let add = |events, fd, latch| pg_sys::AddWaitEventToSet(set, events, fd, latch, std::ptr::null_mut());
            add(pg_sys::WL_LATCH_SET, -1, pg_sys::MyLatch);
            add(pg_sys::WL_EXIT_ON_PM_DEATH, -1, std::ptr::null_mut());
            for fd in readable {
                add(pg_sys::WL_SOCKET_READABLE, *fd, std::ptr::null_mut());
            }
            Self(set)
        }
    }

    /// Wait. Returns on any event, or at the time-out; zero does not wait. Which of the descriptors are readable is told by
    /// the bits of the answer, in the order of [`Self::new`]; it may lag by one call.
    pub fn wait(&self, timeout: Duration) -> u32 {
        // A remainder below a millisecond is rounded up: sleeping too short would spin.
        let milliseconds = timeout.as_micros().div_ceil(1000).min(3_600_000) as i64;
        let mut events: [pg_sys::WaitEvent; 4] = Default::default();
        // SAFETY: the set is ours and complete; events has room for 4.
        unsafe {
            let event = super::wait_event::default_number();
            let count = pg_sys::WaitEventSetWait(self.0, milliseconds, events.as_mut_ptr(), 4, event);
            events[..usize::try_from(count).unwrap_or(0)]
                .iter()
                .filter(|event| event.events & pg_sys::WL_SOCKET_READABLE != 0 && event.pos >= 2)
                .fold(0, |readable, event| readable | 1 << (event.pos - 2))
        }
    }
}

impl Drop for WaitSet {
    fn drop(&mut self) {
        // SAFETY: ours, not used after.
        unsafe { pg_sys::FreeWaitEventSet(self.0) }
    }
}
