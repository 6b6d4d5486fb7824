//! The state machine: events in, actions out. This file holds the node's parts and hands each event to the file that
//! knows what to do with it.
//!
//! Invariants:
//! - A node leads only in the ballot that it has promised itself: `role == Leader => leader.ballot == promised`.
//! - `leader` is the node of a ballot at or above every ballot heard of from leaders.
//! - Time never runs backwards in here, and never jumps by more than half an election timeout at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::acceptor::Acceptor;
use crate::api::{Action, DurableRecord, Event, Options, Recovered};
use crate::catch_up::CatchUp;
use crate::election::{Candidacy, PreVotes};
use crate::leader::Leader;
use crate::lease::Leases;
use crate::message::{Body, Message};
use crate::mutant::Mutant;
use crate::outbox::Outbox;
use crate::proposals::Proposals;
use crate::tail::Questions;
use crate::types::{Ballot, Membership, NodeId, Position, Value};

/// What a node is doing.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Follower,
    PreCandidate(PreVotes),
    Candidate(Candidacy),
    Leader(Box<Leader>),
}

/// One node of a group.
#[derive(Clone, Debug)]
pub struct Paxos {
    pub(crate) options: Options,
    pub(crate) membership: Membership,
    pub(crate) acceptor: Acceptor,
    pub(crate) role: Role,
    pub(crate) outbox: Outbox,
    pub(crate) proposals: Proposals,
    pub(crate) questions: Questions,
    pub(crate) leases: Leases,
    pub(crate) catch_up: CatchUp,
    /// The disk lost something: learn, but say nothing about it.
    pub(crate) damaged: bool,
    /// The group does not want this node.
    pub(crate) fenced: bool,
    pub(crate) leader: Option<NodeId>,
    /// The ballot in which `leader` was last heard.
    pub(crate) leader_ballot: Ballot,
    /// When a leader was last heard.
    pub(crate) heard_ms: Option<u64>,
    /// When to stand for election.
    pub(crate) election_at_ms: u64,
    /// The highest round heard of.
    pub(crate) seen_round: u64,
    /// The highest position that each peer ever said to hold durably.
    pub(crate) known_last: BTreeMap<NodeId, Position>,
    /// Peers whose disk went back in time.
    pub(crate) distrusted: BTreeSet<NodeId>,
    /// When a membership change sent to the leader counts as lost.
    pub(crate) change_deadline_ms: Option<u64>,
    /// As leader, hand over to the node that writes.
    pub(crate) follows_writers: bool,
    pub(crate) now_ms: u64,
    host_ms: Option<u64>,
    random: u64,
}

impl Paxos {
    /// A node as its disk left it.
    pub fn new(options: Options, recovered: Recovered) -> Paxos {
        let membership = recovered.membership.clone();
        let damaged = recovered.damaged;
        let acceptor = Acceptor::new(recovered, options.cache_bytes);
        let outbox = Outbox::new(options.log, options.session);
        let mut paxos = Paxos {
            membership,
            role: Role::Follower,
            outbox,
            proposals: Proposals::default(),
            questions: Questions::default(),
            leases: Leases::default(),
            catch_up: CatchUp::default(),
            damaged,
            fenced: false,
            leader: None,
            leader_ballot: Ballot::default(),
            heard_ms: None,
            election_at_ms: 0,
            seen_round: acceptor.promised.round,
            known_last: BTreeMap::new(),
            distrusted: BTreeSet::new(),
            change_deadline_ms: None,
            follows_writers: false,
            now_ms: 0,
            host_ms: None,
            random: options.session,
            acceptor,
            options,
        };
        paxos.rearm_election();
        if paxos.membership.voters().count() <= 1 {
            // Nobody to wait for.
            paxos.election_at_ms = 0;
        }
        paxos
    }

    /// [`handle`](Self::handle) one event and [`flush`](Self::flush).
    pub fn step(&mut self, event: Event, actions: &mut Vec<Action>) {
        self.handle(event, actions);
        self.flush(actions);
    }

