//! Writing the log: lays records out, writes, syncs, reports; rolls to the next segment, deletes old ones.
//!
//! Two threads write, one at a time ([`Shared`]): the storage thread takes what is queued, and the log's owner writes by
//! himself what is small and soon done, while nothing is queued, because two switches between threads cost as much as the
//! sync of a good disk.
//!
//! Invariants:
//! - `synced <= written == end` between groups; a group is everything that was queued while the last sync ran.
//! - A segment is synced whole before the first write into the next one, and every segment starts with a copy of the
//!   latest state of each kind: an old segment can go when its entries may go.
//! - After an error nothing is written or reported durable again. An fsync that failed may have dropped the pages it
//!   failed for: a second one that succeeds proves nothing.
//!
//! A crash anywhere leaves at most one torn group at the end of one segment.

mod shared;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::StorageError;
use crate::files;
use crate::recovery::{Recovered, State};
use crate::segment::{
    self, KIND_ENTRY, KIND_MARK, KIND_START, KIND_STATE, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentStart,
};
use crate::storage::{Body, Completion, Record, StorageOptions, Stored};
use crate::{Ballot, Location, LogId, Position, Value};
pub(crate) use shared::Shared;

/// A group is closed at this size: what follows should not wait for much more than one such write.
const GROUP_BYTES: usize = 4 << 20;

/// How long to leave a failed preparation alone.
const PREPARE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The owner writes by himself while most syncs take no longer than this: for so long he does nothing else.
const QUICK_SYNC: Duration = Duration::from_micros(500);

/// See [`Writer::slowness`]. A few slow syncs may be the machine that was busy; so many are the disk.
const SLOW: u8 = 4;

/// The owner leaves larger groups to the thread.
const OWN_BYTES: usize = 64 << 10;

/// More than a command's bytes beside its payload.
const COMMAND_BYTES: usize = 64;

/// What the storage thread is asked to do.
pub(crate) enum Job {
    Write {
        ticket: u64,
        records: Vec<Record>,
    },
    /// To be written with whatever is written next.
    Note {
        records: Vec<Record>,
    },
    Trim {
        below: Position,
    },
}

pub(crate) struct Writer {
    directory: PathBuf,
    options: StorageOptions,
    reports: Sender<Completion>,
    log: LogId,
    header: SegmentHeader,
    path: PathBuf,
    file: File,
    /// Where the next record goes: what is written plus what is in `buffer`.
    end: u32,
    /// All below is durable.
    synced: u32,
    /// The highest mark in a durable record.
    marked: u32,
    /// Records of the current group in this segment.
    buffer: BytesMut,
    /// Entries of the current group that are not written yet.
    stored: Vec<Stored>,
    /// The last ticket all of whose records are laid out.
    laid: u64,
    highest: Position,
    sealed: BTreeMap<u32, Position>,
    states: BTreeMap<Kind, State>,
    next: Next,
    /// After a failure: when to try again to prepare the next segment.
    prepare_after: Option<Instant>,
    /// One up for every slow sync, one down for every quick one; 0 to twice [`SLOW`].
    slowness: u8,
    /// The owner has written since the thread last looked.
    is_active: bool,
    /// An error was reported: nothing is written again.
    failed: bool,
}

/// At least what a record takes in a segment; membership is not for the owner to write.
fn segment_bytes(record: &Record) -> usize {
    let payload = match &record.body {
        Body::Value(Value::Noop) => 1,
        Body::Value(Value::Command(command)) => command.payload.len() + COMMAND_BYTES,
        Body::Value(Value::Membership(_)) => OWN_BYTES,
        Body::Bytes(bytes) => bytes.len(),
    };
    segment::record_length(payload)
}

/// The segment after the current one.
enum Next {
    Ready,
    Preparing(JoinHandle<Result<(), StorageError>>),
    /// To be tried again at the latest when it is needed.
    Absent,
}

impl Writer {
    pub fn new(
        directory: &Path,
        log: LogId,
        options: StorageOptions,
        recovered: Recovered,
        reports: Sender<Completion>,
    ) -> Writer {
        Writer {
            directory: directory.to_path_buf(),
            options,
            reports,
            log,
            path: files::segment_path(directory, recovered.header.number),
            header: recovered.header,
            file: recovered.file,
            end: recovered.end,
            synced: recovered.end,
            marked: recovered.marked,
            buffer: BytesMut::new(),
            stored: Vec::new(),
            laid: 0,
            highest: recovered.highest,
            sealed: recovered.sealed,
            states: recovered.states,
            next: if recovered.prepared { Next::Ready } else { Next::Absent },
            prepare_after: None,
            slowness: 0,
            is_active: false,
            failed: false,
        }
    }

