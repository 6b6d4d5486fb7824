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
