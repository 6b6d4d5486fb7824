//! A connection to a server without a client library: whatever bytes a test wants.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use synod_testkit::Server;

/// No answer takes longer unless something hangs: a handshake ends after ten seconds at the latest.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longer messages of a server mean that the stream is out of step.
const LONGEST: usize = 1 << 20;

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A message: its type and content.
    Message(u8, Vec<u8>),
    /// ERROR or FATAL.
    Failed {
        /// SQLSTATE.
        code: String,
        /// Primary message.
        message: String,
    },
    /// It has hung up.
    Closed,
}

/// A session.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// As `user`, in the database `postgres`.
    pub fn connect(server: &Server, user: &str) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        let mut raw = Raw { stream };
        let mut bytes = BytesMut::new();
        frontend::startup_message([("user", user), ("database", "postgres")], &mut bytes).unwrap();
        raw.put(&bytes);
        raw.ready();
        raw
    }

    /// Bytes as they are. That the server has hung up is seen when it is read from.
    pub fn put(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// A statement in the simple protocol; not its answer.
    pub fn ask(&mut self, sql: &str) {
        let mut bytes = BytesMut::new();
        frontend::query(sql, &mut bytes).unwrap();
        self.put(&bytes);
    }

    /// A CopyData message.
    pub fn copy(&mut self, data: &[u8]) {
        let mut bytes = vec![b'd'];
        bytes.extend_from_slice(&(data.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(data);
        self.put(&bytes);
    }

    /// The next thing that the server says; notices and parameters are left out.
    #[track_caller]
    pub fn read(&mut self) -> Told {
        loop {
            let Some(head) = self.exactly(5) else {
                return Told::Closed;
            };
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            assert!((4..LONGEST).contains(&length), "a message of {length} bytes");
            let Some(body) = self.exactly(length - 4) else {
                return Told::Closed;
            };
            match head[0] {
                b'E' => return failure(&body),
                b'N' | b'S' | b'K' | b'R' => {}
                kind => return Told::Message(kind, body),
            }
        }
    }

    /// Read until the server is ready; the first error on the way.
    #[track_caller]
    pub fn ready(&mut self) -> Option<Told> {
        let mut failed = None;
        loop {
            match self.read() {
                Told::Message(b'Z', _) => return failed,
                Told::Message(..) => {}
                Told::Closed => return Some(failed.unwrap_or(Told::Closed)),
                error => failed = failed.or(Some(error)),
            }
        }
    }

    /// Read until the server hangs up; what it said last.
    #[track_caller]
    pub fn end(&mut self) -> Told {
        let mut last = Told::Closed;
        loop {
            match self.read() {
                Told::Closed => return last,
                told => last = told,
            }
        }
    }

    #[track_caller]
    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the server says nothing and does not hang up");
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return None,
                Ok(read) => filled += read,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(_) => return None,
            }
        }
        Some(bytes)
    }
}

fn failure(body: &[u8]) -> Told {
    let field = |wanted: u8| {
        body.split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&wanted))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
            .unwrap_or_default()
    };
    Told::Failed {
        code: field(b'C'),
        message: field(b'M'),
    }
}
