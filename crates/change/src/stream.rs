//! The change stream: what a reader of logical decoding is told, and the formats it can be told in.
//!
//! The server's side (the extension's `pg/decode`) turns what was decoded into [`Event`]s, one at a time and in the order in
//! which transactions committed; a [`Format`] writes each into the bytes of one message. Formats are pure: they see no server,
//! and what they write depends on nothing but the events so far and their options.
//!
//! A new format is a struct in a file (or folder) of its own that implements [`Format`], and a line in [`new_format`]. The rest
//! is the server's side's, alike for all: which tables, columns, rows, operations and origins are told, masks, whether
//! transactions that changed nothing are told (`skip-empty-xacts`), whether transactions in progress are (`stream-changes`).

pub mod binary;
mod digits;
pub mod event;
pub mod filters;
mod json;
mod keys;
pub mod literal;
pub mod option;
pub mod own_message;
mod per_table;
pub mod record_message;
mod sql;
pub mod stored_row;
mod text;

pub use event::{
    Change, Column, Ddl, Emptied, Event, EventId, Message, Place, ReplicaIdentity, Table, Transaction, TypeClass,
};
pub use filters::Filters;
pub use json::Json;
pub use json::text::put_string as put_json_string;
pub use keys::Keys;
pub use option::OptionError;
pub use sql::Sql;
pub use text::Text;

/// One way to write events.
pub trait Format {
    /// The options that it takes, beside those of all formats.
    fn options(&self) -> &'static [&'static str];

    /// Take one of [`Self::options`]; each comes at most once. No value: the reader gave the name alone.
    fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError>;

    /// All options are there: whether they go together.
    fn check(&mut self) -> Result<(), OptionError> {
        Ok(())
    }

    /// Append the message that tells `event`. Nothing appended: no message is sent.
    ///
    /// Called for every row: it must not allocate once `out` is large enough, and takes what it needs of a table (quoted names,
    /// say) from what it worked out when it first saw its [`Table::version`].
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>);

    /// No row of this version of a table will come: drop what was worked out for it.
    fn forget(&mut self, version: u64) {
        let _ = version;
    }

    /// The messages are bytes, not text: `pg_logical_slot_get_binary_changes` and its like only.
    fn is_binary(&self) -> bool {
        false
    }

    /// A message may hold several events: what is written for one may be sent with that for the next.
    fn joins_messages(&self) -> bool {
        false
    }

    /// Events come in UTF-8 whatever the database's encoding. Otherwise messages are in the database's encoding, and the server
    /// converts them for the client as it does any text.
    fn wants_utf8(&self) -> bool {
        false
    }

    /// Values of integers, floats, booleans, uuid, bytea, dates and times come as [`crate::Value::Binary`].
    fn wants_binary_values(&self) -> bool {
        false
    }

    /// [`Change::Truncate`] comes once for each table, with one: [`Event::each_table`].
    fn one_table_at_a_time(&self) -> bool {
        false
    }

    /// Values are printed so that they can be read back whatever the settings there: dates in ISO style, floats in all their digits.
    /// Otherwise as the session's settings say, as `test_decoding` and wal2json do.
    fn wants_exact_text(&self) -> bool {
        false
    }

    /// It can tell of transactions in progress, of which blocks interleave.
    fn tells_open_transactions(&self) -> bool {
        true
    }

    /// It can tell of transactions when they are prepared. Otherwise they come when they are committed.
    fn tells_prepared_transactions(&self) -> bool {
        true
    }

    /// [`Column::default`] is filled in.
    fn wants_defaults(&self) -> bool {
        false
    }
}

/// What a format needs of the server and cannot work out itself.
#[derive(Clone, Copy)]
pub struct Environment {
    /// Append a time as the server prints a `timestamptz` in ISO style, in the session's time zone.
    pub time: fn(i64, &mut Vec<u8>),
    /// Of the database.
    pub encoding: Encoding,
    /// The name of the encoding that messages reach the reader in, if the format does not [`Format::wants_utf8`].
    pub text_encoding: &'static str,
    /// The value of a setting of the session.
    pub setting: fn(&str) -> Vec<u8>,
}

/// What is known of the bytes of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// The database is in UTF-8.
    #[default]
    Utf8,
    /// It is in another encoding; a format that [`Format::wants_utf8`] and writes text writes ASCII, which is the same in all of them.
    Other,
    /// It is in SQL_ASCII: bytes are stored as they come, and nothing is converted.
    Unknown,
    /// The same, and it is told to somebody in a database in SQL_ASCII, where `\uXXXX` means nothing: what is UTF-8 stays as it is.
    UnknownHere,
}

/// The formats that there are.
pub const FORMATS: &[&str] = &["text", "json", "sql", "binary", "keys"];

/// The format with this name.
#[must_use]
pub fn new_format(name: &str, environment: Environment) -> Option<Box<dyn Format>> {
    Some(match name {
        "text" => Box::new(Text::new(environment)),
        "json" => Box::new(Json::new(environment)),
        "sql" => Box::new(Sql::new(environment)),
        "binary" => Box::new(binary::Writer::default()),
        "keys" => Box::new(Keys::new(environment)),
        _ => return None,
    })
}