    fn begin(&mut self) {
        if self.end as usize == SEGMENT_HEADER_BYTES {
            self.begin_segment(0);
        }
        self.prepare_ahead();
    }

    fn fail(&mut self, error: &StorageError) {
        let hint = if error.is_out_of_space() {
            "; free space, then start again: nothing was lost"
        } else {
            ""
        };
        self.failed = true;
        let _ = self.reports.send(Completion::Failed(format!("{error}{hint}")));
    }

    /// Whether the owner may write these himself: it will not take long.
    pub fn is_quick(&self, records: &[Record]) -> bool {
        let bytes: usize = records.iter().map(segment_bytes).sum();
        !self.failed
            && self.slowness < SLOW
            && bytes <= OWN_BYTES
            && self.end as usize + bytes <= self.header.size as usize
    }

    /// Give records their places. They are written with what is written next, or when it has been quiet for a while.
    pub fn note(&mut self, records: &[Record]) {
        let laid = records.iter().try_for_each(|record| self.lay(record).map(drop));
        if let Err(error) = laid {
            self.fail(&error);
        }
    }

    /// Write these and make them durable.
    pub fn write(&mut self, ticket: u64, records: &[Record]) {
        self.note(records);
        self.laid = ticket;
        self.is_active = true;
        match self.flush() {
            Ok(()) => self.report_durable(ticket),
            Err(error) => self.fail(&error),
        }
    }

    fn report_durable(&self, ticket: u64) {
        // Nobody listens any more: the owner is being dropped.
        let _ = self.reports.send(Completion::Durable(ticket));
    }

