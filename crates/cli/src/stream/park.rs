//! Events that a sink will not take, kept in a file for somebody to look at, mend, and send again.
//!
//! One JSON object per line, synced before the stream goes on. What is parked is not lost and not delivered; the stream's order
//! has a gap there, which is why it is the user's choice.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::sink::Refused;
use crate::failure::{Failure, sentence};

/// The file.
#[derive(Clone, Debug)]
pub struct Parking {
    path: PathBuf,
}

impl Parking {
    /// At this place. Made when it is needed.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// As long as this lives nobody else changes the file: one process may park while another one sends what was parked. It is the
    /// directory.
    pub fn lock(&self) -> Result<fs::File, Failure> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let locked = fs::File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| {
            directory.lock()?;
            Ok(directory)
        });
        locked.map_err(|error| self.failure("locked", &error))
    }

    /// Keep one.
    pub fn keep(&self, refused: &Refused) -> Result<(), Failure> {
        let directory = self.lock()?;
        let kept = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut file| {
                file.write_all(line(refused).as_bytes())?;
                file.sync_all()?;
                // The file may be new.
                directory.sync_all()
            });
        kept.map_err(|error| self.failure("written", &error))
    }

    /// All of them, each once.
    pub fn all(&self) -> Result<Vec<Refused>, Failure> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failure("read", &error)),
        };
        let mut all: Vec<Refused> = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let refused = parse(line).ok_or_else(|| {
                Failure::new(
                    format!("line {} of \"{}\" is no parked event", number + 1, self.path.display()),
                    "Each line is a JSON object with id, subject, body and reason.",
                    "If it is the last line and torn, its event was not passed over: remove the line.",
                )
            })?;
            // A crash after an event was kept, and before the server heard of it, makes it come again.
            if !all
                .iter()
                .any(|other| other.id == refused.id && other.subject == refused.subject)
            {
                all.push(refused);
            }
        }
        Ok(all)
    }

    /// From now on only these, at once or not at all. Under [`Self::lock`], from before they were read.
    pub fn replace(&self, left: &[Refused]) -> Result<(), Failure> {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let fresh = PathBuf::from(name);
        let text: String = left.iter().map(line).collect();
        let replaced = fs::write(&fresh, text)
            .and_then(|()| fs::File::open(&fresh)?.sync_all())
            .and_then(|()| fs::rename(&fresh, &self.path));
        replaced.map_err(|error| self.failure("replaced", &error))
    }

    /// For people.
    pub fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn failure(&self, what: &str, error: &io::Error) -> Failure {
        Failure::new(
            format!("the file of parked events \"{}\" cannot be {what}", self.place()),
            sentence(&error.to_string()),
            "Nothing is passed over before it is kept: give another place with --parked.",
        )
    }
}

fn line(refused: &Refused) -> String {
    let body = String::from_utf8_lossy(&refused.body);
    let mut line =
        json!({ "id": refused.id, "subject": refused.subject, "reason": refused.reason, "body": body }).to_string();
    line.push('\n');
    line
}

fn parse(line: &str) -> Option<Refused> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    Some(Refused {
        id: text("id")?,
        subject: text("subject")?,
        reason: text("reason")?,
        body: text("body")?.into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// It replaced the file by what was in it before.
    #[test]
    fn what_is_parked_while_others_are_sent_is_not_lost() {
        let directory = std::env::temp_dir().join(format!("synod-parked-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let parking = Parking::new(&directory.join("parked.jsonl"));
        let refused = |id: &str| Refused {
            id: id.into(),
            subject: String::new(),
            body: Vec::new(),
            reason: String::new(),
        };
        parking.keep(&refused("1")).unwrap();
        let lock = parking.lock().unwrap();
        let all = parking.all().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| parking.keep(&refused("2")));
            parking.replace(&all).unwrap();
            drop(lock);
            other.join().unwrap().unwrap();
        });
        assert_eq!(parking.all().unwrap(), [refused("1"), refused("2")]);
        fs::remove_dir_all(&directory).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_kept_is_found(id: String, subject: String, reason: String, body: String) {
            let refused = Refused { id, subject, reason, body: body.into_bytes() };
            prop_assert_eq!(parse(line(&refused).trim_end_matches('\n')), Some(refused));
        }

        #[test]
        fn no_line_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
