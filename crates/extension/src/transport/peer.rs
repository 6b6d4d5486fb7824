//! One link out: dials a peer, proves who we are, then streams messages.
//!
//! Phases: idle until a time -> resolving -> dialling -> calling -> greeting -> welcoming -> up, and from anywhere back to
//! idle on an error, with a growing pause. Never blocks: every step is taken when the socket is ready or the time has come.
//! Messages are dropped while the link is not up and while [`QUEUE_BYTES`] wait: consensus sends again.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use bytes::Bytes;
use synod_log::NodeId;
use synod_log::frames::{self, MAX_FRAME_BYTES};

use super::resolve::{Resolution, Resolver};
use crate::handshake::{Handshake, NONCE_BYTES, PROOF_BYTES, PROTOCOL_VERSION, REMOVED, Role, WELCOME};
use crate::identity::{Identity, MemberInfo};
use crate::pg::libpq::{Conn, CopyData, Dialing, Outcome, PqError};
use crate::text::{hex, uuid};

/// First pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A peer that is back is found within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// From the first packet to the welcome.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for a slow peer.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// Messages are packed into CopyData messages of about this size.
const BATCH_BYTES: usize = 256 * 1024;

enum Phase {
    Idle { until: Duration },
    Resolving { deadline: Duration },
    Busy { conn: Conn, step: Step, deadline: Duration },
    Up { conn: Conn },
}

/// What a connection that is not up yet waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Dialing { write: bool },
    Calling,
    Greeting,
    Welcoming,
}

/// A peer and the link to it.
pub struct Peer {
    id: NodeId,
    info: MemberInfo,
    phase: Phase,
    pause: Duration,
    nonce: [u8; NONCE_BYTES],
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// libpq holds bytes that the socket did not take.
    blocked: bool,
    last_error: Option<PqError>,
    dropped: u64,
}

/// Health of a link out.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// To whom.
    pub node: NodeId,
    /// It stands.
    pub up: bool,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// Messages that found no room or no link.
    pub dropped: u64,
    /// Why it does not stand; empty when it does.
    pub error: String,
}

impl Peer {
    /// A peer to be dialled at once.
    pub fn new(id: NodeId, info: MemberInfo) -> Self {
        Self {
            id,
            info,
            phase: Phase::Idle { until: Duration::ZERO },
            pause: FIRST_PAUSE,
            nonce: [0; NONCE_BYTES],
            queue: VecDeque::new(),
            queued_bytes: 0,
            blocked: false,
            last_error: None,
            dropped: 0,
        }
    }

    /// How the group describes it.
    pub fn info(&self) -> &MemberInfo {
        &self.info
    }

    /// Health.
    pub fn status(&self) -> LinkStatus {
        LinkStatus {
            node: self.id,
            up: self.is_up(),
            queued_bytes: self.queued_bytes,
            dropped: self.dropped,
            error: self
                .last_error
                .as_ref()
                .map(|error| error.message.clone())
                .unwrap_or_default(),
        }
    }

    /// The link stands.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// It says that this node was removed from the group.
    pub fn has_expelled_us(&self) -> bool {
        self.last_error.as_ref().is_some_and(|error| error.message == REMOVED)
    }

    /// Socket to wait on, and whether for writing, too.
    pub fn interest(&self) -> Option<(RawFd, bool)> {
        match &self.phase {
            Phase::Idle { .. } | Phase::Resolving { .. } => None,
            Phase::Busy { conn, step, .. } => {
                let write = self.blocked || matches!(step, Step::Dialing { write: true });
                conn.socket().map(|socket| (socket, write))
            }
            Phase::Up { conn } => conn.socket().map(|socket| (socket, self.blocked)),
        }
    }

    /// When [`Self::drive`] must be called though no socket is ready.
    pub fn deadline(&self) -> Duration {
        match &self.phase {
            Phase::Idle { until } => *until,
            Phase::Resolving { deadline } | Phase::Busy { deadline, .. } => *deadline,
            Phase::Up { .. } => Duration::MAX,
        }
    }

    /// Dial now instead of waiting out the pause.
    pub fn hurry(&mut self, now: Duration) {
        if let Phase::Idle { until } = &mut self.phase {
            *until = now;
            self.pause = FIRST_PAUSE;
        }
    }

