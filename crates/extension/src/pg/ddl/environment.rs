//! What the meaning of a statement depends on beside the catalogs, and its text.

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DdlStatement;

use crate::errors::UserError;
use crate::pg::relcache::c_text;
use crate::pg::{encoding, stream_ddl};

/// Settings that travel. `check_function_bodies` does not: where the statement is replayed bodies are not checked again.
const SETTINGS: [&std::ffi::CStr; 20] = [
    c"search_path",
    c"DateStyle",
    c"IntervalStyle",
    c"TimeZone",
    c"timezone_abbreviations",
    c"default_tablespace",
    c"default_table_access_method",
    c"default_toast_compression",
    c"default_text_search_config",
    c"xmloption",
    c"xmlbinary",
    c"array_nulls",
    c"standard_conforming_strings",
    c"backslash_quote",
    c"bytea_output",
    c"extra_float_digits",
    c"transform_null_equals",
    c"lc_monetary",
    c"lc_numeric",
    // From PostgreSQL 16 on.
    c"icu_validation_level",
];

/// The statement's own text, cut out of what the client sent.
///
/// # Safety
/// The arguments are those of `ProcessUtility_hook`.
pub unsafe fn text(
    statement: *const pg_sys::PlannedStmt,
    source: *const core::ffi::c_char,
) -> Result<String, UserError> {
    // SAFETY: by contract.
    let text = unsafe { stream_ddl::text_of(statement, source) }.ok_or_else(no_text)?;
    if !(text.is_ascii() || encoding::is_utf8()) {
        return Err(other_encoding());
    }
    String::from_utf8(text.to_vec()).map_err(|_| other_encoding())
}

/// Names travel in UTF-8, and are not converted.
pub fn other_encoding() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot change definitions of the group with other than ASCII characters in a database that is not in UTF-8",
        "Definitions travel in UTF-8, and this database has another encoding.",
        "Use ASCII names, keep the statement on this node (SET synod.ddl = local), or use databases in UTF-8.",
    )
}

fn no_text() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot change definitions of the group by a statement without a text",
        "The text of the statement is what the other nodes run; the body of a function with BEGIN ATOMIC has none.",
        "Run the statement by itself, or write the function's body as a string.",
    )
}

/// The statement as it travels.
pub fn capture(text: String, of_group: bool) -> DdlStatement {
    // SAFETY: inside a transaction; the strings are copied. GetConfigOption gives null for what does not exist.
    unsafe {
        let value = |name: &std::ffi::CStr| {
            let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
            (!value.is_null()).then(|| (name.to_string_lossy().into_owned(), c_text(value)))
        };
        DdlStatement {
            of_group,
            transaction_time_us: pg_sys::GetCurrentTransactionStartTimestamp(),
            role: c_text(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false)),
            text,
            only_without: String::new(),
            settings: SETTINGS.into_iter().filter_map(value).collect(),
        }
    }
}

/// The setting's name in C, if it is one of those that travel.
pub fn setting(name: &str) -> Option<&'static std::ffi::CStr> {
    SETTINGS.into_iter().find(|known| known.to_bytes() == name.as_bytes())
}

/// Whether a statement means something else without the setting.
pub fn is_essential(name: &std::ffi::CStr) -> bool {
    const ESSENTIAL: [&std::ffi::CStr; 6] = [
        c"search_path",
        c"DateStyle",
        c"IntervalStyle",
        c"TimeZone",
        c"standard_conforming_strings",
        c"backslash_quote",
    ];
    ESSENTIAL.contains(&name)
}

/// A `search_path` in which no temporary object of the process that replays can take the place of another: they are looked at last,
/// if there are any. (Otherwise `pg_temp` is left out, for where no other schema exists it would be the place of new objects.)
pub fn without_temporary(path: &str) -> String {
    let mut quoted = false;
    let parts = path.split(|character: char| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    let is_temporary = |part: &str| part == "\"pg_temp\"" || part.eq_ignore_ascii_case("pg_temp");
    let mut kept: Vec<&str> = parts.map(str::trim).filter(|part| !is_temporary(part)).collect();
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads the state of this process.
    unsafe { pg_sys::GetTempNamespaceState(&mut schema, &mut toast) };
    if schema != pg_sys::InvalidOid {
        kept.retain(|part| !part.is_empty());
        kept.push("pg_temp");
    }
    kept.join(", ")
}
