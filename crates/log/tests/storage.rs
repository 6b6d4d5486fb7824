//! Segment files: what was reported durable is found again, or opening says that the log is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use synod_log::segment::{KIND_ENTRY, KIND_STATE};
use synod_log::{
    Ballot, Command, Completion, Location, NodeId, ProposalId, Record, Storage, StorageError, StorageOptions, Value,
};

const NODE: NodeId = NodeId(1);
const PATIENCE: Duration = Duration::from_secs(20);

fn options(segment_bytes: u32) -> StorageOptions {
    StorageOptions {
        segment_bytes,
        fsync: false,
        ..StorageOptions::new(NODE)
    }
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NODE }
}

fn entry(position: u64, payload: &[u8]) -> Record {
    let id = ProposalId {
        node: NODE,
        incarnation: 1,
        sequence: position,
    };
    let payload = Bytes::copy_from_slice(payload);
    Record::entry(position, ballot(1), Value::Command(Command { id, payload }))
}

fn wait_durable(storage: &Storage, ticket: u64) {
    loop {
        match storage.wait(PATIENCE).expect("the storage thread answers") {
            Completion::Durable(done) if done >= ticket => return,
            Completion::Failed(why) => panic!("{why}"),
            _ => {}
        }
    }
}

/// What a log holds: (kind, position, payload bytes), in order, marks and starts left out.
type Content = Vec<(u8, u64, Bytes)>;

fn open(directory: &Path, segment_bytes: u32) -> Result<(Storage, Content), StorageError> {
    let mut content = Content::new();
    let storage = Storage::open(directory, options(segment_bytes), &mut |found, payload| {
        if found.header.kind == KIND_ENTRY || found.header.kind >= KIND_STATE {
            content.push((
                found.header.kind,
                found.header.position,
                Bytes::copy_from_slice(&payload),
            ));
        }
        Ok(())
    })?;
    Ok((storage, content))
}

fn entries(content: &Content) -> Vec<u64> {
    content
        .iter()
        .filter(|(kind, ..)| *kind == KIND_ENTRY)
        .map(|(_, position, _)| *position)
        .collect()
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn what_the_owner_writes_himself_is_durable_at_once_and_keeps_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    storage.write(1, vec![entry(1, b"queued")]);
    wait_durable(&storage, 1);
    let mut at_once = 0;
    for position in 2..=100 {
        storage.note(vec![Record::state(KIND_STATE, Bytes::from(position.to_string()))]);
        storage.write_now(position, vec![entry(position, &[position as u8; 100])]);
        match storage.completion() {
            Some(Completion::Written { .. }) => {
                assert!(matches!(storage.completion(), Some(Completion::Durable(ticket)) if ticket == position));
                at_once += 1;
            }
            // A full segment: left to the thread.
            _ => wait_durable(&storage, position),
        }
    }
    assert!(at_once > 0);
    storage.note(vec![Record::state(KIND_STATE, Bytes::from_static(b"last"))]);
    drop(storage);
    let (_storage, content) = open(directory.path(), 4096).unwrap();
    assert_eq!(entries(&content), (1..=100).collect::<Vec<_>>());
    assert_eq!(content.last().unwrap().2, Bytes::from_static(b"last"));
}

/// The pages that a sync failed for may count as written from then on, and look so to who opens the log again.
#[test]
fn what_a_failed_sync_left_is_written_once_more() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let hook = {
        let fails = Arc::clone(&fails);
        move |_: &Path, _: std::ops::Range<u32>| match fails.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("the disk is bad")),
            false => Ok(()),
        }
    };
    let options = StorageOptions {
        fsync: true,
        sync_hook: Some(Arc::new(hook)),
        ..options(1 << 20)
    };
    let storage = Storage::create(directory.path(), options).unwrap();
    storage.write(1, vec![entry(1, b"synced")]);
    wait_durable(&storage, 1);
    fails.store(true, Ordering::SeqCst);
    storage.write(2, vec![entry(2, b"not synced")]);
    while !matches!(storage.wait(PATIENCE).expect("it answers"), Completion::Failed(_)) {}
    drop(storage);
    let path = &segments(directory.path())[0];
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let options = StorageOptions {
        fsync: true,
        ..self::options(1 << 20)
    };
    let storage = Storage::open(directory.path(), options, &mut |_, _| Ok(())).unwrap();
    assert!(
        fs::metadata(path).unwrap().modified().unwrap() > long_ago,
        "a sync alone makes nothing durable that was dropped"
    );
    drop(storage);
    let (_storage, content) = open(directory.path(), 1 << 20).unwrap();
    assert_eq!(entries(&content), [1, 2]);
}

