//! Reads the stream on a thread of its own, so that the server hears from us however long the sink takes.
//!
//! What comes goes into the queue. While that is full nothing is read, but feedback is still sent: a walsender that cannot
//! send looks at what it is told, and its `wal_sender_timeout` does not end the connection.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use synod_libpq::{CopyData, Outcome, PqError};

use super::queue::{Item, Queue};
use super::wire::{self, FromServer};
use crate::failure::Failure;
use crate::session::Session;

/// How long is waited at once, for anything.
const TURN: Duration = Duration::from_millis(50);
/// The server hears from us at least so often: well below any sensible `wal_sender_timeout`.
const SPEAK_EVERY: Duration = Duration::from_secs(5);
/// A server that says nothing for so long, although it is asked, is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the end of the stream may take that we have asked for.
const FAREWELL: Duration = Duration::from_secs(3);
/// PostgreSQL counts from 2000-01-01.
const EPOCH_S: u64 = 946_684_800;

/// What the two threads tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    /// Everything before this is durable in the sink.
    pub confirmed: AtomicU64,
    /// Up to where the server has told something.
    pub heard: AtomicU64,
    /// Bytes that came.
    pub received: AtomicU64,
    /// The reader is to end.
    pub closing: AtomicBool,
}

/// Reads until told to end, or until there is nothing more; the reason is put into the queue.
pub fn follow(session: Session, queue: &Queue, shared: &Shared) {
    let mut reader = Reader {
        session,
        queue,
        shared,
        told: 0,
        spoke: Instant::now(),
        heard: Instant::now(),
        reply_wanted: true,
    };
    if let Err(error) = reader.run() {
        queue.put(Item::Lost(Failure::on(&reader.session.whom, error)));
    }
}

/// Begin to stream.
pub fn start(session: &mut Session, command: &str) -> Result<(), Failure> {
    let whom = session.whom.clone();
    let told = |error| Failure::on(&whom, error);
    session.conn.send_query(command).map_err(told)?;
    while !session.conn.flush().map_err(told)? {
        session.wait(true, None).map_err(told)?;
    }
    while session.conn.is_busy() {
        session.wait(false, None).map_err(told)?;
        session.conn.consume_input().map_err(told)?;
    }
    match session.conn.next_outcome() {
        Some(Outcome::CopyBoth) => {
            session.conn.set_nonblocking().map_err(told)?;
            Ok(())
        }
        Some(Outcome::Failed(error)) => Err(told(error)),
        _ => Err(told(session.conn.error())),
    }
}

struct Reader<'a> {
    session: Session,
    queue: &'a Queue,
    shared: &'a Shared,
    /// The position that was told last.
    told: u64,
    spoke: Instant,
    heard: Instant,
    reply_wanted: bool,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<(), PqError> {
        loop {
            if self.shared.closing.load(Ordering::Acquire) {
                return self.farewell();
            }
            self.speak()?;
            if !self.queue.has_room(TURN) {
                self.heard = Instant::now();
                continue;
            }
            match self.session.conn.copy_data()? {
                CopyData::Data(message) => self.take(message)?,
                CopyData::End => return Err(self.ended()),
                CopyData::Pending => {
                    if self.ready()? {
                        self.session.conn.consume_input()?;
                    } else if self.heard.elapsed() > SILENCE {
                        return Err(lost("the server has said nothing for a minute"));
                    }
                }
            }
        }
    }

    fn take(&mut self, mut message: Vec<u8>) -> Result<(), PqError> {
        self.heard = Instant::now();
        self.shared.received.fetch_add(message.len() as u64, Ordering::Relaxed);
        let head = match wire::read(&message).map_err(|what| lost(&format!("the server sent {what}")))? {
            FromServer::Data { lsn, payload } => {
                self.shared.heard.fetch_max(lsn, Ordering::Relaxed);
                message.len() - payload.len()
            }
            FromServer::Keepalive { lsn, reply } => {
                self.shared.heard.fetch_max(lsn, Ordering::Relaxed);
                self.reply_wanted |= reply;
                self.queue.put(Item::Position(lsn));
                return Ok(());
            }
        };
        message.drain(..head);
        self.queue.put(Item::Message(message));
        Ok(())
    }

    /// Tell how far we are, when that has changed, when the server wants it, and from time to time.
    fn speak(&mut self) -> Result<(), PqError> {
        let confirmed = self.shared.confirmed.load(Ordering::Acquire);
        let silent = self.spoke.elapsed() >= SPEAK_EVERY || self.told == 0;
        if confirmed > self.told || self.reply_wanted || silent {
            self.session
                .conn
                .put_copy_data(&wire::feedback(confirmed, now_us(), silent))?;
            (self.told, self.spoke, self.reply_wanted) = (confirmed, Instant::now(), false);
        }
        self.session.conn.flush().map(drop)
    }

    fn ready(&self) -> Result<bool, PqError> {
        let Some(socket) = self.session.conn.borrowed_socket() else {
            return Err(self.session.conn.error());
        };
        let turn = Timespec::try_from(TURN).ok();
        match poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], turn.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(lost(&error.to_string())),
        }
    }

    /// The server hears the last position, ends its side, and the slot is free when the next one comes.
    fn farewell(&mut self) -> Result<(), PqError> {
        let deadline = Instant::now() + FAREWELL;
        let confirmed = self.shared.confirmed.load(Ordering::Acquire);
        self.session
            .conn
            .put_copy_data(&wire::feedback(confirmed, now_us(), false))?;
        self.session.conn.put_copy_end()?;
        while Instant::now() < deadline {
            self.session.conn.flush()?;
            match self.session.conn.copy_data() {
                Ok(CopyData::Data(_)) => {}
                Ok(CopyData::Pending) => {
                    if self.ready()? {
                        self.session.conn.consume_input()?;
                    }
                }
                Ok(CopyData::End) | Err(_) => break,
            }
        }
        Ok(())
    }

    fn ended(&mut self) -> PqError {
        match self.session.conn.next_outcome() {
            Some(Outcome::Failed(error)) => error,
            _ => lost("the server has ended the stream"),
        }
    }
}

fn lost(message: &str) -> PqError {
    PqError {
        message: message.into(),
        ..PqError::default()
    }
}

/// Microseconds since 2000-01-01 UTC.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.saturating_sub(Duration::from_secs(EPOCH_S));
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
