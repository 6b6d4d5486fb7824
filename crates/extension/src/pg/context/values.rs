//! `synod.context`: what the application says about its transactions, a JSON object. A setting, so that it ends with the
//! transaction or savepoint in which it was set LOCAL, and may have a default per session, role or database.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use crate::errors::UserError;
use crate::pg::arguments::Arguments;

/// Larger ones are refused: they would be written once for each transaction.
pub const MAX_BYTES: usize = 8192;

const NAME: &CStr = c"synod.context";
const EMPTY: &CStr = c"{}";

static mut SETTING: *mut c_char = EMPTY.as_ptr().cast_mut();

/// Define the setting. From `_PG_init`.
pub fn define() {
    // SAFETY: called once; the variable lives as long as the process, the hook is guarded.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            NAME.as_ptr(),
            c"What the application says about its transactions, a JSON object.".as_ptr(),
            c"Told to readers of the change stream that ask for context. synod.set_context adds to it for one transaction.".as_ptr(),
            &raw mut SETTING,
            EMPTY.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            0,
            Some(check),
            None,
            None,
        );
    }
}

/// The text of the object, in the encoding of the database.
pub fn current() -> &'static [u8] {
    // SAFETY: the server keeps the variable pointing to a string that lives until it is set anew; callers use it at once.
    unsafe {
        match SETTING.is_null() {
            true => EMPTY.to_bytes(),
            false => CStr::from_ptr(SETTING).to_bytes(),
        }
    }
}

/// Whether nothing was said.
pub fn are_empty() -> bool {
    matches!(current(), b"{}" | b"")
}

/// Refuses what is no JSON object. Runs outside of transactions, too.
#[pg_guard]
unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server gives a string, or null for none. The detail is copied into memory that outlives this call.
    unsafe {
        if (*value).is_null() {
            return true;
        }
        let Some(fault) = fault(CStr::from_ptr(*value).to_bytes()) else {
            return true;
        };
        if let Ok(fault) = CString::new(fault) {
            pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(fault.as_ptr());
        }
        false
    }
}

fn fault(text: &[u8]) -> Option<String> {
    if text.len() > MAX_BYTES {
        return Some(format!("It has {} bytes; {MAX_BYTES} are allowed.", text.len()));
    }
    if text.is_empty() {
        return None;
    }
    // What is JSON does not depend on characters above ASCII, which may be in any encoding here.
    let text = String::from_utf8_lossy(text);
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        Ok(_) => None,
        Err(error) => Some(format!("It must be a JSON object: {error}.")),
    }
}

/// `synod.set_context(jsonb)`: for the rest of the transaction, beside what was said before; NULL: forget that.
pub fn add(arguments: &Arguments) -> Result<(), UserError> {
    if crate::pg::shmem::shared().is_none() {
        return Err(crate::errors::not_preloaded());
    }
    let merged = match arguments.jsonb_text(0) {
        None => EMPTY.to_owned(),
        Some(text) if !text.starts_with(b"{") => {
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "the context of a transaction must be a JSON object",
                "Readers of the change stream are told its names and values.",
                "Give names and values: synod.set_context('{\"request\": 4711}').",
            ));
        }
        Some(_) => merge(arguments)?,
    };
    // SAFETY: inside a transaction; a value that is refused raises.
    unsafe {
        pg_sys::set_config_option(
            NAME.as_ptr(),
            merged.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
    Ok(())
}

/// The server's own `||`, so that numbers stay as they are.
fn merge(arguments: &Arguments) -> Result<CString, UserError> {
    let before = CString::new(if are_empty() { EMPTY.to_bytes() } else { current() });
    // SAFETY: inside a transaction; functions of type jsonb with the arguments that they take, which return new values.
    let merged = unsafe {
        let none = || Some(pg_sys::Datum::from(0usize));
        let before = before.unwrap_or_default();
        let before =
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(before.as_ptr().into()), none(), none()]);
        let merged = pgrx::direct_function_call_as_datum(pg_sys::jsonb_concat, &[before, arguments.datum(0)]);
        pgrx::direct_function_call::<&CStr>(pg_sys::jsonb_out, &[merged]).map(CStr::to_owned)
    };
    merged.ok_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "could not add to the context of the transaction",
            "",
            "",
        )
    })
}
