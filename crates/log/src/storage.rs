//! The durable part of a node's log: a directory of segment files and the thread that writes them.
//!
//! Invariants:
//! - One process has the directory (`lock`); one thread writes it (`writer.rs`).
//! - Every record of a ticket whose [`Completion::Durable`] was seen is found again by [`Storage::open`], or opening
//!   fails with [`StorageError::Damaged`]. What was never reported durable may be there or not.
//! - `identity` exists <=> the directory holds a log.
//!
//! A crash while creating leaves no identity; one while writing leaves a torn tail, which `open` cuts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::error::StorageError;
use crate::files::{self, Identity};
use crate::recovery;
use crate::segment::{Found, KIND_ENTRY, KIND_STATE, Kind, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::writer::{Job, Shared, Writer};
use crate::{Ballot, Location, LogId, NodeId, Position, Value};

/// Called from the storage thread when a completion waits.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Called before a sync with the file and the bytes of it that the sync is to make durable. An error counts as the
/// sync's own. For tests (crash in between) and benchmarks (a fixed sync time).
pub type SyncHook = Arc<dyn Fn(&Path, std::ops::Range<u32>) -> std::io::Result<()> + Send + Sync>;

/// Default size of a segment file: small enough to be trimmed in useful steps, large enough that a roll is rare.
pub const DEFAULT_SEGMENT_BYTES: u32 = 16 << 20;

/// How a log is stored.
#[derive(Clone)]
pub struct StorageOptions {
    /// Whose log it is.
    pub node: NodeId,
    /// Size of new segment files: 4 KB to 1 GB.
    pub segment_bytes: u32,
    /// False only in tests and simulations: a crash of the machine then loses acknowledged entries.
    pub fsync: bool,
    /// Wakes the owner.
    pub waker: Waker,
    /// See [`SyncHook`].
    pub sync_hook: Option<SyncHook>,
}

impl StorageOptions {
    /// The defaults for `node`, with a waker that does nothing.
    pub fn new(node: NodeId) -> StorageOptions {
        StorageOptions {
            node,
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            fsync: true,
            waker: Arc::new(|| {}),
            sync_hook: None,
        }
    }

    fn check(&self) -> Result<(), StorageError> {
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return Err(StorageError::Options("a segment has 4 KB to 1 GB"));
        }
        Ok(())
    }
}

/// What a record holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// An accepted value; only in records of [`KIND_ENTRY`].
    Value(Value),
    /// Anything else.
    Bytes(Bytes),
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct Record {
    /// [`KIND_ENTRY`], or a kind of state ([`crate::segment::KIND_STATE`] and above).
    pub kind: Kind,
    /// The entry's position.
    pub position: Position,
    /// The entry's ballot.
    pub ballot: Ballot,
    /// What to store.
    pub body: Body,
}

impl Record {
    /// A record for an accepted value.
    pub fn entry(position: Position, ballot: Ballot, value: Value) -> Record {
        Record {
            kind: KIND_ENTRY,
            position,
            ballot,
            body: Body::Value(value),
        }
    }

    /// A record for the latest state of `kind`.
    pub fn state(kind: Kind, bytes: Bytes) -> Record {
        Record {
            kind,
            position: 0,
            ballot: Ballot::default(),
            body: Body::Bytes(bytes),
        }
    }
}

/// Where an accepted value was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The entry's position.
    pub position: Position,
    /// The ballot in which it was accepted.
    pub ballot: Ballot,
    /// Where it lies.
    pub location: Location,
}

/// What the storage thread reports, in the order of the writes.
#[derive(Debug)]
pub enum Completion {
    /// Other processes can read these records now; they are not durable yet. Does not wake.
    Written {
        /// All entries of all tickets up to this one are written; of the next ones some may be.
        ticket: u64,
        /// Where they lie, in the order of the writes.
        stored: Vec<Stored>,
    },
    /// All tickets up to this one are durable.
    Durable(u64),
    /// The storage stopped, and will not write again. What was not reported durable may be lost.
    Failed(String),
}

/// A log's files, open for reading and writing.
pub struct Storage {
    identity: Identity,
    directory: PathBuf,
    writer: Shared,
    jobs: Option<Sender<Job>>,
    completions: Receiver<Completion>,
    thread: Option<JoinHandle<()>>,
    /// Held, never read.
    _lock: File,
}

impl Storage {
    /// Make a new log, with a new [`LogId`], in a directory that holds none.
    pub fn create(directory: &Path, options: StorageOptions) -> Result<Storage, StorageError> {
        options.check()?;
        let lock = Storage::take(directory)?;
        if Identity::load(directory)?.is_some() {
            return Err(StorageError::Exists(directory.to_path_buf()));
        }
        let identity = reserve(directory, options.node, &options)?;
        let recovered = recovery::recover(directory, &identity, options.fsync, &mut |_, _| Ok(()))?;
        Storage::start(directory, identity, options, recovered, lock)
    }

    /// Make an empty log that belongs to nobody yet: a node that is to join shows its [`LogId`] to the group, which
    /// gives it its id. Called again before [`claim`](Self::claim), it gives the same answer.
    pub fn reserve(directory: &Path, options: StorageOptions) -> Result<LogId, StorageError> {
        options.check()?;
        let _lock = Storage::take(directory)?;
        match Identity::load(directory)? {
            Some(identity) if identity.node == NOBODY => Ok(identity.log),
            Some(_) => Err(StorageError::Exists(directory.to_path_buf())),
            None => Ok(reserve(directory, NOBODY, &options)?.log),
        }
    }

