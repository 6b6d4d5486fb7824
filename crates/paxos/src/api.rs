//! What goes into the core and what comes out of it.
//!
//! The host owns the clock, the disk and the network. It turns what happens there into an [`Event`], and carries out
//! the [`Action`]s it gets back **in the order given**. Nothing else crosses this border.
//!
//! The host's loop:
//!
//! ```text
//! loop {
//!     for each thing that happened { paxos.handle(event, &mut actions) }
//!     paxos.flush(&mut actions);            // one Accept per peer, one Persist, one Chosen for all of it
//!     carry out actions, in order;
//!     sleep until paxos.next_tick_ms() or something happens
//! }
//! ```
//!
//! A crash may happen between any two actions, and inside one: of the records of the `Persist`s whose ticket was not
//! yet reported, any prefix may survive.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::message::Message;
use crate::types::{Ballot, Command, Entry, LogId, Membership, NodeId, Position, Value};

/// How a node behaves. Times are in milliseconds of the clock that [`Event::Tick`] brings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this node is.
    pub id: NodeId,
    /// The identity of its log directory. It votes only if the membership lists exactly this one.
    pub log: LogId,
    /// A random number that differs at every start. Seeds the jitter of elections, and keeps answers to questions of
    /// an earlier process apart from ours.
    pub session: u64,
    /// A follower that heard no leader for this long (plus up to as much again, at random) stands for election; a
    /// leader that heard no quorum for this long steps down.
    pub election_timeout_ms: u64,
    /// How often a leader makes itself heard. At most a third of the election timeout.
    pub heartbeat_ms: u64,
    /// A proposal not chosen after this time is sent again.
    pub resend_ms: u64,
    /// A question for the tail not answered after this time fails.
    pub tail_timeout_ms: u64,
    /// Bytes sent to one peer and not yet acknowledged.
    pub window_bytes: usize,
    /// Values in one message, in bytes (a single larger value still travels, alone).
    pub chunk_bytes: usize,
    /// Values that a leader has proposed and that are not chosen yet; more wait in its queue.
    pub unchosen_bytes: usize,
    /// Values waiting in a leader's queue. What comes on top is dropped; its proposer sends it again.
    pub queue_bytes: usize,
    /// Chosen values kept in memory, to feed followers that lag a little without reading the disk.
    pub cache_bytes: usize,
    /// A learner may be promoted when it lacks at most this many positions.
    pub promote_lag: u64,
    /// Deliberate faults, to prove that the tests find them.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::mutant::Mutant>,
}

