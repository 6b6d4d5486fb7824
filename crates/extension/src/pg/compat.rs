//! Differences between PostgreSQL's major versions, and what pgrx does not bind.

use pgrx::pg_sys;

/// `replorigin_session_setup`: 16 added the process that acquired the origin.
///
/// # Safety
/// Inside a transaction, with no other origin set up in this session.
pub unsafe fn replorigin_session_setup(origin: pg_sys::RepOriginId) {
    // SAFETY: forwarded.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::replorigin_session_setup(origin);
        #[cfg(not(feature = "pg15"))]
        pg_sys::replorigin_session_setup(origin, 0);
    }
    super::origin_state::set(true);
}

/// `replorigin_session_reset`, if we set one up: it raises otherwise.
///
/// # Safety
/// In the process that called `replorigin_session_setup`.
pub unsafe fn replorigin_session_reset_if_setup() {
    if super::origin_state::take() {
        // SAFETY: set up by us in this session and not reset since.
        unsafe { pg_sys::replorigin_session_reset() }
    }
}

/// `CreateWaitEventSet` for the life of the process: 17 wants a resource owner in place of a memory context.
///
/// # Safety
/// In a process with a PGPROC; the set must be freed with `FreeWaitEventSet`.
pub unsafe fn create_wait_event_set(events: i32) -> *mut pg_sys::WaitEventSet {
    // SAFETY: forwarded.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, events);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return pg_sys::CreateWaitEventSet(std::ptr::null_mut(), events);
    }
}
