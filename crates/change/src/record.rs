//! The payload of a log entry.
//!
//! ```text
//! 0  version      u8     1
//! 1  kind         u8     1 Start, 2 Write, 3 Fragment, 8 DDL lock, 9 DDL unlock, 10 DDL lock with expected tables
//! 2  reserved     u16    0
//! 4  crc          u32    crc32c of bytes 0..4 and of everything from `content` on
//! 8  content             all but Write
//! 8  base         u64    Write only: changed in place when the record is proposed,
//! 16 base check   u32    so it has a checksum of its own, over `crc` and `base`
//! 20 content             Write
//! ```
//! Numbers are little-endian. A version or kind that is not known, in bytes whose checksum holds, decodes to
//! [`DecodeError::Unknown`]: the node must stop and be upgraded. Anything else wrong is [`DecodeError::Corrupt`].

use bytes::Bytes;

use crate::wire::{Decoder, put_bytes, put_varint};
use crate::{DecodeError, Key, KeyMode, TableId};

/// More keys than this do not travel: the capture claims the table as a whole instead (see [`crate::table_key`]).
/// 65,536 keys of 8.25 bytes are 528 KiB; with the largest inline body a record stays below the log's 1 MiB.
pub const MAX_KEYS_PER_RECORD: usize = 65_536;

/// A larger body travels in fragments.
pub const MAX_INLINE_BODY_BYTES: usize = 256 * 1024;

/// How much of a body one fragment holds; the last may hold less.
pub const FRAGMENT_BYTES: usize = 256 * 1024;

/// 16 GiB of body. Positions of 2 to 3 bytes each keep the record below the log's 1 MiB, keys included.
pub const MAX_FRAGMENTS_PER_RECORD: usize = 65_536;

const VERSION: u8 = 1;
const KIND_START: u8 = 1;
const KIND_WRITE: u8 = 2;
const KIND_FRAGMENT: u8 = 3;
const KIND_DDL_LOCK: u8 = 8;
const KIND_DDL_UNLOCK: u8 = 9;
/// As kind 8, with the names of expected tables behind it.
const KIND_DDL_LOCK_EXPECTING: u8 = 10;
const CRC_AT: usize = 4;
const CONTENT_AT: usize = 8;
const BASE_AT: usize = 8;
const BASE_CHECK_AT: usize = 16;
const WRITE_CONTENT_AT: usize = 20;
const BODY_INLINE: u8 = 0;
const BODY_FRAGMENTS: u8 = 1;

/// The payload of a log entry. Its position is its CSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A new incarnation of the proposing node begins (who and which stands in the proposal's id).
    Start {
        /// `PG_VERSION_NUM` of the server.
        postgres_version: u32,
        /// Release of the extension, as major * 10,000 + minor * 100 + patch.
        synod_version: u32,
    },
    /// A transaction's write set.
    Write(WriteRecord),
    /// A piece of a large body; means nothing until a write record names it.
    Fragment(Bytes),
    /// A transaction of the proposer asks for the group's DDL lock, or for more tables under the one that it holds.
    DdlLock(DdlLockRecord),
    /// The transaction does not need the DDL lock any more, or its node was not heard of for too long.
    DdlUnlock(TransactionId),
}

/// A request for the group's DDL lock: one transaction of the whole group has it at a time. From its position on the other
/// nodes' writes to the tables it names are refused, until the record of the transaction, or an unlock, ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DdlLockRecord {
    /// The number of the transaction within the proposer's incarnation.
    pub transaction: u64,
    /// Every table, whatever `tables` says.
    pub all: bool,
    /// The tables that it needs for itself; there may be none.
    pub tables: Vec<TableId>,
    /// Tables without a number, which it is about to replicate.
    pub expected: Vec<ExpectedTable>,
}

/// A table that is about to be replicated, by its name. Until it is, nobody may write it, on any node: its rows would not be the
/// group's.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedTable {
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
}

impl ExpectedTable {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.schema.as_bytes());
        put_bytes(out, self.name.as_bytes());
    }

    /// Reads what [`put`](Self::put) wrote.
    ///
    /// # Errors
    /// As for all that is decoded.
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            schema: decoder.string()?,
            name: decoder.string()?,
        })
    }
}

/// A transaction's write set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRecord {
    /// The proposer certified it against everything up to here; the group certifies what came between.
    pub base: u64,
    /// Names the transaction to its user.
    pub transaction: TransactionId,
    /// When its commit began, in microseconds since 2000-01-01 UTC (PostgreSQL's epoch).
    pub commit_time_us: i64,
    /// What it claims.
    pub keys: Vec<Key>,
    /// What it does.
    pub body: Body,
}

/// Names a transaction for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// Where it ran.
    pub node: u32,
    /// That node's start number.
    pub incarnation: u64,
    /// Counts within the incarnation.
    pub number: u64,
}

/// The stream of changes (see [`crate::BodyReader`]), or where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Here.
    Inline(Bytes),
    /// In fragments of the log (see [`crate::AssembledBody`]).
    Fragments {
        /// Strictly ascending; the body is their concatenation.
        positions: Vec<u64>,
        /// Of the whole body, in bytes.
        length: u64,
        /// crc32c of the whole body.
        crc: u32,
    },
}

