//! Keys of changed rows, deleted in a Redis server or published there: invalidation of caches.
//!
//! At least once, which is enough: what is deleted twice is deleted. Order is kept.

mod keys;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::socket::{ANSWER_TIMEOUT, Socket};
use super::{Carried, Carrier, Opening, Parcel, Trouble};
use crate::failure::{Failure, sentence};
use crate::stream::resume::Resume;
use crate::stream::tls::Trust;
use synod_sinks::redis::{self as resp, Answer, Parser, scanned};

pub use keys::Keys;

/// Events whose answers may be awaited.
const WINDOW: usize = 512;
/// Keys looked at by one SCAN.
const SCAN_COUNT: &str = "1000";

/// What is done with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// DEL
    Delete,
    /// UNLINK: as DEL, but memory is freed in the background.
    Unlink,
    /// PUBLISH the key to this channel.
    Publish(String),
}

/// Where to, and what to do there.
#[derive(Clone, Debug)]
pub struct Address {
    /// Name or number.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Encrypted, for whom these authorities name.
    pub tls: Option<Trust>,
    /// ACL user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Number of the database.
    pub database: u32,
    /// With each key.
    pub action: Action,
}

/// The carrier.
pub struct Redis {
    address: Address,
    link: Option<Link>,
}

struct Link {
    socket: Socket,
    parser: Parser,
}

impl Link {
    fn hear(&mut self, deadline: Instant) -> io::Result<Answer> {
        let mut buffer = [0; 16_384];
        loop {
            let wrong = |what| io::Error::other(format!("it sent {what}"));
            match self.parser.take().map_err(wrong)? {
                Some(answer) => return Ok(answer),
                None if Instant::now() >= deadline => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer came in time"));
                }
                None => {
                    let got = self.socket.read(&mut buffer)?;
                    self.parser.feed(&buffer[..got]);
                }
            }
        }
    }

    fn ask(&mut self, words: &[&[u8]]) -> io::Result<Answer> {
        let mut out = Vec::new();
        resp::command(&mut out, words);
        self.socket.write_all(&out)?;
        self.socket.flush()?;
        self.hear(Instant::now() + ANSWER_TIMEOUT)
    }

    /// All keys that match, a batch at a time.
    fn delete_matching(&mut self, verb: &[u8], pattern: &str) -> io::Result<Option<String>> {
        let mut cursor = b"0".to_vec();
        loop {
            let scan = [
                &b"SCAN"[..],
                &cursor,
                b"MATCH",
                pattern.as_bytes(),
                b"COUNT",
                SCAN_COUNT.as_bytes(),
            ];
            let Some((next, keys)) = scanned(self.ask(&scan)?) else {
                return Ok(Some("SCAN gave no cursor and keys".into()));
            };
            if !keys.is_empty() {
                let words: Vec<&[u8]> = std::iter::once(verb).chain(keys.iter().map(Vec::as_slice)).collect();
                if let Answer::Error(said) = self.ask(&words)? {
                    return Ok(Some(said));
                }
            }
            if next == b"0" {
                return Ok(None);
            }
            cursor = next;
        }
    }
}

impl Redis {
    /// To this server.
    pub fn new(address: Address) -> Self {
        Self { address, link: None }
    }

    fn down(&self, reason: &str) -> Trouble {
        Trouble::Down {
            reason: format!("{}: {reason}", self.name()),
            retry_after: None,
        }
    }

    fn link(&mut self) -> Result<Link, Trouble> {
        if let Some(link) = self.link.take() {
            return Ok(link);
        }
        let connected =
            Socket::connect(&self.address.host, self.address.port).and_then(|socket| match &self.address.tls {
                Some(trust) => socket.encrypt(&self.address.host, trust),
                None => Ok(socket),
            });
        let socket = connected.map_err(|error| self.down(&error.to_string()))?;
        let mut link = Link {
            socket,
            parser: Parser::default(),
        };
        let database = self.address.database.to_string();
        let mut commands: Vec<Vec<&[u8]>> = Vec::new();
        if let Some(password) = &self.address.password {
            let user = self.address.user.iter().map(String::as_bytes);
            commands.push(
                [&b"AUTH"[..]]
                    .into_iter()
                    .chain(user)
                    .chain([password.as_bytes()])
                    .collect(),
            );
        }
        if self.address.database != 0 {
            commands.push(vec![b"SELECT", database.as_bytes()]);
        }
        commands.push(vec![b"PING"]);
        for command in commands {
            match link.ask(&command).map_err(|error| self.down(&error.to_string()))? {
                Answer::Error(said) if passes(&said) => return Err(self.down(&said)),
                Answer::Error(said) => {
                    return Err(Trouble::Fatal(Failure::new(
                        format!("{} refuses us", self.name()),
                        sentence(&said),
                        "Give user, password and database in the URL: redis://user:password@host:6379/0.",
                    )));
                }
                _ => {}
            }
        }
        Ok(link)
    }