    /// Queue a message, or drop it.
    pub fn send(&mut self, message: Bytes) {
        if !self.is_up() || self.queued_bytes + message.len() > QUEUE_BYTES || message.len() > MAX_FRAME_BYTES {
            self.dropped += 1;
            return;
        }
        self.queued_bytes += message.len();
        self.queue.push_back(message);
    }

    /// Messages wait.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Do what can be done. `ready`: the socket was found ready (or the resolver has answered). True when the link came
    /// up or its failure is new: worth a line in the server log.
    pub fn drive(&mut self, me: &Identity, resolver: &Resolver, now: Duration, ready: bool) -> bool {
        let was_up = self.is_up();
        match self.advance(me, resolver, now, ready) {
            Ok(()) => {
                let came_up = self.is_up() && !was_up;
                if came_up {
                    self.pause = FIRST_PAUSE;
                    self.last_error = None;
                }
                came_up
            }
            Err(error) => {
                let new = self.last_error.as_ref() != Some(&error);
                self.fail(now, error);
                new
            }
        }
    }

    fn fail(&mut self, now: Duration, error: PqError) {
        self.phase = Phase::Idle {
            until: now + self.pause,
        };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.dropped += self.queue.len() as u64;
        self.queue.clear();
        self.queued_bytes = 0;
        self.blocked = false;
        self.last_error = Some(error);
    }

