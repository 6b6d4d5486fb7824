//! Reading decided entries in another process than the log worker: what the apply worker does.
//!
//! Ask only for positions that the log worker has published. Nothing is locked: the log worker may trim at any time,
//! which shows as [`ReadError::Trimmed`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use synod_paxos::MAX_POSITION;

use crate::index::{self, CHUNK_POSITIONS, SLOT_BYTES, Verdict};
use crate::reader::{SegmentError, SegmentReader};
use crate::{Entry, Location, Position, files};

/// Slots read with one call.
const SLOTS_PER_READ: u64 = 1024;

/// A decided entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The entry.
    pub entry: Entry,
    /// What was decided about it.
    pub verdict: Verdict,
}

/// Why a decided entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing is recorded at this position yet.
    #[error("position {0} is not decided here yet")]
    NotYet(Position),
    /// The entry was deleted: get a copy of the data from a peer.
    #[error("position {0} was trimmed from the log")]
    Trimmed(Position),
    /// Index or segment do not hold what was written there.
    #[error("log entry {position} is damaged: {reason}")]
    Corrupt {
        /// The entry.
        position: Position,
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("could not read \"{}\": {source}", path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads decided entries by position.
pub struct Reader {
    segments: SegmentReader,
    index: PathBuf,
    chunk: Option<(u64, File)>,
    /// Slots read ahead.
    slots: Vec<(Location, Verdict)>,
    locations: Vec<Location>,
    entries: Vec<Entry>,
}

impl Reader {
    /// A reader over a node's segment directory and index directory.
    pub fn new(segments: &Path, index: &Path) -> Reader {
        Reader {
            segments: SegmentReader::new(segments),
            index: index.to_path_buf(),
            chunk: None,
            slots: Vec::new(),
            locations: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// The entry at `position`.
    pub fn read(&mut self, position: Position) -> Result<Decided, ReadError> {
        let mut decided = Vec::with_capacity(1);
        self.read_range(position, position, usize::MAX, &mut decided)?;
        decided.pop().ok_or(ReadError::NotYet(position))
    }

    /// Append the entries from `from` up to and including `upto` to `into`, but not more than about `max_bytes` of
    /// them (and at least one). An error is returned only when the entry at `from` cannot be read: what was read
    /// before a later error comes back first.
    pub fn read_range(
        &mut self,
        from: Position,
        upto: Position,
        max_bytes: usize,
        into: &mut Vec<Decided>,
    ) -> Result<(), ReadError> {
        let upto = upto.min(MAX_POSITION);
        let mut next = from;
        let mut bytes = 0;
        while next <= upto && bytes < max_bytes {
            let wanted = (upto - next).saturating_add(1).min(SLOTS_PER_READ);
            match self.read_run(next, wanted, max_bytes - bytes, into) {
                Ok((count, read)) => {
                    next += count;
                    bytes += read;
                }
                Err(error) if next == from => return Err(error),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Read up to `wanted` entries of one index file: how many there were, and their bytes. At least one.
    fn read_run(
        &mut self,
        from: Position,
        wanted: u64,
        max_bytes: usize,
        into: &mut Vec<Decided>,
    ) -> Result<(u64, usize), ReadError> {
        self.read_slots(from, wanted)?;
        self.locations.clear();
        if let Some((first, _)) = self.slots.first() {
            // The segment before may still be wanted: values do not lie exactly in the order of their positions.
            self.segments.forget_below(first.segment.saturating_sub(1));
        }
        let mut bytes = 0;
        for (location, _) in &self.slots {
            if bytes >= max_bytes {
                break;
            }
            bytes = bytes.saturating_add(location.length as usize);
            self.locations.push(*location);
        }
        self.entries.clear();
        let outcome = self.segments.read(&self.locations, &mut self.entries);
        let mut count = 0;
        for (entry, (_, verdict)) in self.entries.drain(..).zip(&self.slots) {
            let position = from + count;
            if entry.position != position {
                let reason = format!("its index slot leads to entry {}", entry.position);
                return if count > 0 {
                    Ok((count, bytes))
                } else {
                    Err(ReadError::Corrupt { position, reason })
                };
            }
            into.push(Decided {
                entry,
                verdict: *verdict,
            });
            count += 1;
        }
        match outcome {
            Err(error) if count == 0 => Err(segment_error(from, error)),
            _ => Ok((count, bytes)),
        }
    }

    /// Fill `slots` with what is recorded from `from` on, without a gap: at least one.
    fn read_slots(&mut self, from: Position, wanted: u64) -> Result<(), ReadError> {
        let (number, offset) = index::place(from);
        let path = index::chunk_path(&self.index, number);
        if self.chunk.as_ref().is_none_or(|(open, _)| *open != number) {
            let file = index::open_chunk(&path).map_err(|source| ReadError::Io {
                path: path.clone(),
                source,
            })?;
            let file = file.ok_or_else(|| self.absent(from, number))?;
            self.chunk = Some((number, file));
        }
        let Some((_, file)) = &self.chunk else {
            return Err(ReadError::NotYet(from));
        };
        let wanted = wanted.min(CHUNK_POSITIONS - from % CHUNK_POSITIONS);
        let mut bytes = vec![0; wanted as usize * SLOT_BYTES];
        let length = read_at_most(file, &mut bytes, offset).map_err(|source| ReadError::Io { path, source })?;
        self.slots.clear();
        for (position, slot) in (from..).zip(bytes[..length].chunks_exact(SLOT_BYTES)) {
            match index::decode_slot(position, slot) {
                Ok(Some(slot)) => self.slots.push(slot),
                Ok(None) => break,
                Err(()) if self.slots.is_empty() => {
                    let reason = "its index slot does not match its check".into();
                    return Err(ReadError::Corrupt { position, reason });
                }
                Err(()) => break,
            }
        }
        if self.slots.is_empty() {
            Err(self.absent(from, number))
        } else {
            Ok(())
        }
    }

    /// Nothing is recorded at `position`: because it is not yet, or because it is no more.
    fn absent(&self, position: Position, chunk: u64) -> ReadError {
        match files::numbered_files::<u64>(&self.index, "idx") {
            Ok(numbers) if numbers.first().is_some_and(|first| *first > chunk) => ReadError::Trimmed(position),
            _ => ReadError::NotYet(position),
        }
    }
}

fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn segment_error(position: Position, error: SegmentError) -> ReadError {
    match error {
        SegmentError::Missing(_) => ReadError::Trimmed(position),
        SegmentError::Io { path, source } if source.kind() == io::ErrorKind::UnexpectedEof => ReadError::Corrupt {
            position,
            reason: format!("\"{}\" is too short", path.display()),
        },
        SegmentError::Io { path, source } => ReadError::Io { path, source },
        corrupt @ SegmentError::Corrupt { .. } => ReadError::Corrupt {
            position,
            reason: corrupt.to_string(),
        },
    }
}
