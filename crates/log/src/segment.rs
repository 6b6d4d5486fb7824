//! The format of a segment file, version 1: header, then records, then zeros up to the fixed size.
//!
//! Invariants:
//! - A file has its full size and is zero-filled before its first record: a shorter file is damaged, never torn.
//! - Records follow each other without gaps, each starting at a multiple of [`ALIGN_BYTES`].
//! - A checksum covers the seed of the segment (made of log id and number) and the record's offset, so a record never
//!   passes for one of another log, file or place.
//! - `record.durable <= record.offset`: everything in this file below `durable` was synced before the record was
//!   written. A bad record below any later record's `durable` is therefore bit rot; one at or above all of them is
//!   the torn tail of a sync that never returned, and nobody was told that it is stored.
//!
//! Pure: bytes in, bytes out.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Ballot, Entry, Location, LogId, NodeId, Position, Value};

/// First bytes of every segment file.
const MAGIC: [u8; 8] = *b"SYNODSEG";
/// Version of header and records.
const VERSION: u32 = 1;
/// Bytes before the first record.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes before a record's payload.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Records start at multiples of this.
pub const ALIGN_BYTES: usize = 8;

/// What a record is for.
pub type Kind = u8;
/// A value accepted at a position; the payload is the value.
pub const KIND_ENTRY: Kind = 1;
/// First record of a segment: how the one before it ended.
pub const KIND_START: Kind = 2;
/// Says nothing but that all before it was synced.
pub const KIND_MARK: Kind = 3;
/// Kinds from here on hold state of which only the latest counts; every segment starts with a copy of each.
pub const KIND_STATE: Kind = 16;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that the segment belongs to.
    pub log: LogId,
    /// Its number; a log's segments are numbered without gaps.
    pub number: u32,
    /// Size of the file in bytes.
    pub size: u32,
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log.0);
        bytes[32..36].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, or what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, &'static str> {
        let bytes = bytes
            .get(..SEGMENT_HEADER_BYTES)
            .ok_or("the file is shorter than its header")?;
        if bytes[0..8] != MAGIC {
            return Err("not a segment file");
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err("the header's checksum does not match");
        }
        if u32_at(bytes, 8) != VERSION {
            return Err("the segment has an unknown version");
        }
        let mut log = LogId::default();
        log.0.copy_from_slice(&bytes[16..32]);
        Ok(SegmentHeader {
            log,
            number: u32_at(bytes, 12),
            size: u32_at(bytes, 32),
        })
    }

    /// What the checksums of this segment's records start from. A function of the identity, not a stored number: a
    /// damaged header does not take the records with it.
    pub fn seed(&self) -> u32 {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.log.0);
        bytes[16..].copy_from_slice(&self.number.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is for.
    pub kind: Kind,
    /// The entry's position; free for other kinds.
    pub position: Position,
    /// The entry's ballot; free for other kinds.
    pub ballot: Ballot,
    /// Bytes of payload, without padding.
    pub payload_length: u32,
    /// All of this file below this offset was synced before this record was written.
    pub durable: u32,
}

impl RecordHeader {
    /// Bytes of the whole record, padding included.
    pub fn length(&self) -> usize {
        RECORD_HEADER_BYTES + padded(self.payload_length as usize)
    }
}

/// Bytes that a record with this much payload takes.
pub fn record_length(payload_length: usize) -> usize {
    RECORD_HEADER_BYTES + padded(payload_length)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGN_BYTES)
}

/// Append a record that will stand at `offset` of the segment with this `seed`. `payload` writes the payload.
pub fn append_record(
    into: &mut BytesMut,
    seed: u32,
    offset: u32,
    durable: u32,
    (kind, position, ballot): (Kind, Position, Ballot),
    payload: impl FnOnce(&mut BytesMut),
) -> usize {
    let start = into.len();
    into.put_bytes(0, RECORD_HEADER_BYTES);
    payload(into);
    let payload_length = into.len() - start - RECORD_HEADER_BYTES;
    into.put_bytes(0, padded(payload_length) - payload_length);
    let payload_crc = crc32c::crc32c_append(seed, &into[start + RECORD_HEADER_BYTES..]);
    let header = &mut into[start..start + RECORD_HEADER_BYTES];
    header[4..8].copy_from_slice(&(payload_length as u32).to_le_bytes());
    header[8..16].copy_from_slice(&position.to_le_bytes());
    header[16..24].copy_from_slice(&ballot.round.to_le_bytes());
    header[24..28].copy_from_slice(&ballot.node.0.to_le_bytes());
    header[28] = kind;
    header[32..36].copy_from_slice(&payload_crc.to_le_bytes());
    header[36..40].copy_from_slice(&durable.to_le_bytes());
    let crc = header_crc(seed, offset, &header[4..]);
    header[0..4].copy_from_slice(&crc.to_le_bytes());
    into.len() - start
}