    /// Write one group: `first` and all that is queued behind it. How many jobs it had.
    fn group(&mut self, first: Job, queue: &Receiver<Job>) -> Result<usize, StorageError> {
        let mut jobs = 0;
        let mut last = None;
        let mut trim = None;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            jobs += 1;
            match job {
                Job::Write { ticket, records } => {
                    for record in &records {
                        bytes += self.lay(record)? as usize;
                    }
                    self.laid = ticket;
                    last = Some(ticket);
                }
                Job::Note { records } => {
                    for record in &records {
                        self.lay(record)?;
                    }
                }
                Job::Trim { below } => trim = trim.max(Some(below)),
            }
            if bytes < GROUP_BYTES {
                next = queue.try_recv().ok();
            }
        }
        if let Some(ticket) = last {
            self.flush()?;
            self.report_durable(ticket);
            // Before it is trimmed, which takes longer.
            (self.options.waker)();
        }
        if let Some(below) = trim {
            self.trim(below)?;
        }
        Ok(jobs)
    }

    /// Give a record its place, in the next segment if it does not fit.
    fn lay(&mut self, record: &Record) -> Result<u32, StorageError> {
        let location = match self.try_append(record) {
            Some(location) => location,
            None => {
                self.roll()?;
                self.try_append(record).ok_or_else(|| {
                    let source = std::io::Error::other("a record is larger than a segment");
                    StorageError::Io {
                        action: "write",
                        path: self.path.clone(),
                        source,
                    }
                })?
            }
        };
        if record.kind == KIND_ENTRY {
            self.highest = self.highest.max(record.position);
            self.stored.push(Stored {
                position: record.position,
                ballot: record.ballot,
                location,
            });
        } else if let (KIND_STATE.., Body::Bytes(bytes)) = (record.kind, &record.body) {
            let bytes = Bytes::copy_from_slice(bytes);
            let state = State {
                position: record.position,
                ballot: record.ballot,
                bytes,
            };
            self.states.insert(record.kind, state);
        }
        Ok(location.length)
    }

    /// `None`, and nothing is changed, if there is no room.
    fn try_append(&mut self, record: &Record) -> Option<Location> {
        let (end, buffered) = (self.end, self.buffer.len());
        let what = (record.kind, record.position, record.ballot);
        let location = match &record.body {
            Body::Value(value) => self.append(what, |into| synod_paxos::put_value(into, value)),
            Body::Bytes(bytes) => self.append(what, |into| into.put_slice(bytes)),
        };
        if self.end <= self.header.size {
            return Some(location);
        }
        self.buffer.truncate(buffered);
        self.end = end;
        None
    }

    fn append(&mut self, what: (Kind, Position, Ballot), payload: impl FnOnce(&mut BytesMut)) -> Location {
        let offset = self.end;
        let length = segment::append_record(&mut self.buffer, self.header.seed(), offset, self.synced, what, payload);
        self.end += length as u32;
        Location {
            segment: self.header.number,
            offset,
            length: length as u32,
        }
    }

    /// Write what is laid out, tell where it lies, and make it durable.
    fn flush(&mut self) -> Result<(), StorageError> {
        if !self.buffer.is_empty() {
            let written = self.end - self.buffer.len() as u32;
            self.file
                .write_all_at(&self.buffer, written.into())
                .map_err(StorageError::io("write", &self.path))?;
            self.buffer.clear();
        }
        if !self.stored.is_empty() {
            let stored = std::mem::take(&mut self.stored);
            let _ = self.reports.send(Completion::Written {
                ticket: self.laid,
                stored,
            });
        }
        if self.synced < self.end {
            let began = Instant::now();
            if let Some(hook) = &self.options.sync_hook {
                hook(&self.path, self.synced..self.end).map_err(StorageError::io("sync", &self.path))?;
            }
            if self.options.fsync {
                self.file.sync_data().map_err(StorageError::io("sync", &self.path))?;
            }
            self.slowness = if began.elapsed() <= QUICK_SYNC {
                self.slowness.saturating_sub(1)
            } else {
                (self.slowness + 1).min(2 * SLOW)
            };
            // The group's records carry the mark that was true when they were laid out.
            self.marked = self.marked.max(self.synced);
            self.synced = self.end;
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), StorageError> {
        self.flush()?;
        let room = self.end as usize + segment::record_length(0) <= self.header.size as usize;
        if self.marked < self.synced && room {
            self.append((KIND_MARK, 0, Ballot::default()), |_| {});
            self.flush()?;
            self.marked = self.synced;
        }
        Ok(())
    }

    /// Go on in the next segment.
    fn roll(&mut self) -> Result<(), StorageError> {
        self.flush()?;
        let number = self.header.number + 1;
        let header = SegmentHeader {
            log: self.log,
            number,
            size: self.options.segment_bytes,
        };
        let ready = match std::mem::replace(&mut self.next, Next::Absent) {
            Next::Ready => true,
            Next::Preparing(thread) => matches!(thread.join(), Ok(Ok(()))),
            Next::Absent => false,
        };
        if !ready {
            files::prepare_segment(&self.directory, header, self.options.fsync)?;
        }
        let path = files::segment_path(&self.directory, number);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StorageError::io("open", &path))?;
        // A segment prepared by an earlier run may have another size than the option says now.
        let size = file.metadata().map_err(StorageError::io("read", &path))?.len() as u32;
        let previous_end = self.end;
        self.sealed.insert(self.header.number, self.highest);
        self.header = SegmentHeader { size, ..header };
        (self.path, self.file) = (path, file);
        (self.end, self.synced, self.marked) = (SEGMENT_HEADER_BYTES as u32, SEGMENT_HEADER_BYTES as u32, 0);
        self.begin_segment(previous_end);
        Ok(())
    }

    /// The first records of a segment: how the one before ended, and the latest state of each kind.
    fn begin_segment(&mut self, previous_end: u32) {
        let first = self.highest + 1;
        self.append((KIND_START, first, Ballot::default()), |into| {
            SegmentStart { previous_end }.encode(into)
        });
        self.highest = 0;
        for (kind, state) in self.states.clone() {
            self.append((kind, state.position, state.ballot), |into| {
                into.put_slice(&state.bytes)
            });
        }
    }

    /// Build the next segment while this one is being filled.
    fn prepare_ahead(&mut self) {
        match &self.next {
            Next::Preparing(thread) if thread.is_finished() => {
                if let Next::Preparing(thread) = std::mem::replace(&mut self.next, Next::Absent) {
                    match thread.join() {
                        Ok(Ok(())) => self.next = Next::Ready,
                        // Most likely a full disk. The current segment has room still, and space may be freed.
                        _ => self.prepare_after = Some(Instant::now() + PREPARE_AGAIN_AFTER),
                    }
                }
            }
            Next::Absent if self.prepare_after.is_none_or(|after| Instant::now() >= after) => {
                let header = SegmentHeader {
                    log: self.log,
                    number: self.header.number + 1,
                    size: self.options.segment_bytes,
                };
                let (directory, fsync) = (self.directory.clone(), self.options.fsync);
                let prepare = move || files::prepare_segment(&directory, header, fsync);
                if let Ok(thread) = std::thread::Builder::new().name("synod-prepare".into()).spawn(prepare) {
                    self.next = Next::Preparing(thread);
                }
            }
            _ => {}
        }
    }

    /// Delete the oldest segments as long as nothing at or above `below` is in them.
    fn trim(&mut self, below: Position) -> Result<(), StorageError> {
        while let Some(oldest) = self.sealed.first_entry() {
            if *oldest.get() >= below {
                break;
            }
            let path = files::segment_path(&self.directory, *oldest.key());
            fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
            oldest.remove();
            // One by one: a crash must not leave a gap in the numbers.
            files::sync_directory(&self.directory)?;
        }
        Ok(())
    }
}
