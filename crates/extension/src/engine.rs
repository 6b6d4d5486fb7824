//! What the log worker does, free of the server: takes records from slots, certifies, proposes, gives verdicts.
//!
//! One [`Engine`] per node, driven by `pg/log_worker.rs`. Invariants:
//! - a slot's record is proposed only after it passed certification up to `certified`, which becomes its base;
//! - verdicts are given strictly in position order, are written to the index before `certified` moves, and `certified` moves
//!   before anyone is told of a later position;
//! - nothing of an incarnation is proposed before its `Start` record stands in the log.
//!
//! A crash here loses nothing: what was proposed is in the log or it is not, and the next start decides it alike.

mod checkpoint;
mod collect;
mod ddl_lock;
mod decide;
mod fragments;
mod orphans;
mod tails;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use synod_log::{DecidedIndex, LogEvent, ProposalId, SharedLog};
use synod_rules::Certifier;

use crate::pg::shmem::{NodeShared, NodeState};
pub use checkpoint::{load_checkpoint, store_checkpoint};
pub use collect::refuse_all;
pub use orphans::is_orphan;

/// Figures for views are published with what is decided, and otherwise this often.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);

/// What one of our proposals is for.
#[derive(Clone, Copy, Debug)]
enum Flight {
    /// The `Start` of this incarnation.
    Start,
    /// The record in this slot and generation.
    Record {
        slot: i32,
        generation: u64,
        transaction: u64,
    },
    /// The request for the DDL lock in this slot and generation.
    DdlLock { slot: i32, generation: u64 },
    /// Gives the DDL lock back for a transaction that is over.
    DdlUnlock,
    /// Closes the fragments of an upload that was given up.
    Close,
    /// A piece of the large body that this upload sends.
    Fragment { upload: u64, piece: usize },
}

impl Flight {
    /// Whether it is the record in this slot and generation.
    fn is_of(&self, number: i32, of: u64) -> bool {
        matches!(self, Self::Record { slot, generation, .. } if (*slot, *generation) == (number, of))
    }
}

/// Where the log must begin for a node that starts from this state of certification: behind it, or with the fragments of
/// large transactions that were under way.
pub fn first_needed(certifier: &Certifier) -> u64 {
    let next = certifier.position() + 1;
    certifier.oldest_open_fragment().map_or(next, |oldest| oldest.min(next))
}

/// The log worker's state.
pub struct Engine<L> {
    log: L,
    node: &'static NodeShared,
    directory: PathBuf,
    certifier: Certifier,
    index: DecidedIndex,
    node_id: u32,
    incarnation: u64,
    sequence: u64,
    started: bool,
    flights: BTreeMap<u64, Flight>,
    uploads: HashMap<u64, fragments::Upload>,
    tails: tails::Tails,
    checkpoints: checkpoint::Checkpoints,
    ddl_watch: ddl_lock::Watch,
    membership_asked: bool,
    /// When this round began.
    now: Duration,
    /// When the figures for views were published.
    published: Duration,
    /// The membership does not list this node any more.
    removed: bool,
    /// The membership that this node is no longer in.
    last_membership: Option<synod_log::Membership>,
}

/// Why the engine stopped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stop {
    /// The log itself failed.
    #[error("{0}")]
    Log(String),
    /// The others have trimmed what this node has not seen.
    #[error("{0}; it needs a fresh copy of the tables (synod.auto_rejoin, synod.rejoin_group)")]
    Behind(String),
    /// A record that this release cannot read.
    #[error("the record at position {position} cannot be read: {reason}")]
    Record {
        /// Where it stands.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else runs with this node's identity.
    #[error("another process has started with the identity of this node")]
    Fenced,
    /// The node's own files cannot be read or written, or are damaged.
    #[error("cannot use the files of this node: {0}")]
    Files(String),
    /// This node was taken out of its group.
    #[error("this node was removed from its group")]
    Removed,
}

impl<L: SharedLog> Engine<L> {
    /// Begin with a certifier restored from the checkpoint; the log delivers from the position after it.
    pub fn new(
        log: L,
        node: &'static NodeShared,
        directory: PathBuf,
        certifier: Certifier,
        index: DecidedIndex,
        incarnation: u64,
    ) -> Self {
        let checkpoints = checkpoint::Checkpoints::new(certifier.position());
        // Undecided transactions of an earlier incarnation are fenced by our `Start`.
        node.orphans.iter().for_each(|orphan| orphan.store(0, Ordering::SeqCst));
        node.more_orphans.store(0, Ordering::SeqCst);
        let mut engine = Self {
            log,
            node,
            directory,
            certifier,
            index,
            node_id: node.node_id.load(Ordering::Relaxed),
            incarnation,
            sequence: 0,
            started: false,
            flights: BTreeMap::new(),
            uploads: HashMap::new(),
            tails: tails::Tails::new(node),
            checkpoints,
            ddl_watch: ddl_lock::Watch::default(),
            membership_asked: false,
            now: Duration::ZERO,
            published: Duration::ZERO,
            removed: false,
            last_membership: None,
        };
        node.marked
            .iter()
            .for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
        engine.publish();
        engine
    }

    /// Propose this incarnation's `Start`. Backends' records wait until it stands in the log.
    pub fn start(&mut self, postgres_version: u32, synod_version: u32) {
        let record = synod_change::Record::Start {
            postgres_version,
            synod_version,
        };
        self.propose(Flight::Start, record.encode());
    }

