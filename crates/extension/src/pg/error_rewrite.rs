//! What some errors must say to the client, whoever raised them: `emit_log_hook` is the one place that every error passes
//! before it is sent.
//!
//! - An error between the group's decision and the end of the local commit must not look like a rollback: the record commits on
//!   every node, here through the apply worker (on-commit actions, NOTIFY, callbacks of other modules).
//! - The cancel of a transaction that has to give way means "try again".

use pgrx::pg_guard;
use pgrx::pg_sys;

use super::{give_way, xact};
use crate::errors::UserError;

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;

/// Install the hook.
pub fn init() {
    // SAFETY: called from _PG_init in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(rewrite);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn rewrite(error: *mut pg_sys::ErrorData) {
    // SAFETY: the server passes the error that it is about to report.
    unsafe {
        if (*error).elevel >= pgrx::PgLogLevel::ERROR as i32
            && let Some(instead) =
                after_the_verdict(error).or_else(|| give_way::report_instead((*error).sqlerrcode, (*error).elevel))
        {
            overwrite(error, &instead);
        }
        if let Some(previous) = PREVIOUS {
            previous(error);
        }
    }
}

unsafe fn after_the_verdict(error: *const pg_sys::ErrorData) -> Option<UserError> {
    let transaction = xact::committing_transaction()?;
    // SAFETY: the message of an ErrorData is null or a string.
    let cause = unsafe {
        if (*error).message.is_null() {
            String::new()
        } else {
            std::ffi::CStr::from_ptr((*error).message)
                .to_string_lossy()
                .into_owned()
        }
    };
    Some(xact::rewrite_error(&transaction, &cause))
}

unsafe fn overwrite(error: *mut pg_sys::ErrorData, with: &UserError) {
    // SAFETY: the server's error, on its way out.
    let context = unsafe { (*error).assoc_context };
    let copy = |text: &str| {
        let text = std::ffi::CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: strings of an ErrorData live in its context, which outlives its report.
        unsafe { pg_sys::MemoryContextStrdup(context, text.as_ptr()) }
    };
    // SAFETY: the server's error, on its way out.
    unsafe {
        (*error).sqlerrcode = with.code as i32;
        (*error).message = copy(&with.message);
        (*error).detail = copy(&with.detail);
        (*error).hint = copy(&with.hint);
    }
}
