//! Records: there and back, patched, damaged.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::{
    Body, DdlLockRecord, DecodeError, FRAGMENT_BYTES, Key, KeyMode, MAX_FRAGMENTS_PER_RECORD, MAX_INLINE_BODY_BYTES,
    MAX_KEYS_PER_RECORD, Record, WriteRecord, patch_base,
};

use crate::made;

fn decode(bytes: Vec<u8>) -> Result<Record, DecodeError> {
    Record::decode(&Bytes::from(bytes))
}

fn write(keys: usize, body: Body) -> WriteRecord {
    let keys = (0..keys as u64)
        .map(|hash| Key {
            hash,
            mode: KeyMode::Update,
        })
        .collect();
    WriteRecord {
        base: 7,
        transaction: Default::default(),
        commit_time_us: 0,
        keys,
        body,
    }
}

proptest! {
    #[test]
    fn round_trip(record in made::record()) {
        prop_assert_eq!(decode(record.encode()), Ok(record));
    }

    #[test]
    fn patched_base_is_the_only_change(record in made::write_record(), base in any::<u64>()) {
        let mut bytes = record.encode();
        prop_assert!(patch_base(&mut bytes, base));
        prop_assert_eq!(decode(bytes), Ok(Record::Write(WriteRecord { base, ..record })));
    }

    #[test]
    fn damage_is_noticed(record in made::record(), damage in made::damage()) {
        let bytes = record.encode();
        let damaged = made::damaged(&bytes, &damage);
        // A byte inserted may equal the one it pushes away, up to the end.
        prop_assume!(damaged != bytes);
        let error = decode(damaged).expect_err("damage must not pass");
        prop_assert!(matches!(error, DecodeError::Corrupt { .. }), "{error}");
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(bytes);
    }

    /// Past the checksums, where random bytes hardly ever get.
    #[test]
    fn any_content_is_survived(kind in 1u8..5, base in any::<u64>(), content in vec(any::<u8>(), 0..200)) {
        let _ = decode(sealed(1, kind, base, &content));
    }
}

/// A payload with right checksums around any content.
fn sealed(version: u8, kind: u8, base: u64, content: &[u8]) -> Vec<u8> {
    let head = [version, kind, 0, 0];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), content);
    let mut bytes = [&head[..], &crc.to_le_bytes()].concat();
    if (version, kind) == (1, 2) {
        bytes.extend_from_slice(&base.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c_append(crc, &base.to_le_bytes()).to_le_bytes());
    }
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn a_newer_release_is_not_taken_for_damage() {
    assert_eq!(
        decode(sealed(2, 2, 0, b"whatever")),
        Err(DecodeError::Unknown {
            what: "record version",
            number: 2
        })
    );
    assert_eq!(
        decode(sealed(1, 99, 0, b"whatever")),
        Err(DecodeError::Unknown {
            what: "record kind",
            number: 99
        })
    );
}

#[test]
fn a_base_of_another_record_does_not_pass() {
    let one = write(1, Body::Inline(Bytes::new())).encode();
    let mut other = write(2, Body::Inline(Bytes::new())).encode();
    other[8..20].copy_from_slice(&one[8..20]);
    assert!(decode(other).is_err());
}

#[test]
fn only_write_records_have_a_base() {
    let start = Record::Start {
        postgres_version: 150_020,
        synod_version: 100,
    };
    let mut bytes = start.encode();
    assert!(!patch_base(&mut bytes, 1));
    assert!(!patch_base(&mut [1, 2, 0], 1));
    assert_eq!(decode(bytes), Ok(start));
}

#[test]
fn the_largest_records_fit_the_log() {
    const LOG_LIMIT: usize = 1 << 20;
    let body = Bytes::from(vec![0; MAX_INLINE_BODY_BYTES]);
    assert!(write(MAX_KEYS_PER_RECORD, Body::Inline(body)).encode().len() <= LOG_LIMIT);
    let positions = (1..=MAX_FRAGMENTS_PER_RECORD as u64)
        .map(|number| number << 20)
        .collect();
    let named = write(
        MAX_KEYS_PER_RECORD,
        Body::Fragments {
            positions,
            length: u64::MAX,
            crc: u32::MAX,
        },
    );
    let bytes = named.encode();
    assert!(bytes.len() <= LOG_LIMIT, "{}", bytes.len());
    assert_eq!(decode(bytes), Ok(Record::Write(named)));
    let piece = Record::Fragment(Bytes::from(vec![0; FRAGMENT_BYTES]));
    assert!(piece.encode().len() <= LOG_LIMIT);
}

#[test]
fn more_keys_than_allowed_are_refused() {
    let bytes = write(MAX_KEYS_PER_RECORD + 1, Body::Inline(Bytes::new())).encode();
    assert!(matches!(decode(bytes), Err(DecodeError::Corrupt { .. })));
}

#[test]
fn fragments_out_of_order_are_refused() {
    for positions in [vec![5, 4], vec![5, 5], vec![0]] {
        let bytes = write(
            0,
            Body::Fragments {
                positions,
                length: 1,
                crc: 0,
            },
        )
        .encode();
        assert!(matches!(decode(bytes), Err(DecodeError::Corrupt { .. })));
    }
}

/// Found by the fuzzer: such a record would have encoded to another one than it came from.
#[test]
fn a_lock_that_expects_tables_names_some() {
    let mut bytes = Record::DdlLock(DdlLockRecord::default()).encode();
    bytes[1] = 10;
    bytes.push(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(decode(bytes), Err(DecodeError::Corrupt { .. })));
}

#[test]
fn an_inline_body_is_not_copied() {
    let payload = Bytes::from(write(3, Body::Inline(Bytes::from_static(b"body"))).encode());
    let Ok(Record::Write(WriteRecord {
        body: Body::Inline(body),
        ..
    })) = Record::decode(&payload)
    else {
        panic!("not an inline body");
    };
    assert!(payload.as_ptr_range().contains(&body.as_ptr()));
}
