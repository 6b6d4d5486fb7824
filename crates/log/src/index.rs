//! The index of decided entries: position -> where the entry lies and what was decided about it.
//!
//! Files `N.idx` in the index directory, each a header and [`CHUNK_POSITIONS`] slots of fixed width. Written by the
//! log worker through the page cache, so that other processes of the machine see a slot at once; made durable by
//! [`DecidedIndex::sync`]. After a crash of the machine, slots above the last sync may be missing or torn: the owner
//! records them again from the log.
//!
//! Invariant: a slot holds zeros, or all of its bytes match its check.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::StorageError;
use crate::{Location, Position, files};

/// First bytes of every index file.
const MAGIC: [u8; 8] = *b"SYNODIDX";
const VERSION: u32 = 1;
/// Bytes before the first slot.
pub(crate) const INDEX_HEADER_BYTES: usize = 16;
/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 16;
/// Slots of a file: 1 MB each, so that trimming gives space back in steps like the segments'.
pub(crate) const CHUNK_POSITIONS: u64 = 1 << 16;
/// Slots recorded before they are written out, if the owner does not ask earlier.
const BUFFERED_SLOTS: usize = 4096;

/// What was decided about an entry: opaque here. 0 is "not known".
pub type Verdict = u8;

/// The slot of a decided entry.
pub(crate) fn encode_slot(position: Position, location: Location, verdict: Verdict) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[0..4].copy_from_slice(&location.segment.to_le_bytes());
    slot[4..8].copy_from_slice(&location.offset.to_le_bytes());
    slot[8..12].copy_from_slice(&location.length.to_le_bytes());
    slot[12] = verdict;
    let check = check(position, &slot);
    slot[13..16].copy_from_slice(&check);
    slot
}

/// What a slot says: `Ok(None)` if nothing was recorded, `Err` if its bytes do not match.
pub(crate) fn decode_slot(position: Position, slot: &[u8]) -> Result<Option<(Location, Verdict)>, ()> {
    let slot: &[u8; SLOT_BYTES] = slot.try_into().map_err(|_| ())?;
    if slot == &[0; SLOT_BYTES] {
        return Ok(None);
    }
    if slot[13..16] != check(position, slot) {
        return Err(());
    }
    let word = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    Ok(Some((
        Location {
            segment: word(0),
            offset: word(4),
            length: word(8),
        },
        slot[12],
    )))
}

/// 24 bits over position and content.
fn check(position: Position, slot: &[u8; SLOT_BYTES]) -> [u8; 3] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&position.to_le_bytes()), &slot[..13]).to_le_bytes();
    [crc[0], crc[1], crc[2]]
}

/// The file that a position's slot is in, and the slot's offset there.
pub(crate) fn place(position: Position) -> (u64, u64) {
    (
        position / CHUNK_POSITIONS,
        INDEX_HEADER_BYTES as u64 + position % CHUNK_POSITIONS * SLOT_BYTES as u64,
    )
}

pub(crate) fn chunk_path(directory: &Path, chunk: u64) -> PathBuf {
    directory.join(format!("{chunk:012}.idx"))
}

