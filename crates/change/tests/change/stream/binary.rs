//! `binary`: what was written is read, whatever is damaged is noticed, and no bytes panic.

use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::DecodeError;
use synod_change::stream::binary::{Reader, Writer};
use synod_change::stream::{Change, Event, Format, Table};

use super::made::{self, OwnedEvent, What};
use super::shop::shop;
use crate::fixtures::fixture;
use crate::made::{damage, damaged};

fn written(events: &[OwnedEvent], tables: &[Table]) -> Vec<Vec<u8>> {
    let mut writer = Writer::new(vec![("encoding".into(), "UTF8".into())]);
    let write = |event: &OwnedEvent| {
        let mut message = Vec::new();
        event.with(tables, |event| writer.write(event, &mut message));
        message
    };
    events.iter().map(write).collect()
}

fn told(events: &[OwnedEvent], tables: &[Table]) -> Vec<String> {
    let debug = |event: &OwnedEvent| event.with(tables, |event| format!("{event:?}"));
    events.iter().map(debug).collect()
}

fn read(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<String>, DecodeError> {
    let mut events = Vec::new();
    reader.read(bytes, |event: &Event<'_>| {
        events.push(format!("{event:?}"));
        Ok::<(), DecodeError>(())
    })?;
    Ok(events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(tables in made::tables(), events in vec(made::event(), 1..12)) {
        let mut messages = written(&events, &tables);
        let mut reader = Reader::new();
        for (message, event) in messages.iter().zip(&events) {
            prop_assert_eq!(read(&mut reader, message).unwrap(), told(std::slice::from_ref(event), &tables));
        }
        prop_assert_eq!(reader.properties(), &[("encoding".to_owned(), "UTF8".to_owned())]);
        // As pg_recvlogical leaves it in a file; then another session.
        messages.extend(written(&events, &tables));
        let file = messages.join(&b'\n');
        let twice = [&events[..], &events[..]].concat();
        prop_assert_eq!(read(&mut Reader::new(), &file).unwrap(), told(&twice, &tables));
    }

    #[test]
    fn damage_is_noticed(
        tables in made::tables(),
        events in vec(made::event(), 1..5),
        damage in damage(),
    ) {
        let bytes = written(&events, &tables).concat();
        let bad = damaged(&bytes, &damage);
        let expected = told(&events, &tables);
        let mut seen = 0;
        let mut reader = Reader::new();
        let result = reader.read(&bad, |event: &Event<'_>| {
            assert_eq!(format!("{event:?}"), expected[seen]);
            seen += 1;
            Ok::<(), DecodeError>(())
        });
        // Cut between two frames nothing is wrong, and a line feed before a frame is none.
        prop_assert!(result.is_err() || seen < expected.len() || bad.len() == bytes.len() + 1, "{result:?}");
    }

    /// Frames whose checksum is right and whose payload is anything.
    #[test]
    fn no_bytes_panic(
        tables in made::tables(),
        events in vec(made::event(), 1..5),
        damages in vec((any::<prop::sample::Index>(), damage()), 0..4),
        noise in vec(any::<u8>(), 0..60),
        kind in any::<u8>(),
    ) {
        let mut frames = frames(&written(&events, &tables).concat());
        frames.push((kind, noise));
        for (at, damage) in damages {
            let at = at.index(frames.len());
            if !frames[at].1.is_empty() {
                frames[at].1 = damaged(&frames[at].1, &damage);
            }
        }
        let mut reader = Reader::new();
        for (kind, payload) in frames {
            let _ = read(&mut reader, &framed(kind, &payload));
        }
    }

    #[test]
    fn noise_does_not_panic(noise in vec(any::<u8>(), 0..200)) {
        let _ = read(&mut Reader::new(), &noise);
        let _ = Reader::frame_length(&noise);
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(length) = Reader::frame_length(bytes) {
        let (frame, rest) = bytes.split_at(length as usize);
        frames.push((frame[0], frame[9..].to_vec()));
        bytes = rest;
    }
    frames
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend((payload.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), payload);
    frame.extend(crc.to_le_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn a_table_is_told_once_for_each_version() {
    let tables = [
        Table {
            version: 1,
            oid: 7,
            ..Table::default()
        },
        Table {
            version: 2,
            oid: 8,
            ..Table::default()
        },
        Table {
            version: 3,
            oid: 7,
            ..Table::default()
        },
    ];
    let kinds = |numbers: &[usize]| {
        let event = |number: &usize| made::simple(made::What::Insert(*number, Vec::new()));
        let events: Vec<_> = numbers.iter().map(event).collect();
        let kinds = frames(&written(&events, &tables).concat());
        String::from_utf8(kinds.iter().map(|(kind, _)| *kind).collect()).unwrap()
    };
    assert_eq!(kinds(&[0, 1, 0, 1, 1]), "HRIRIIII");
    assert_eq!(kinds(&[0, 1, 2, 2, 1]), "HRIRIRIII");
}

#[test]
fn what_comes_without_a_header_is_refused() {
    let tables = [Table::default()];
    let messages = written(
        &[made::simple(made::What::Begin), made::simple(made::What::Commit)],
        &tables,
    );
    let mut reader = Reader::new();
    assert!(read(&mut reader, &messages[1]).is_err());
    assert!(read(&mut reader, &messages[0]).is_ok());
    assert!(read(&mut reader, &messages[1]).is_ok());
    // After an error, too: what was lost may have told a table.
    assert!(read(&mut reader, &messages[1][..5]).is_err());
    assert!(read(&mut reader, &messages[1]).is_err());
    let mut newer = frames(&messages[0]);
    newer[0].1[8] = 2;
    let error = read(&mut reader, &framed(newer[0].0, &newer[0].1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown change stream version 2: written by a newer release"
    );
}

#[test]
fn an_error_of_the_listener_is_given_back() {
    let message = written(&[made::simple(made::What::Begin)], &[]).concat();
    let mut reader = Reader::new();
    let stop = |_: &Event<'_>| Err(DecodeError::corrupt("listener", "it has enough"));
    assert_eq!(
        reader.read(&message, stop),
        Err(DecodeError::corrupt("listener", "it has enough"))
    );
    assert!(read(&mut reader, &message).is_ok());
}

#[test]
fn stream_of_version_1() {
    let (tables, events) = shop();
    let bytes = fixture("stream_v1.bin", &written(&events, &tables).concat());
    assert_eq!(read(&mut Reader::new(), &bytes).unwrap(), told(&events, &tables));
}

/// A reader of some of the tables that a TRUNCATE emptied: those tables' ordinals are those that a reader of all is told.
fn emptied(tables: &[(usize, u64)]) -> Vec<OwnedEvent> {
    let mut events = vec![
        made::simple(What::Begin),
        made::simple(What::Truncate(tables.to_vec(), true, false)),
        made::simple(What::Delete(2, None)),
        made::simple(What::Commit),
    ];
    events[1].place.id.3 = 2;
    events[2].place.id.3 = 3 + tables.iter().map(|(_, between)| between + 1).sum::<u64>();
    events
}

fn three_tables() -> Vec<Table> {
    let table = |number: u32| Table {
        version: number.into(),
        oid: number,
        name: format!("t{number}").into(),
        ..Table::default()
    };
    (1..=3).map(table).collect()
}

/// The table behind one that was left out was called by that one's number.
#[test]
fn an_emptied_table_has_its_own_ordinal() {
    let tables = three_tables();
    let ordinals = |emptied_tables: &[(usize, u64)]| {
        let bytes = written(&emptied(emptied_tables), &tables).concat();
        let mut ordinals = Vec::new();
        Reader::new()
            .read(&bytes, |event: &Event<'_>| {
                event.each_table(|event, _| {
                    if let Event::Row(place, change) = event {
                        let table = match change {
                            Change::Truncate { tables, .. } => tables[0].table,
                            Change::Delete { table, .. } => *table,
                            other => panic!("{other:?}"),
                        };
                        ordinals.push((table.oid, place.id.to_string()));
                    }
                    Ok::<(), DecodeError>(())
                })
            })
            .unwrap();
        ordinals
            .into_iter()
            .map(|(oid, id)| (oid, id.rsplit('/').next().unwrap().to_owned()))
            .map(|(oid, ordinal)| format!("{oid}:{ordinal}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(ordinals(&[(0, 0), (1, 0), (2, 0)]), "1:2 2:3 3:4 3:6");
    assert_eq!(ordinals(&[(0, 0), (2, 1)]), "1:2 3:4 3:6");
    assert_eq!(ordinals(&[(0, 0), (1, 7), (2, 300)]), "1:2 2:10 3:311 3:313");
}

/// Tables that follow each other are told as before there was a flag for others, so that older readers understand it; what they
/// would number wrongly has a flag that they refuse.
#[test]
fn truncate_of_some_tables() {
    let tables = three_tables();
    let flags = |emptied_tables: &[(usize, u64)]| {
        let frames = frames(&written(&emptied(emptied_tables), &tables).concat());
        let truncate = frames.into_iter().find(|(kind, _)| *kind == b'T').unwrap().1;
        truncate[truncate.len() - emptied_tables.len() - 2..].to_vec()
    };
    assert_eq!(flags(&[(0, 0), (2, 0)]), [1, 2, 0, 1], "flags, count, slots");
    let events = emptied(&[(0, 0), (2, 1)]);
    let bytes = fixture("stream_truncate_v1.bin", &written(&events, &tables).concat());
    assert_eq!(read(&mut Reader::new(), &bytes).unwrap(), told(&events, &tables));
    let truncate = frames(&bytes).into_iter().find(|(kind, _)| *kind == b'T').unwrap().1;
    assert!(
        truncate.ends_with(&[5, 2, 0, 1, 1]),
        "flags, count, slots, one between: {truncate:?}"
    );
    let mut unknown = truncate.clone();
    let at = unknown.len() - 5;
    unknown[at] |= 8;
    let mut reader = Reader::new();
    read(&mut reader, &bytes).unwrap();
    let error = read(&mut reader, &framed(b'T', &unknown)).unwrap_err().to_string();
    assert!(error.contains("an unknown flag of TRUNCATE is set"), "{error}");
}
