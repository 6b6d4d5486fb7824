//! Lines in a file that is rotated by size and time.
//!
//! Exactly once. Lines are only appended, and synced before the server hears of them; so what is there is a prefix of the
//! stream, and after a crash the last whole line says where it ends. A line torn by the crash is cut off.
//!
//! `events.jsonl` is written; when it is large or old enough, and a transaction ends, it becomes `events-000001.jsonl`,
//! `events-000002.jsonl`, ... Beside it lies `events.jsonl.source`: of which server and slot the events are. The positions of
//! another server mean nothing here, so another server is refused.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{Carried, Carrier, Parcel, Trouble};
use crate::failure::{Failure, sentence};
use crate::stream::envelope::{Envelope, last_event};
use crate::stream::resume::Resume;

/// When to begin a new file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    /// At so many bytes.
    pub bytes: Option<u64>,
    /// After so long.
    pub age: Option<Duration>,
}

/// The carrier.
pub struct File {
    path: PathBuf,
    rotation: Rotation,
    envelope: Envelope,
    /// One line of JSON that names server and slot.
    source: String,
    open: Option<Open>,
}

struct Open {
    file: BufWriter<fs::File>,
    length: u64,
    durable: u64,
    began: Instant,
    number: u64,
}

/// Read backwards in pieces of this size.
const TAIL_BYTES: u64 = 1 << 16;
/// No line of ours is longer: PostgreSQL has no larger value than 1 GB, JSON escapes and both images make more of it.
const MAX_LINE_BYTES: u64 = 1 << 34;

impl File {
    /// `source` names server and slot.
    pub fn new(path: &Path, rotation: Rotation, envelope: Envelope, source: String) -> Self {
        Self {
            path: path.to_owned(),
            rotation,
            envelope,
            source,
            open: None,
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }

    fn rotated(&self, number: u64) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = match self.path.extension() {
            Some(extension) => format!("{stem}-{number:06}.{}", extension.to_string_lossy()),
            None => format!("{stem}-{number:06}"),
        };
        self.path.with_file_name(name)
    }

    /// The number of the newest rotated file, 0 when there is none.
    fn newest(&self) -> io::Result<u64> {
        let stem = format!("{}-", self.path.file_stem().unwrap_or_default().to_string_lossy());
        let mut newest = 0;
        for entry in fs::read_dir(directory(&self.path))? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension() == self.path.extension()
                && let Some(number) = name.strip_prefix(&stem).and_then(|digits| digits.parse().ok())
            {
                newest = newest.max(number);
            }
        }
        Ok(newest)
    }

    fn check_source(&self) -> Result<(), Trouble> {
        let beside = self.beside(".source");
        match fs::read_to_string(&beside) {
            Ok(there) if there.trim_end() == self.source => Ok(()),
            Ok(there) => Err(Trouble::Fatal(Failure::new(
                format!("\"{}\" holds events of another source", self.path.display()),
                format!("They are of {}, asked for is {}.", there.trim_end(), self.source),
                "Give another file, or move the old ones away together with the file .source.",
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let named = fs::write(&beside, format!("{}\n", self.source))
                    .and_then(|()| fs::File::open(&beside)?.sync_all())
                    .and_then(|()| sync_directory(&self.path));
                named.map_err(|error| trouble(&beside, &error))
            }
            Err(error) => Err(trouble(&beside, &error)),
        }
    }

    /// Open to append, without a torn line; and the last whole line, here or in the newest rotated file.
    fn open_file(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)?;
        sync_directory(&self.path)?;
        let (last, length) = last_line(&file)?;
        if length < file.metadata()?.len() {
            file.set_len(length)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::End(0))?;
        let number = self.newest()?;
        let last = match last {
            None if number > 0 => last_line(&fs::File::open(self.rotated(number))?)?.0,
            last => last,
        };
        self.open = Some(Open {
            began: began(&file),
            file: BufWriter::with_capacity(1 << 18, file),
            length,
            durable: length,
            number,
        });
        Ok(last)
    }

    fn rotate_if_due(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let large = self.rotation.bytes.is_some_and(|bytes| open.length >= bytes);
        let old = self.rotation.age.is_some_and(|age| open.began.elapsed() >= age);
        if open.length == 0 || !(large || old) {
            return Ok(());
        }
        open.file.flush()?;
        open.file.get_ref().sync_data()?;
        let number = open.number + 1;
        fs::rename(&self.path, self.rotated(number))?;
        let file = OpenOptions::new().append(true).create_new(true).open(&self.path)?;
        sync_directory(&self.path)?;
        self.open = Some(Open {
            file: BufWriter::with_capacity(1 << 18, file),
            length: 0,
            durable: 0,
            began: Instant::now(),
            number,
        });
        Ok(())
    }

    /// Somebody has moved it (logrotate, say), cut it or deleted it: nobody would find there what is written.
    fn is_elsewhere(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let length = open.file.get_ref().metadata().map(|there| there.len());
            !is_at(open.file.get_ref(), &self.path) || length.is_ok_and(|length| length != open.length)
        })
    }

    /// What could not be written whole is taken back, so that it can be written again and is not there twice.
    fn take_back(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        // Not dropped: that would write what is left in the buffer.
        let (file, _) = open.file.into_parts();
        file.set_len(open.durable)?;
        file.sync_data()
    }
}

