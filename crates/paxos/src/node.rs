//! The state machine: events in, actions out.

use crate::api::{Action, DurableRecord, Event, Options, Recovered};
use crate::types::{Ballot, Membership, NodeId, Position};

/// One node of a group.
#[derive(Debug)]
pub struct Paxos {
    options: Options,
    recovered: Recovered,
}

impl Paxos {
    /// A node as its disk left it.
    pub fn new(options: Options, recovered: Recovered) -> Paxos {
        Paxos { options, recovered }
    }

    /// [`handle`](Self::handle) one event and [`flush`](Self::flush).
    pub fn step(&mut self, event: Event, actions: &mut Vec<Action>) {
        self.handle(event, actions);
        self.flush(actions);
    }

    /// Take in an event. What it leads to may be held back until the next `flush`, so that several events share one
    /// message and one fsync.
    pub fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        let _ = (event, actions);
    }

    /// Let out what `handle` held back. Call it before waiting for new events.
    pub fn flush(&mut self, actions: &mut Vec<Action>) {
        let _ = actions;
    }

    /// When the next [`Event::Tick`] is due at the latest.
    pub fn next_tick_ms(&self) -> u64 {
        0
    }

    /// Records that let a segment file be read without the files before it, as far as positions below the trim mark
    /// are concerned: to be written at the start of every segment, after all actions returned so far.
    pub fn checkpoint(&self) -> Vec<DurableRecord> {
        Vec::new()
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.options.id
    }
    /// The leader, if known.
    pub fn leader(&self) -> Option<NodeId> {
        None
    }
    /// The highest ballot promised.
    pub fn ballot(&self) -> Ballot {
        self.recovered.promised
    }
    /// Everything up to here is chosen.
    pub fn chosen(&self) -> Position {
        self.recovered.chosen
    }
    /// The highest position proposed or accepted here.
    pub fn proposed(&self) -> Position {
        self.recovered.chosen
    }
    /// Everything up to here is durable on this node.
    pub fn durable(&self) -> Position {
        self.recovered.chosen
    }
    /// Everything below was given up.
    pub fn trimmed(&self) -> Position {
        self.recovered.trimmed
    }
    /// The members from `chosen() + 1` on.
    pub fn membership(&self) -> &Membership {
        &self.recovered.membership
    }
    /// Per member, the highest position it is known to hold durably. Complete on the leader only.
    pub fn acknowledged(&self) -> Vec<(NodeId, Position)> {
        Vec::new()
    }
    /// On the leader: a quorum answered within the election timeout. Elsewhere: a leader is heard.
    pub fn has_quorum(&self) -> bool {
        false
    }
    /// Proposals of this node that are not chosen yet.
    pub fn pending(&self) -> usize {
        0
    }
}
