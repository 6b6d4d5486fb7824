//! Opening the segment files: which records are there, where the torn tail begins, and whether anything is damaged.
//!
//! Invariant: nothing is cut that was ever reported durable. A bad place is a torn tail only at or above every mark
//! (`durable` of a later record in the file, `previous_end` of the next file); anything else is [`StorageError::Damaged`],
//! and then no file was changed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::StorageError;
use crate::files::{self, Identity};
use crate::segment::{
    self, Found, KIND_ENTRY, KIND_START, KIND_STATE, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, Scan,
    SegmentHeader, SegmentStart,
};
use crate::{Ballot, Position};

/// What the writer goes on from.
pub(crate) struct Recovered {
    /// The segment to append to.
    pub header: SegmentHeader,
    pub file: File,
    /// Where its records end; all before it is durable.
    pub end: u32,
    /// The highest mark already written into it.
    pub marked: u32,
    /// Highest position with an entry in it.
    pub highest: Position,
    /// The full segments before it, and the highest position with an entry in each.
    pub sealed: BTreeMap<u32, Position>,
    /// The latest state of each kind.
    pub states: BTreeMap<Kind, State>,
    /// The next segment lies there already, empty.
    pub prepared: bool,
}

/// A record of state, kept to be repeated at the start of each segment.
#[derive(Clone)]
pub(crate) struct State {
    pub position: Position,
    pub ballot: Ballot,
    pub bytes: Bytes,
}

struct Loaded {
    path: PathBuf,
    header: SegmentHeader,
    bytes: Bytes,
    scan: Scan,
}

impl Loaded {
    fn start(&self) -> Option<SegmentStart> {
        let first = self
            .scan
            .records
            .first()
            .filter(|found| found.header.kind == KIND_START)?;
        let at = first.location.offset as usize + RECORD_HEADER_BYTES;
        SegmentStart::decode(self.bytes.get(at..at + first.header.payload_length as usize)?)
    }

    fn damaged(&self, offset: u32, reason: impl Into<String>) -> StorageError {
        StorageError::Damaged {
            path: self.path.clone(),
            offset: offset.into(),
            reason: reason.into(),
        }
    }

    fn check_marks(&self) -> Result<(), StorageError> {
        if self.scan.durable > self.scan.end {
            let mark = self.scan.durable;
            return Err(self.damaged(
                self.scan.end,
                format!("invalid record, but all up to {mark} was once synced"),
            ));
        }
        Ok(())
    }
}

/// Read all segments of a log, oldest first, and cut the torn tail of the last one.
pub(crate) fn recover(
    directory: &Path,
    identity: &Identity,
    fsync: bool,
    visit: &mut dyn FnMut(Found, Bytes) -> Result<(), &'static str>,
) -> Result<Recovered, StorageError> {
    let numbers = files::segment_numbers(directory)?;
    check_sequence(directory, &numbers)?;
    let mut sealed = BTreeMap::new();
    let mut states = BTreeMap::new();
    let mut highest = 0;
    let mut current: Option<Loaded> = None;
    let mut prepared: Option<Loaded> = None;
    for number in numbers {
        let next = load(directory, identity, number)?;
        if let Some(empty) = &prepared {
            return Err(empty.damaged(SEGMENT_HEADER_BYTES as u32, "no records, but a later segment exists"));
        }
        match (next.start(), current.take()) {
            (Some(start), Some(before)) => {
                check_end(&before, start.previous_end)?;
                sealed.insert(before.header.number, highest);
                highest = visit_records(&next, visit, &mut states)?;
                current = Some(next);
            }
            (Some(_), None) => {
                next.check_marks()?;
                highest = visit_records(&next, visit, &mut states)?;
                current = Some(next);
            }
            (None, before) => {
                // Never used, or its first write was torn.
                next.check_marks()?;
                current = before;
                prepared = Some(next);
            }
        }
    }
    remove_temporaries(directory)?;
    let prepared_now = match (&mut current, prepared) {
        (Some(current), prepared) => {
            current.check_marks()?;
            if let Some(prepared) = &prepared {
                cut(prepared, fsync)?;
            }
            prepared.is_some()
        }
        (None, Some(first)) => {
            current = Some(first);
            false
        }
        (None, None) => false,
    };
    let Some(current) = current else {
        let reason = "the segment files are missing".into();
        return Err(StorageError::Damaged {
            path: directory.to_path_buf(),
            offset: 0,
            reason,
        });
    };
    let file = cut(&current, fsync)?;
    Ok(Recovered {
        header: current.header,
        file,
        end: current.scan.end,
        marked: current.scan.durable,
        highest,
        sealed,
        states,
        prepared: prepared_now,
    })
}