impl Options {
    /// The usual values.
    pub fn new(id: NodeId, log: LogId, session: u64) -> Options {
        Options {
            id,
            log,
            session,
            election_timeout_ms: 1000,
            heartbeat_ms: 100,
            resend_ms: 2000,
            tail_timeout_ms: 2000,
            window_bytes: 8 << 20,
            chunk_bytes: 1 << 20,
            unchosen_bytes: 32 << 20,
            queue_bytes: 64 << 20,
            cache_bytes: 8 << 20,
            promote_lag: 1000,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What a node finds on its disk when it starts: the fold of its [`DurableRecord`]s in the order they were written.
///
/// `trimmed <= chosen + 1`; every key of `accepted` is above `chosen`; `promised` is at least every ballot in `accepted`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The highest ballot promised.
    pub promised: Ballot,
    /// Everything up to here is chosen.
    pub chosen: Position,
    /// Everything below was given up.
    pub trimmed: Position,
    /// The members from `chosen + 1` on.
    pub membership: Membership,
    /// Entries above `chosen`, the last accepted one per position.
    pub accepted: BTreeMap<Position, Entry>,
    /// The disk lost something that was once durable (a bad record below the durable mark). Such a node learns, but
    /// neither votes nor acknowledges until [`Event::Repaired`].
    pub damaged: bool,
}

impl Recovered {
    /// Take in the next record. Records that an earlier one made superfluous change nothing, so a segment may begin
    /// with [`crate::Paxos::checkpoint`] and be read without those before it.
    pub fn replay(&mut self, record: DurableRecord) {
        match record {
            DurableRecord::Promise(ballot) => self.promised = self.promised.max(ballot),
            DurableRecord::Accept(entry) => {
                self.promised = self.promised.max(entry.ballot);
                if entry.position > self.chosen {
                    self.accepted.insert(entry.position, entry);
                }
            }
            DurableRecord::Chosen(position) => {
                while let Some(first) = self.accepted.first_entry().filter(|first| *first.key() <= position) {
                    // A node that joined began with a membership later than the entries that it then learned.
                    if let Value::Membership(membership) = first.remove().value
                        && membership.version >= self.membership.version
                    {
                        self.membership = membership;
                    }
                }
                self.chosen = self.chosen.max(position);
            }
            DurableRecord::Base { chosen, membership } => {
                if chosen >= self.chosen {
                    self.accepted = self.accepted.split_off(&(chosen + 1));
                    self.chosen = chosen;
                    self.membership = membership;
                }
            }
            DurableRecord::Trimmed(below) => self.trimmed = self.trimmed.max(below),
        }
    }
}

/// What a node must not forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DurableRecord {
    /// Nothing in a lower ballot is accepted from here on.
    Promise(Ballot),
    /// Accepted: also a promise of the entry's ballot. A later one at the same position replaces it.
    Accept(Entry),
    /// Everything up to here is chosen, with the values of the `Accept`s before this record. Losing it costs only
    /// time, except before an entry that was proposed under a membership below it; the order of records sees to that.
    Chosen(Position),
    /// Everything up to `chosen` is chosen, and `membership` holds from `chosen + 1` on. Written by the host when it
    /// creates a log (with `chosen` 0 for a new group; for a joiner, or after [`Action::TooFarBehind`], the position of
    /// the copied state, followed by `Trimmed(chosen + 1)`: the entries before it are not here), and at the start of each
    /// segment.
    Base {
        /// Everything up to here is chosen.
        chosen: Position,
        /// The members from there on.
        membership: Membership,
    },
    /// Everything below was given up.
    Trimmed(Position),
}

/// A change of the group's members. One at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new member, first without a vote. Its id is `next_id` of the membership it is added to.
    AddLearner {
        /// Its log directory.
        log: LogId,
        /// Name, address, system identifier: opaque here.
        info: Bytes,
    },
    /// Give a learner that has caught up its vote.
    Promote(NodeId),
    /// Take a member out.
    Remove(NodeId),
    /// Replace a member's `info`.
    Describe(NodeId, Bytes),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed. Due at the latest at [`crate::Paxos::next_tick_ms`]; a monotonic clock with any origin.
    Tick {
        /// The clock.
        now_ms: u64,
    },
    /// A message arrived. `from` is who the transport says has sent it.
    Receive {
        /// The sender.
        from: NodeId,
        /// What it sent.
        message: Message,
    },
    /// From here on messages reach this peer; those that were sent to it before may be lost, all of them.
    Linked {
        /// The peer.
        peer: NodeId,
    },
    /// The records of this [`Action::Persist`], and of all before it, are on stable storage, and its `then` is sent.
    Persisted {
        /// The ticket of the action; it stands for all lower ones, too.
        ticket: u64,
    },
    /// The database wants these in the log. They are sent again until chosen, for as long as this process lives.
    Propose(Vec<Command>),
    /// Where is the end of the log? Tokens ascend.
    Tail {
        /// Comes back with the answer.
        token: u64,
    },
    /// Change the membership. Ends in [`Action::MembershipChosen`] or [`Action::MembershipRefused`].
    ChangeMembership(MembershipChange),
    /// Answer to [`Action::ReadEntries`]: chosen entries, contiguous from `from`, at least one.
    EntriesRead {
        /// As asked.
        to: NodeId,
        /// What the disk holds.
        entries: Vec<Entry>,
    },
    /// Answer to [`Action::ReadEntries`] when they cannot be read.
    ReadFailed {
        /// As asked.
        to: NodeId,
    },
    /// Give up everything below. Clamped to what is chosen. Ends in a [`DurableRecord::Trimmed`]; the host may delete
    /// what lies below it when that record is durable.
    Trim {
        /// The first position to keep.
        below: Position,
    },
    /// This process is about to end. If it leads, and another one can, it proposes nothing more, and that one is told to lead as soon
    /// as it holds everything; at once, when this comes a second time. The host goes on until [`crate::Paxos::is_handing_over`] says no, or
    /// for as long as it likes.
    HandOver,
    /// The damage reported in [`Recovered::damaged`] is undone: every position that this disk ever acknowledged is
    /// chosen and here again (`chosen()` has passed it), and `promised` is at least every ballot this disk ever
    /// promised (for instance the highest that *all* other voters report).
    Repaired {
        /// A floor for the promise.
        promised: Ballot,
    },
}

