//! An error between the group's decision and the end of the local commit must not look like a rollback to the client:
//! the record commits on every node, here through the apply worker. `emit_log_hook` is the one place that every such error
//! passes before it is sent, whoever raised it (on-commit actions, NOTIFY, callbacks of other modules).

use std::ffi::CString;

use pgrx::pg_guard;
use pgrx::pg_sys;

use super::xact;

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
    // SAFETY: the server passes the error that it is about to report; strings of an ErrorData live in its context.
    unsafe {
        if (*error).elevel >= pgrx::PgLogLevel::ERROR as i32
            && let Some(transaction) = xact::committing_transaction()
        {
            let cause = if (*error).message.is_null() {
                String::new()
            } else {
                std::ffi::CStr::from_ptr((*error).message)
                    .to_string_lossy()
                    .into_owned()
            };
            let user = xact::rewrite_error(&transaction, &cause);
            (*error).sqlerrcode = user.code as i32;
            (*error).message = copy(error, &user.message);
            (*error).detail = copy(error, &user.detail);
            (*error).hint = copy(error, &user.hint);
        }
        if let Some(previous) = PREVIOUS {
            previous(error);
        }
    }
}

unsafe fn copy(error: *mut pg_sys::ErrorData, text: &str) -> *mut core::ffi::c_char {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the context of the error outlives its report.
    unsafe { pg_sys::MemoryContextStrdup((*error).assoc_context, text.as_ptr()) }
}