impl Record {
    /// The bytes for the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start {
                postgres_version,
                synod_version,
            } => {
                let mut out = header(KIND_START, CONTENT_AT, 8);
                out.extend_from_slice(&postgres_version.to_le_bytes());
                out.extend_from_slice(&synod_version.to_le_bytes());
                seal(&mut out, CONTENT_AT);
                out
            }
            Self::Write(write) => write.encode(),
            Self::Fragment(piece) => {
                let mut out = header(KIND_FRAGMENT, CONTENT_AT, piece.len());
                out.extend_from_slice(piece);
                seal(&mut out, CONTENT_AT);
                out
            }
            Self::DdlLock(lock) => {
                let kind = if lock.expected.is_empty() {
                    KIND_DDL_LOCK
                } else {
                    KIND_DDL_LOCK_EXPECTING
                };
                let mut out = header(kind, CONTENT_AT, 16 + lock.tables.len() * 8);
                put_varint(&mut out, lock.transaction);
                out.push(lock.all.into());
                put_varint(&mut out, lock.tables.len() as u64);
                for table in &lock.tables {
                    out.extend_from_slice(&table.0.to_le_bytes());
                }
                if !lock.expected.is_empty() {
                    put_varint(&mut out, lock.expected.len() as u64);
                    lock.expected.iter().for_each(|table| table.put(&mut out));
                }
                seal(&mut out, CONTENT_AT);
                out
            }
            Self::DdlUnlock(transaction) => {
                let mut out = header(KIND_DDL_UNLOCK, CONTENT_AT, 20);
                put_varint(&mut out, transaction.node.into());
                put_varint(&mut out, transaction.incarnation);
                put_varint(&mut out, transaction.number);
                seal(&mut out, CONTENT_AT);
                out
            }
        }
    }

    /// Reads what [`encode`](Self::encode) made. An inline body or a fragment shares `payload`'s memory.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for a newer release's record, [`DecodeError::Corrupt`] for damage.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new("record", payload);
        let [version, kind, reserved_low, reserved_high] = decoder.array()?;
        let stored = decoder.u32()?;
        let write = version == VERSION && kind == KIND_WRITE;
        let content_at = if write { WRITE_CONTENT_AT } else { CONTENT_AT };
        let content = payload.get(content_at..).ok_or(decoder.corrupt("it ends too early"))?;
        if checksum(&payload[..CRC_AT], content) != stored {
            return Err(decoder.corrupt("its checksum does not match"));
        }
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "record version",
                number: version.into(),
            });
        }
        if (reserved_low, reserved_high) != (0, 0) {
            return Err(decoder.corrupt("reserved bytes are not zero"));
        }
        match kind {
            KIND_START => {
                let (postgres_version, synod_version) = (decoder.u32()?, decoder.u32()?);
                decoder.finish()?;
                Ok(Self::Start {
                    postgres_version,
                    synod_version,
                })
            }
            KIND_WRITE => WriteRecord::decode(payload, decoder, stored).map(Self::Write),
            KIND_FRAGMENT => Ok(Self::Fragment(payload.slice(CONTENT_AT..))),
            KIND_DDL_LOCK | KIND_DDL_LOCK_EXPECTING => {
                let (transaction, all) = (decoder.varint()?, decoder.bool()?);
                let count = decoder.count(usize::MAX, 8)?;
                let tables = (0..count)
                    .map(|_| decoder.u64().map(TableId))
                    .collect::<Result<_, _>>()?;
                let expected = if kind == KIND_DDL_LOCK_EXPECTING {
                    let count = decoder.count(usize::MAX, 2)?;
                    if count == 0 {
                        return Err(decoder.corrupt("it expects tables, and names none"));
                    }
                    (0..count)
                        .map(|_| ExpectedTable::read(&mut decoder))
                        .collect::<Result<_, _>>()?
                } else {
                    Vec::new()
                };
                decoder.finish()?;
                Ok(Self::DdlLock(DdlLockRecord {
                    transaction,
                    all,
                    tables,
                    expected,
                }))
            }
            KIND_DDL_UNLOCK => {
                let transaction = TransactionId {
                    node: decoder.varint_u32()?,
                    incarnation: decoder.varint()?,
                    number: decoder.varint()?,
                };
                decoder.finish()?;
                Ok(Self::DdlUnlock(transaction))
            }
            other => Err(DecodeError::Unknown {
                what: "record kind",
                number: other.into(),
            }),
        }
    }
}

