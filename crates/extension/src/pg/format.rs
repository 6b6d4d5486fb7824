//! Settings that the text and binary forms of values depend on, held still while rows are encoded or decoded.
//!
//! A session may choose any DateStyle, search_path or client encoding; the log's bytes must not depend on it.

use pgrx::pg_sys;

/// The client encoding is the database's while this lives: send and receive functions of text convert to it.
pub struct PlainEncoding {
    before: Option<i32>,
}

impl PlainEncoding {
    /// Switch, if needed. Costs nothing in a session whose client encoding is the database's.
    pub fn enter() -> Self {
        // SAFETY: reads and sets this process' encoding; the switch to the database encoding looks up nothing.
        unsafe {
            let (client, database) = (pg_sys::pg_get_client_encoding(), pg_sys::GetDatabaseEncoding());
            if client == database {
                return Self { before: None };
            }
            pg_sys::SetClientEncoding(database);
            Self { before: Some(client) }
        }
    }
}

impl Drop for PlainEncoding {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: the conversion was prepared when the session chose it and is cached in the process, so that this
            // neither looks up anything nor raises; it must also be undone when an ERROR unwinds.
            unsafe {
                pg_sys::SetClientEncoding(before);
            }
        }
    }
}

/// Fixed settings for text output and for deparsing; undone on drop, or by the transaction's abort.
pub struct FixedSettings {
    nest_level: i32,
}

/// What text forms depend on, written and read; the last one, those of definitions only.
const TEXT: [(&std::ffi::CStr, &std::ffi::CStr); 9] = [
    (c"search_path", c"pg_catalog"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"3"),
    (c"bytea_output", c"hex"),
    (c"array_nulls", c"on"),
    (c"lc_monetary", c"C"),
    (c"quote_all_identifiers", c"off"),
];

impl FixedSettings {
    /// For values in text form.
    pub fn for_values() -> Self {
        Self::set(&TEXT[..TEXT.len() - 1])
    }

    /// For definitions: names come out schema-qualified, constants as in every other session. What is compared between nodes and
    /// what indexes are numbered by is such text.
    pub fn for_definitions() -> Self {
        Self::set(&TEXT)
    }

    fn set(settings: &[(&std::ffi::CStr, &std::ffi::CStr)]) -> Self {
        // SAFETY: inside a transaction; GUC_ACTION_SAVE is undone by AtEOXact_GUC of this nest level, here or at abort.
        unsafe {
            let nest_level = pg_sys::NewGUCNestLevel();
            for (name, value) in settings {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self { nest_level }
        }
    }
}

impl Drop for FixedSettings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the nest level is ours, and inner ones are gone by scoping.
            unsafe { pg_sys::AtEOXact_GUC(true, self.nest_level) }
        }
    }
}
