//! Leading: propose, collect acknowledgements, mark as chosen, keep the followers fed.
//!
//! Invariants, per ballot:
//! - `base < next`; the leader proposes each position in `base + 1 .. next` once, with one value, in its ballot.
//! - Values found in phase 1 come first, then a no-op (`started`), then proposals. Nothing else is asked of the group, and
//!   no question for the tail answered, before that no-op is chosen: then everything of earlier ballots is settled.
//! - `barrier == Some(p)`: an unchosen membership record at `p == next - 1`; nothing more is proposed.
//! - `peer.upto`: what the peer has said to be durable *in this ballot*. It only grows. A peer that holds less than it
//!   once did has lost its disk: distrusted.
//! - The leader's own mark is what its disk has reported, not what it has sent. Accept leaves before the own fsync.
//! - Chosen up to `q`: a majority of voters has `upto >= q`; at a barrier also a majority of the voters after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::api::{Action, DurableRecord, MembershipChange};
use crate::codec::{command_bytes, value_bytes};
use crate::handover::{Handing, Writers};
use crate::lease::Held;
use crate::message::Body;
use crate::mutant::Mutant;
use crate::node::{Paxos, Role};
use crate::peer::Peer;
use crate::tail::Waiter;
use crate::types::{Ballot, Command, Entry, Membership, NodeId, Position, ProposalId, Value};

/// A leader whose disk does nothing for so many election timeouts lets another one lead. More than a busy disk's longest sync: the next
/// leader has to be elected.
const DISK_TIMEOUTS: u64 = 10;

/// A leader's state. Dies with its ballot.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    pub(crate) ballot: Ballot,
    /// Chosen when the ballot began: all above is proposed in this ballot.
    base: Position,
    /// The next position to propose at.
    pub(crate) next: Position,
    /// Found in phase 1, to be proposed first.
    found: VecDeque<Value>,
    /// Where this ballot's first no-op stands.
    started: Option<Position>,
    queue: VecDeque<Command>,
    queue_bytes: usize,
    /// In `queue` or proposed and not chosen: once is enough.
    known: BTreeSet<ProposalId>,
    /// Of the entries in `chosen + 1 .. next`.
    unchosen: VecDeque<usize>,
    unchosen_bytes: usize,
    pub(crate) barrier: Option<(Position, Membership)>,
    pub(crate) change: Option<(NodeId, MembershipChange)>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// Counts heartbeats.
    pub(crate) round: u64,
    pub(crate) heartbeat_at_ms: u64,
    /// Since when this ballot leads: nobody can have answered before.
    since_ms: u64,
    /// What the own disk had done when it was last seen to do something, and when that was.
    disk: (Position, u64),
    pub(crate) waiters: VecDeque<Waiter>,
    pub(crate) lease: Held,
    pub(crate) writers: Writers,
    /// Another node is to lead.
    pub(crate) handing: Option<Handing>,
}

impl Leader {
    pub(crate) fn new(ballot: Ballot, base: Position, found: VecDeque<Value>, now_ms: u64) -> Leader {
        Leader {
            ballot,
            base,
            next: base + 1,
            found,
            started: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            known: BTreeSet::new(),
            unchosen: VecDeque::new(),
            unchosen_bytes: 0,
            barrier: None,
            change: None,
            peers: BTreeMap::new(),
            round: 0,
            heartbeat_at_ms: now_ms,
            since_ms: now_ms,
            disk: (0, now_ms),
            waiters: VecDeque::new(),
            lease: Held::default(),
            writers: Writers::default(),
            handing: None,
        }
    }

    /// An entry of this ballot is chosen, and with it everything that earlier ballots may have chosen.
    pub(crate) fn is_established(&self, chosen: Position) -> bool {
        self.started.is_some_and(|started| started <= chosen)
    }

    /// Queue a proposal.
    pub(crate) fn enqueue(&mut self, command: Command, limit_bytes: usize) {
        let bytes = command_bytes(&command);
        if self.queue_bytes + bytes > limit_bytes || !self.known.insert(command.id) {
            return;
        }
        self.queue_bytes += bytes;
        self.queue.push_back(command);
    }