    /// Take in an event. What it leads to is held back until the next `flush`, so that several events share one
    /// message and one fsync.
    pub fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick { now_ms } => self.on_tick(now_ms),
            Event::Receive { from, message } => self.on_message(from, message),
            Event::Linked { peer } => self.on_linked(peer),
            Event::Persisted { ticket } => self.on_persisted(ticket),
            Event::Propose(commands) => self.on_propose(commands),
            Event::Tail { token } => self.on_question(token),
            Event::ChangeMembership(change) => self.on_change_wanted(change),
            Event::EntriesRead { to, entries } => self.on_entries_read(to, entries),
            Event::ReadFailed { to } => self.on_read_failed(to),
            Event::Trim { below } => self.on_trim(below),
            Event::HandOver => self.on_hand_over(),
            Event::Repaired { promised } => self.on_repaired(promised),
        }
        self.drain_reads(actions);
    }

    /// Let out what `handle` held back. Call it before waiting for new events.
    pub fn flush(&mut self, actions: &mut Vec<Action>) {
        self.flush_leader();
        self.flush_follower();
        self.acceptor.mark(self.outbox.covering_ticket());
        self.publish_lease(actions);
        self.outbox.flush(actions);
        self.drain_reads(actions);
    }

    /// When the next [`Event::Tick`] is due at the latest, on the host's clock.
    pub fn next_tick_ms(&self) -> u64 {
        let step_ms = match &self.role {
            Role::Leader(leader) => leader.heartbeat_at_ms.saturating_sub(self.now_ms),
            Role::Candidate(_) => self.options.heartbeat_ms,
            _ => self.election_at_ms.saturating_sub(self.now_ms),
        };
        // Waiting proposals and questions have deadlines of their own; a heartbeat's pace is fine enough for them.
        self.host_ms
            .map_or(0, |host_ms| host_ms + step_ms.min(self.options.heartbeat_ms))
    }

    /// Records that let a segment file be read without the files before it, as far as positions below the trim mark
    /// are concerned: to be written at the start of every segment, after all records of the actions returned so far.
    pub fn checkpoint(&self) -> Vec<DurableRecord> {
        vec![
            DurableRecord::Promise(self.acceptor.promised),
            DurableRecord::Base {
                chosen: self.acceptor.chosen,
                membership: self.membership.clone(),
            },
            DurableRecord::Trimmed(self.acceptor.trimmed),
        ]
    }

    fn on_tick(&mut self, host_ms: u64) {
        let passed_ms = self.host_ms.map_or(0, |last_ms| host_ms.saturating_sub(last_ms));
        self.host_ms = Some(host_ms);
        // A clock that jumps, or a process that was stopped, must not make everybody seem dead.
        self.now_ms += passed_ms.min(self.options.election_timeout_ms / 2);
        self.tick_election();
        self.tick_leader();
        self.tick_proposals();
        self.tick_questions();
        if self
            .change_deadline_ms
            .is_some_and(|deadline_ms| deadline_ms <= self.now_ms)
        {
            self.change_deadline_ms = None;
            self.outbox
                .notice(Action::MembershipRefused("the leader did not answer".into()));
        }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        if !self.admits(from, message.log) {
            return;
        }
        match message.body {
            Body::PreVote { ballot, chosen } => self.on_pre_vote(from, ballot, chosen),
            Body::PreVoteReply {
                ballot,
                granted,
                promised,
                chosen,
                leader,
            } => {
                self.on_pre_vote_reply(from, ballot, granted, promised, chosen, leader);
            }
            Body::Prepare {
                ballot,
                chosen,
                from: first,
            } => self.on_prepare(from, ballot, chosen, first),
            Body::Promise {
                ballot,
                from: first,
                entries,
                next,
                last,
            } => {
                self.on_promise(from, ballot, first, entries, next, last);
            }
            Body::Rejected {
                ballot,
                promised,
                chosen,
            } => self.on_rejected(from, ballot, promised, chosen),
            Body::Accept {
                ballot,
                chosen,
                entries,
            } => self.on_accept(from, ballot, chosen, entries),
            Body::Accepted { ballot, upto, last } => self.on_accepted(from, ballot, upto, last),
            Body::Heartbeat {
                ballot,
                round,
                chosen,
                sent,
                lease_ms,
            } => {
                let round = if self.may_lease(ballot, lease_ms) { round } else { 0 };
                self.on_heartbeat(from, ballot, round, chosen, sent);
            }
            Body::HeartbeatReply {
                ballot,
                round,
                received,
                upto,
                last,
                chosen,
                gap,
            } => {
                self.on_heartbeat_reply(from, ballot, round, upto, last, chosen);
                if gap {
                    self.on_gap(from, ballot, received);
                }
            }
            Body::Gap { ballot, received } => self.on_gap(from, ballot, received),
            Body::Learn { entries, chosen } => self.on_learn(from, entries, chosen),
            Body::Fetch { from: first } => self.serve(from, first),
            Body::Trimmed { below } => self.on_trimmed(from, below),
            Body::Forward { commands } => self.on_forward(commands),
            Body::TailRequest { token } => self.on_tail_request(from, message.session, token),
            Body::TailReply {
                session,
                token,
                position,
            } => self.on_tail_reply(session, token, position),
            Body::Change { change } => self.on_change(from, change),
            Body::ChangeRefused { reason } => self.on_change_refused(reason),
            Body::TakeOver { ballot, chosen } => self.on_take_over(from, ballot, chosen),
            Body::Fenced { log, reason } => self.on_fenced(from, log, reason),
        }
    }

    fn on_persisted(&mut self, ticket: u64) {
        if !self.outbox.persisted(ticket) {
            return;
        }
        self.acceptor.persisted(ticket);
        self.candidate_persisted(ticket);
    }

    fn on_trim(&mut self, below: Position) {
        let chosen = self.acceptor.chosen;
        let below = if self.options.has(Mutant::TrimBeyondChosen) {
            below
        } else {
            below.min(chosen + 1)
        };
        if below <= self.acceptor.trimmed {
            return;
        }
        self.acceptor.trimmed = below;
        self.acceptor.accepted = self.acceptor.accepted.split_off(&below);
        // The members as of here, so that the entries that brought them about may go.
        self.outbox.record(DurableRecord::Base {
            chosen,
            membership: self.membership.clone(),
        });
        self.outbox.record(DurableRecord::Trimmed(below));
    }

    fn on_repaired(&mut self, promised: Ballot) {
        self.seen_round = self.seen_round.max(promised.round);
        if self.acceptor.promise(promised) {
            self.outbox.record(DurableRecord::Promise(promised));
            self.step_down();
        }
        self.damaged = false;
        self.rearm_election();
    }

    /// Everything up to `upto` is chosen, as far as it is here: tell the host.
    pub(crate) fn advance_chosen(&mut self, upto: Position) {
        let before = self.acceptor.chosen;
        while self.acceptor.chosen < upto {
            let Some(entry) = self.acceptor.choose_next() else {
                break;
            };
            match &entry.value {
                Value::Noop => {}
                Value::Command(command) => self.on_command_chosen(command.id),
                Value::Membership(membership) => self.on_membership_chosen(entry.position, membership.clone()),
            }
            self.outbox.chosen(entry);
        }
        if self.acceptor.chosen > before {
            self.moved_on();
            self.outbox.record(DurableRecord::Chosen(self.acceptor.chosen));
        }
    }

    /// The next random number (splitmix64).
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.options.id
    }

    /// The leader, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The highest ballot promised.
    pub fn ballot(&self) -> Ballot {
        self.acceptor.promised
    }

    /// Everything up to here is chosen.
    pub fn chosen(&self) -> Position {
        self.acceptor.chosen
    }

    /// The highest position proposed or accepted here.
    pub fn proposed(&self) -> Position {
        self.acceptor.last
    }

    /// Everything up to here is durable on this node (on a damaged one: as far as it knows).
    pub fn durable(&self) -> Position {
        self.acceptor.durable
    }

    /// Everything below was given up.
    pub fn trimmed(&self) -> Position {
        self.acceptor.trimmed
    }

    /// The members from `chosen() + 1` on.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Per member, the highest position it is known to hold durably: complete on the leader, elsewhere this node only.
    pub fn acknowledged(&self) -> Vec<(NodeId, Position)> {
        let mut known = vec![(self.options.id, self.acceptor.durable)];
        if let Role::Leader(leader) = &self.role {
            known.extend(leader.peers.iter().map(|(id, peer)| (*id, peer.upto)));
        }
        known.sort_unstable();
        known
    }

    /// On the leader: a quorum answered within the election timeout. Elsewhere: a leader is heard.
    pub fn has_quorum(&self) -> bool {
        self.leader.is_some()
    }

    /// It leads, and the others are a majority by themselves.
    pub fn can_do_without_its_disk(&self) -> bool {
        let me = self.options.id;
        matches!(self.role, Role::Leader(_)) && self.is_quorum(|id| id != me)
    }

    /// Proposals of this node that are not chosen yet.
    pub fn pending(&self) -> usize {
        self.proposals.pending()
    }

    /// The group has shut this node out; it does nothing any more.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// The disk is damaged and not repaired yet.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }
}
