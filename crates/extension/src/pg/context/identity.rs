//! Who this session is, as a JSON object in UTF-8.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::pg::encoding;

thread_local! {
    /// Where the client is; `None` for a Unix socket or a worker.
    static ADDRESS: OnceCell<Option<String>> = const { OnceCell::new() };
}

/// Names, and what the application says (`values`, a JSON object in the encoding of the database).
pub fn describe(values: &[u8]) -> String {
    // SAFETY: inside a transaction; the names are palloc'd.
    let name = |role: pg_sys::Oid| unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            u32::from(role).to_string()
        } else {
            encoding::to_utf8(CStr::from_ptr(name).to_bytes())
        }
    };
    // SAFETY: state of this process.
    let (session, current, pid, session_id, application) = unsafe {
        let application = pg_sys::application_name;
        let application = match application.is_null() {
            true => String::new(),
            false => encoding::to_utf8(CStr::from_ptr(application).to_bytes()),
        };
        (
            name(pg_sys::GetSessionUserId()),
            name(pg_sys::GetUserId()),
            pg_sys::MyProcPid,
            // As log_line_prefix has it: %c.
            format!("{:x}.{:x}", pg_sys::MyStartTime, pg_sys::MyProcPid),
            application,
        )
    };
    let mut out = String::with_capacity(160 + values.len());
    out.push('{');
    put(&mut out, "session_user", &session);
    put(&mut out, "current_user", &current);
    if !application.is_empty() {
        put(&mut out, "application_name", &application);
    }
    if let Some(address) = ADDRESS.with(|known| known.get_or_init(address).clone()) {
        put(&mut out, "client_addr", &address);
    }
    put(&mut out, "session_id", &session_id);
    out.push_str(&format!(",\"pid\":{pid}"));
    if !matches!(values, b"{}" | b"") {
        check(values);
        out.push_str(",\"values\":");
        out.push_str(&encoding::to_utf8(values));
    }
    out.push('}');
    out
}

/// Raises for what is JSON and still nothing that jsonb takes, such as the character 0 or a number beyond `numeric`: the audit could
/// not go on behind it.
fn check(values: &[u8]) {
    let values = CString::new(values).unwrap_or_default();
    let none = || Some(pg_sys::Datum::from(0usize));
    // SAFETY: inside a transaction; a function of type jsonb with the arguments that it takes.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(values.as_ptr().into()), none(), none()]) };
}

fn put(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    // Strings are always serialisable.
    let value = serde_json::to_string(value).unwrap_or_default();
    out.extend(["\"", name, "\":", &value]);
}

fn address() -> Option<String> {
    // SAFETY: functions of this process' connection and of the type inet; both return new values, or NULL.
    unsafe {
        let address = pgrx::direct_function_call_as_datum(pg_sys::inet_client_addr, &[])?;
        let text = pgrx::direct_function_call::<&CStr>(pg_sys::inet_out, &[Some(address)])?;
        Some(text.to_string_lossy().into_owned())
    }
}
