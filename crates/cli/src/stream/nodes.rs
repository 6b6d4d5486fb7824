//! Several nodes of a group, any one of which can be read from.
//!
//! Each has a slot of the same name. One is read; the others' slots follow behind, never past what has been delivered:
//!
//! ```text
//! on another node: every commit before position P has a CSN <= decided(read after P)
//! on the node read: everything applied up to A lies before position Q (A read before Q)
//! delivered up to Q => delivered up to A;  the sink has kept that C is delivered, C >= decided => the other slot may advance to P
//! ```
//!
//! Kept first: a later run that knows less than a slot has passed over would take that for a gap.
//!
//! When the node that is read dies, another one's slot still has everything that was not delivered, and what it has beside is told
//! by its CSN.
//!
//! Nodes are asked on a thread of its own, which nobody waits for: one that does not answer does not hold the stream. The thread
//! may outlive the connection that it was made for. What it does then is still right (whatever a slot may pass over stays delivered), and
//! of two the one sees the other: it says up to where all is delivered before it looks whether it is to end, and advances slots after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lsn;
use super::source::literal;
use crate::failure::Failure;
use crate::session::{Session, Target};

/// How often the others are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that does not answer is not waited for: the stream comes first.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a node did not answer, it is left alone for so long.
const LEAVE_ALONE: Duration = Duration::from_secs(15);

/// Where a node is.
const APPLIED: &str = "SELECT a.applied_csn, pg_catalog.pg_current_wal_insert_lsn() FROM synod.stat_apply AS a";
const POSITION: &str = "SELECT pg_catalog.pg_current_wal_flush_lsn()";
const DECIDED: &str = "SELECT decided_csn FROM synod.stat_apply";

/// The other nodes, kept up on a thread's side while one is read.
pub struct Followers {
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
}

/// What the two threads tell each other.
struct Told {
    /// Everything before this position of the node that is read is durable in the sink.
    confirmed: AtomicU64,
    /// Everything up to this CSN is delivered.
    delivered: AtomicU64,
    /// The sink knows that of everything up to here.
    kept: AtomicU64,
    closing: AtomicBool,
}

/// On the thread.
struct Rounds {
    slot: String,
    told: Arc<Told>,
    /// The node that is read.
    reader: Follower,
    others: Vec<Follower>,
    /// (applied CSN, position) of the node that is read.
    marks: Vec<(u64, u64)>,
}

struct Follower {
    target: Target,
    session: Option<Session>,
    left_alone: Option<Instant>,
    /// (decided CSN, position): the slot may go there once that CSN is delivered.
    wanted: Option<(u64, u64)>,
}

impl Follower {
    fn new(target: Target) -> Self {
        Self {
            target,
            session: None,
            left_alone: None,
            wanted: None,
        }
    }

    /// Ask it; trouble only means that it is asked later.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Session) -> Result<T, Failure>) -> Option<T> {
        if self.left_alone.is_some_and(|since| since.elapsed() < LEAVE_ALONE) {
            return None;
        }
        self.left_alone = None;
        let connected = match self.session.take() {
            Some(session) => Ok(session),
            None => self.target.connect("stream nodes"),
        };
        let answered = connected.and_then(|mut session| {
            session.patience = PATIENCE;
            question(&mut session).map(|answer| (session, answer))
        });
        match answered {
            Ok((session, answer)) => {
                self.session = Some(session);
                Some(answer)
            }
            Err(_) => {
                self.left_alone = Some(Instant::now());
                None
            }
        }
    }
}

