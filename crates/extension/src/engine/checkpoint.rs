//! The certifier on disk: so that a start re-certifies a suffix of the log, not all of it.
//!
//! `checkpoint <= certified`; verdicts up to the checkpoint are in the index and synced before the checkpoint replaces its
//! predecessor (temporary file, fsync, rename, fsync of the directory). Written by a thread, so that commits do not wait for it.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use synod_log::{IndexSync, SharedLog};
use synod_rules::Certifier;

use super::{Engine, Stop};

/// Positions between two checkpoints.
const EVERY: u64 = 32_768;
/// Bytes of log between two checkpoints: at most, and at least.
const EVERY_BYTES: (u64, u64) = (256 << 20, 4 << 20);

const FILE: &str = "checkpoint";

/// When the next one is due, and the one being written.
pub(super) struct Checkpoints {
    last: u64,
    /// Bytes decided since `last`.
    bytes: u64,
    taken: Option<Taken>,
    writing: Option<(u64, JoinHandle<io::Result<()>>)>,
}

/// A checkpoint that waits for the log to be durable up to it. Never dropped before it is written: what `index` has to sync, no other
/// sync does.
struct Taken {
    position: u64,
    certifier: Vec<u8>,
    index: IndexSync,
}

impl Checkpoints {
    pub(super) fn new(last: u64) -> Self {
        Self {
            last,
            bytes: 0,
            taken: None,
            writing: None,
        }
    }
}

/// The certifier as of the last checkpoint; a new one if there is none.
pub fn load_checkpoint(directory: &Path) -> io::Result<Certifier> {
    match fs::read(directory.join(FILE)) {
        Ok(bytes) => Certifier::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Certifier::new()),
        Err(error) => Err(error),
    }
}

/// Replace the checkpoint.
pub fn store_checkpoint(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    crate::node::replace_file(directory, FILE, bytes)
}

impl<L: SharedLog> Engine<L> {
    pub(super) fn checkpoint_if_due(&mut self) -> Result<(), Stop> {
        self.reap(false)?;
        let (most, least) = EVERY_BYTES;
        // Only what is below a checkpoint can be trimmed.
        let every_bytes = (retention_bytes() / 4).clamp(least, most);
        let due = self.certifier.position() >= self.checkpoints.last + EVERY || self.checkpoints.bytes >= every_bytes;
        if due && self.checkpoints.writing.is_none() && self.checkpoints.taken.is_none() {
            self.take_checkpoint()?;
        }
        self.write_if_durable()
    }

    /// Count what was decided towards the next checkpoint.
    pub(super) fn count_bytes(&mut self, bytes: u64) {
        self.checkpoints.bytes += bytes;
    }

    /// Write one now and wait for it: at an orderly shutdown.
    pub fn checkpoint_now(&mut self) -> Result<(), Stop> {
        self.reap(true)?;
        self.write_if_durable()?;
        self.reap(true)?;
        if self.checkpoints.taken.is_none() && self.certifier.position() > self.checkpoints.last {
            self.take_checkpoint()?;
            self.write_if_durable()?;
            self.reap(true)?;
        }
        Ok(())
    }

    fn take_checkpoint(&mut self) -> Result<(), Stop> {
        let index = self.index.begin_sync();
        self.checkpoints.taken = Some(Taken {
            position: self.certifier.position(),
            certifier: self.certifier.encode(),
            index: index.map_err(|error| Stop::Files(error.to_string()))?,
        });
        self.checkpoints.bytes = 0;
        Ok(())
    }

    /// The others may be quicker to make the log durable, for as long as there is load. After a power failure before this node has done it,
    /// the log would fetch these entries again and store them elsewhere than the index says, and below a checkpoint the index is not
    /// written again.
    fn write_if_durable(&mut self) -> Result<(), Stop> {
        let durable = self.log.status().durable;
        let Some(taken) = self.checkpoints.taken.take_if(|taken| taken.position <= durable) else {
            return Ok(());
        };
        let directory = self.directory.clone();
        let write = move || {
            taken.index.finish().map_err(io::Error::other)?;
            store_checkpoint(&directory, &taken.certifier)
        };
        let thread = crate::pg::threads::spawn("synod checkpoint", write);
        let thread = thread.map_err(|error| Stop::Files(error.to_string()))?;
        self.checkpoints.writing = Some((taken.position, thread));
        Ok(())
    }

    /// Give up the oldest quarter of the log when it is larger than `synod.log_retention`, but nothing that this node still
    /// needs: above its checkpoint, or not yet durably applied.
    fn trim_if_large(&mut self, checkpoint: u64) {
        let joining = self.log.status().membership.members.iter().any(|member| !member.voter);
        // A copy under way needs the log from where it began; within reason.
        let limit = retention_bytes() * if joining { 8 } else { 1 };
        if size_of(&self.directory.join("log")) <= limit {
            return;
        }
        let durable = crate::pg::turn::durable_applied(self.node);
        let trimmed = self.log.status().trimmed;
        let quarter = trimmed + (checkpoint.saturating_sub(trimmed)) / 4;
        let below = quarter.min(self.certifier.trim_bound(durable)).min(checkpoint);
        if below > trimmed {
            self.log.trim(below);
            if let Err(error) = self.index.trim(below) {
                pgrx::warning!("synod: could not trim the index of the shared log: {error}");
            }
        }
    }

    fn reap(&mut self, wait: bool) -> Result<(), Stop> {
        let Some((position, thread)) = self.checkpoints.writing.take() else {
            return Ok(());
        };
        if !wait && !thread.is_finished() {
            self.checkpoints.writing = Some((position, thread));
            return Ok(());
        }
        match thread.join() {
            Ok(Ok(())) => {
                self.checkpoints.last = position;
                self.trim_if_large(position);
                Ok(())
            }
            Ok(Err(error)) => Err(Stop::Files(error.to_string())),
            Err(_) => Err(Stop::Files("the checkpoint thread failed".into())),
        }
    }
}

fn retention_bytes() -> u64 {
    u64::from(crate::settings::LOG_RETENTION_MB.get().unsigned_abs()) << 20
}

/// Bytes of the files in a directory; what cannot be looked at counts as nothing.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum()
}
