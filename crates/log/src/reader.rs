//! Reading entries out of segment files by their [`Location`]: for catch-up, and in other processes.
//!
//! Neighbouring records are read with one system call; open files are kept. Every record is checked before it is
//! believed. The files may be deleted underneath by a trim: that is [`SegmentError::Missing`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use crate::segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::{Entry, Location, files};

/// Files kept open: the one being read, the one before, and those that a catch-up reads meanwhile.
const OPEN_FILES: usize = 8;

/// Records this close together are read with one call; the gap is read and thrown away.
const GAP_BYTES: u32 = 4 << 10;

/// The most read with one call, unless a single record is larger.
const RUN_BYTES: u32 = 256 << 10;

/// Why an entry could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    #[error("segment {0} was deleted")]
    Missing(u32),
    #[error("could not read \"{}\": {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("\"{}\" is damaged at offset {offset}", path.display())]
    Corrupt { path: PathBuf, offset: u32 },
}

struct OpenSegment {
    number: u32,
    seed: u32,
    /// Of the file: what lies beyond is no record, and is not worth its memory.
    size: u32,
    path: PathBuf,
    file: File,
}

/// Reads entries from the segments of a directory.
pub(crate) struct SegmentReader {
    directory: PathBuf,
    /// The most recently used is last.
    open: Vec<OpenSegment>,
}

impl SegmentReader {
    pub fn new(directory: &Path) -> SegmentReader {
        SegmentReader {
            directory: directory.to_path_buf(),
            open: Vec::new(),
        }
    }

    /// Read the entries at `locations`, in order, into `into`. On an error, `into` holds those before it.
    pub fn read(&mut self, mut locations: &[Location], into: &mut Vec<Entry>) -> Result<(), SegmentError> {
        while let Some(first) = locations.first() {
            let length = run_length(locations);
            let (run, rest) = locations.split_at(length);
            let end = run[length - 1].offset.saturating_add(run[length - 1].length);
            let segment = self.segment(first.segment)?;
            if end > segment.size {
                return Err(segment.corrupt(first.offset));
            }
            let bytes = segment.read(first.offset, end)?;
            for location in run {
                let at = (location.offset - first.offset) as usize;
                let record = bytes.slice(at..at + location.length as usize);
                let entry = segment::decode_entry(&record, segment.seed, location.offset);
                into.push(entry.ok_or_else(|| segment.corrupt(location.offset))?);
            }
            locations = rest;
        }
        Ok(())
    }

    fn segment(&mut self, number: u32) -> Result<&OpenSegment, SegmentError> {
        match self.open.iter().position(|open| open.number == number) {
            Some(at) => {
                let segment = self.open.remove(at);
                self.open.push(segment);
            }
            None => {
                let segment = OpenSegment::open(&self.directory, number)?;
                if self.open.len() == OPEN_FILES {
                    self.open.remove(0);
                }
                self.open.push(segment);
            }
        }
        self.open.last().ok_or(SegmentError::Missing(number))
    }

    /// Forget files that a trim deleted, so that their space is given back.
    pub fn forget_below(&mut self, segment: u32) {
        self.open.retain(|open| open.number >= segment);
    }
}

/// How many of `locations` to read with one call: at least one.
fn run_length(locations: &[Location]) -> usize {
    let first = locations[0];
    let mut end = first.offset.saturating_add(first.length);
    let mut count = 1;
    for location in &locations[1..] {
        let next_end = location.offset.saturating_add(location.length);
        let joins = location.segment == first.segment
            && location.offset >= end
            && location.offset - end <= GAP_BYTES
            && next_end - first.offset <= RUN_BYTES;
        if !joins {
            break;
        }
        end = next_end;
        count += 1;
    }
    count
}

impl OpenSegment {
    fn open(directory: &Path, number: u32) -> Result<OpenSegment, SegmentError> {
        let path = files::segment_path(directory, number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SegmentError::Missing(number)),
            Err(source) => return Err(SegmentError::Io { path, source }),
        };
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        if let Err(source) = file.read_exact_at(&mut bytes, 0) {
            return Err(SegmentError::Io { path, source });
        }
        match SegmentHeader::decode(&bytes) {
            Ok(header) if header.number == number => Ok(OpenSegment {
                number,
                seed: header.seed(),
                size: header.size,
                path,
                file,
            }),
            _ => Err(SegmentError::Corrupt { path, offset: 0 }),
        }
    }

    fn read(&self, from: u32, to: u32) -> Result<Bytes, SegmentError> {
        let mut bytes = BytesMut::zeroed(to.saturating_sub(from) as usize);
        match self.file.read_exact_at(&mut bytes, from.into()) {
            Ok(()) => Ok(bytes.freeze()),
            Err(source) => Err(SegmentError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn corrupt(&self, offset: u32) -> SegmentError {
        SegmentError::Corrupt {
            path: self.path.clone(),
            offset,
        }
    }
}