#[test]
fn a_slow_disk_is_left_to_the_thread() {
    let directory = tempfile::tempdir().unwrap();
    let synced_by = Arc::new(Mutex::new(None));
    let slow = {
        let synced_by = Arc::clone(&synced_by);
        Arc::new(move |_: &Path, _: std::ops::Range<u32>| {
            std::thread::sleep(Duration::from_millis(5));
            *synced_by.lock().unwrap() = Some(std::thread::current().id());
            Ok(())
        })
    };
    let options = StorageOptions {
        sync_hook: Some(slow),
        ..options(1 << 20)
    };
    let storage = Storage::create(directory.path(), options).unwrap();
    for ticket in 1..=20 {
        storage.write(ticket, vec![entry(ticket, b"x")]);
        wait_durable(&storage, ticket);
    }
    storage.write_now(21, vec![entry(21, b"x")]);
    wait_durable(&storage, 21);
    let owner = Some(std::thread::current().id());
    assert_ne!(*synced_by.lock().unwrap(), owner, "the owner waited for a slow disk");
}

#[test]
fn what_was_durable_is_found_again_over_many_segments() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    let log = storage.log_id();
    storage.write(1, vec![Record::state(KIND_STATE, Bytes::from_static(b"promise 1"))]);
    for position in 1..=200 {
        storage.write(1 + position, vec![entry(position, &[position as u8; 100])]);
    }
    storage.write(300, vec![Record::state(KIND_STATE, Bytes::from_static(b"promise 2"))]);
    wait_durable(&storage, 300);
    drop(storage);
    let (storage, content) = open(directory.path(), 4096).unwrap();
    assert_eq!(storage.log_id(), log);
    assert_eq!(entries(&content), (1..=200).collect::<Vec<_>>());
    let last = content.iter().rfind(|(kind, ..)| *kind == KIND_STATE).unwrap();
    assert_eq!(last.2, Bytes::from_static(b"promise 2"));
    assert!(segments(directory.path()).len() > 5);
    assert!(matches!(
        Storage::open(directory.path(), options(4096), &mut |_, _| Ok(())),
        Err(StorageError::InUse(_))
    ));
    assert!(matches!(
        Storage::create(directory.path(), options(4096)),
        Err(StorageError::InUse(_))
    ));
    drop(storage);
    assert!(matches!(
        Storage::create(directory.path(), options(4096)),
        Err(StorageError::Exists(_))
    ));
}

#[test]
fn a_trim_deletes_whole_segments_and_keeps_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    storage.write(1, vec![Record::state(KIND_STATE, Bytes::from_static(b"promise"))]);
    for position in 1..=100 {
        storage.write(1 + position, vec![entry(position, &[1; 100])]);
    }
    wait_durable(&storage, 101);
    let before = segments(directory.path()).len();
    storage.trim(60);
    drop(storage);
    assert!(segments(directory.path()).len() < before);
    let (_storage, content) = open(directory.path(), 4096).unwrap();
    let entries = entries(&content);
    assert!(entries[0] <= 60 && entries[0] > 30, "{entries:?}");
    assert_eq!(*entries.last().unwrap(), 100);
    assert!(
        content
            .iter()
            .any(|(kind, _, bytes)| *kind == KIND_STATE && bytes == "promise")
    );
}

#[test]
fn another_node_s_directory_a_missing_one_and_a_lost_segment_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Storage::open(directory.path(), options(4096), &mut |_, _| Ok(()));
    assert!(matches!(missing, Err(StorageError::Missing(_))));
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    for position in 1..=100 {
        storage.write(position, vec![entry(position, &[1; 100])]);
    }
    wait_durable(&storage, 100);
    drop(storage);
    let other = StorageOptions {
        node: NodeId(2),
        ..options(4096)
    };
    assert!(matches!(
        Storage::open(directory.path(), other, &mut |_, _| Ok(())),
        Err(StorageError::OtherNode {
            found: 1,
            expected: 2,
            ..
        })
    ));
    fs::remove_file(&segments(directory.path())[1]).unwrap();
    assert!(matches!(
        open(directory.path(), 4096),
        Err(StorageError::Damaged { .. })
    ));
}

/// A closed log (its last mark covers everything) of one segment with several records, and what it holds.
fn small_log() -> (tempfile::TempDir, Content) {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    storage.write(1, vec![Record::state(KIND_STATE, Bytes::from_static(b"promise"))]);
    wait_durable(&storage, 1);
    for position in 1..=6 {
        storage.write(1 + position, vec![entry(position, &[position as u8; 13])]);
        wait_durable(&storage, 1 + position);
    }
    drop(storage);
    let (storage, content) = open(directory.path(), 4096).unwrap();
    drop(storage);
    (directory, content)
}

