//! Handing the lead over: to the voter whose clients write, or to whoever can, because this process ends.
//!
//! A leader that goes in silence costs the group an election timeout. One that says so costs a few messages: it proposes
//! nothing more, waits until its successor holds and knows all of it, and tells it to stand. The successor needs no
//! pre-vote, whose question (is a leader heard?) the leader itself has answered. (Leadership transfer in Ongaro's thesis on Raft, 3.10.)
//! The old leader leads on until it is asked for its promise; when nobody asks, it proposes again.
//!
//! Nothing here is needed for safety: anybody may stand for election at any time. Leaders with leases hand over nothing:
//! the voters have promised to help nobody else.
//!
//! Invariants: while `handing` is set nothing is proposed, and it is set for at most [`PATIENCE`] heartbeats.

use crate::message::Body;
use crate::node::{Paxos, Role};
use crate::types::{Ballot, NodeId, Position};

/// Heartbeats until a leader whose successor does not take over goes on.
const PATIENCE: u64 = 3;
/// So many windows in a row the same node must have written nearly everything. A window lasts an election timeout.
const WINDOWS: u32 = 4;
/// Fewer proposals in a window say nothing of who writes.
const FEW: u64 = 20;
/// Nearly everything, in a hundred.
const NEARLY_ALL: u64 = 90;
/// Election timeouts until a successor that did not take over is asked again.
const REST: u64 = 30;

/// Under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handing {
    to: NodeId,
    until_ms: u64,
    /// It was told to stand.
    told: bool,
}

/// What a leader knows of who writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writers {
    /// Proposals in this window, everybody's; the peers' own are with them.
    pub(crate) proposed: u64,
    window_ends_ms: u64,
    /// Who wrote nearly everything, and in how many windows in a row.
    favourite: Option<(NodeId, u32)>,
    /// No other attempt before.
    rest_until_ms: u64,
}

impl Paxos {
    /// Whether this node, when it leads, hands over to the node that proposes nearly everything. The answer may differ between nodes.
    pub fn follow_writers(&mut self, wanted: bool) {
        self.follows_writers = wanted;
    }

    /// This process is about to end: let who has most lead. Asked again: without what is under way, which the next leader finds.
    pub(crate) fn on_hand_over(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.handing.is_some() {
            return self.tell_to_stand();
        }
        let known = leader.peers.iter().map(|(id, peer)| (peer.upto, *id));
        if let Some((_, to)) = known.filter(|(_, id)| self.can_succeed(*id)).max() {
            self.begin_handing(to);
        }
    }

    /// An election timeout has passed, perhaps: who wrote? And did the successor take over?
    pub(crate) fn tick_handover(&mut self) {
        let (now_ms, timeout_ms) = (self.now_ms, self.options.election_timeout_ms);
        let Role::Leader(leader) = &mut self.role else { return };
        let writers = &mut leader.writers;
        if leader.handing.take_if(|handing| handing.until_ms <= now_ms).is_some() {
            writers.rest_until_ms = now_ms + REST * timeout_ms;
        }
        if now_ms < writers.window_ends_ms {
            return;
        }
        writers.window_ends_ms = now_ms + timeout_ms;
        let all = std::mem::take(&mut writers.proposed);
        let peers = leader.peers.iter_mut();
        let most = peers.map(|(id, peer)| (std::mem::take(&mut peer.proposed), *id)).max();
        let favourite = most.filter(|(count, _)| all >= FEW && count * 100 >= all * NEARLY_ALL);
        writers.favourite = favourite.map(|(_, id)| match writers.favourite {
            Some((before, windows)) if before == id => (id, windows + 1),
            _ => (id, 1),
        });
        let rested = writers.rest_until_ms <= now_ms;
        if let Some((to, WINDOWS..)) = writers.favourite
            && rested
            && self.follows_writers
            && self.can_succeed(to)
        {
            self.begin_handing(to);
        }
    }

    /// A voter whose word counts, and that was heard lately.
    fn can_succeed(&self, id: NodeId) -> bool {
        let (now_ms, timeout_ms) = (self.now_ms, self.options.election_timeout_ms);
        let Role::Leader(leader) = &self.role else { return false };
        let heard = leader
            .peers
            .get(&id)
            .is_some_and(|peer| peer.heard_within(now_ms, timeout_ms));
        let voter = self.membership.member(id).is_some_and(|member| member.voter);
        heard && voter && !self.distrusted.contains(&id)
    }

    fn begin_handing(&mut self, to: NodeId) {
        let until_ms = self.now_ms + PATIENCE * self.options.heartbeat_ms;
        let chosen = self.acceptor.chosen;
        let leases = self.wants_lease();
        let Role::Leader(leader) = &mut self.role else { return };
        let is_busy = leader.barrier.is_some() || leader.change.is_some() || !leader.is_established(chosen);
        if !leases && !is_busy && leader.handing.is_none() {
            let told = false;
            leader.handing = Some(Handing { to, until_ms, told });
        }
    }

    /// All that was proposed is chosen, and the successor has it: it may stand.
    pub(crate) fn tell_successor(&mut self) {
        let chosen = self.acceptor.chosen;
        let Role::Leader(leader) = &self.role else { return };
        let Some(handing) = &leader.handing else { return };
        let holds = leader.peers.get(&handing.to).is_some_and(|peer| peer.upto >= chosen);
        if chosen + 1 == leader.next && holds {
            self.tell_to_stand();
        }
    }

    fn tell_to_stand(&mut self) {
        let chosen = self.acceptor.chosen;
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(handing) = leader.handing.as_mut().filter(|handing| !handing.told) {
            handing.told = true;
            let (to, ballot) = (handing.to, leader.ballot);
            self.outbox.send(to, Body::TakeOver { ballot, chosen });
        }
    }

    /// Whether this node waits for another one to hold everything, before it tells it to lead.
    pub fn is_handing_over(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.handing.is_some_and(|handing| !handing.told))
    }

    /// The leader wants this node to lead.
    pub(crate) fn on_take_over(&mut self, from: NodeId, ballot: Ballot, chosen: Position) {
        if !self.hear_leader(from, ballot) {
            return;
        }
        self.follow_watermark(chosen);
        if self.acceptor.chosen < chosen || !self.can_vote() || self.is_bound() {
            return;
        }
        let ballot = self.next_ballot();
        self.set_leader(None, Ballot::default());
        self.stand(ballot);
    }
}