fn header_crc(seed: u32, offset: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &offset.to_le_bytes()), rest)
}

/// The record header at the start of `bytes`, which lie at `offset` of a segment with this `seed`. `None`: not one.
pub fn decode_header(bytes: &[u8], seed: u32, offset: u32) -> Option<RecordHeader> {
    let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
    // Cheap first: zeros and most of what is not a header end here.
    if bytes[28] == 0 || u32_at(bytes, 0) != header_crc(seed, offset, &bytes[4..]) {
        return None;
    }
    Some(RecordHeader {
        kind: bytes[28],
        position: u64_at(bytes, 8),
        ballot: Ballot {
            round: u64_at(bytes, 16),
            node: NodeId(u32_at(bytes, 24)),
        },
        payload_length: u32_at(bytes, 4),
        durable: u32_at(bytes, 36),
    })
}

/// The record at the start of `bytes`: its header and its payload's bytes. `None`: there is no valid one.
pub fn decode_record(bytes: &[u8], seed: u32, offset: u32) -> Option<(RecordHeader, &[u8])> {
    let header = decode_header(bytes, seed, offset)?;
    let body = bytes.get(RECORD_HEADER_BYTES..header.length())?;
    (u32_at(bytes, 32) == crc32c::crc32c_append(seed, body)).then(|| (header, &body[..header.payload_length as usize]))
}

/// The entry in the record at the start of `bytes`; its payload is a slice of them.
pub fn decode_entry(bytes: &Bytes, seed: u32, offset: u32) -> Option<Entry> {
    let (header, payload) = decode_record(bytes, seed, offset)?;
    if header.kind != KIND_ENTRY {
        return None;
    }
    let value = decode_value(bytes.slice_ref(payload))?;
    Some(Entry {
        position: header.position,
        ballot: header.ballot,
        value,
    })
}

/// The value that takes up all of `payload`; shares its memory.
pub fn decode_value(mut payload: Bytes) -> Option<Value> {
    let value = synod_paxos::get_value(&mut payload).ok()?;
    payload.is_empty().then_some(value)
}

/// How the segment before this one ended: the payload of a [`KIND_START`] record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStart {
    /// Where the records of the previous segment end. All of it was synced before this segment's first write.
    pub previous_end: u32,
}

impl SegmentStart {
    /// The payload's bytes.
    pub fn encode(self, into: &mut BytesMut) {
        into.put_u32_le(self.previous_end);
    }

    /// The payload's meaning.
    pub fn decode(payload: &[u8]) -> Option<SegmentStart> {
        Some(SegmentStart {
            previous_end: u32::from_le_bytes(payload.try_into().ok()?),
        })
    }
}

/// A valid record found by [`scan`].
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where it lies.
    pub location: Location,
    /// What it says about itself.
    pub header: RecordHeader,
}

/// What the bytes of a segment hold.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The records from the start on, without a gap.
    pub records: Vec<Found>,
    /// Where they end.
    pub end: u32,
    /// True when something other than zeros follows `end`.
    pub dirty: bool,
    /// Valid records that follow the bad place at `end`.
    pub beyond: Vec<Found>,
    /// The highest `durable` of any valid record: what is bad below it was once synced.
    pub durable: u32,
}

/// Read a segment's records. `bytes` is the whole file.
pub fn scan(bytes: &[u8], header: &SegmentHeader) -> Scan {
    let seed = header.seed();
    let mut scan = Scan {
        end: SEGMENT_HEADER_BYTES as u32,
        ..Scan::default()
    };
    while let Some(found) = found_at(bytes, scan.end as usize, header.number, seed) {
        scan.end += found.location.length;
        scan.durable = scan.durable.max(found.header.durable);
        scan.records.push(found);
    }
    let rest = bytes.get(scan.end as usize..).unwrap_or_default();
    scan.dirty = rest.iter().any(|byte| *byte != 0);
    if scan.dirty {
        let mut offset = scan.end as usize + ALIGN_BYTES;
        while offset + RECORD_HEADER_BYTES <= bytes.len() {
            match found_at(bytes, offset, header.number, seed) {
                Some(found) => {
                    offset += found.location.length as usize;
                    scan.durable = scan.durable.max(found.header.durable);
                    scan.beyond.push(found);
                }
                None => offset += ALIGN_BYTES,
            }
        }
    }
    scan
}

fn found_at(bytes: &[u8], offset: usize, segment: u32, seed: u32) -> Option<Found> {
    let (header, _) = decode_record(bytes.get(offset..)?, seed, offset as u32)?;
    let location = Location {
        segment,
        offset: offset as u32,
        length: header.length() as u32,
    };
    Some(Found { location, header })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
