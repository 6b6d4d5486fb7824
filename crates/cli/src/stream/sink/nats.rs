//! Events published to a JetStream stream of a NATS server.
//!
//! Exactly once within the stream's duplicate window (two minutes unless it says otherwise): every message carries the source, the slot
//! and the event's id as `Nats-Msg-Id`, and the server keeps the first of those with the same one. (The id alone is also that of what
//! another slot makes of the same change, or, by chance, of an event of another server.) At least once beyond.
//!
//! A window of messages is published, then their acknowledgements are waited for. In order, also when one of them fails: each but the
//! first names the one before it (`Nats-Expected-Last-Msg-Id`), so the server takes none whose predecessor it has not. Those
//! are published again, from the one that failed, which then is the first. Where others publish to the same stream, messages of theirs
//! come between and make that ours are refused: they go again, fewer at once.
//!
//! Order is a stream's. Which stream takes a subject, acknowledgements tell: until then a message goes by itself. So do all those for a
//! stream of several servers, or of how many cannot be asked: there a server knows an id before it looks at what is expected, and takes
//! the message that it has refused for a duplicate when it comes again.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::socket::{ANSWER_TIMEOUT, Socket};
use super::{Carried, Carrier, Opening, Parcel, Trouble};
use crate::failure::{Failure, sentence};
use crate::stream::resume::Resume;
use crate::stream::tls::Trust;
use synod_sinks::nats::{self as protocol, Acknowledged, FromServer, Parser};

pub use synod_sinks::nats::token;

/// Messages that may be unacknowledged.
const WINDOW: usize = 512;

/// Where to.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// Name or number.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Encrypted, for whom these authorities name.
    pub tls: Option<Trust>,
    /// User and password, or a token alone.
    pub user: Option<String>,
    /// See there.
    pub password: Option<String>,
    /// Whose events they are: the source and the slot. Of a group the same for every node.
    pub whose: String,
    /// The stream to make, and the subjects that it takes, when nothing takes them yet.
    pub create: Option<(String, String)>,
}

/// The carrier.
pub struct Nats {
    address: Address,
    link: Option<Link>,
}

struct Link {
    socket: Socket,
    parser: Parser,
    inbox: String,
    next_reply: u64,
    max_payload: usize,
    /// Which stream takes a subject.
    streams: HashMap<String, Stream>,
    /// Messages that are published at once.
    window: usize,
    /// What stands before ids.
    whose: String,
}

/// A stream of the server.
#[derive(Clone)]
struct Stream {
    name: String,
    /// It is known to be on one server only.
    single: bool,
}

/// Why the link is given up, or a message refused.
enum Broken {
    Link(String),
    Said(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Link(error.to_string())
    }
}

impl Nats {
    /// To this server.
    pub fn new(address: Address) -> Self {
        Self { address, link: None }
    }

    fn link(&mut self) -> Result<&mut Link, Trouble> {
        let link = match self.link.take() {
            Some(link) => link,
            None => self.connect().map_err(|broken| match broken {
                Broken::Link(reason) => down(&self.name(), &reason),
                Broken::Said(said) => Trouble::Fatal(Failure::new(
                    format!("{} refuses us", self.name()),
                    sentence(&said),
                    "Give user and password in the URL: nats://user:password@host.",
                )),
            })?,
        };
        Ok(self.link.insert(link))
    }

    fn connect(&self) -> Result<Link, Broken> {
        let mut link = Link {
            socket: Socket::connect(&self.address.host, self.address.port)?,
            parser: Parser::default(),
            inbox: inbox(),
            next_reply: 0,
            max_payload: 1 << 20,
            streams: HashMap::new(),
            window: WINDOW,
            whose: self.address.whose.clone(),
        };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let FromServer::Info(info) = link.hear(deadline)? else {
            return Err(Broken::Link("it does not speak NATS".into()));
        };
        let info: Value = serde_json::from_str(&info).map_err(|_| Broken::Link("its INFO is not JSON".into()))?;
        if let Some(most) = info["max_payload"].as_u64() {
            link.max_payload = usize::try_from(most).unwrap_or(usize::MAX);
        }
        if info["jetstream"].as_bool() != Some(true) {
            return Err(Broken::Link("it has no JetStream (start it with -js)".into()));
        }
        if let Some(trust) = &self.address.tls {
            link.socket = link.socket.encrypt(&self.address.host, trust)?;
        } else if info["tls_required"].as_bool() == Some(true) {
            return Err(Broken::Said("It wants TLS: write tls:// instead of nats://".into()));
        }
        let token = self.address.user.as_ref().filter(|_| self.address.password.is_none());
        let hello = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "rust", "name": "synod stream",
            "version": env!("CARGO_PKG_VERSION"), "user": self.address.user, "pass": self.address.password, "auth_token": token,
        });
        let inbox = link.inbox.clone();
        link.socket
            .write_all(format!("CONNECT {hello}\r\nSUB {inbox}.* 1\r\nPING\r\n").as_bytes())?;
        link.socket.flush()?;
        while link.hear(deadline)? != FromServer::Pong {}
        if let Some((stream, subjects)) = &self.address.create {
            link.make_stream(stream, subjects)?;
        }
        Ok(link)
    }
}

