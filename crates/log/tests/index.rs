//! The index of decided entries, and reading by it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use synod_log::{
    Ballot, Command, Completion, Decided, DecidedIndex, Location, NodeId, ProposalId, ReadError, Reader, Record,
    Storage, StorageOptions, Stored, Value,
};

const NODE: NodeId = NodeId(1);

fn value(position: u64) -> Value {
    let id = ProposalId {
        node: NODE,
        incarnation: 1,
        sequence: position,
    };
    Value::Command(Command {
        id,
        payload: Bytes::from(format!("payload {position}")),
    })
}

fn verdict(position: u64) -> u8 {
    (position % 3 + 1) as u8
}

/// A log of `count` entries, with all but the last `unrecorded` of them in the index.
fn log(root: &Path, count: u64, unrecorded: u64) -> (Storage, DecidedIndex) {
    let options = StorageOptions {
        segment_bytes: 64 << 10,
        fsync: false,
        ..StorageOptions::new(NODE)
    };
    let storage = Storage::create(&root.join("log"), options).unwrap();
    let mut index = DecidedIndex::open(&root.join("index")).unwrap();
    storage.write(
        1,
        (1..=count)
            .map(|position| Record::entry(position, Ballot::default(), value(position)))
            .collect(),
    );
    let mut done = false;
    while !done {
        match storage
            .wait(Duration::from_secs(20))
            .expect("the storage thread answers")
        {
            Completion::Written { stored, .. } => {
                for Stored { position, location, .. } in stored {
                    if position <= count - unrecorded {
                        index.record(position, location, verdict(position)).unwrap();
                    }
                }
            }
            Completion::Durable(_) => done = true,
            Completion::Failed(why) => panic!("{why}"),
        }
    }
    index.flush().unwrap();
    (storage, index)
}

fn reader(root: &Path) -> Reader {
    Reader::new(&root.join("log"), &root.join("index"))
}

fn check(decided: &Decided, position: u64) {
    assert_eq!(decided.entry.position, position);
    assert_eq!(decided.entry.value, value(position));
    assert_eq!(decided.verdict, verdict(position));
}

#[test]
fn single_entries_and_ranges_are_read_back() {
    let root = tempfile::tempdir().unwrap();
    let (storage, mut index) = log(root.path(), 5000, 10);
    let mut reader = reader(root.path());
    for position in [1, 2, 700, 4990] {
        check(&reader.read(position).unwrap(), position);
        assert_eq!(index.lookup(position).unwrap().unwrap().1, verdict(position));
    }
    assert!(matches!(reader.read(4991), Err(ReadError::NotYet(4991))));
    assert!(matches!(reader.read(1 << 40), Err(ReadError::NotYet(_))));
    assert_eq!(index.lookup(4991).unwrap(), None);
    let mut decided = Vec::new();
    reader.read_range(1, 5000, usize::MAX, &mut decided).unwrap();
    assert_eq!(decided.len(), 4990);
    for (position, decided) in (1..).zip(&decided) {
        check(decided, position);
    }
    let mut few = Vec::new();
    reader.read_range(100, 5000, 1000, &mut few).unwrap();
    assert!((5..20).contains(&few.len()), "{}", few.len());
    check(&few[0], 100);
    // More arrives while the reader is open.
    let (location, _) = index.lookup(4990).unwrap().unwrap();
    index.record(4991, location, 1).unwrap();
    index.flush().unwrap();
    assert!(
        matches!(reader.read(4991), Err(ReadError::Corrupt { position: 4991, .. })),
        "leads to another entry"
    );
    drop(storage);
}

#[test]
fn trimmed_entries_are_told_from_those_to_come() {
    let root = tempfile::tempdir().unwrap();
    let (storage, mut index) = log(root.path(), 5000, 0);
    let mut open_before = reader(root.path());
    open_before.read(4000).unwrap();
    storage.trim(3000);
    drop(storage);
    let mut reader = reader(root.path());
    assert!(matches!(reader.read(10), Err(ReadError::Trimmed(10))));
    assert!(matches!(open_before.read(10), Err(ReadError::Trimmed(10))));
    check(&reader.read(3000).unwrap(), 3000);
    let far = Location {
        segment: 1,
        offset: 64,
        length: 48,
    };
    index.record(1 << 20, far, 1).unwrap();
    index.sync().unwrap();
    index.trim(1 << 19).unwrap();
    assert!(matches!(reader.read(1 << 19), Err(ReadError::Trimmed(_))));
    assert!(matches!(reader.read((1 << 20) + 1), Err(ReadError::NotYet(_))));
    assert_eq!(index.lookup(10).unwrap(), None);
}

#[test]
fn a_slot_or_a_record_flipped_at_any_bit_is_corrupt_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (storage, mut index) = log(root.path(), 20, 0);
    index.sync().unwrap();
    drop(storage);
    let (location, _) = index.lookup(7).unwrap().unwrap();
    for (path, from, to) in [
        (root.path().join("index/000000000000.idx"), 16 + 7 * 16, 16 + 8 * 16),
        (
            root.path().join("log/0000000001.seg"),
            location.offset as usize,
            (location.offset + location.length) as usize,
        ),
    ] {
        let good = fs::read(&path).unwrap();
        for bit in from * 8..to * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let mut reader = reader(root.path());
            assert!(
                matches!(reader.read(7), Err(ReadError::Corrupt { position: 7, .. })),
                "bit {bit} of {path:?}"
            );
            check(&reader.read(6).unwrap(), 6);
            check(&reader.read(8).unwrap(), 8);
            let mut range = Vec::new();
            reader.read_range(1, 20, usize::MAX, &mut range).unwrap();
            assert_eq!(range.len(), 6);
        }
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn the_index_goes_on_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let location = |position: u64| Location {
        segment: 1,
        offset: position as u32 * 8,
        length: 48,
    };
    let mut index = DecidedIndex::open(root.path()).unwrap();
    let around_the_end_of_a_file = 65_530..=65_545;
    for position in around_the_end_of_a_file.clone() {
        index.record(position, location(position), 1).unwrap();
    }
    index.sync().unwrap();
    drop(index);
    let mut index = DecidedIndex::open(root.path()).unwrap();
    index.record(65_540, location(1), 2).unwrap();
    for position in around_the_end_of_a_file {
        let expected = if position == 65_540 {
            (location(1), 2)
        } else {
            (location(position), 1)
        };
        assert_eq!(index.lookup(position).unwrap(), Some(expected), "{position}");
    }
}