    fn carry_through(&self, link: &mut Link, parcels: &[&Parcel]) -> Result<Carried, (usize, io::Error)> {
        let (mut done, mut out, mut answers) = (0, Vec::new(), Vec::new());
        // All of these changes were committed before: one look at the keys of a table is enough for all that want one.
        let mut emptied: HashSet<String> = HashSet::new();
        // A run of events with keys at once; one that empties tables by itself.
        for (index, parcel) in parcels.iter().enumerate() {
            let body: Value = serde_json::from_slice(&parcel.body).unwrap_or_default();
            if let Some(patterns) = body["match"].as_array() {
                done = settle(link, &mut out, &mut answers, done)?;
                for pattern in patterns.iter().filter_map(Value::as_str) {
                    if !emptied.insert(pattern.to_owned()) {
                        continue;
                    }
                    if let Some(said) = self.empty(link, pattern).map_err(|error| (done, error))? {
                        return Ok(Carried::until(done, refusal(said)));
                    }
                }
                done = index + 1;
                continue;
            }
            let keys: Vec<&[u8]> = body
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::as_bytes)
                .collect();
            let commands = self.commands(&keys);
            answers.push(commands.len());
            commands.iter().for_each(|words| resp::command(&mut out, words));
        }
        settle(link, &mut out, &mut answers, done).map(Carried::all)
    }

    fn commands<'a>(&'a self, keys: &[&'a [u8]]) -> Vec<Vec<&'a [u8]>> {
        match &self.address.action {
            Action::Publish(channel) => keys
                .iter()
                .map(|key| vec![b"PUBLISH", channel.as_bytes(), key])
                .collect(),
            _ if keys.is_empty() => Vec::new(),
            action => vec![std::iter::once(verb(action)).chain(keys.iter().copied()).collect()],
        }
    }

    /// Every key of a table that was truncated.
    fn empty(&self, link: &mut Link, pattern: &str) -> io::Result<Option<String>> {
        match &self.address.action {
            Action::Publish(channel) => {
                let words = [&b"PUBLISH"[..], channel.as_bytes(), pattern.as_bytes()];
                Ok(match link.ask(&words)? {
                    Answer::Error(said) => Some(said),
                    _ => None,
                })
            }
            action => link.delete_matching(verb(action), pattern),
        }
    }
}

const fn verb(action: &Action) -> &'static [u8] {
    match action {
        Action::Delete => b"DEL",
        _ => b"UNLINK",
    }
}

/// Send what is to be sent and hear the answers: `counts` of them for each event. How many events are done.
fn settle(
    link: &mut Link,
    out: &mut Vec<u8>,
    counts: &mut Vec<usize>,
    done: usize,
) -> Result<usize, (usize, io::Error)> {
    let mut done = done;
    link.socket
        .write_all(out)
        .and_then(|()| link.socket.flush())
        .map_err(|error| (done, error))?;
    out.clear();
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    // All answers are heard, so that what comes later is not taken for one of these.
    let mut refused = None;
    for count in counts.drain(..) {
        for _ in 0..count {
            if let Answer::Error(said) = link.hear(deadline).map_err(|error| (done, error))? {
                refused.get_or_insert(said);
            }
        }
        if refused.is_none() {
            done += 1;
        }
    }
    match refused {
        Some(said) => Err((done, io::Error::new(io::ErrorKind::InvalidInput, said))),
        None => Ok(done),
    }
}

/// Errors that are about the server's state, not about the command.
fn passes(said: &str) -> bool {
    let word = said.split_ascii_whitespace().next().unwrap_or_default();
    matches!(
        word,
        "LOADING" | "BUSY" | "OOM" | "READONLY" | "MASTERDOWN" | "MISCONF" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS"
    ) || said.contains("max number of clients")
}

fn refusal(said: String) -> Trouble {
    if passes(&said) {
        Trouble::Down {
            reason: said,
            retry_after: Some(Duration::from_secs(1)),
        }
    } else {
        Trouble::Refused(said)
    }
}

impl Carrier for Redis {
    fn name(&self) -> String {
        format!("Redis server {}:{}", self.address.host, self.address.port)
    }

    fn open(&mut self, _: &Opening) -> Result<Option<Resume>, Trouble> {
        self.link = None;
        self.link = Some(self.link()?);
        Ok(None)
    }

    fn carry(&mut self, parcels: &[&Parcel]) -> Carried {
        let mut link = match self.link() {
            Ok(link) => link,
            Err(trouble) => return Carried::until(0, trouble),
        };
        match self.carry_through(&mut link, parcels) {
            Ok(carried) => {
                self.link = Some(link);
                carried
            }
            Err((done, error)) if error.kind() == io::ErrorKind::InvalidInput => {
                self.link = Some(link);
                Carried::until(done, refusal(error.to_string()))
            }
            // What came of those under way is not known: they go again.
            Err((done, error)) => Carried::until(done, self.down(&error.to_string())),
        }
    }

    fn at_once(&self) -> usize {
        WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_error_panics(said: String) {
            let _ = refusal(said);
        }
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        assert!(matches!(
            refusal("LOADING Redis is loading".into()),
            Trouble::Down { .. }
        ));
        assert!(matches!(
            refusal("OOM command not allowed".into()),
            Trouble::Down { .. }
        ));
        assert!(matches!(refusal("WRONGTYPE Operation".into()), Trouble::Refused(_)));
    }
}