    fn advance(&mut self, me: &Identity, resolver: &Resolver, now: Duration, ready: bool) -> Result<(), PqError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle { until: now });
        self.phase = match phase {
            Phase::Idle { until } if now < until => Phase::Idle { until },
            Phase::Idle { .. } => self.dial(me, resolver, now, now + DIAL_TIMEOUT)?,
            Phase::Resolving { deadline } if now < deadline => self.dial(me, resolver, now, deadline)?,
            Phase::Resolving { .. } => return Err(timed_out("resolving the host name")),
            Phase::Busy { conn, step, deadline } if ready => self.busy(me, conn, step, deadline)?,
            Phase::Busy { step, deadline, .. } if now >= deadline => {
                return Err(timed_out(match step {
                    Step::Dialing { .. } => "connecting",
                    Step::Calling | Step::Greeting | Step::Welcoming => "the greeting",
                }));
            }
            Phase::Busy { conn, step, deadline } => Phase::Busy { conn, step, deadline },
            Phase::Up { conn } => self.stream(conn, ready)?,
        };
        Ok(())
    }

    fn dial(
        &mut self,
        me: &Identity,
        resolver: &Resolver,
        now: Duration,
        deadline: Duration,
    ) -> Result<Phase, PqError> {
        let resolved = match resolver.parameters(&self.info.dsn) {
            Resolution::Known(parameters) => parameters,
            Resolution::Pending => {
                return Ok(Phase::Resolving {
                    deadline: deadline.max(now),
                });
            }
            Resolution::Unknown(host) => {
                let message = format!("host name \"{host}\" has no address");
                return Err(PqError {
                    message,
                    ..PqError::default()
                });
            }
        };
        self.nonce = crate::pg::random::bytes().map_err(|error| PqError {
            message: error.message,
            ..PqError::default()
        })?;
        let application = format!("synod link {}->{}", me.name, self.info.name);
        let mut parameters = vec![("dbname", self.info.dsn.as_str())];
        parameters.extend(resolved.iter().map(|(keyword, value)| (*keyword, value.as_str())));
        parameters.extend([
            ("application_name", application.as_str()),
            ("keepalives", "1"),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "2"),
            ("keepalives_count", "3"),
            // After a partition heals, do not wait for TCP's own, by then long, retransmission interval.
            ("tcp_user_timeout", "4000"),
        ]);
        let conn = Conn::start(&parameters)?;
        Ok(Phase::Busy {
            conn,
            step: Step::Dialing { write: true },
            deadline,
        })
    }

    fn busy(&mut self, me: &Identity, mut conn: Conn, mut step: Step, deadline: Duration) -> Result<Phase, PqError> {
        if let Step::Dialing { .. } = step {
            match conn.poll_connect() {
                Dialing::Reading => step = Step::Dialing { write: false },
                Dialing::Writing => step = Step::Dialing { write: true },
                Dialing::Failed => return Err(conn.error()),
                Dialing::Ready => {
                    conn.set_nonblocking()?;
                    conn.send_query(&self.call(me))?;
                    self.blocked = !conn.flush()?;
                    step = Step::Calling;
                }
            }
            return Ok(Phase::Busy { conn, step, deadline });
        }
        conn.consume_input()?;
        self.blocked = !conn.flush()?;
        if step == Step::Calling {
            if conn.is_busy() {
                return Ok(Phase::Busy { conn, step, deadline });
            }
            match conn.next_outcome() {
                Some(Outcome::CopyBoth) => step = Step::Greeting,
                Some(Outcome::Failed(error)) => return Err(error),
                _ => return Err(unexpected("an answer")),
            }
        }
        if step == Step::Greeting {
            match next_data(&mut conn)? {
                None => return Ok(Phase::Busy { conn, step, deadline }),
                Some(greeting) => {
                    let proof = self.check(me, &greeting)?;
                    conn.put_copy_data(&proof)?;
                    self.blocked = !conn.flush()?;
                    step = Step::Welcoming;
                }
            }
        }
        match next_data(&mut conn)? {
            None => Ok(Phase::Busy { conn, step, deadline }),
            Some(data) if data == WELCOME => Ok(Phase::Up { conn }),
            Some(_) => Err(unexpected("a greeting")),
        }
    }

    fn call(&self, me: &Identity) -> String {
        format!(
            "CALL synod.link({PROTOCOL_VERSION}, '{}', {}, {}, pg_catalog.decode('{}', 'hex'))",
            uuid(&me.group),
            me.node.0,
            self.id.0,
            hex(&self.nonce),
        )
    }

    /// Check the called node's proof; ours in return.
    fn check(&self, me: &Identity, greeting: &[u8]) -> Result<[u8; PROOF_BYTES], PqError> {
        let Some((called_nonce, proof)) = greeting.split_at_checked(NONCE_BYTES) else {
            return Err(unexpected("a greeting"));
        };
        let handshake = Handshake {
            secret: &me.secret,
            group: &me.group,
            from: me.node.0,
            to: self.id.0,
            dialling_nonce: &self.nonce,
            called_nonce,
        };
        if !handshake.verify(Role::Called, proof) {
            let message = "the called node does not have the group's secret".into();
            return Err(PqError {
                message,
                ..PqError::default()
            });
        }
        Ok(handshake.proof(Role::Dialling))
    }

    fn stream(&mut self, mut conn: Conn, ready: bool) -> Result<Phase, PqError> {
        if ready {
            conn.consume_input()?;
            // The called end says nothing more, but it may hang up.
            while next_data(&mut conn)?.is_some() {}
        }
        if self.blocked {
            self.blocked = !conn.flush()?;
        }
        while !self.blocked && !self.queue.is_empty() {
            conn.put_copy_data(&self.batch())?;
            self.blocked = !conn.flush()?;
        }
        Ok(Phase::Up { conn })
    }

    /// The next messages, framed.
    fn batch(&mut self) -> Vec<u8> {
        let mut batch = Vec::new();
        while let Some(message) = self.queue.front() {
            if !batch.is_empty() && batch.len() + message.len() > BATCH_BYTES {
                break;
            }
            frames::put(&mut batch, message);
            self.queued_bytes -= message.len();
            self.queue.pop_front();
        }
        batch
    }
}

/// The next CopyData; an error when the stream has ended.
fn next_data(conn: &mut Conn) -> Result<Option<Vec<u8>>, PqError> {
    match conn.copy_data()? {
        CopyData::Data(data) => Ok(Some(data)),
        CopyData::Pending => Ok(None),
        CopyData::End => match conn.next_outcome() {
            Some(Outcome::Failed(error)) => Err(error),
            _ => Err(unexpected("the stream")),
        },
    }
}

fn timed_out(during: &str) -> PqError {
    PqError {
        message: format!("timeout expired while {during}"),
        ..PqError::default()
    }
}

fn unexpected(instead_of: &str) -> PqError {
    PqError {
        message: format!("the connection was closed or sent nonsense instead of {instead_of}"),
        ..PqError::default()
    }
}
