//! A log directory and an index with anything in their files: opened and read, or refused. Covers
//! crates/log/src/files.rs, crates/log/src/recovery.rs, crates/log/src/reader.rs, crates/log/src/index.rs,
//! crates/log/src/index_reader.rs, crates/log/src/paxos_log/open.rs.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use synod_fuzz::Pieces;
use synod_log::segment::{self, SegmentHeader, SegmentStart, KIND_ENTRY, KIND_START, SEGMENT_HEADER_BYTES};
use synod_log::{Ballot, DecidedIndex, Location, LogId, LogOptions, Membership, NodeId, PaxosLog, Reader, Transport};

const LOG: LogId = LogId([9; 16]);
const NODE: NodeId = NodeId(2);
const SEGMENT_BYTES: usize = 4096;

struct Nowhere;

impl Transport for Nowhere {
    fn set_members(&mut self, _: &Membership) {}
    fn send(&mut self, _: NodeId, _: Bytes) {}
    fn receive(&mut self, _: &mut Vec<(NodeId, Bytes)>) {}
}

fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("synod-fuzz-{}", std::process::id()))
}

fn identity() -> Vec<u8> {
    let mut bytes = b"SYNODLID\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&NODE.0.to_le_bytes());
    bytes.extend_from_slice(&LOG.0);
    bytes.resize(36, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// A segment with records of the input's choice, whose checksums are right, and then some damage.
fn segment_file(number: u32, pieces: &mut Pieces<'_>) -> Vec<u8> {
    let header = SegmentHeader {
        log: LOG,
        number,
        size: SEGMENT_BYTES as u32,
    };
    let mut bytes = BytesMut::from(&header.encode()[..]);
    let start = SegmentStart {
        previous_end: pieces.number() as u32 % 5000,
    };
    let nobody = Ballot::default();
    segment::append_record(&mut bytes, header.seed(), 64, 0, (KIND_START, 0, nobody), |out| {
        start.encode(out)
    });
    for _ in 0..pieces.u8() % 24 {
        let kind = [KIND_ENTRY, 16, 17, 18, 19, 3][usize::from(pieces.u8() % 6)];
        let (position, round, durable) = (pieces.number(), pieces.number(), pieces.number() as u32 % 4200);
        let payload = pieces.bytes(600);
        if bytes.len() + segment::record_length(payload.len()) > SEGMENT_BYTES {
            break;
        }
        let what = (kind, position, Ballot { round, node: NODE });
        let offset = bytes.len() as u32;
        segment::append_record(&mut bytes, header.seed(), offset, durable, what, |out| {
            out.extend_from_slice(payload)
        });
    }
    let mut bytes = bytes.to_vec();
    bytes.resize(SEGMENT_BYTES, 0);
    let at = usize::from(u16::from_le_bytes(pieces.array())) % (2 * SEGMENT_BYTES);
    if let Some(byte) = bytes.get_mut(at).filter(|_| at >= SEGMENT_HEADER_BYTES) {
        *byte ^= pieces.u8();
    }
    bytes
}

fn read_index(log: &Path, index: &Path, pieces: &mut Pieces<'_>) {
    let mut decided = DecidedIndex::open(index).expect("an index");
    for _ in 0..pieces.u8() % 8 {
        let location = Location {
            segment: pieces.number() as u32,
            offset: pieces.number() as u32,
            length: pieces.number() as u32,
        };
        decided
            .record(pieces.number() >> 1, location, pieces.u8())
            .expect("a slot");
    }
    decided.flush().expect("slots");
    let mut reader = Reader::new(log, index);
    for _ in 0..4 {
        let (from, upto) = (pieces.number(), pieces.number());
        let mut found = Vec::new();
        let _ = reader.read_range(from, upto, 1 << 16, &mut found);
        let _ = decided.lookup(from);
    }
}

fn run(data: &[u8]) {
    let place = directory();
    let (log, index) = (place.join("log"), place.join("index"));
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&log)
        .and_then(|()| fs::create_dir_all(&index))
        .expect("a directory");
    let mut pieces = Pieces(data);
    match pieces.u8() {
        // Raw bytes as one of the files.
        0 => fs::write(log.join("identity"), pieces.0).expect("a file"),
        1 => {
            fs::write(log.join("identity"), identity()).expect("a file");
            fs::write(log.join("0000000001.seg"), pieces.0).expect("a file");
        }
        2 => fs::write(index.join("000000000000.idx"), pieces.0).expect("a file"),
        _ => {
            fs::write(log.join("identity"), identity()).expect("a file");
            for number in 1..=u32::from(pieces.u8() % 3) + 1 {
                let file = segment_file(number, &mut pieces);
                fs::write(log.join(format!("{number:010}.seg")), file).expect("a file");
            }
        }
    }
    let options = LogOptions {
        fsync: false,
        segment_bytes: SEGMENT_BYTES as u32,
        deliver_from: pieces.number(),
        ..LogOptions::new(NODE)
    };
    if let Ok(opened) = PaxosLog::open(&log, options, Nowhere) {
        drop(opened);
    }
    read_index(&log, &index, &mut pieces);
    let mut reader = Reader::new(&log, &index);
    let _ = reader.read(pieces.number());
}

synod_fuzz::target!(run);