    /// One round: take what backends ask for, drive the log, give verdicts. Returns when to be called again at the latest.
    pub fn run(&mut self, now: Duration) -> Result<Duration, Stop> {
        self.now = now;
        self.collect();
        self.ask_tails();
        self.ask_membership();
        let mut events = Vec::new();
        let next = self.log.poll(now, &mut events);
        let is_news = !events.is_empty() || now >= self.published + PUBLISH_EVERY;
        for event in events {
            self.handle(event)?;
        }
        self.end_if_removed()?;
        if is_news {
            self.published = now;
            self.publish();
        }
        self.serve_tails();
        self.feed_uploads();
        self.forget_orphans();
        self.end_ddl_lock();
        self.watch_ddl_owner(now);
        self.checkpoint_if_due()?;
        Ok(next)
    }

    /// The log, for its owner to wait on.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log
    }

    /// True while proposals or fragments are on their way: an orderly shutdown waits for them.
    pub fn busy(&self) -> bool {
        !self.flights.is_empty()
    }

    fn handle(&mut self, event: LogEvent) -> Result<(), Stop> {
        match event {
            LogEvent::Chosen(entries) => self.decide(entries),
            LogEvent::Tail { token, position } => {
                self.tails.answered(token, position);
                Ok(())
            }
            LogEvent::Leader(leader) => {
                self.node.leader.store(leader.map_or(0, |id| id.0), Ordering::Relaxed);
                Ok(())
            }
            LogEvent::Membership(membership) => {
                self.removed = membership.members.iter().all(|member| member.id.0 != self.node_id);
                if self.removed {
                    // Published at the end: `leave_group` must not clear away a leader that the others still need.
                    self.last_membership = Some(membership);
                } else {
                    crate::membership::publish(self.node, &membership);
                    self.answer_membership(Ok(()));
                }
                Ok(())
            }
            LogEvent::MembershipRefused(reason) => {
                self.answer_membership(Err(reason));
                Ok(())
            }
            LogEvent::Failed(reason) => Err(Stop::Log(reason)),
            LogEvent::TooFarBehind(reason) => Err(Stop::Behind(reason)),
        }
    }

    /// A node that was removed ends; a leader only when a majority of the others knows that it is removed (it steps down
    /// then). Before that they could not choose the next leader among themselves.
    fn end_if_removed(&mut self) -> Result<(), Stop> {
        if !self.removed || self.log.status().leader.is_some_and(|leader| leader.0 == self.node_id) {
            return Ok(());
        }
        if let Some(membership) = self.last_membership.take() {
            crate::membership::publish(self.node, &membership);
        }
        self.answer_membership(Ok(()));
        Err(Stop::Removed)
    }

    /// Whether another proposal keeps within what the certifier allows between an undecided proposal and a later one
    /// ([`synod_rules::MAX_SEQUENCE_LEAD`]).
    fn may_propose(&self) -> bool {
        self.flights
            .first_key_value()
            .is_none_or(|(first, _)| self.sequence - first < synod_rules::MAX_SEQUENCE_LEAD / 2)
    }

    fn propose(&mut self, flight: Flight, payload: Vec<u8>) {
        self.sequence += 1;
        let node = synod_log::NodeId(self.node_id);
        let id = ProposalId {
            node,
            incarnation: self.incarnation,
            sequence: self.sequence,
        };
        self.node.proposals.fetch_add(1, Ordering::Relaxed);
        self.node
            .proposed_bytes
            .fetch_add(payload.len() as u64, Ordering::Relaxed);
        self.flights.insert(self.sequence, flight);
        self.log.propose(id, payload.into());
    }

    fn ask_membership(&mut self) {
        if let Some(change) = crate::membership::take_request(self.node) {
            self.membership_asked = true;
            match change {
                Ok(change) => self.log.change_membership(change),
                Err(reason) => self.answer_membership(Err(reason)),
            }
        }
    }

    fn answer_membership(&mut self, outcome: Result<(), String>) {
        if std::mem::take(&mut self.membership_asked) {
            crate::membership::answer_request(self.node, outcome);
        }
    }

    /// Publish how far the log is certified, and what follows from that. The order matters: `certified` comes behind what holds up to there.
    fn publish_certified(&self) {
        let node = self.node;
        node.last_commit.store(self.certifier.last_commit(), Ordering::SeqCst);
        self.publish_ddl_lock();
        node.certified.store(self.certifier.position(), Ordering::SeqCst);
        node.lasting_floor
            .store(self.certifier.lasting_floor(), Ordering::SeqCst);
    }

    /// Publish the figures for backends and views.
    fn publish(&mut self) {
        let status = self.log.status();
        let node = self.node;
        // When it goes back, at a start of this worker alone: before the lock does.
        node.certified.fetch_min(self.certifier.position(), Ordering::SeqCst);
        self.publish_certified();
        node.chosen.store(status.chosen, Ordering::Relaxed);
        node.durable.store(status.durable, Ordering::Relaxed);
        node.proposed.store(status.proposed, Ordering::Relaxed);
        node.trimmed.store(status.trimmed, Ordering::Relaxed);
        node.round.store(status.round, Ordering::Relaxed);
        node.leader.store(status.leader.map_or(0, |id| id.0), Ordering::Relaxed);
        node.quorum.store(status.quorum, Ordering::Release);
        crate::membership::publish_acknowledged(node, &status.acknowledged);
        if self.started && node.state() == NodeState::Starting {
            node.state.store(NodeState::Running as u32, Ordering::Release);
            // It locks again what it let go of while the log stood still.
            node.wake_apply_worker();
            // A learner's vote is its business.
            crate::pg::launcher::wake();
        }
    }
}