/// Something that the host has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send. Loss, repetition and reordering do no harm. One message for several peers, so that it is encoded once.
    Send {
        /// Whom to.
        to: Vec<NodeId>,
        /// What.
        message: Message,
    },
    /// Append `records`, make them and all before them durable, then send `then`, then report [`Event::Persisted`].
    /// Several may share one fsync. Empty `records` mean: after the tickets before this one, nothing to write.
    Persist {
        /// Ascends by one.
        ticket: u64,
        /// To be written in this order.
        records: Vec<DurableRecord>,
        /// What must not be said before it is durable.
        then: Vec<(NodeId, Message)>,
    },
    /// Append a record that need not be durable by itself: it goes to disk with the next fsync. Order with the
    /// `Persist`s around it counts.
    Note(DurableRecord),
    /// The next entries are chosen. Contiguous and ascending over the life of the process, from [`Recovered::chosen`]
    /// + 1. Each was in an earlier `Persist` (which may not be durable yet).
    Chosen(Vec<Entry>),
    /// Read chosen entries from the disk for a peer: from position `from` on, up to `max_bytes` of values but at
    /// least one, not above [`crate::Paxos::chosen`]. Answered by [`Event::EntriesRead`] or [`Event::ReadFailed`].
    ReadEntries {
        /// For whom; comes back with the answer.
        to: NodeId,
        /// First position.
        from: Position,
        /// Bound on the bytes of values.
        max_bytes: usize,
    },
    /// Every entry that anybody knew to be chosen when the question was asked is at or below `position`.
    Tail {
        /// The question; stands for all lower tokens, too.
        token: u64,
        /// The linearizable tail.
        position: Position,
    },
    /// This node leads until `until_ms` on the clock of [`crate::Paxos::set_clock`], and `tail` is the end of the log unless a
    /// later `Lease` says otherwise: it comes before anybody is told of more. Zeros: no lease. Whoever wants to know the
    /// tail reads first the end, then the tail, then the clock.
    Lease {
        /// When it ends.
        until_ms: u64,
        /// Everything that anybody knows to be chosen is at or below.
        tail: Position,
    },
    /// These questions (this token and all lower ones not yet answered) got no answer: no leader, no quorum, or too
    /// late. Ask again, or give up.
    TailFailed {
        /// The question.
        token: u64,
    },
    /// The known leader changed.
    LeaderChanged(Option<NodeId>),
    /// A membership record was chosen at this position; follows the [`Action::Chosen`] that holds it. A node that is
    /// not in it any more is out for ever.
    MembershipChosen {
        /// Holds from the next position on.
        position: Position,
        /// The members.
        membership: Membership,
    },
    /// The change asked for was refused, and why.
    MembershipRefused(String),
    /// The others have given up what this node needs: it must copy the database's state at a position of at least
    /// `below - 1`, and start again from there.
    TooFarBehind {
        /// Who said so last.
        peer: NodeId,
        /// First position that the peer still has.
        below: Position,
    },
    /// A peer's disk went back in time (restored backup, rolled back machine). Its votes and acknowledgements are
    /// ignored from here on: it must be removed and added again.
    Distrusted {
        /// The peer.
        node: NodeId,
        /// What it once held durably.
        had: Position,
        /// What it holds now.
        has: Position,
    },
    /// The group does not know this log directory under this node's id (removed, wiped or cloned). Nothing more comes
    /// from this node; it stops, and says so.
    Fenced(String),
}