impl Carrier for File {
    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn open(&mut self, fresh: bool) -> Result<Option<Resume>, Trouble> {
        self.open = None;
        self.check_source()?;
        let last = self.open_file().map_err(|error| trouble(&self.path, &error))?;
        let Some(line) = last else { return Ok(None) };
        let event = last_event(self.envelope, &line).ok_or_else(|| {
            Trouble::Fatal(Failure::new(
                format!("\"{}\" does not end with an event", self.path.display()),
                format!(
                    "With envelope \"{}\" its last line names no event.",
                    self.envelope.name()
                ),
                "Give the envelope that it was begun with, or another file.",
            ))
        })?;
        if event.snapshot {
            // Its snapshot is not finished, or nothing has happened since: the slot tells which.
            if fresh {
                let emptied = self.open.as_mut().map_or(Ok(()), |open| open.file.get_ref().set_len(0));
                emptied.map_err(|error| trouble(&self.path, &error))?;
                self.open_file().map_err(|error| trouble(&self.path, &error))?;
            }
            // Another node's slot gives rows that the snapshot has, too.
            let covered = Resume::default().at_least(event.resume.csn);
            return Ok((!fresh && covered.csn > 0).then_some(covered));
        }
        if fresh {
            return Err(Trouble::Fatal(Failure::new(
                format!("\"{}\" holds events, but the slot is a new one", self.path.display()),
                "What happened between its last event and the making of the slot is not in the stream.",
                "Give another file, or move the old ones away together with the file .source.",
            )));
        }
        Ok(Some(event.resume))
    }

    fn carry(&mut self, parcels: &[&Parcel]) -> Carried {
        if self.is_elsewhere() {
            let path = self.path.display();
            eprintln!("WARNING:  \"{path}\" was moved, cut or deleted: what follows is written to a new one");
            self.open = None;
        }
        if self.open.is_none()
            && let Err(error) = self.open_file()
        {
            return Carried::until(0, trouble(&self.path, &error));
        }
        let Some(open) = &mut self.open else {
            return Carried::all(0);
        };
        let written = parcels.iter().try_for_each(|parcel| {
            open.file.write_all(&parcel.body)?;
            open.file.write_all(b"\n")
        });
        let synced = written
            .and_then(|()| open.file.flush())
            .and_then(|()| open.file.get_ref().sync_data());
        if let Err(error) = synced {
            let trouble = match self.take_back() {
                Ok(()) => trouble(&self.path, &error),
                Err(_) => Trouble::Again(format!("\"{}\" cannot be written: {error}", self.path.display())),
            };
            return Carried::until(0, trouble);
        }
        if !is_at(open.file.get_ref(), &self.path) {
            let gone = format!("\"{}\" was moved or deleted while it was written", self.path.display());
            return Carried::until(
                0,
                match self.take_back() {
                    Ok(()) => Trouble::Down {
                        reason: gone,
                        retry_after: None,
                    },
                    Err(_) => Trouble::Again(gone),
                },
            );
        }
        open.length += parcels.iter().map(|parcel| parcel.body.len() as u64 + 1).sum::<u64>();
        open.durable = open.length;
        Carried::all(parcels.len())
    }