#[test]
fn a_segment_flipped_at_any_byte_opens_whole_or_damaged() {
    let (directory, content) = small_log();
    let path = segments(directory.path())[0].clone();
    let good = fs::read(&path).unwrap();
    let mut damaged = 0;
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        match open(directory.path(), 4096) {
            Ok((_, found)) => assert_eq!(found, content, "byte {at}"),
            Err(StorageError::Damaged { .. }) => {
                assert_eq!(fs::read(&path).unwrap(), bytes, "a damaged file is left as it is");
                damaged += 1;
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(damaged > 500, "{damaged}");
}

#[test]
fn a_segment_cut_at_any_byte_is_damaged() {
    let (directory, _) = small_log();
    let path = segments(directory.path())[0].clone();
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        assert!(
            matches!(open(directory.path(), 4096), Err(StorageError::Damaged { .. })),
            "cut at {length}"
        );
    }
}

/// Zeros from any byte on: what a sync that never returned may leave of the last write. Whatever is missing was not
/// marked, or the log is damaged.
#[test]
fn a_last_write_torn_at_any_byte_leaves_exactly_what_was_synced_before() {
    let (directory, before) = small_log();
    let path = segments(directory.path())[0].clone();
    let old = fs::read(&path).unwrap();
    let (storage, _) = open(directory.path(), 4096).unwrap();
    storage.write(
        1,
        (7..=9).map(|position| entry(position, &[position as u8; 13])).collect(),
    );
    wait_durable(&storage, 1);
    // Taken at once: before the mark that follows when the log is quiet.
    let new = fs::read(&path).unwrap();
    drop(storage);
    let changed = (0..new.len()).filter(|at| new[*at] != old[*at]).collect::<Vec<_>>();
    let (first, last) = (changed[0], *changed.last().unwrap());
    for cut in first..=last {
        for keep_end in [false, true] {
            let mut bytes = new.clone();
            // Either a prefix of the write arrived, or all but 24 bytes of it: pages are written in any order.
            let to = if keep_end { (cut + 24).min(last + 1) } else { last + 1 };
            bytes[cut..to].copy_from_slice(&old[cut..to]);
            fs::write(&path, &bytes).unwrap();
            let (storage, found) = open(directory.path(), 4096).unwrap_or_else(|error| panic!("{cut}: {error}"));
            drop(storage);
            assert_eq!(found[..before.len()], before[..], "{cut}");
            assert!(found.len() <= before.len() + 3);
            // What was cut does not come back behind what is written next.
            let (storage, again) = open(directory.path(), 4096).unwrap();
            drop(storage);
            assert_eq!(again, found, "{cut}");
        }
    }
}

#[test]
fn a_torn_first_write_into_a_new_segment_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    let mut position = 0;
    while segments(directory.path()).len() < 3 {
        position += 1;
        storage.write(position, vec![entry(position, &[1; 100])]);
        wait_durable(&storage, position);
        // Leave the storage thread the time to build the next segment.
        let _ = storage.wait(Duration::from_millis(1));
    }
    drop(storage);
    let (storage, content) = open(directory.path(), 4096).unwrap();
    drop(storage);
    let (used, unused): (Vec<_>, Vec<_>) = segments(directory.path())
        .into_iter()
        .partition(|path| fs::read(path).unwrap()[64..].iter().any(|b| *b != 0));
    // The segment after one is only built when the first write into it is durable.
    for path in unused {
        fs::remove_file(path).unwrap();
    }
    let last = used.last().unwrap();
    let mut bytes = fs::read(last).unwrap();
    // All but the first record arrived, and nothing says that it was ever synced.
    bytes[70] ^= 1;
    bytes[104..].fill(0);
    fs::write(last, &bytes).unwrap();
    let (storage, found) = open(directory.path(), 4096).unwrap();
    assert!(found.len() < content.len());
    assert_eq!(found[..], content[..found.len()]);
    storage.write(1, vec![entry(99, &[9; 900]), entry(100, &[9; 900])]);
    wait_durable(&storage, 1);
    drop(storage);
    let (_, found) = open(directory.path(), 4096).unwrap();
    assert_eq!(entries(&found).last(), Some(&100));
}

/// A file, and the bytes of it that were written and not synced.
type Unsynced = (PathBuf, std::ops::Range<u32>);