fn down(name: &str, reason: &str) -> Trouble {
    Trouble::Down {
        reason: format!("{name}: {reason}"),
        retry_after: None,
    }
}

fn inbox() -> String {
    let number = || RandomState::new().build_hasher().finish();
    format!("_INBOX.{:016x}{:016x}", number(), number())
}

impl Link {
    /// The next message that is not between the machines only.
    fn hear(&mut self, deadline: Instant) -> Result<FromServer, Broken> {
        let mut buffer = [0; 16_384];
        loop {
            let wrong = |what: &str| Broken::Link(format!("it sent {what}"));
            match self.parser.take().map_err(wrong)? {
                Some(FromServer::Ping) => self.socket.write_all(b"PONG\r\n")?,
                Some(FromServer::Good) => {}
                Some(FromServer::Complaint(said)) if said.to_ascii_lowercase().contains("authorization") => {
                    return Err(Broken::Said(said));
                }
                Some(FromServer::Complaint(said)) => return Err(Broken::Link(said)),
                Some(message) => return Ok(message),
                None if Instant::now() >= deadline => return Err(Broken::Link("no answer came in time".into())),
                None => {
                    let got = self.socket.read(&mut buffer)?;
                    self.parser.feed(&buffer[..got]);
                }
            }
        }
    }

    fn reply(&mut self) -> (u64, String) {
        self.next_reply += 1;
        (self.next_reply, format!("{}.{}", self.inbox, self.next_reply))
    }

    /// Which of our messages an answer is to.
    fn answered(&self, subject: &str) -> Option<u64> {
        subject.strip_prefix(&self.inbox)?.strip_prefix('.')?.parse().ok()
    }

