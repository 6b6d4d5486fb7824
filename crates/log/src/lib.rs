//! The shared log: a group's totally ordered, durable, write-once sequence of entries.
//!
//! One trait ([`SharedLog`]), several implementations, one conformance suite.
#![forbid(unsafe_code)]

mod delivery;
mod error;
mod files;
pub mod frames;
mod index;
mod index_reader;
mod memory;
mod options;
mod paxos_log;
mod places;
mod reader;
mod recovery;
pub mod segment;
mod storage;
mod writer;

use std::time::Duration;

use bytes::Bytes;
pub use synod_paxos::{
    Ballot, Command, Entry, LogId, Member, Membership, MembershipChange, NodeId, Position, ProposalId, Value,
    get_membership, put_membership,
};

pub use error::StorageError;
pub use index::{DecidedIndex, IndexSync, Verdict};
pub use index_reader::{Decided, ReadError, Reader};
pub use memory::{MemoryGroup, MemoryLog};
pub use options::{LeaseHooks, LogOptions};
pub use paxos_log::PaxosLog;
pub use storage::{Body, Completion, DEFAULT_SEGMENT_BYTES, Record, Storage, StorageOptions, Stored, SyncHook, Waker};

/// Where an accepted value lies in the segment files: enough for another process to read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Number of the segment file.
    pub segment: u32,
    /// Byte offset of the record in it.
    pub offset: u32,
    /// Length of the record in bytes.
    pub length: u32,
}

/// An entry that is decided for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenEntry {
    /// What was chosen and where in the log.
    pub entry: Entry,
    /// Where it lies on this node's disk.
    pub location: Location,
}

/// What a [`SharedLog`] tells its owner, from [`SharedLog::poll`].
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// The next entries are chosen. Contiguous and ascending over all events of a run, each position once. A log that
    /// is opened again is told where its owner stands (`deliver_from`: the certifier's checkpoint + 1) and first delivers
    /// what is on disk from there, in chunks of bounded size, then what follows.
    /// An entry may be told before it is durable on this node (a majority has it): see [`LogStatus::durable`]. The log
    /// may contain the same [`ProposalId`] at two positions (a proposal sent twice to two leaders): the certifier
    /// makes one record of them.
    Chosen(Vec<ChosenEntry>),
    /// Answer to [`SharedLog::tail`]: every entry chosen before the question was asked is at or below `position`.
    Tail {
        /// The caller's token; it answers all lower tokens, too.
        token: u64,
        /// The linearizable tail.
        position: Position,
    },
    /// The known leader changed; `None` while there is none.
    Leader(Option<NodeId>),
    /// A membership record was chosen.
    Membership(Membership),
    /// The membership change that was asked for was refused, and why.
    MembershipRefused(String),
    /// The log cannot go on (fsync error, damaged storage, fenced identity). The owner stops, and says so.
    Failed(String),
    /// The log cannot go on: every node that could be asked has trimmed what this one needs next. A fresh copy of the
    /// state is the way back.
    TooFarBehind(String),
}

/// Health figures for the views.
#[derive(Clone, Debug, Default)]
pub struct LogStatus {
    /// Current leader, if known.
    pub leader: Option<NodeId>,
    /// Current ballot's round.
    pub round: u64,
    /// Highest position proposed or accepted here.
    pub proposed: Position,
    /// Everything up to here is chosen.
    pub chosen: Position,
    /// Everything up to here is durable on this node.
    pub durable: Position,
    /// Everything below was trimmed here.
    pub trimmed: Position,
    /// The members as of `chosen`.
    pub membership: Membership,
    /// Per member: the highest position it is known to hold durably.
    pub acknowledged: Vec<(NodeId, Position)>,
    /// Members whose disk went back in time (restored backup, rolled back machine): they do not count until removed and
    /// added again.
    pub distrusted: Vec<NodeId>,
    /// True while a quorum answered within the election timeout (on a follower: while a leader is heard).
    pub quorum: bool,
}

/// A totally ordered, durable log shared by the members of a group.
///
/// Driven by its owner from one thread: [`poll`](Self::poll) never blocks. Proposals are retried until chosen, across
/// leader changes, for as long as the process lives.
pub trait SharedLog {
    /// Queue a proposal. It shows up in [`LogEvent::Chosen`] at least once, if the group ever regains a quorum while
    /// this process lives. `payload` is at most [`MAX_PAYLOAD_BYTES`].
    fn propose(&mut self, id: ProposalId, payload: Bytes);
    /// Ask for the linearizable tail. Tokens ascend; answers are batched.
    fn tail(&mut self, token: u64);
    /// Ask for a membership change; the outcome is a [`LogEvent::Membership`] or [`LogEvent::MembershipRefused`].
    fn change_membership(&mut self, change: MembershipChange);
    /// Do what can be done now: read messages, take completions, keep time. `now` is a monotonic clock. Returns when it
    /// wants to be called again at the latest, on the same clock (sooner when the waker fires or a message arrives).
    fn poll(&mut self, now: Duration, events: &mut Vec<LogEvent>) -> Duration;
    /// Give up everything below `position`. A local decision.
    fn trim(&mut self, below: Position);
    /// Health figures.
    fn status(&self) -> LogStatus;
}

/// Larger values must be fragmented by the proposer, so that one write set does not hold up the others.
pub use synod_paxos::MAX_PAYLOAD_BYTES;

/// Carries messages between members. Unreliable: it may lose, repeat and reorder; it must not corrupt (frames are
/// checksummed above it all the same).
pub trait Transport {
    /// Called when the membership changes: whom to talk to.
    fn set_members(&mut self, membership: &Membership);
    /// Send, or drop when there is no link or its buffer is full. Never blocks.
    fn send(&mut self, to: NodeId, message: Bytes);
    /// Let out what was sent: the sender may be about to wait for its disk. Never blocks.
    fn flush(&mut self) {}
    /// Peers whose link has come up since the last call: what was sent to them before may be lost.
    fn linked(&mut self, _into: &mut Vec<NodeId>) {}
    /// Move received messages into `into`. Never blocks.
    fn receive(&mut self, into: &mut Vec<(NodeId, Bytes)>);
}
