//! What formats need to know of the server, and what the server has to be told while it prints for them.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use synod_change::stream::{Encoding, Environment};

use super::transaction;

unsafe extern "C-unwind" {
    /// Behind the setting; pgrx does not bind it.
    static mut bytea_output: i32;
}

const BYTEA_OUTPUT_HEX: i32 = 1;

/// For the formats of this process.
pub fn environment() -> Environment {
    Environment {
        time: transaction::append_time,
        encoding: encoding(),
        text_encoding: text_encoding(),
        setting,
    }
}

fn encoding() -> Encoding {
    // SAFETY: reads a variable of the server.
    match unsafe { pg_sys::GetDatabaseEncoding() }.cast_unsigned() {
        pg_sys::pg_enc::PG_UTF8 => Encoding::Utf8,
        pg_sys::pg_enc::PG_SQL_ASCII => Encoding::Unknown,
        _ => Encoding::Other,
    }
}

/// A walsender sends messages as they are; the result of a function is converted for the client like any other.
fn text_encoding() -> &'static str {
    // SAFETY: reads variables of the server; both give names out of its table.
    let name = unsafe {
        CStr::from_ptr(if pg_sys::am_walsender {
            pg_sys::GetDatabaseEncodingName()
        } else {
            pg_sys::pg_get_client_encoding_name()
        })
    };
    name.to_str().unwrap_or("SQL_ASCII")
}

fn setting(name: &str) -> Vec<u8> {
    let Ok(name) = CString::new(name) else {
        return Vec::new();
    };
    // SAFETY: returns null for an unknown name; the value may change with the next call, and is copied.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            Vec::new()
        } else {
            CStr::from_ptr(value).to_bytes().to_vec()
        }
    }
}

/// While it lives, output functions print what any PostgreSQL reads back as the same value: dates in ISO style, floats in all their
/// digits, bytea in hex. Sets the variables behind the settings, as core's own senders of rows do.
pub struct ExactText([i32; 4]);

impl ExactText {
    /// From now on.
    pub fn begin() -> Self {
        let exact = [
            pg_sys::USE_ISO_DATES.cast_signed(),
            pg_sys::INTSTYLE_POSTGRES.cast_signed(),
            1,
            BYTEA_OUTPUT_HEX,
        ];
        Self(Self::exchange(exact))
    }

    fn exchange(values: [i32; 4]) -> [i32; 4] {
        // SAFETY: variables of this process, which only output functions read.
        unsafe {
            let before = [
                pg_sys::DateStyle,
                pg_sys::IntervalStyle,
                pg_sys::extra_float_digits,
                bytea_output,
            ];
            [
                pg_sys::DateStyle,
                pg_sys::IntervalStyle,
                pg_sys::extra_float_digits,
                bytea_output,
            ] = values;
            before
        }
    }
}

impl Drop for ExactText {
    fn drop(&mut self) {
        Self::exchange(self.0);
    }
}