impl Followers {
    /// All nodes but `reading` follow; the CSN `delivered` and all before it are delivered.
    pub fn new(slot: &str, targets: &[Target], reading: usize, delivered: u64) -> Self {
        let told = Arc::new(Told {
            confirmed: AtomicU64::new(0),
            delivered: AtomicU64::new(delivered),
            kept: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        let others = targets.iter().enumerate().filter(|(index, _)| *index != reading);
        let others: Vec<Follower> = others.map(|(_, target)| Follower::new(target.clone())).collect();
        let reader = targets.get(reading).filter(|_| !others.is_empty());
        let thread = reader.map(|reader| {
            let mut rounds = Rounds {
                slot: slot.to_owned(),
                told: Arc::clone(&told),
                reader: Follower::new(reader.clone()),
                others,
                marks: Vec::new(),
            };
            thread::spawn(move || rounds.run())
        });
        Self { told, thread }
    }

    /// Everything up to this CSN is delivered, whether it was wanted or not.
    pub fn delivered(&self) -> u64 {
        self.told.delivered.load(Ordering::SeqCst)
    }

    /// Everything before this position of the node that is read is durable in the sink.
    pub fn confirm(&self, position: u64) {
        self.told.confirmed.store(position, Ordering::SeqCst);
    }

    /// Everything up to this CSN is delivered, and the sink knows.
    pub fn keep(&self, csn: u64) {
        self.told.kept.store(csn, Ordering::SeqCst);
    }

    /// No slot is advanced any more beyond what [`Self::delivered`] says from now on.
    pub fn close(&self) {
        self.told.closing.store(true, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.close();
    }
}

impl Rounds {
    fn run(&mut self) {
        loop {
            thread::park_timeout(LOOK_EVERY);
            if self.is_over() {
                return;
            }
            self.round();
        }
    }

    fn is_over(&self) -> bool {
        self.told.closing.load(Ordering::SeqCst)
    }

    fn round(&mut self) {
        let confirmed = self.told.confirmed.load(Ordering::SeqCst);
        for (csn, _) in self.marks.extract_if(.., |(_, position)| *position <= confirmed) {
            self.told.delivered.fetch_max(csn, Ordering::SeqCst);
        }
        if let Some(mark) = self.reader.ask(applied) {
            // Old marks say less than new ones; a few are enough.
            if self.marks.len() >= 16 {
                self.marks.remove(0);
            }
            self.marks.push(mark);
        }
        let kept = self.told.kept.load(Ordering::SeqCst);
        self.told.delivered.fetch_max(kept, Ordering::SeqCst);
        for index in 0..self.others.len() {
            if self.is_over() {
                return;
            }
            let (slot, other) = (&self.slot, &mut self.others[index]);
            match other.wanted {
                Some((csn, position)) if csn <= kept => {
                    if other.ask(|session| advance(session, slot, position)).is_some() {
                        other.wanted = None;
                    }
                }
                Some(_) => {}
                None => other.wanted = other.ask(decided),
            }
        }
    }
}

fn applied(session: &mut Session) -> Result<(u64, u64), Failure> {
    let rows = session.rows(APPLIED, &[])?;
    let row = rows.into_iter().next().unwrap_or_default();
    let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
    // Without a position the mark never counts.
    Ok((
        field(0).parse().unwrap_or_default(),
        lsn::parse(&field(1)).unwrap_or(u64::MAX),
    ))
}

fn decided(session: &mut Session) -> Result<(u64, u64), Failure> {
    // In this order.
    let position = session.value(POSITION, &[])?.unwrap_or_default();
    let decided = session.value(DECIDED, &[])?.unwrap_or_default();
    Ok((
        decided.parse().unwrap_or(u64::MAX),
        lsn::parse(&position).unwrap_or_default(),
    ))
}

fn advance(session: &mut Session, slot: &str, position: u64) -> Result<(), Failure> {
    let sql = format!(
        "SELECT pg_catalog.pg_replication_slot_advance(slot_name, {position}::pg_catalog.pg_lsn) \
           FROM pg_catalog.pg_replication_slots \
          WHERE slot_name = {} AND active_pid IS NULL AND confirmed_flush_lsn < {position}::pg_catalog.pg_lsn",
        literal(slot),
        position = literal(&lsn::text(position))
    );
    session.rows(&sql, &[]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// It held the stream, for as long as a connection may take.
    #[test]
    fn a_node_that_does_not_answer_holds_nobody() {
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let dsn = format!("host=127.0.0.1 port={port} dbname=x sslmode=disable");
        let target = Target::given(Some(&dsn), Duration::from_secs(1_000)).unwrap();
        let mut followers = Followers::new("s", &[target.clone(), target], 0, 7);
        followers.confirm(1);
        // It is asked, and does not answer.
        let (asked, _) = silent.accept().unwrap();
        followers.confirm(2);
        assert_eq!(followers.delivered(), 7);
        let thread = followers.thread.take().unwrap();
        followers.close();
        // The harness ends as programs do: libraries tear down what a thread within them still uses.
        drop((asked, silent));
        thread.join().unwrap();
    }
}
