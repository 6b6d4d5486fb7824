//! `events.jsonl.position`: up to where everything is in the file (`synod_sinks::position` has its form).
//!
//! It is written in place, one of its two lines after the other, and synced. A crash leaves at least the line before: nothing
//! is confirmed that is not in a whole one. The file itself comes by a rename, with its first line whole.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use synod_sinks::position::{LINE_BYTES, Position, newest};

use super::{Trouble, beside, is_at, sync_directory, trouble};
use crate::failure::Failure;

/// The file.
pub struct Kept {
    path: PathBuf,
    file: Option<fs::File>,
    last: Option<Position>,
}

impl Kept {
    /// Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            last: None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub fn last(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    /// Read it, if it is there.
    pub fn read(&mut self) -> io::Result<()> {
        (self.file, self.last) = (None, None);
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len().min(2 * LINE_BYTES as u64);
        let mut content = vec![0; length as usize];
        file.read_exact_at(&mut content, 0)?;
        let position = newest(&content).ok_or(io::ErrorKind::InvalidData)?;
        (self.file, self.last) = (Some(file), Some(position));
        Ok(())
    }

    /// Write the next one, durably.
    pub fn write(&mut self, position: Position) -> io::Result<()> {
        let position = Position {
            number: self.last.as_ref().map_or(0, |last| last.number + 1),
            ..position
        };
        match self.file.as_ref().filter(|file| is_at(file, &self.path)) {
            Some(file) => {
                file.write_all_at(&position.line(), position.place())?;
                file.sync_data()?;
            }
            None => self.file = Some(self.begin(&position)?),
        }
        self.last = Some(position);
        Ok(())
    }

    fn begin(&self, position: &Position) -> io::Result<fs::File> {
        let aside = beside(&self.path, ".new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&aside)?;
        file.write_all_at(&position.line(), position.place())?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        sync_directory(&self.path)?;
        Ok(file)
    }

    /// Begin anew.
    pub fn remove(&mut self) -> io::Result<()> {
        (self.file, self.last) = (None, None);
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.path),
        }
    }

    /// What is wrong with it.
    pub fn trouble(&self, error: &io::Error) -> Trouble {
        if error.kind() != io::ErrorKind::InvalidData {
            return trouble(&self.path, error);
        }
        Trouble::Fatal(Failure::new(
            format!("\"{}\" holds no position", self.path.display()),
            "It was damaged, or written by a newer release.",
            "Up to where the events go is not known then, and nothing is written. Restore it; or move the events away together with the \
             files .source and .position and begin anew; or remove it, if the slot is known to begin where they end.",
        ))
    }
}
