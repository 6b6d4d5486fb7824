//! Calling on through a hook without touching the errors that come back.
//!
//! pgrx's own boundary turns every error into a panic and builds a new error from it, which loses CONTEXT, the error position
//! and the names of constraint, table and column. What stands between the server and itself must not do that. So the
//! functions that the server calls as hooks own nothing that needs dropping, call our code through [`guarded`], and call on
//! with [`finally`], the server's `PG_TRY ... PG_RE_THROW`.

use std::mem::MaybeUninit;

use cee_scape::call_with_sigsetjmp;
use pgrx::pg_sys;

unsafe extern "C-unwind" {
    #[link_name = "pg_re_throw"]
    fn rethrow_raw() -> !;
    #[link_name = "FlushErrorState"]
    fn flush_error_raw();
    #[link_name = "geterrcode"]
    fn error_code_raw() -> i32;
}

/// Run our own code inside a hook: a panic or one of our errors leaves as the server's ERROR.
///
/// # Safety
/// The caller's frames, up to the server's, own nothing that needs dropping.
pub unsafe fn guarded<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: by contract.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(work) }
}

/// How the protected call ended badly, for the one who cleans up.
pub struct Failure {
    code: i32,
}

impl Failure {
    /// Whether the error has this SQLSTATE.
    pub fn is(&self, code: pgrx::PgSqlErrorCode) -> bool {
        self.code == code as i32
    }

    /// The first two characters of its SQLSTATE.
    pub fn class(&self) -> [u8; 2] {
        // PGUNSIXBIT of utils/elog.h, for the two lowest characters.
        [0, 6].map(|shift| (self.code >> shift & 0x3f) as u8 + b'0')
    }
}

/// Call into the server. On an error `on_error` runs, and then the same error goes on, unless `on_error` returns a
/// replacement, which raises another one in its place.
///
/// # Safety
/// As for [`guarded`]; `body` only makes raw calls (no pgrx wrappers) and owns nothing that needs dropping.
pub unsafe fn finally<R: Copy>(
    body: impl FnOnce() -> R,
    on_error: impl FnOnce(Failure) -> Option<crate::errors::UserError>,
) -> R {
    // SAFETY: the sequence of PG_TRY, PG_CATCH and PG_RE_THROW (utils/elog.h); the jump comes back into this frame, which
    // is still active, over frames that own nothing.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let exceptions = pg_sys::PG_exception_stack;
        let callbacks = pg_sys::error_context_stack;
        let mut result = MaybeUninit::<R>::uninit();
        let place = result.as_mut_ptr();
        let jumped = call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = std::ptr::from_ref(buffer).cast_mut().cast();
            place.write(body());
            0
        });
        pg_sys::PG_exception_stack = exceptions;
        pg_sys::error_context_stack = callbacks;
        if jumped == 0 {
            return result.assume_init();
        }
        guarded(|| {
            if let Some(error) = on_error(Failure { code: error_code_raw() }) {
                pg_sys::CurrentMemoryContext = context;
                flush_error_raw();
                error.raise();
            }
        });
        rethrow_raw()
    }
}
