//! From the encoding of the database to UTF-8, and back.

use pgrx::pg_sys;

/// Whether the database is in UTF-8.
pub fn is_utf8() -> bool {
    // SAFETY: reads a setting of this process.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// Text of the database in UTF-8. What says nothing about its encoding (SQL_ASCII) is taken for UTF-8, with replacement
/// characters where it is none.
pub fn to_utf8(text: &[u8]) -> String {
    // SAFETY: inside a transaction, as conversions are looked up; the result is a palloc'd string, or the argument itself.
    unsafe {
        let from = pg_sys::GetDatabaseEncoding();
        let (utf8, none) = (pg_sys::pg_enc::PG_UTF8 as i32, pg_sys::pg_enc::PG_SQL_ASCII as i32);
        if text.is_ascii() || from == utf8 || from == none {
            return String::from_utf8_lossy(text).into_owned();
        }
        let source = text.as_ptr().cast_mut();
        let converted = pg_sys::pg_do_encoding_conversion(source, text.len() as i32, from, utf8);
        if converted.is_null() || converted == source {
            return String::from_utf8_lossy(text).into_owned();
        }
        std::ffi::CStr::from_ptr(converted.cast())
            .to_string_lossy()
            .into_owned()
    }
}

/// The other way round. Characters that the database's encoding lacks are an error of the server.
pub fn from_utf8(text: &str) -> Vec<u8> {
    // SAFETY: as above.
    unsafe {
        let to = pg_sys::GetDatabaseEncoding();
        let (utf8, none) = (pg_sys::pg_enc::PG_UTF8 as i32, pg_sys::pg_enc::PG_SQL_ASCII as i32);
        if text.is_ascii() || to == utf8 || to == none {
            return text.as_bytes().to_vec();
        }
        let source = text.as_ptr().cast_mut();
        let converted = pg_sys::pg_do_encoding_conversion(source, text.len() as i32, utf8, to);
        if converted.is_null() || converted == source {
            return text.as_bytes().to_vec();
        }
        std::ffi::CStr::from_ptr(converted.cast()).to_bytes().to_vec()
    }
}
