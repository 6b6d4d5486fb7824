//! The format `binary`: everything that the model holds, compact, versioned and checksummed.
//!
//! A stream is a row of frames: kind (u8), length of the payload (u32), CRC-32C of kind, length and payload (u32), payload;
//! integers little-endian. The first frame of a reading session is the header; a table is told before the first event
//! that names it and again when it has changed. `docs/src/stream-binary.md` has the payloads.
//!
//! [`Writer`] and [`Reader`] keep the same state: the tables told, by slot, and the place of the last event, relative to which the
//! next one's is told. A stream is therefore read from its header on, every frame of it.

mod frame;
mod place;
mod reader;
mod table;
mod transaction;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

/// The version that is written, and the highest that is read.
pub const VERSION: u8 = 1;

const WHAT: &str = "change stream";
const MAGIC: &[u8; 8] = b"SYNODCHG";

const HEADER: u8 = b'H';
const TABLE: u8 = b'R';
const BEGIN: u8 = b'B';
const COMMIT: u8 = b'C';
const BEGIN_PREPARE: u8 = b'b';
const PREPARE: u8 = b'P';
const COMMIT_PREPARED: u8 = b'K';
const ROLLBACK_PREPARED: u8 = b'r';
const STREAM_START: u8 = b'S';
const STREAM_STOP: u8 = b'E';
const STREAM_ABORT: u8 = b'A';
const STREAM_PREPARE: u8 = b'p';
const STREAM_COMMIT: u8 = b'c';
const INSERT: u8 = b'I';
const UPDATE: u8 = b'U';
const UPDATE_WITH_OLD: u8 = b'u';
const DELETE: u8 = b'D';
const DELETE_WITHOUT_OLD: u8 = b'd';
const TRUNCATE: u8 = b'T';
const MESSAGE: u8 = b'M';
const DDL: u8 = b'L';
const CONTEXT: u8 = b'X';

/// Flags of [`TRUNCATE`].
const CASCADE: u8 = 1;
const RESTART_IDENTITY: u8 = 2;
/// The tables' ordinals are not one behind the other: between them are tables that the reader is not told of.
const APART: u8 = 4;
