//! The formats on disk: what releases have written can be read, and nothing that lies there makes a reader panic.
//!
//! `fixtures/vN` are directories as version N wrote them. They are never changed, only added to.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use synod_log::segment::{self, KIND_ENTRY, SegmentHeader};
use synod_log::{
    Ballot, Command, DecidedIndex, Location, LogId, Member, Membership, NodeId, ProposalId, Reader, Record, Storage,
    StorageError, StorageOptions, Value, Verdict,
};

const NODE: NodeId = NodeId(7);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn options() -> StorageOptions {
    StorageOptions {
        segment_bytes: 4096,
        fsync: false,
        ..StorageOptions::new(NODE)
    }
}

fn ballot() -> Ballot {
    Ballot {
        round: 3,
        node: NodeId(2),
    }
}

/// What stands in the fixtures, by position from 5 on.
fn values() -> Vec<Value> {
    let id = ProposalId {
        node: NODE,
        incarnation: 11,
        sequence: 12,
    };
    let member = |id: u32, voter: bool, info: &'static [u8]| Member {
        id: NodeId(id),
        log: LogId([id as u8; 16]),
        voter,
        info: Bytes::from_static(info),
    };
    vec![
        Value::Noop,
        Value::Command(Command {
            id,
            payload: Bytes::from_static(b"a payload of odd length"),
        }),
        Value::Membership(Membership {
            version: 4,
            next_id: 9,
            members: vec![member(7, true, b"seven"), member(8, false, b"")],
        }),
        Value::Command(Command {
            id: ProposalId { sequence: 13, ..id },
            payload: Bytes::new(),
        }),
    ]
}

fn verdict(position: u64) -> Verdict {
    position as Verdict * 3
}

/// Run with `SYNOD_WRITE_FIXTURES=1` after a new version of the formats, to make its directory.
#[test]
fn fixtures_of_the_current_version_exist() {
    let directory = fixtures();
    if std::env::var_os("SYNOD_WRITE_FIXTURES").is_none() {
        assert!(directory.join("log/identity").exists());
        return;
    }
    assert!(!directory.exists(), "fixtures are never changed");
    let storage = Storage::create(&directory.join("log"), options()).unwrap();
    let records = (5..)
        .zip(values())
        .map(|(position, value)| Record::entry(position, ballot(), value))
        .collect();
    storage.write(1, records);
    drop(storage);
    fs::remove_file(directory.join("log/lock")).unwrap();
    let _ = fs::remove_file(directory.join("log/0000000002.seg"));
    let mut index = DecidedIndex::open(&directory.join("index")).unwrap();
    for (position, location) in locations() {
        index.record(position, location, verdict(position)).unwrap();
    }
    index.flush().unwrap();
}

/// Where the entries of the fixture lie, as read from its segment.
fn locations() -> Vec<(u64, Location)> {
    let bytes = fs::read(fixtures().join("log/0000000001.seg")).unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let entries = segment::scan(&bytes, &header)
        .records
        .into_iter()
        .filter(|found| found.header.kind == KIND_ENTRY);
    entries.map(|found| (found.header.position, found.location)).collect()
}

#[test]
fn version_1_can_be_read() {
    let root = tempfile::tempdir().unwrap();
    for directory in ["log", "index"] {
        fs::create_dir(root.path().join(directory)).unwrap();
        for file in fs::read_dir(fixtures().join(directory)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), root.path().join(directory).join(file.file_name())).unwrap();
        }
    }
    let mut found = Vec::new();
    let storage = Storage::open(&root.path().join("log"), options(), &mut |record, payload| {
        if record.header.kind == KIND_ENTRY {
            assert_eq!(record.header.ballot, ballot());
            found.push(segment::decode_value(payload).ok_or("not a value")?);
        }
        Ok(())
    });
    drop(storage.unwrap());
    assert_eq!(found, values());
    let mut reader = Reader::new(&root.path().join("log"), &root.path().join("index"));
    for (position, value) in (5..).zip(values()) {
        let decided = reader.read(position).unwrap();
        assert_eq!((decided.entry.value, decided.verdict), (value, verdict(position)));
    }
}

