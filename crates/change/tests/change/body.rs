//! The stream of changes: there and back, spilled, in fragments, damaged.

use std::io::{self, Read};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::{AssembledBody, BodyReader, BodyWriter, Change, DecodeError, Row, TableId, Value, body_crc};

use crate::made::{self, OwnedChange};

fn stream(changes: &[OwnedChange]) -> Vec<u8> {
    let mut writer = BodyWriter::new();
    changes
        .iter()
        .for_each(|change| change.with(|change| writer.write(&change)));
    assert_eq!(writer.changes(), changes.len() as u64);
    writer.finish()
}

fn same(source: impl Read, changes: &[OwnedChange]) -> Result<(), TestCaseError> {
    let mut reader = BodyReader::new(source);
    for change in changes {
        let read = reader.next().map_err(|error| TestCaseError::fail(error.to_string()))?;
        change.with(|change| {
            prop_assert_eq!(read, Some(change));
            Ok(())
        })?;
    }
    prop_assert_eq!(reader.next(), Ok(None));
    prop_assert_eq!(reader.next(), Ok(None));
    Ok(())
}

fn drain(source: impl Read, limit: u64) -> Result<u64, DecodeError> {
    let mut reader = BodyReader::with_limit(source, limit);
    let mut count = 0;
    while reader.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Gives its bytes one at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn round_trip(changes in vec(made::change(), 0..12)) {
        same(&stream(&changes)[..], &changes)?;
        same(Trickle(&stream(&changes)), &changes)?;
    }

    #[test]
    fn buffers_taken_at_any_time_make_the_same_stream(
        changes in vec((made::change(), any::<bool>()), 0..12),
    ) {
        let mut writer = BodyWriter::new();
        let mut taken = Vec::new();
        for (change, take) in &changes {
            change.with(|change| writer.write(&change));
            if *take {
                taken.extend(writer.take_buffer());
                prop_assert_eq!(writer.buffered(), 0);
            }
            prop_assert_eq!(writer.length(), (taken.len() + writer.buffered()) as u64);
        }
        taken.extend(writer.finish());
        let changes: Vec<_> = changes.into_iter().map(|(change, _)| change).collect();
        prop_assert_eq!(taken, stream(&changes));
    }

    #[test]
    fn fragments_make_the_same_stream(changes in vec(made::change(), 0..12), size in 1usize..100) {
        let bytes = stream(&changes);
        let pieces = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        same(AssembledBody::new(pieces, bytes.len() as u64, body_crc(0, &bytes)), &changes)?;
    }

    #[test]
    fn fragments_damaged_lost_or_swapped_are_noticed(
        changes in vec(made::change(), 1..12),
        damage in made::damage(),
    ) {
        let bytes = stream(&changes);
        let damaged = made::damaged(&bytes, &damage);
        prop_assume!(damaged != bytes);
        let pieces = damaged.chunks(50).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let body = AssembledBody::new(pieces, bytes.len() as u64, body_crc(0, &bytes));
        prop_assert!(drain(body, 1 << 20).is_err());
    }

    #[test]
    fn a_stream_cut_short_is_noticed(changes in vec(made::change(), 0..12), at in any::<prop::sample::Index>()) {
        let bytes = stream(&changes);
        prop_assert!(drain(&bytes[..at.index(bytes.len())], 1 << 20).is_err());
    }

    #[test]
    fn any_damage_is_survived(changes in vec(made::change(), 0..6), damage in vec(made::damage(), 1..4)) {
        let mut bytes = stream(&changes);
        for damage in &damage {
            if !bytes.is_empty() {
                bytes = made::damaged(&bytes, damage);
            }
        }
        let _ = drain(&bytes[..], 1 << 20);
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(prop_oneof![0u8..10, any::<u8>()], 0..200)) {
        let _ = drain(&bytes[..], 1 << 20);
        for version in [1, 2] {
            let _ = drain(&[&[version], &bytes[..]].concat()[..], 1 << 20);
        }
    }
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // Version 1, an insert of 2^31 - 1 bytes, and then nothing.
    let error = drain(&[1, 2, 0xff, 0xff, 0xff, 0xff, 0x07][..], u64::MAX).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Corrupt {
            what: "write set",
            why: "it ends too early"
        }
    );
}

#[test]
fn an_item_above_the_limit_is_refused_unread() {
    let values = [Value::Text(&[b'x'; 2000])];
    let mut writer = BodyWriter::new();
    writer.write(&Change::Insert {
        table: TableId(1),
        new: Row::new(&values),
    });
    let bytes = writer.finish();
    assert_eq!(
        drain(&bytes[..], 1000),
        Err(DecodeError::TooLarge {
            what: "write set",
            length: 2003,
            limit: 1000
        })
    );
    assert_eq!(drain(&bytes[..], 3000), Ok(1));
}

#[test]
fn a_failing_source_is_told_from_damage() {
    let pieces = [Err(io::Error::new(io::ErrorKind::NotFound, "segment 3 is gone"))];
    let error = drain(AssembledBody::new(pieces.into_iter(), 10, 0), 1 << 20).unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::Read {
                kind: io::ErrorKind::NotFound,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn rows_of_one_table_name_it_once() {
    let length = |rows: usize| {
        let mut writer = BodyWriter::new();
        for _ in 0..rows {
            writer.write(&Change::Insert {
                table: TableId(u64::MAX),
                new: Row::new(&[Value::Null]),
            });
        }
        writer.length()
    };
    assert_eq!(length(11) - length(1), 10 * 4);
}