impl WriteRecord {
    /// The bytes for the log. Same as [`Record::encode`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = if let Body::Inline(bytes) = &self.body {
            bytes.len()
        } else {
            0
        };
        let mut out = header(KIND_WRITE, WRITE_CONTENT_AT, 48 + self.keys.len() * 9 + body);
        put_varint(&mut out, self.transaction.node.into());
        put_varint(&mut out, self.transaction.incarnation);
        put_varint(&mut out, self.transaction.number);
        out.extend_from_slice(&self.commit_time_us.to_le_bytes());
        put_varint(&mut out, self.keys.len() as u64);
        for key in &self.keys {
            out.extend_from_slice(&key.hash.to_le_bytes());
        }
        // Four modes to a byte, the first in the lowest bits.
        for group in self.keys.chunks(4) {
            out.push(group.iter().rev().fold(0, |byte, key| byte << 2 | key.mode as u8));
        }
        match &self.body {
            Body::Inline(bytes) => {
                out.push(BODY_INLINE);
                out.extend_from_slice(bytes);
            }
            Body::Fragments { positions, length, crc } => {
                out.push(BODY_FRAGMENTS);
                put_varint(&mut out, *length);
                out.extend_from_slice(&crc.to_le_bytes());
                put_varint(&mut out, positions.len() as u64);
                let mut before = 0;
                for position in positions {
                    // Positions out of order wrap, and are refused by the decoder.
                    put_varint(&mut out, position.wrapping_sub(before));
                    before = *position;
                }
            }
        }
        seal(&mut out, WRITE_CONTENT_AT);
        put_base(&mut out, self.base);
        out
    }

    fn decode(payload: &Bytes, mut decoder: Decoder<'_>, record_crc: u32) -> Result<Self, DecodeError> {
        let base = decoder.u64()?;
        if decoder.u32()? != base_checksum(record_crc, base) {
            return Err(decoder.corrupt("the checksum of its base does not match"));
        }
        let transaction = TransactionId {
            node: decoder.varint_u32()?,
            incarnation: decoder.varint()?,
            number: decoder.varint()?,
        };
        let commit_time_us = decoder.i64()?;
        let keys = decode_keys(&mut decoder)?;
        let body = match decoder.u8()? {
            BODY_INLINE => Body::Inline(payload.slice(payload.len() - decoder.remaining()..)),
            BODY_FRAGMENTS => {
                let body = decode_fragments(&mut decoder)?;
                decoder.finish()?;
                body
            }
            _ => return Err(decoder.corrupt("its body is of no known form")),
        };
        Ok(Self {
            base,
            transaction,
            commit_time_us,
            keys,
            body,
        })
    }
}

fn decode_keys(decoder: &mut Decoder<'_>) -> Result<Vec<Key>, DecodeError> {
    let count = decoder.count(MAX_KEYS_PER_RECORD, 8)?;
    let hashes = decoder.take(count * 8)?;
    let modes = decoder.take(count.div_ceil(4))?;
    if !count.is_multiple_of(4) && modes[count / 4] >> (count % 4 * 2) != 0 {
        return Err(decoder.corrupt("bits behind its last key are set"));
    }
    let hashes = hashes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let mode = |index: usize| KeyMode::ALL[usize::from(modes[index / 4] >> (index % 4 * 2) & 3)];
    Ok(hashes
        .enumerate()
        .map(|(index, hash)| Key {
            hash,
            mode: mode(index),
        })
        .collect())
}

fn decode_fragments(decoder: &mut Decoder<'_>) -> Result<Body, DecodeError> {
    let length = decoder.varint()?;
    let crc = decoder.u32()?;
    let count = decoder.count(MAX_FRAGMENTS_PER_RECORD, 1)?;
    let mut positions = Vec::with_capacity(count);
    let mut before = 0u64;
    for _ in 0..count {
        let step = decoder.varint()?;
        before = match before.checked_add(step) {
            Some(position) if step > 0 => position,
            _ => return Err(decoder.corrupt("its fragments are not in ascending order")),
        };
        positions.push(before);
    }
    Ok(Body::Fragments { positions, length, crc })
}

/// Sets the base of an encoded write record in place. `false`, and nothing done, if these are not the bytes of one.
#[must_use]
pub fn patch_base(payload: &mut [u8], base: u64) -> bool {
    if payload.len() < WRITE_CONTENT_AT || payload[..2] != [VERSION, KIND_WRITE] {
        return false;
    }
    put_base(payload, base);
    true
}

fn header(kind: u8, content_at: usize, content_length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(content_at + content_length);
    out.extend_from_slice(&[VERSION, kind]);
    out.resize(content_at, 0);
    out
}

fn seal(payload: &mut [u8], content_at: usize) {
    let crc = checksum(&payload[..CRC_AT], &payload[content_at..]);
    payload[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(head: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), content)
}

fn put_base(payload: &mut [u8], base: u64) {
    let mut crc = [0; 4];
    crc.copy_from_slice(&payload[CRC_AT..CRC_AT + 4]);
    let check = base_checksum(u32::from_le_bytes(crc), base);
    payload[BASE_AT..BASE_AT + 8].copy_from_slice(&base.to_le_bytes());
    payload[BASE_CHECK_AT..BASE_CHECK_AT + 4].copy_from_slice(&check.to_le_bytes());
}

/// Bound to the record's own checksum, so that the base of another record does not pass.
fn base_checksum(record_crc: u32, base: u64) -> u32 {
    crc32c::crc32c_append(record_crc, &base.to_le_bytes())
}