/// A machine that loses power: nothing of the last, unsynced write may be there, or all, or any part.
#[test]
fn a_crash_between_write_and_sync_keeps_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let crash = tempfile::tempdir().unwrap();
    let armed = Arc::new(AtomicBool::new(false));
    let lost: Arc<Mutex<Option<Unsynced>>> = Arc::default();
    let hook = {
        let (armed, lost) = (armed.clone(), lost.clone());
        move |path: &Path, range: std::ops::Range<u32>| {
            if armed.load(Ordering::SeqCst) {
                *lost.lock().unwrap() = Some((path.to_path_buf(), range));
                return Err(std::io::Error::other("power cut"));
            }
            Ok(())
        }
    };
    let options_with_hook = StorageOptions {
        sync_hook: Some(Arc::new(hook)),
        ..options(4096)
    };
    let storage = Storage::create(directory.path(), options_with_hook).unwrap();
    for position in 1..=40 {
        storage.write(position, vec![entry(position, &[position as u8; 77])]);
        wait_durable(&storage, position);
    }
    armed.store(true, Ordering::SeqCst);
    storage.write(
        41,
        (41..=48)
            .map(|position| entry(position, &[position as u8; 77]))
            .collect(),
    );
    let failed = loop {
        match storage.wait(PATIENCE).unwrap() {
            Completion::Failed(why) => break why,
            Completion::Durable(ticket) => assert!(ticket <= 40),
            Completion::Written { .. } => {}
        }
    };
    assert!(
        failed.contains("could not sync") && failed.contains("power cut"),
        "{failed}"
    );
    storage.write(42, vec![entry(49, b"after the failure")]);
    drop(storage);
    let (path, range) = lost.lock().unwrap().clone().unwrap();
    for pattern in 0..64u32 {
        for file in fs::read_dir(directory.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), crash.path().join(file.file_name())).unwrap();
        }
        let torn = crash.path().join(path.file_name().unwrap());
        let mut bytes = fs::read(&torn).unwrap();
        let (from, to) = (range.start as usize, range.end as usize);
        for (sector, piece) in bytes[from..to].chunks_mut(128).enumerate() {
            if pattern & (1 << (sector % 6)) != 0 {
                piece.fill(0);
            }
        }
        fs::write(&torn, &bytes).unwrap();
        let (storage, content) = open(crash.path(), 4096).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        let found = entries(&content);
        assert!(found.len() >= 40, "pattern {pattern}: {found:?}");
        assert!(!found.contains(&49));
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "pattern {pattern}");
        drop(storage);
    }
}

#[test]
fn no_room_for_the_next_segment_stops_the_log_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    drop(storage);
    // A directory in the place of the file to be built.
    for path in &segments(directory.path())[1..] {
        fs::remove_file(path).unwrap();
    }
    fs::create_dir(directory.path().join("0000000002.tmp")).unwrap();
    fs::write(directory.path().join("0000000002.tmp/full"), b"").unwrap();
    let reopened = open(directory.path(), 4096);
    assert!(reopened.is_err(), "what is not a segment is not removed");
    fs::rename(
        directory.path().join("0000000002.tmp"),
        directory.path().join("blocker"),
    )
    .unwrap();
    let (storage, _) = open(directory.path(), 4096).unwrap();
    // The storage thread is at work: block the one after the next.
    let blocked = directory.path().join("0000000003.tmp");
    fs::rename(directory.path().join("blocker"), &blocked).unwrap();
    let mut durable = 0;
    for position in 1..=100 {
        storage.write(position, vec![entry(position, &[1; 100])]);
    }
    let failed = loop {
        match storage.wait(PATIENCE).unwrap() {
            Completion::Failed(why) => break why,
            Completion::Durable(ticket) => durable = ticket,
            Completion::Written { .. } => {}
        }
    };
    assert!(failed.contains("0000000003.seg"), "{failed}");
    drop(storage);
    fs::remove_file(blocked.join("full")).unwrap();
    fs::remove_dir(&blocked).unwrap();
    let (storage, content) = open(directory.path(), 4096).unwrap();
    let found = entries(&content);
    assert!(found.len() as u64 >= durable);
    let next = found.len() as u64 + 1;
    storage.write(
        1,
        (next..next + 50).map(|position| entry(position, &[1; 100])).collect(),
    );
    wait_durable(&storage, 1);
}

#[test]
fn completions_tell_where_an_entry_lies() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::create(directory.path(), options(4096)).unwrap();
    storage.write(1, vec![entry(1, b"one"), entry(2, b"two")]);
    let Some(Completion::Written { stored, .. }) = storage.wait(PATIENCE) else {
        panic!("not written")
    };
    let positions: Vec<_> = stored
        .iter()
        .map(|stored| (stored.position, stored.location.segment))
        .collect();
    assert_eq!(positions, [(1, 1), (2, 1)]);
    let Location { offset, length, .. } = stored[0].location;
    assert_eq!(stored[1].location.offset, offset + length);
    wait_durable(&storage, 1);
}
