//! The stream of changes inside a write record.
//!
//! A version byte, then items: kind (u8), length of the rest (varint), the rest. A row item speaks of the table that the
//! last `USE_TABLE` item named, so that the table's number is not repeated with each row. The last item, `END`, holds the
//! number of changes: a stream cut short at an item's edge does not pass for a whole one.
//!
//! Versions: from 2 on, new rows have the values of stored generated columns. In version 1 these are NULL, and each node computes
//! them. `REPLACE` and `DEPART` came later: a delete and an insert may stand in their place. From 3 on, values that hold others may have the form
//! of [`crate::nested`], whose first byte tells it. What lies in logs is read in all; 3 is written. A node that does not know a version, or an
//! item, stops there, rather than take it for something else.
//!
//! Memory: the reader holds one item, whose buffer grows only as bytes arrive.

mod reader;
mod writer;

pub use reader::BodyReader;
pub(crate) use reader::read_row;
pub use writer::BodyWriter;
pub(crate) use writer::put_row;

/// The largest item a reader takes unless told otherwise: two rows of the largest size that PostgreSQL can handle.
pub const MAX_ITEM_BYTES: u64 = 2 << 30;

/// Of what is written.
pub(super) const VERSION: u8 = 3;
/// The oldest that is read.
pub(super) const OLDEST_VERSION: u8 = 1;
/// From here on new rows have the values of stored generated columns.
pub(super) const VERSION_WITH_GENERATED: u8 = 2;
pub(super) const END: u8 = 0;
pub(super) const USE_TABLE: u8 = 1;
pub(super) const INSERT: u8 = 2;
pub(super) const UPDATE: u8 = 3;
pub(super) const DELETE: u8 = 4;
pub(super) const TRUNCATE: u8 = 5;
pub(super) const SEQUENCE: u8 = 6;
pub(super) const ADD_TABLE: u8 = 7;
pub(super) const REMOVE_TABLE: u8 = 8;
pub(super) const REPLACE: u8 = 9;
pub(super) const DEPART: u8 = 10;
pub(super) const SERVICE: u8 = 16;
pub(super) const DDL: u8 = 24;
pub(super) const CONTEXT: u8 = 32;

pub(super) const VALUE_NULL: u64 = 0;
pub(super) const VALUE_SAME: u64 = 1;
pub(super) const VALUE_TEXT: u64 = 2;
pub(super) const VALUE_BINARY: u64 = 3;

pub(super) const WHAT: &str = "write set";