    pub(crate) fn command_chosen(&mut self, id: ProposalId) {
        self.known.remove(&id);
    }

    /// The next value to propose, if there is one and it may be.
    fn next_value(&mut self, limit_bytes: usize) -> Option<Value> {
        if let Some(value) = self.found.pop_front() {
            return Some(value);
        }
        if self.started.is_none() {
            self.started = Some(self.next);
            return Some(Value::Noop);
        }
        if self.unchosen_bytes > limit_bytes {
            return None;
        }
        let command = self.queue.pop_front()?;
        self.queue_bytes -= command_bytes(&command);
        self.writers.proposed += 1;
        if let Some(peer) = self.peers.get_mut(&command.id.node) {
            peer.proposed += 1;
        }
        Some(Value::Command(command))
    }
}

impl Paxos {
    /// The members changed, or the leader is new: whom to feed.
    pub(crate) fn refresh_peers(&mut self) {
        let (membership, chosen) = (&self.membership, self.acceptor.chosen);
        let me = self.options.id;
        let Role::Leader(leader) = &mut self.role else { return };
        let ballot = leader.ballot;
        let gone: Vec<_> = leader
            .peers
            .keys()
            .copied()
            .filter(|id| membership.member(*id).is_none())
            .collect();
        // The last word to those who are out, so that they know.
        self.outbox.send_all(
            gone.clone(),
            Body::Accept {
                ballot,
                chosen,
                entries: Vec::new(),
            },
        );
        for id in gone {
            leader.peers.remove(&id);
        }
        for member in membership.members.iter().filter(|member| member.id != me) {
            leader.peers.entry(member.id).or_insert_with(|| Peer::new(leader.next));
        }
    }

    pub(crate) fn tick_leader(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let timeout_ms = self.options.election_timeout_ms;
        let (me, now_ms) = (self.options.id, self.now_ms);
        if leader.heartbeat_at_ms <= now_ms {
            leader.heartbeat_at_ms = now_ms + self.options.heartbeat_ms;
            self.send_heartbeats();
        }
        let Role::Leader(leader) = &self.role else { return };
        let heard = |id| {
            id == me
                || leader
                    .peers
                    .get(&id)
                    .is_some_and(|peer| peer.heard_within(now_ms, timeout_ms))
        };
        // A leader that is no longer a member must not go before the others know (`leave_when_known`): without it they could not
        // choose the next one.
        let member = self.membership.member(me).is_some();
        let cut_off = now_ms >= leader.since_ms + timeout_ms && !self.is_quorum(heard);
        let others = self.is_quorum(|id| id != me && heard(id));
        // Asked each time: it remembers when the disk did something.
        let hung = self.disk_hangs() && others;
        if member && (cut_off || hung) {
            return self.step_down();
        }
        self.tick_handover();
    }

    /// The leader's disk has done nothing for long, although there is something to do. The others go on without it; but what waits for
    /// it here has no bound, and a leader whose disk works serves everybody.
    fn disk_hangs(&mut self) -> bool {
        let (now_ms, patience_ms) = (self.now_ms, DISK_TIMEOUTS * self.options.election_timeout_ms);
        let (durable, last) = (self.acceptor.durable, self.acceptor.matched);
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        if durable >= last || durable > leader.disk.0 {
            leader.disk = (durable, now_ms);
        }
        now_ms >= leader.disk.1 + patience_ms
    }

    /// A new round: everybody is asked whether this ballot still stands.
    pub(crate) fn send_heartbeats(&mut self) {
        let chosen = self.acceptor.chosen;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.round += 1;
        let lease_ms = self.lease_to_ask();
        let Role::Leader(leader) = &mut self.role else { return };
        for (to, peer) in &mut leader.peers {
            peer.told_chosen = chosen;
            let (ballot, round, sent) = (leader.ballot, leader.round, peer.next - 1);
            self.outbox.send(
                *to,
                Body::Heartbeat {
                    ballot,
                    round,
                    chosen,
                    sent,
                    lease_ms,
                },
            );
        }
    }

    /// Propose what can be proposed, send what can be sent, mark as chosen what is.
    pub(crate) fn flush_leader(&mut self) {
        loop {
            self.propose();
            if !self.count_acknowledgements() {
                break;
            }
        }
        self.feed_peers();
        self.start_round();
        self.tell_chosen();
        self.tell_successor();
        self.leave_when_known();
    }