#[test]
fn version_1_is_still_what_is_written() {
    let bytes = fs::read(fixtures().join("log/0000000001.seg")).unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap();
    assert_eq!(header.encode()[..], bytes[..segment::SEGMENT_HEADER_BYTES]);
    for ((position, location), value) in locations().into_iter().zip(values()) {
        let (from, to) = (location.offset as usize, (location.offset + location.length) as usize);
        let (old, _) = segment::decode_record(&bytes[from..to], header.seed(), location.offset).unwrap();
        let mut payload = BytesMut::new();
        synod_paxos::put_value(&mut payload, &value);
        let mut written = BytesMut::new();
        segment::append_record(
            &mut written,
            header.seed(),
            location.offset,
            old.durable,
            (KIND_ENTRY, position, ballot()),
            |into| into.put_slice(&payload),
        );
        assert_eq!(written[..], bytes[from..to], "position {position}");
    }
}

fn segment_bytes() -> Vec<u8> {
    fs::read(fixtures().join("log/0000000001.seg")).unwrap()
}

proptest! {
    #[test]
    fn random_bytes_are_no_records(bytes in proptest::collection::vec(any::<u8>(), 0..600), seed: u32, offset: u32) {
        prop_assert!(segment::decode_record(&bytes, seed, offset).is_none());
        prop_assert!(segment::decode_entry(&Bytes::from(bytes.clone()), seed, offset).is_none());
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        let _ = segment::decode_value(Bytes::from(bytes.clone()));
        let _ = segment::SegmentStart::decode(&bytes);
        let header = SegmentHeader { log: LogId::default(), number: 1, size: bytes.len() as u32 };
        let scan = segment::scan(&bytes, &header);
        prop_assert!(scan.records.is_empty() && scan.beyond.is_empty());
    }

    /// A hostile record has a valid checksum.
    #[test]
    fn a_valid_record_with_any_payload_is_read_or_refused(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        tag in 0u8..4,
        kind in 1u8..25,
    ) {
        let mut bytes = BytesMut::new();
        segment::append_record(&mut bytes, 5, 64, 0, (kind, 1, ballot()), |into| {
            into.put_u8(tag);
            into.put_slice(&payload);
        });
        let bytes = bytes.freeze();
        prop_assert!(segment::decode_record(&bytes, 5, 64).is_some());
        let _ = segment::decode_entry(&bytes, 5, 64);
    }

    /// Whatever happens to one place of the files: opening gives what was there, or says what is damaged. (One word:
    /// that both a record and the mark that covers it are hit is left to the peers, who know what was acknowledged.)
    #[test]
    fn a_log_with_bytes_changed_anywhere_opens_whole_or_damaged(
        word in 0usize..4096 / 8,
        change in any::<[u8; 8]>(),
        identity in proptest::option::of((0usize..40, any::<u8>())),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut bytes = segment_bytes();
        for (byte, change) in bytes[word * 8..].iter_mut().zip(change) {
            *byte ^= change;
        }
        let mut identity_bytes = fs::read(fixtures().join("log/identity")).unwrap();
        if let Some((at, byte)) = identity {
            identity_bytes[at] = byte;
        }
        fs::write(root.path().join("0000000001.seg"), &bytes).unwrap();
        fs::write(root.path().join("identity"), identity_bytes).unwrap();
        let mut count = 0;
        let opened = Storage::open(root.path(), options(), &mut |found, payload| {
            if found.header.kind == KIND_ENTRY {
                segment::decode_value(payload).ok_or("not a value")?;
                count += 1;
            }
            Ok(())
        });
        match opened {
            Ok(_) => prop_assert_eq!(count, 4),
            Err(StorageError::Damaged { .. }) => {}
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }

    #[test]
    fn an_index_of_random_bytes_gives_nothing_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        keep_header: bool,
        position in 0u64..40,
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut file = fs::read(fixtures().join("index/000000000000.idx")).unwrap();
        let at = if keep_header { 16 } else { 0 };
        file.truncate(at);
        file.extend_from_slice(&bytes);
        fs::write(root.path().join("000000000000.idx"), &file).unwrap();
        let mut reader = Reader::new(&fixtures().join("log"), root.path());
        prop_assert!(reader.read(position).is_err());
        let mut index = DecidedIndex::open(root.path()).unwrap();
        prop_assert!(index.lookup(position).unwrap().is_none());
    }
}
