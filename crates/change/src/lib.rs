//! What travels in the log: the record of a transaction, the rows in it, the keys it is certified by, and the
//! definitions of the tables it names.
//!
//! Everything here is a pure function of its input. Every decoder takes bytes that a stranger may have made: lengths
//! are checked before anything is allocated, and no input makes it panic. Formats are versioned; a format once
//! released is kept readable (`tests/fixtures/`).
//!
//! - [`Record`]: the payload of a log entry, checksummed;
//! - [`BodyWriter`], [`BodyReader`]: the stream of [`Change`]s inside a write record;
//! - [`CopyLine`]: a row as COPY sends it;
//! - [`KeyHasher`]: canonical hashes of key values, the same on every node;
//! - [`TableDefinition`]: what two nodes must agree on before a table is replicated.
#![forbid(unsafe_code)]

mod body;
mod change;
mod copy_line;
mod ddl;
mod definition;
mod definition_codec;
mod definition_differences;
mod fragments;
mod key;
pub mod nested;
mod record;
mod row;
mod service;
pub mod stream;
pub mod wire;

pub use body::{BodyReader, BodyWriter, MAX_ITEM_BYTES};
pub use change::Change;
pub use copy_line::CopyLine;
pub use ddl::DdlStatement;
pub use definition::{
    CheckDefinition, ColumnDefinition, ForeignKeyAction, ForeignKeyDefinition, Identity, IndexDefinition, MAX_COLUMNS,
    TableDefinition, TableId, Wire,
};
pub use fragments::{AssembledBody, body_crc};
pub use key::{
    INDEX_ROW_LOCKS, INDEX_TABLE_LOCK, INDEX_WHOLE_ROW, Key, KeyHasher, KeyMode, ddl_key, name_key, table_key,
};
pub use record::{
    Body, DdlLockRecord, ExpectedTable, FRAGMENT_BYTES, MAX_FRAGMENTS_PER_RECORD, MAX_INLINE_BODY_BYTES,
    MAX_KEYS_PER_RECORD, Record, TransactionId, WriteRecord, patch_base,
};
pub use row::{Row, Value};
pub use service::{Append, Grant, MAX_LOG_NAME, MAX_LOG_VALUE, Service, ValueKind};
pub use wire::DecodeError;