    fn propose(&mut self) {
        loop {
            let Role::Leader(leader) = &mut self.role else { return };
            // A leader that has removed itself proposes nothing more.
            let is_out = self.membership.member(self.options.id).is_none();
            if leader.barrier.is_some() || leader.handing.is_some() || is_out {
                return;
            }
            if leader.is_established(self.acceptor.chosen)
                && let Some((from, change)) = leader.change.take()
            {
                match self.judge_change(&change) {
                    Ok(membership) => self.propose_value(Value::Membership(membership)),
                    Err(reason) => self.refuse_change(from, reason),
                }
                continue;
            }
            let Some(value) = leader.next_value(self.options.unchosen_bytes) else {
                return;
            };
            self.propose_value(value);
        }
    }

    fn propose_value(&mut self, value: Value) {
        let early = self.options.has(Mutant::MembershipBeforeChosen);
        let Role::Leader(leader) = &mut self.role else { return };
        let position = leader.next;
        leader.next += 1;
        let bytes = value_bytes(&value);
        leader.unchosen.push_back(bytes);
        leader.unchosen_bytes += bytes;
        if let Value::Membership(membership) = &value {
            if early {
                self.membership = membership.clone();
            } else {
                leader.barrier = Some((position, membership.clone()));
            }
        }
        let entry = Entry {
            position,
            ballot: leader.ballot,
            value,
        };
        self.acceptor.accept(entry.clone());
        self.outbox.record(DurableRecord::Accept(entry));
        if early {
            self.refresh_peers();
        }
    }

    /// True: more was chosen.
    fn count_acknowledgements(&mut self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let acceptor = &self.acceptor;
        let own = if self.options.has(Mutant::LeaderCountsUnsyncedSelf) {
            acceptor.matched
        } else {
            acceptor.durable
        };
        let me = self.options.id;
        let upto = |id| {
            if id == me {
                own
            } else {
                leader.peers.get(&id).map_or(0, |peer| peer.upto)
            }
        };
        let mut chosen = self.majority_mark(&self.membership, upto).min(leader.next - 1);
        if let Some((position, new)) = &leader.barrier
            && chosen >= *position
            && self.majority_mark(new, upto) < *position
        {
            chosen = *position - 1;
        }
        if chosen <= acceptor.chosen {
            return false;
        }
        let more = chosen - acceptor.chosen;
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        for _ in 0..more {
            leader.unchosen_bytes -= leader.unchosen.pop_front().unwrap_or(0);
        }
        leader.barrier.take_if(|(position, _)| *position <= chosen);
        self.advance_chosen(chosen);
        true
    }

    /// Send each peer what it lacks, as far as its window allows. Peers at the same place share the message.
    fn feed_peers(&mut self) {
        let (acceptor, options) = (&self.acceptor, &self.options);
        let Role::Leader(leader) = &mut self.role else { return };
        let mut batches: Vec<(Position, Vec<Entry>, usize, Vec<NodeId>)> = Vec::new();
        let first = acceptor.first_in_memory();
        for (id, peer) in &mut leader.peers {
            // What memory has let go since it was to be sent again: who lacks it says so, and is served from the disk.
            peer.next = peer.next.max(first);
            while peer.next < leader.next && peer.in_flight_bytes < options.window_bytes {
                let known = batches.iter().position(|(first, ..)| *first == peer.next);
                let index = known.unwrap_or_else(|| {
                    let (entries, bytes) = acceptor.chunk(peer.next, leader.next - 1, options.chunk_bytes);
                    batches.push((peer.next, entries, bytes, Vec::new()));
                    batches.len() - 1
                });
                let (_, entries, bytes, peers) = &mut batches[index];
                let Some(last) = entries.last() else { break };
                peer.sent(last.position, *bytes);
                peer.told_chosen = acceptor.chosen;
                peers.push(*id);
            }
        }
        let (ballot, chosen) = (leader.ballot, acceptor.chosen);
        for (_, entries, _, peers) in batches {
            self.outbox.send_all(
                peers,
                Body::Accept {
                    ballot,
                    chosen,
                    entries,
                },
            );
        }
    }

