//! Checkpoints: the released format, damage.

use std::path::PathBuf;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::{Body, DdlLockRecord, DecodeError, ExpectedTable, Key, KeyMode, Record, TableId, WriteRecord};

use super::histories::{history, input, small, steps};
use crate::window::Window;
use crate::{Certifier, Input};

/// Gaps, fragments, fencing and claims of all modes.
fn sample() -> Certifier {
    let start = Record::Start {
        postgres_version: 150_020,
        synod_version: 100,
    };
    let piece = Record::Fragment(Bytes::new());
    let keys = |hashes: &[u64]| {
        let key = |(at, hash): (usize, &u64)| Key {
            hash: hash << 40 | 7,
            mode: KeyMode::ALL[at % 4],
        };
        hashes.iter().enumerate().map(key).collect()
    };
    let write = |base, hashes: &[u64]| {
        let (transaction, body) = (Default::default(), Body::Inline(Bytes::new()));
        Record::Write(WriteRecord {
            base,
            transaction,
            commit_time_us: 0,
            keys: keys(hashes),
            body,
        })
    };
    let lock = Record::DdlLock(DdlLockRecord {
        transaction: 12,
        all: true,
        tables: vec![TableId(5), TableId(6)],
        expected: Vec::new(),
    });
    let log = [
        Some(((1, 1 << 32 | 5, 1), start.clone())),
        Some(((2, 3 << 32 | 6, 1), start.clone())),
        Some(((7, 1, 2), write(0, &[1]))),
        None,
        Some(((1, 1 << 32 | 5, 2), write(2, &[1, 2, 3, 4, 5]))),
        Some(((2, 3 << 32 | 6, 4), write(5, &[1, 300]))),
        Some(((2, 3 << 32 | 6, 7), piece.clone())),
        Some(((1, 1 << 32 | 5, 3), piece)),
        Some(((1, 1 << 32 | 5, 4), write(3, &[9, 9, 9, 4]))),
        Some(((2, 3 << 32 | 6, 2), write(9, &[70_000, 6, 5]))),
        None,
        Some(((2, 3 << 32 | 6, 3), lock)),
    ];
    let mut certifier = Certifier::new();
    for (at, entry) in log.iter().enumerate() {
        let input = match entry {
            None => Input::Nothing,
            Some((id, record)) => Input::Command {
                id: (*id).into(),
                record,
            },
        };
        certifier.apply(at as u64 + 1, input);
    }
    certifier
}

/// Append-only. Written if it is missing and `SYNOD_WRITE_FIXTURES` is set.
#[test]
fn checkpoint_of_version_1() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoint_v1.bin");
    let encoded = sample().encode();
    if !path.exists() && std::env::var_os("SYNOD_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &encoded).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, encoded, "today's encoder makes other bytes");
    let certifier = Certifier::decode(&bytes).unwrap();
    assert_eq!(certifier.encode(), bytes);
    assert_eq!(
        (certifier.position(), certifier.last_commit(), certifier.floor()),
        (12, 12, 0)
    );
    assert_eq!(certifier.oldest_open_fragment(), Some(7));
    assert_eq!(certifier.incarnation(2), Some(3 << 32 | 6));
    assert_eq!(certifier.incarnation(3), None);
    assert_eq!(certifier.ddl_lock().map(|lock| lock.tables().len()), Some(2));
}

/// As above, of a lock that expects tables.
#[test]
fn checkpoint_of_version_1_with_expected_tables() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoint_expecting_v1.bin");
    let mut certifier = sample();
    let expected = |name: &str| ExpectedTable {
        schema: "public".into(),
        name: name.into(),
    };
    let lock = Record::DdlLock(DdlLockRecord {
        transaction: 12,
        expected: vec![expected("new"), expected("newer"), expected("new")],
        ..DdlLockRecord::default()
    });
    let id = (2, 3 << 32 | 6, 8);
    certifier.apply(
        13,
        Input::Command {
            id: id.into(),
            record: &lock,
        },
    );
    let encoded = certifier.encode();
    if !path.exists() && std::env::var_os("SYNOD_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &encoded).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, encoded, "today's encoder makes other bytes");
    let lock = Certifier::decode(&bytes).unwrap().ddl_lock().cloned().unwrap();
    assert_eq!(lock.expected, [expected("new"), expected("newer")].into());
    assert_eq!((lock.tables().len(), lock.all, lock.position), (2, true, 13));
}

#[test]
fn a_newer_release_is_not_taken_for_damage() {
    let mut bytes = sample().encode();
    bytes[0] = 2;
    let error = Certifier::decode(&bytes).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Unknown {
            what: "certifier checkpoint version",
            number: 2
        }
    );
}

fn reseal(bytes: &mut [u8]) {
    if let Some((head, content)) = bytes.split_at_mut_checked(5) {
        head[1..].copy_from_slice(&crc32c::crc32c(content).to_le_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
        let mut bytes = sample().encode();
        prop_assert!(Certifier::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Certifier::decode(&bytes).is_err());
    }

    /// With a checksum that holds: what is accepted is sound enough to be encoded, and the same, again.
    #[test]
    fn any_damage_under_a_right_checksum_is_survived(
        steps in steps(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut certifier = small();
        for (at, entry) in history(&steps).iter().enumerate() {
            certifier.apply(at as u64 + 1, input(entry));
        }
        let mut bytes = certifier.encode();
        for (at, byte) in damage {
            let at = 5 + at.index(bytes.len() - 5);
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        reseal(&mut bytes);
        if let Ok(read) = Certifier::decode_into(&bytes, Window::with_limits(6, 16)) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_survived(mut bytes in vec(prop_oneof![0u8..4, any::<u8>()], 0..100)) {
        let _ = Certifier::decode(&bytes);
        bytes.splice(0..0, [1, 0, 0, 0, 0]);
        reseal(&mut bytes);
        let _ = Certifier::decode(&bytes);
    }
}