fn check_sequence(directory: &Path, numbers: &[u32]) -> Result<(), StorageError> {
    for pair in numbers.windows(2) {
        if pair[0] + 1 != pair[1] {
            let path = files::segment_path(directory, pair[0] + 1);
            return Err(StorageError::Damaged {
                path,
                offset: 0,
                reason: "the file is missing".into(),
            });
        }
    }
    Ok(())
}

fn load(directory: &Path, identity: &Identity, number: u32) -> Result<Loaded, StorageError> {
    let path = files::segment_path(directory, number);
    let bytes = Bytes::from(fs::read(&path).map_err(StorageError::io("read", &path))?);
    let damaged = |offset: u64, reason: String| StorageError::Damaged {
        path: path.clone(),
        offset,
        reason,
    };
    let header = SegmentHeader::decode(&bytes).map_err(|reason| damaged(0, reason.into()))?;
    if header.log != identity.log {
        return Err(damaged(16, "the segment belongs to another log".into()));
    }
    if header.number != number {
        return Err(damaged(12, format!("the header says segment {}", header.number)));
    }
    if bytes.len() != header.size as usize {
        let reason = format!("the file has {} bytes instead of {}", bytes.len(), header.size);
        return Err(damaged(bytes.len().min(header.size as usize) as u64, reason));
    }
    let scan = segment::scan(&bytes, &header);
    Ok(Loaded {
        path,
        header,
        bytes,
        scan,
    })
}

fn check_end(sealed: &Loaded, end: u32) -> Result<(), StorageError> {
    sealed.check_marks()?;
    if sealed.scan.end < end {
        return Err(sealed.damaged(
            sealed.scan.end,
            format!("invalid record, but all up to {end} was once synced"),
        ));
    }
    Ok(())
}

/// Show a segment's records to `visit`; the result is the highest position with an entry.
fn visit_records(
    loaded: &Loaded,
    visit: &mut dyn FnMut(Found, Bytes) -> Result<(), &'static str>,
    states: &mut BTreeMap<Kind, State>,
) -> Result<Position, StorageError> {
    let mut highest = 0;
    for found in &loaded.scan.records {
        let at = found.location.offset as usize + RECORD_HEADER_BYTES;
        let payload = loaded.bytes.slice(at..at + found.header.payload_length as usize);
        if found.header.kind == KIND_ENTRY {
            highest = highest.max(found.header.position);
        }
        if found.header.kind >= KIND_STATE {
            let (position, ballot) = (found.header.position, found.header.ballot);
            // A copy: a slice would keep the whole segment in memory.
            let bytes = Bytes::copy_from_slice(&payload);
            states.insert(
                found.header.kind,
                State {
                    position,
                    ballot,
                    bytes,
                },
            );
        }
        visit(*found, payload).map_err(|reason| loaded.damaged(found.location.offset, reason))?;
    }
    Ok(highest)
}

/// Zero what follows the last valid record, so that no torn record comes back to life behind newer ones, and make all
/// before it durable: a crash of the process alone leaves records that were read here but never synced. So does a sync that failed,
/// and then the pages may count as written although they are not: what no mark vouches for is written once more.
fn cut(loaded: &Loaded, fsync: bool) -> Result<File, StorageError> {
    let path = &loaded.path;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(StorageError::io("open", path))?;
    if loaded.scan.dirty {
        let (from, to) = (loaded.scan.end.into(), loaded.header.size.into());
        files::zero_range(&file, from, to).map_err(StorageError::io("write", path))?;
    }
    if fsync {
        let (from, to) = (loaded.scan.durable as usize, loaded.scan.end as usize);
        let unmarked = loaded.bytes.get(from..to).unwrap_or_default();
        file.write_all_at(unmarked, from as u64)
            .map_err(StorageError::io("write", path))?;
        file.sync_all().map_err(StorageError::io("sync", path))?;
    }
    Ok(file)
}

fn remove_temporaries(directory: &Path) -> Result<(), StorageError> {
    for number in files::numbered_files::<u32>(directory, "tmp")? {
        let path = directory.join(format!("{number:010}.tmp"));
        fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
    }
    Ok(())
}