fn header() -> [u8; INDEX_HEADER_BYTES] {
    let mut bytes = [0; INDEX_HEADER_BYTES];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Open a chunk for reading. `Ok(None)`: it is not there, or a crash left it without a header.
pub(crate) fn open_chunk(path: &Path) -> Result<Option<File>, std::io::Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; INDEX_HEADER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok((bytes == header()).then_some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The index, open for writing by the log worker.
pub struct DecidedIndex {
    directory: PathBuf,
    /// Slots to be written: a run of positions from `buffer_start` on.
    buffer: Vec<u8>,
    buffer_start: Position,
    chunks: BTreeMap<u64, Chunk>,
}

struct Chunk {
    file: File,
    unsynced: bool,
}

/// Files of an index with something in them that is not durable yet.
pub struct IndexSync {
    directory: PathBuf,
    files: Vec<(PathBuf, File)>,
}

impl IndexSync {
    /// Make durable what had been recorded when this was made.
    pub fn finish(self) -> Result<(), StorageError> {
        for (path, file) in self.files {
            file.sync_all().map_err(StorageError::io("sync", &path))?;
        }
        files::sync_directory(&self.directory)
    }
}

impl DecidedIndex {
    /// Open the index in `directory`, which is made if missing.
    pub fn open(directory: &Path) -> Result<DecidedIndex, StorageError> {
        fs::create_dir_all(directory).map_err(StorageError::io("create", directory))?;
        Ok(DecidedIndex {
            directory: directory.to_path_buf(),
            buffer: Vec::new(),
            buffer_start: 0,
            chunks: BTreeMap::new(),
        })
    }

    /// Note where a decided entry lies and what was decided. Ascending positions are buffered: call
    /// [`flush`](Self::flush) before telling another process about them.
    pub fn record(&mut self, position: Position, location: Location, verdict: Verdict) -> Result<(), StorageError> {
        let next = self.buffer_start + (self.buffer.len() / SLOT_BYTES) as u64;
        let full = self.buffer.len() >= BUFFERED_SLOTS * SLOT_BYTES;
        if position != next || position.is_multiple_of(CHUNK_POSITIONS) || full {
            self.flush()?;
            self.buffer_start = position;
        }
        self.buffer.extend_from_slice(&encode_slot(position, location, verdict));
        Ok(())
    }

    /// Make all that was recorded visible to other processes.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (number, offset) = place(self.buffer_start);
        let buffer = std::mem::take(&mut self.buffer);
        self.buffer_start = 0;
        let path = chunk_path(&self.directory, number);
        let chunk = self.chunk(number)?;
        chunk.unsynced = true;
        chunk
            .file
            .write_all_at(&buffer, offset)
            .map_err(StorageError::io("write", &path))?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    /// Make all that was recorded durable.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.begin_sync()?.finish()
    }

    /// What there is to do for [`sync`](Self::sync), for another thread: it may take as long as the disk does. After an error there the
    /// index must not be used any more.
    pub fn begin_sync(&mut self) -> Result<IndexSync, StorageError> {
        self.flush()?;
        let mut files = Vec::new();
        for (number, chunk) in self.chunks.iter_mut().filter(|(_, chunk)| chunk.unsynced) {
            let path = chunk_path(&self.directory, *number);
            let file = chunk.file.try_clone().map_err(StorageError::io("open", &path))?;
            files.push((path, file));
            chunk.unsynced = false;
        }
        // Written from front to back: only the last will be written again.
        while self.chunks.len() > 1 {
            self.chunks.pop_first();
        }
        let directory = self.directory.clone();
        Ok(IndexSync { directory, files })
    }

    /// What was recorded about a position; `None` if nothing, or if a crash tore it.
    pub fn lookup(&mut self, position: Position) -> Result<Option<(Location, Verdict)>, StorageError> {
        self.flush()?;
        let (number, offset) = place(position);
        let path = chunk_path(&self.directory, number);
        let Some(file) = open_chunk(&path).map_err(StorageError::io("read", &path))? else {
            return Ok(None);
        };
        let mut slot = [0; SLOT_BYTES];
        match file.read_exact_at(&mut slot, offset) {
            Ok(()) => Ok(decode_slot(position, &slot).unwrap_or(None)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(StorageError::io("read", &path)(error)),
        }
    }

    /// Delete the files all of whose positions lie below `below`.
    pub fn trim(&mut self, below: Position) -> Result<(), StorageError> {
        let (keep, _) = place(below);
        for number in files::numbered_files::<u64>(&self.directory, "idx")? {
            if number >= keep {
                break;
            }
            let path = chunk_path(&self.directory, number);
            self.chunks.remove(&number);
            fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
        }
        Ok(())
    }

    fn chunk(&mut self, number: u64) -> Result<&mut Chunk, StorageError> {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.chunks.entry(number) {
            let path = chunk_path(&self.directory, number);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(StorageError::io("open", &path))?;
            file.write_all_at(&header(), 0)
                .map_err(StorageError::io("write", &path))?;
            vacant.insert(Chunk { file, unsynced: true });
        }
        self.chunks.get_mut(&number).ok_or(StorageError::Options("index file"))
    }
}
