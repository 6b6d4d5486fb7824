//! Facts about this server and this session that never raise.

use std::ffi::CStr;

use pgrx::pg_sys;

/// The number that initdb gave this data directory; copies share it.
pub fn system_identifier() -> u64 {
    // SAFETY: reads the control file's copy in shared memory, attached in every process of the server.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Oid of this session's database; 0 in processes without one.
pub fn database() -> u32 {
    // SAFETY: reads a global of this process.
    u32::from(unsafe { pg_sys::MyDatabaseId })
}

/// Number of the server's version, e.g. 150020.
pub fn version_number() -> u32 {
    pg_sys::PG_VERSION_NUM
}

/// Encoding of this session's database, by PostgreSQL's name.
pub fn encoding() -> String {
    // SAFETY: returns a static string.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }
        .to_string_lossy()
        .into_owned()
}