    fn between_transactions(&mut self) {
        if let Err(error) = self.rotate_if_due() {
            // It is tried again at the next transaction; lines go on into the file that there is.
            eprintln!("WARNING:  \"{}\" could not be rotated: {error}", self.path.display());
        }
    }

    fn cuts_after(&self, bytes: usize) -> bool {
        let Some((limit, open)) = self.rotation.bytes.zip(self.open.as_ref()) else {
            return false;
        };
        bytes > 0 && open.length + bytes as u64 >= limit
    }

    fn at_once(&self) -> usize {
        65_536
    }
}

/// A full disk and its like pass; a directory that is not there does not.
fn trouble(path: &Path, error: &io::Error) -> Trouble {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound | Kind::PermissionDenied | Kind::IsADirectory | Kind::ReadOnlyFilesystem => {
            Trouble::Fatal(Failure::new(
                format!("\"{}\" cannot be written", path.display()),
                sentence(&error.to_string()),
                "Its directory must exist and be writable for the user who runs synod stream.",
            ))
        }
        _ => Trouble::Down {
            reason: format!("\"{}\" cannot be written: {error}", path.display()),
            retry_after: None,
        },
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn is_at(file: &fs::File, path: &Path) -> bool {
    let identity = |there: fs::Metadata| (there.dev(), there.ino());
    match (file.metadata().map(identity), fs::metadata(path).map(identity)) {
        (Ok(ours), Ok(there)) => ours == there,
        _ => false,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(directory(path))?.sync_all()
}

/// When a file that was there before us was begun, as far as can be known.
fn began(file: &fs::File) -> Instant {
    let age = file
        .metadata()
        .and_then(|there| there.created().or_else(|_| there.modified()))
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .unwrap_or_default();
    Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
}

/// The last line that ends with a line break, and the length of the file up to there.
fn last_line(file: &fs::File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let Some(end) = last_break(file, file.metadata()?.len())? else {
        return Ok((None, 0));
    };
    let begin = last_break(file, end)?.map_or(0, |at| at + 1);
    if end - begin > MAX_LINE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its last line has no end"));
    }
    let mut line = vec![0; (end - begin) as usize];
    file.read_exact_at(&mut line, begin)?;
    Ok((Some(line), end + 1))
}

/// Where the last line break before `end` is.
fn last_break(file: &fs::File, end: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; TAIL_BYTES as usize];
    let mut end = end;
    while end > 0 {
        let begin = end.saturating_sub(TAIL_BYTES);
        let piece = &mut buffer[..(end - begin) as usize];
        file.read_exact_at(piece, begin)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(begin + at as u64));
        }
        end = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(content: &[u8]) -> fs::File {
        let path = std::env::temp_dir().join(format!(
            "synod-last-line-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::write(&path, content).unwrap();
        let file = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file
    }

    #[test]
    fn the_last_whole_line_is_found_however_the_file_ends() {
        let long = vec![b'x'; 3 * TAIL_BYTES as usize];
        type Case<'a> = (&'a [u8], Option<&'a [u8]>, u64);
        let cases: [Case<'_>; 6] = [
            (b"", None, 0),
            (b"torn", None, 0),
            (b"one\n", Some(b"one"), 4),
            (b"one\ntwo\nto", Some(b"two"), 8),
            (b"\n", Some(b""), 1),
            (&[&long[..], b"\n", &long].concat(), Some(&long), long.len() as u64 + 1),
        ];
        for (content, line, length) in cases {
            let (found, end) = last_line(&file_with(content)).unwrap();
            assert_eq!((found.as_deref(), end), (line, length));
        }
    }
}
