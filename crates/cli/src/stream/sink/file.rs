//! Lines in a file that is rotated by size and time.
//!
//! Exactly once. Lines are only appended; they are synced, then the position is, and only then does the server hear of them:
//!
//! ```text
//! confirmed at the server <= events.jsonl.position <= whole lines in events.jsonl
//! ```
//!
//! So what is there is a prefix of the stream, a slot that begins behind the position has lost something (`continuity`), and after a
//! crash the last whole line says where to go on. A line torn by the crash is cut off.
//!
//! `events.jsonl` is written; when it is large or old enough, and a transaction ends, it becomes `events-000001.jsonl`,
//! `events-000002.jsonl`, ...; no number comes again, also when files are moved away. Beside it lies `events.jsonl.source`: of which
//! server and slot the events are. The positions of another server mean nothing here, so another server is refused.

mod kept;
mod last_line;

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use synod_sinks::position::Position;

use super::{Carried, Carrier, IDLE_EVERY, Opening, Parcel, Reached, Trouble};
use crate::failure::{Failure, sentence};
use crate::stream::envelope::{Envelope, Last, last_event};
use crate::stream::resume::{Resume, Timeline};
use kept::Kept;
use last_line::last_line;

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
    slot: String,
    open: Option<Open>,
    kept: Kept,
    /// The WAL that is read.
    of: Timeline,
    /// What was kept since that began, and when.
    vouched: Option<(Reached, Instant)>,
    /// Something has come since then.
    carried: bool,
}

struct Open {
    file: BufWriter<fs::File>,
    length: u64,
    durable: u64,
    began: Instant,
    number: u64,
}

impl File {
    /// Events of `slot` of `source`.
    pub fn new(path: &Path, rotation: Rotation, envelope: Envelope, source: &str, slot: &str) -> Self {
        Self {
            path: path.to_owned(),
            rotation,
            envelope,
            source: serde_json::json!({ "source": source, "slot": slot }).to_string(),
            slot: slot.to_owned(),
            open: None,
            kept: Kept::new(beside(path, ".position")),
            of: Timeline::default(),
            vouched: None,
            carried: false,
        }
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
        let beside = beside(&self.path, ".source");
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

    /// What its last line says of its place.
    fn understood(&self, line: &[u8]) -> Result<Last, Trouble> {
        last_event(self.envelope, line).ok_or_else(|| {
            Trouble::Fatal(Failure::new(
                format!("\"{}\" does not end with an event", self.path.display()),
                format!(
                    "With envelope \"{}\" its last line names no event.",
                    self.envelope.name()
                ),
                "Give the envelope that it was begun with, or another file.",
            ))
        })
    }

    /// A snapshot begins anew.
    fn empty(&mut self) -> io::Result<()> {
        self.kept.remove()?;
        if let Some(open) = &self.open {
            open.file.get_ref().set_len(0)?;
        }
        self.open_file().map(drop)
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
        // Those that were moved away had numbers, too.
        let number = self.newest()?;
        let last = match last {
            None if number > 0 => last_line(&fs::File::open(self.rotated(number))?)?.0,
            last => last,
        };
        let number = number.max(self.kept.last().map_or(0, |position| position.files));
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
        // First: a number that is left out after a crash is none that comes twice.
        if let Some(position) = self.kept.last().cloned() {
            self.kept.write(Position {
                files: number,
                ..position
            })?;
        }
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

    fn open(&mut self, opening: &Opening) -> Result<Option<Resume>, Trouble> {
        (self.open, self.vouched, self.carried) = (None, None, false);
        self.of = opening.of.clone();
        self.check_source()?;
        self.kept.read().map_err(|error| self.kept.trouble(&error))?;
        let last = self.open_file().map_err(|error| trouble(&self.path, &error))?;
        let last = last.map(|line| self.understood(&line)).transpose()?;
        let position = self.kept.last();
        // A snapshot is finished when its slot lasts, and the slot is not there.
        let unfinished = match (&last, position) {
            (Some(last), _) => last.snapshot,
            (None, position) => position.is_none_or(|position| position.snapshot),
        };
        if opening.fresh && opening.snapshot && unfinished {
            self.empty().map_err(|error| trouble(&self.path, &error))?;
            return Ok(None);
        }
        if last.as_ref().is_some_and(|last| !last.snapshot) && position.is_none() {
            let path = self.kept.path().display();
            eprintln!("WARNING:  \"{path}\" is not there: whether the slot begins where the events end cannot be told");
        }
        Ok(resume(last, position, opening.fresh))
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
        self.carried = true;
        Carried::all(parcels.len())
    }

    fn keep(&mut self, reached: Reached, snapshot: bool) -> Result<Reached, Trouble> {
        // Of a snapshot that is under way.
        if reached == Reached::default() {
            return Ok(reached);
        }
        if let Some((vouched, at)) = self.vouched
            && !self.carried
            && reached.csn <= vouched.csn
            && (reached.lsn <= vouched.lsn || at.elapsed() < IDLE_EVERY)
        {
            return Ok(vouched);
        }
        let files = self.open.as_ref().map_or(0, |open| open.number);
        let written = self.kept.write(Position {
            slot: self.slot.clone(),
            system: self.of.system.clone(),
            timeline: self.of.number,
            lsn: reached.lsn,
            csn: reached.csn,
            files: files.max(self.kept.last().map_or(0, |position| position.files)),
            snapshot,
            ..Position::default()
        });
        written.map_err(|error| self.kept.trouble(&error))?;
        (self.vouched, self.carried) = (Some((reached, Instant::now())), false);
        Ok(reached)
    }

    fn remembers(&self) -> bool {
        true
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

/// Where to go on, of the last event and the position, each if there is one. `fresh`: its slot is about to be made.
fn resume(last: Option<Last>, position: Option<&Position>, fresh: bool) -> Option<Resume> {
    let snapshot = last.as_ref().is_none_or(|last| last.snapshot);
    let event = last.map_or_else(Resume::default, |last| last.resume);
    let Some(position) = position else {
        // Of a snapshot alone only another node has to know: its slot gives rows that the snapshot has, too.
        let covered = Resume::default().at_least(event.csn);
        return match snapshot {
            true => (fresh && event.last_id.is_some() || covered.csn > 0).then_some(covered),
            false => Some(event),
        };
    };
    let event = if snapshot {
        Resume::default().at_least(event.csn)
    } else {
        event
    };
    Some(Resume {
        start_lsn: Some(position.lsn),
        of: Some(Timeline {
            system: position.system.clone(),
            number: position.timeline,
        }),
        ..event.at_least(position.csn)
    })
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

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
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