    /// A request to the server's JetStream, and its answer.
    fn ask(&mut self, subject: &str, body: &[u8]) -> Result<(Option<u16>, Value), Broken> {
        let (number, reply) = self.reply();
        let mut out = Vec::new();
        protocol::request(&mut out, subject, &reply, body);
        self.socket.write_all(&out)?;
        self.socket.flush()?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            if let FromServer::Message {
                subject,
                status,
                payload,
            } = self.hear(deadline)?
                && self.answered(&subject) == Some(number)
            {
                return Ok((status, serde_json::from_slice(&payload).unwrap_or_default()));
            }
        }
    }

    fn make_stream(&mut self, stream: &str, subjects: &str) -> Result<(), Broken> {
        let wanted = json!({ "name": stream, "subjects": [subjects], "storage": "file", "retention": "limits" });
        let (status, answer) = self.ask(
            &format!("$JS.API.STREAM.CREATE.{stream}"),
            wanted.to_string().as_bytes(),
        )?;
        // 10058: there is one of this name, made otherwise. It is somebody's choice.
        match (status, &answer["error"]) {
            (None, Value::Null) => Ok(()),
            (None, error) if error["err_code"] == 10_058 => Ok(()),
            (_, error) => Err(Broken::Link(format!("the stream \"{stream}\" cannot be made: {error}"))),
        }
    }

    /// Whether a stream is known to be on one server only.
    fn is_single(&mut self, stream: &str) -> Result<bool, Broken> {
        match self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), b"") {
            Ok((None, answer)) => Ok(answer["config"]["num_replicas"] == 1),
            Ok(_) => Ok(false),
            // Who may publish need not be allowed to ask.
            Err(Broken::Link(said)) if said.contains("STREAM.INFO") => Ok(false),
            Err(broken) => Err(broken),
        }
    }

    /// A message for this subject is in that stream.
    fn note_stream(&mut self, subject: &str, stream: String) -> Result<(), Broken> {
        let known = self.streams.values().find(|known| known.name == stream).cloned();
        let stream = match known {
            Some(known) => known,
            None => Stream {
                single: self.is_single(&stream)?,
                name: stream,
            },
        };
        self.streams.insert(subject.to_owned(), stream);
        Ok(())
    }

    /// Publish some of them, and wait for their acknowledgements: what became of each.
    fn publish(&mut self, parcels: &[&Parcel]) -> Result<Vec<Acknowledged>, Broken> {
        let mut waiting = HashMap::with_capacity(parcels.len());
        let mut outcomes: Vec<Acknowledged> = Vec::with_capacity(parcels.len());
        let mut out = Vec::new();
        // The last message in each stream.
        let mut last: HashMap<&str, String> = HashMap::new();
        for (index, parcel) in parcels.iter().take(self.window).enumerate() {
            let stream = self.streams.get(&parcel.subject).filter(|stream| stream.single);
            if stream.is_none() && index > 0 {
                break;
            }
            self.next_reply += 1;
            let (number, reply) = (self.next_reply, format!("{}.{}", self.inbox, self.next_reply));
            let id = format!("{}/{}", self.whose, parcel.id);
            if protocol::published_bytes(&id, &parcel.body) > self.max_payload {
                let reason = format!("{} bytes are more than max_payload of the server", parcel.body.len());
                outcomes.push(Acknowledged::Refused(reason));
                // Those after it wait until it is clear what is to become of it.
                break;
            }
            outcomes.push(Acknowledged::OutOfTurn);
            let after = stream.and_then(|stream| last.insert(&stream.name, id.clone()));
            protocol::publish(&mut out, &parcel.subject, &reply, &id, after.as_deref(), &parcel.body);
            waiting.insert(number, index);
            if stream.is_none() {
                break;
            }
        }
        self.socket.write_all(&out)?;
        self.socket.flush()?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while !waiting.is_empty() {
            if let FromServer::Message {
                subject,
                status,
                payload,
            } = self.hear(deadline)?
                && let Some(index) = self.answered(&subject).and_then(|number| waiting.remove(&number))
            {
                outcomes[index] = protocol::parse_acknowledgement(&parcels[index].subject, status, &payload);
            }
        }
        Ok(outcomes)
    }

    /// Publish them all, or up to the first that makes trouble; how many are stored without a gap.
    fn publish_all(&mut self, parcels: &[&Parcel], stored: &mut usize) -> Result<Option<Trouble>, Broken> {
        while *stored < parcels.len() {
            let rest = &parcels[*stored..];
            let before = *stored;
            let outcomes = self.publish(rest)?;
            let all = outcomes.len();
            for (parcel, outcome) in rest.iter().zip(outcomes) {
                match outcome {
                    Acknowledged::Stored(stream) => {
                        *stored += 1;
                        let known = self.streams.get(&parcel.subject);
                        if known.is_none_or(|known| known.name != stream) {
                            self.note_stream(&parcel.subject, stream)?;
                        }
                    }
                    Acknowledged::OutOfTurn => break,
                    Acknowledged::Refused(reason) => return Ok(Some(Trouble::Refused(reason))),
                    Acknowledged::Later(reason) => return Ok(Some(later(reason))),
                }
            }
            self.window = match *stored - before {
                // Nothing is expected of the first: a server that refuses it nevertheless is not understood.
                0 => return Ok(Some(later("the NATS server refuses a message for its order".into()))),
                count if count == all => (self.window * 2).min(WINDOW),
                count => count,
            };
        }
        Ok(None)
    }
}

fn later(reason: String) -> Trouble {
    Trouble::Down {
        reason,
        retry_after: Some(Duration::from_secs(1)),
    }
}

impl Carrier for Nats {
    fn name(&self) -> String {
        format!("NATS server {}:{}", self.address.host, self.address.port)
    }

    fn open(&mut self, _: &Opening) -> Result<Option<Resume>, Trouble> {
        self.link = None;
        self.link().map(|_| None)
    }

    fn carry(&mut self, parcels: &[&Parcel]) -> Carried {
        let mut stored = 0;
        let published = match self.link() {
            Ok(link) => link.publish_all(parcels, &mut stored),
            Err(trouble) => return Carried::until(0, trouble),
        };
        match published {
            Ok(None) => Carried::all(stored),
            Ok(Some(trouble)) => Carried::until(stored, trouble),
            // What came of those under way is not known: they go again, and the server knows their ids.
            Err(Broken::Link(reason) | Broken::Said(reason)) => {
                self.link = None;
                Carried::until(stored, down(&self.name(), &reason))
            }
        }
    }

    fn at_once(&self) -> usize {
        WINDOW
    }
}