    /// Who has nothing to accept learns of the watermark all the same: proposers wait for it.
    fn tell_chosen(&mut self) {
        let chosen = self.acceptor.chosen;
        let Role::Leader(leader) = &mut self.role else { return };
        let untold = leader.peers.iter_mut().filter(|(_, peer)| peer.told_chosen < chosen);
        let untold = untold.map(|(id, peer)| {
            peer.told_chosen = chosen;
            *id
        });
        let (ballot, untold) = (leader.ballot, untold.collect());
        self.outbox.send_all(
            untold,
            Body::Accept {
                ballot,
                chosen,
                entries: Vec::new(),
            },
        );
    }

    /// A leader that has removed itself goes when a majority of the others knows.
    fn leave_when_known(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let chosen = self.acceptor.chosen;
        let knows = |id| leader.peers.get(&id).is_some_and(|peer| peer.chosen >= chosen);
        if self.membership.member(self.options.id).is_none() && self.is_quorum(knows) {
            self.step_down();
        }
    }

    /// The peer, if it speaks to this leader in this ballot.
    fn peer_in(&mut self, from: NodeId, ballot: Ballot) -> Option<&mut Peer> {
        let stale_counts = self.options.has(Mutant::StaleBallotAckCounted);
        let now_ms = self.now_ms;
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        if leader.ballot != ballot && !stale_counts {
            return None;
        }
        let peer = leader.peers.get_mut(&from)?;
        peer.heard_ms = Some(now_ms);
        Some(peer)
    }

    /// Keep the peer's claim about its disk, and say whether its word counts.
    pub(crate) fn trusts(&mut self, from: NodeId, last: Position) -> bool {
        let known = self.known_last.entry(from).or_default();
        if last > *known {
            *known = last;
            if let Role::Leader(leader) = &mut self.role
                && let Some(peer) = leader.peers.get_mut(&from)
            {
                peer.last_round = leader.round;
            }
        }
        !self.distrusted.contains(&from)
    }

    pub(crate) fn on_accepted(&mut self, from: NodeId, ballot: Ballot, upto: Position, last: Position) {
        let trusted = self.trusts(from, last);
        if let Some(peer) = self.peer_in(from, ballot)
            && trusted
        {
            peer.acknowledged(upto);
        }
    }

    pub(crate) fn on_heartbeat_reply(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        round: u64,
        upto: Position,
        last: Position,
        chosen: Position,
    ) {
        let known = self.known_last.get(&from).copied().unwrap_or(0);
        let Some(peer) = self.peer_in(from, ballot) else { return };
        // Said after what we know was said: an honest disk holds no less.
        let went_back = round > peer.last_round && last < known;
        if went_back && !self.options.has(Mutant::RolledBackDiskTrusted) && self.distrusted.insert(from) {
            self.outbox.notice(Action::Distrusted {
                node: from,
                had: known,
                has: last,
            });
        }
        if self.distrusted.contains(&from) {
            return;
        }
        let Some(peer) = self.peer_in(from, ballot) else { return };
        peer.acknowledged(upto);
        peer.round = peer.round.max(round);
        peer.chosen = peer.chosen.max(chosen);
    }

    /// Something is missing at the peer: send it again, from memory in this ballot, or from the disk as facts.
    pub(crate) fn on_gap(&mut self, from: NodeId, ballot: Ballot, received: Position) {
        let now_ms = self.now_ms;
        let patience_ms = self.options.heartbeat_ms;
        let first = self.acceptor.first_in_memory();
        let Some(peer) = self.peer_in(from, ballot) else { return };
        if peer
            .gap
            .is_some_and(|(gap, at_ms)| gap == received && now_ms < at_ms + patience_ms)
        {
            return;
        }
        peer.gap = Some((received, now_ms));
        let Role::Leader(leader) = &mut self.role else { return };
        if (leader.base..leader.next).contains(&received) && received + 1 >= first {
            if let Some(peer) = leader.peers.get_mut(&from) {
                peer.send_again_from(received + 1);
            }
        } else {
            self.serve(from, received.saturating_add(1));
        }
    }
}