    /// Open the log made by [`reserve`](Self::reserve), now that its owner is known.
    pub fn claim(directory: &Path, options: StorageOptions) -> Result<Storage, StorageError> {
        options.check()?;
        let lock = Storage::take(directory)?;
        let reserved = Identity::load(directory)?.ok_or_else(|| StorageError::Missing(directory.to_path_buf()))?;
        if reserved.node != NOBODY && reserved.node != options.node {
            return Err(StorageError::Exists(directory.to_path_buf()));
        }
        let identity = Identity {
            node: options.node,
            ..reserved
        };
        // Claimed before, by a process that ended before it wrote anything: as good as new. Anything else is a log.
        let recovered = recovery::recover(directory, &identity, options.fsync, &mut |found, _| {
            if found.header.kind >= KIND_STATE || found.header.kind == KIND_ENTRY {
                Err("it is in use")
            } else {
                Ok(())
            }
        });
        let recovered = recovered.map_err(|error| match error {
            StorageError::Damaged { .. } => StorageError::Exists(directory.to_path_buf()),
            error => error,
        })?;
        identity.store(directory)?;
        Storage::start(directory, identity, options, recovered, lock)
    }

    fn take(directory: &Path) -> Result<File, StorageError> {
        fs::create_dir_all(directory).map_err(StorageError::io("create", directory))?;
        files::lock_directory(directory)
    }

    /// Open the log in a directory. `visit` sees every record, oldest first, and may refuse one with a reason.
    pub fn open(
        directory: &Path,
        options: StorageOptions,
        visit: &mut dyn FnMut(Found, Bytes) -> Result<(), &'static str>,
    ) -> Result<Storage, StorageError> {
        options.check()?;
        if !directory.is_dir() {
            return Err(StorageError::Missing(directory.to_path_buf()));
        }
        let lock = files::lock_directory(directory)?;
        let identity = Identity::load(directory)?.ok_or_else(|| StorageError::Missing(directory.to_path_buf()))?;
        if identity.node != options.node {
            let (found, expected) = (identity.node.0, options.node.0);
            return Err(StorageError::OtherNode {
                path: directory.to_path_buf(),
                found,
                expected,
            });
        }
        let recovered = recovery::recover(directory, &identity, options.fsync, visit)?;
        Storage::start(directory, identity, options, recovered, lock)
    }

    fn start(
        directory: &Path,
        identity: Identity,
        options: StorageOptions,
        recovered: recovery::Recovered,
        lock: File,
    ) -> Result<Storage, StorageError> {
        let (jobs, queue) = mpsc::channel();
        let (reports, completions) = mpsc::channel();
        let writer = Shared::new(Writer::new(directory, identity.log, options, recovered, reports));
        let shared = writer.clone();
        let thread = std::thread::Builder::new()
            .name("synod-storage".into())
            .spawn(move || shared.run(&queue))
            .map_err(StorageError::io("start the storage thread for", directory))?;
        let directory = directory.to_path_buf();
        Ok(Storage {
            identity,
            directory,
            writer,
            jobs: Some(jobs),
            completions,
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// The identity of this directory.
    pub fn log_id(&self) -> LogId {
        self.identity.log
    }

    /// Where the segment files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Queue records. Tickets ascend. All that is queued while a sync runs shares the next one.
    pub fn write(&self, ticket: u64, records: Vec<Record>) {
        self.send(Job::Write { ticket, records });
    }

    /// Write records and make them durable before this returns, if that does not take long and nothing is queued; else
    /// queue them.
    pub fn write_now(&self, ticket: u64, records: Vec<Record>) {
        match self.writer.idle() {
            Some(mut writer) if writer.is_quick(&records) => writer.write(ticket, &records),
            _ => self.write(ticket, records),
        }
    }

    /// Records that need not be durable by themselves: they are written with the next ticket's, or when it has been quiet
    /// for a while, or when the log is closed.
    pub fn note(&self, records: Vec<Record>) {
        match self.writer.idle() {
            Some(mut writer) if writer.is_quick(&records) => writer.note(&records),
            _ => self.send(Job::Note { records }),
        }
    }

    /// Delete the segments all of whose entries lie below `below`.
    pub fn trim(&self, below: Position) {
        self.send(Job::Trim { below });
    }

    /// The next report, if there is one.
    pub fn completion(&self) -> Option<Completion> {
        self.completions.try_recv().ok()
    }

    /// Wait for the next report. `None`: the storage thread has ended, or time is up.
    pub fn wait(&self, timeout: std::time::Duration) -> Option<Completion> {
        self.completions.recv_timeout(timeout).ok()
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            self.writer.queue();
            // The thread has ended only after a Failed, which the owner has in its queue.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// The owner of a log made for a node that is to join.
const NOBODY: NodeId = NodeId(0);

fn reserve(directory: &Path, node: NodeId, options: &StorageOptions) -> Result<Identity, StorageError> {
    remove_unfinished(directory)?;
    let identity = Identity::generate(node)?;
    let header = SegmentHeader {
        log: identity.log,
        number: 1,
        size: options.segment_bytes,
    };
    files::prepare_segment(directory, header, options.fsync)?;
    identity.store(directory)?;
    Ok(identity)
}

/// Remove what a crash in the middle of `create` left. Segments with content and no identity are left alone: they are
/// somebody's log whose identity was lost.
fn remove_unfinished(directory: &Path) -> Result<(), StorageError> {
    for number in files::segment_numbers(directory)? {
        let path = files::segment_path(directory, number);
        let bytes = fs::read(&path).map_err(StorageError::io("read", &path))?;
        if number != 1 || bytes.iter().skip(SEGMENT_HEADER_BYTES).any(|byte| *byte != 0) {
            return Err(StorageError::Exists(directory.to_path_buf()));
        }
        fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
    }
    Ok(())
}
