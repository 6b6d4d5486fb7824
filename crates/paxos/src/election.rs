//! Becoming leader, and recognising one.
//!
//! - **Pre-vote**: nobody asks for a promise before a quorum says that it hears no leader and knows nothing more. So a
//!   node that comes back from behind a partition disturbs nobody.
//! - **Phase 1**: the candidate's own promise is durable before `Prepare` leaves (a ballot is never used twice). Whoever
//!   knows more to be chosen refuses; the candidate fetches that first. So phase 1 is only about positions after the
//!   candidate's `chosen`, and a quorum's reports on them are complete: per position the value of the highest ballot is
//!   the only one that can have been chosen.
//! - **Check-quorum** (in `leader.rs`): a leader that hears no quorum for an election timeout steps down.
//!
//! Invariants: `candidacy.ballot == promised`; `done` holds only voters whose reports are merged to the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::DurableRecord;
use crate::codec::entry_bytes;
use crate::leader::Leader;
use crate::limits::MAX_OPEN_POSITIONS;
use crate::message::Body;
use crate::mutant::Mutant;
use crate::node::{Paxos, Role};
use crate::outbox::Long;
use crate::types::{Ballot, Entry, NodeId, Position, Value};

/// What the voters of a group report to a candidate, all together, in windows of unchosen values.
const MERGED_WINDOWS: usize = 16;

/// A pre-vote under way.
#[derive(Clone, Debug)]
pub(crate) struct PreVotes {
    ballot: Ballot,
    granted: BTreeSet<NodeId>,
}

/// Phase 1 under way.
#[derive(Clone, Debug)]
pub(crate) struct Candidacy {
    ballot: Ballot,
    /// Our own promise is durable with this ticket.
    ticket: u64,
    is_durable: bool,
    /// What was reported to be chosen when we asked.
    chosen: Position,
    /// Per voter, the first position of the part that we wait for.
    awaited: BTreeMap<NodeId, Position>,
    done: BTreeSet<NodeId>,
    /// The value to propose again, per position.
    merged: BTreeMap<Position, Entry>,
    /// Of all that was reported.
    merged_bytes: usize,
    resend_at_ms: u64,
    answers: usize,
}

impl Paxos {
    /// Wait a full timeout, and a random part of another, before standing for election.
    pub(crate) fn rearm_election(&mut self) {
        let timeout_ms = self.options.election_timeout_ms;
        self.election_at_ms = self.now_ms + timeout_ms + self.random() % timeout_ms.max(1);
    }

    /// Lead no more, stand no more.
    pub(crate) fn step_down(&mut self) {
        self.rearm_election();
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, Role::Follower) {
            self.disappoint(leader.waiters);
            if let Some((from, _)) = leader.change {
                self.refuse_change(from, "the leader stepped down".into());
            }
            self.set_leader(None, Ballot::default());
        }
    }

    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>, ballot: Ballot) {
        if (self.leader, self.leader_ballot) == (leader, ballot) {
            return;
        }
        if self.leader != leader {
            self.outbox.notice(crate::Action::LeaderChanged(leader));
        }
        (self.leader, self.leader_ballot) = (leader, ballot);
        self.fail_questions(u64::MAX);
        self.resend_proposals();
    }

    /// A leader speaks in this ballot. False: it must not be listened to.
    pub(crate) fn hear_leader(&mut self, from: NodeId, ballot: Ballot) -> bool {
        if ballot.node != from || !self.is_plausible(ballot.round) {
            return false;
        }
        self.note_round(ballot.round);
        if ballot < self.acceptor.promised {
            if !self.options.has(Mutant::AcceptBelowPromise) {
                let (promised, chosen) = (self.acceptor.promised, self.acceptor.chosen);
                self.outbox.send(
                    from,
                    Body::Rejected {
                        ballot,
                        promised,
                        chosen,
                    },
                );
                return false;
            }
            self.acceptor.promised = ballot;
        }
        if self.acceptor.promise(ballot) && !self.options.has(Mutant::PromiseNotRecorded) {
            self.outbox.record(DurableRecord::Promise(ballot));
        }
        if !matches!(self.role, Role::Follower) {
            self.step_down();
        }
        self.set_leader(Some(from), ballot);
        self.heard_ms = Some(self.now_ms);
        self.rearm_election();
        true
    }

    fn hears_leader(&self) -> bool {
        match self.role {
            Role::Leader(_) => true,
            _ => self
                .heard_ms
                .is_some_and(|heard_ms| self.now_ms < heard_ms + self.options.election_timeout_ms),
        }
    }

    pub(crate) fn tick_election(&mut self) {
        if let Role::Candidate(candidacy) = &mut self.role
            && candidacy.is_durable
            && candidacy.resend_at_ms <= self.now_ms
        {
            candidacy.resend_at_ms = self.now_ms + self.options.heartbeat_ms;
            let (ballot, chosen) = (candidacy.ballot, candidacy.chosen);
            for (to, from) in candidacy.awaited.clone() {
                self.outbox.send(to, Body::Prepare { ballot, chosen, from });
            }
        }
        if matches!(self.role, Role::Leader(_)) || self.now_ms < self.election_at_ms {
            return;
        }
        self.rearm_election();
        self.role = Role::Follower;
        self.set_leader(None, Ballot::default());
        let is_out = self.fenced || self.membership.was_removed(self.options.id);
        if !is_out && !self.membership.members.is_empty() {
            self.start_pre_vote();
        }
    }

    /// Who cannot vote asks all the same: the answers tell where to fetch what is chosen.
    fn start_pre_vote(&mut self) {
        let ballot = self.next_ballot();
        let peers: Vec<_> = self
            .membership
            .voters()
            .map(|member| member.id)
            .filter(|id| *id != ballot.node)
            .collect();
        self.outbox.send_all(
            peers,
            Body::PreVote {
                ballot,
                chosen: self.acceptor.chosen,
            },
        );
        if self.can_vote() && !self.is_bound() {
            self.role = Role::PreCandidate(PreVotes {
                ballot,
                granted: BTreeSet::from([ballot.node]),
            });
            self.count_pre_votes();
        }
    }

    pub(crate) fn on_pre_vote(&mut self, from: NodeId, ballot: Ballot, chosen: Position) {
        // A leader that asks for votes leads no more.
        let is_led = self.hears_leader() && self.leader != Some(from);
        let granted = self.can_vote()
            && !is_led
            && !self.is_bound()
            && self.is_plausible(ballot.round)
            && ballot > self.acceptor.promised
            && chosen >= self.acceptor.chosen;
        let (promised, chosen, leader) = (self.acceptor.promised, self.acceptor.chosen, self.leader);
        self.outbox.send(
            from,
            Body::PreVoteReply {
                ballot,
                granted,
                promised,
                chosen,
                leader,
            },
        );
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
        chosen: Position,
        leader: Option<NodeId>,
    ) {
        self.note_round(promised.round);
        if self.leader.is_none() {
            self.fetch(from, chosen);
            // We do not hear that leader, but it may hear us.
            self.proposals.hint = leader.filter(|leader| *leader != self.options.id);
        }
        if let Role::PreCandidate(votes) = &mut self.role
            && votes.ballot == ballot
            && granted
            && !self.distrusted.contains(&from)
        {
            votes.granted.insert(from);
            self.count_pre_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        let Role::PreCandidate(votes) = &self.role else { return };
        if self.is_quorum(|id| votes.granted.contains(&id)) {
            self.stand(votes.ballot);
        }
    }

    /// Higher than every one heard of.
    pub(crate) fn next_ballot(&self) -> Ballot {
        let round = self.seen_round.max(self.acceptor.promised.round).saturating_add(1);
        let node = self.options.id;
        Ballot { round, node }
    }

    pub(crate) fn stand(&mut self, ballot: Ballot) {
        if self.is_bound() || !self.acceptor.promise(ballot) {
            // Another candidate, or a leader, got our promise in the meantime.
            self.role = Role::Follower;
            return;
        }
        self.seen_round = self.seen_round.max(ballot.round);
        if !self.options.has(Mutant::PromiseNotRecorded) {
            self.outbox.record(DurableRecord::Promise(ballot));
        }
        let unsynced_counts = self.options.has(Mutant::CandidateCountsUnsyncedSelf);
        let chosen = self.acceptor.chosen;
        let peers = self.electors(&self.membership).filter(|id| *id != self.options.id);
        let awaited: BTreeMap<_, _> = peers.map(|id| (id, chosen + 1)).collect();
        for to in awaited.keys() {
            let prepare = Body::Prepare {
                ballot,
                chosen,
                from: chosen + 1,
            };
            if unsynced_counts {
                self.outbox.send(*to, prepare);
            } else {
                self.outbox.send_durably(*to, prepare);
            }
        }
        self.role = Role::Candidate(Candidacy {
            ballot,
            ticket: self.outbox.next_ticket(),
            is_durable: false,
            chosen,
            awaited,
            done: BTreeSet::new(),
            merged: BTreeMap::new(),
            merged_bytes: 0,
            resend_at_ms: self.now_ms + self.options.heartbeat_ms,
            answers: 0,
        });
        if unsynced_counts || self.options.has(Mutant::PromiseNotRecorded) {
            self.candidate_persisted(u64::MAX);
        }
    }

    /// Our own promise is durable: it counts.
    pub(crate) fn candidate_persisted(&mut self, ticket: u64) {
        let Role::Candidate(candidacy) = &mut self.role else {
            return;
        };
        if candidacy.ticket > ticket || candidacy.done.contains(&self.options.id) {
            return;
        }
        candidacy.is_durable = true;
        if !self.options.has(Mutant::CandidateForgetsItself) {
            for entry in self.acceptor.accepted.values() {
                merge(
                    &mut candidacy.merged,
                    entry.clone(),
                    self.options.has(Mutant::LowestBallotWins),
                );
            }
        }
        candidacy.done.insert(self.options.id);
        candidacy.answers += 1;
        self.count_promises();
    }

    pub(crate) fn on_prepare(&mut self, from: NodeId, ballot: Ballot, chosen: Position, first: Position) {
        if ballot.node != from || !self.is_plausible(ballot.round) {
            return;
        }
        self.note_round(ballot.round);
        if !self.can_vote() || self.is_bound() {
            return;
        }
        if ballot < self.acceptor.promised || chosen < self.acceptor.chosen {
            let (promised, chosen) = (self.acceptor.promised, self.acceptor.chosen);
            self.outbox.send(
                from,
                Body::Rejected {
                    ballot,
                    promised,
                    chosen,
                },
            );
            return;
        }
        if self.acceptor.promise(ballot) {
            if !self.options.has(Mutant::PromiseNotRecorded) {
                self.outbox.record(DurableRecord::Promise(ballot));
            }
            self.step_down();
            self.set_leader(None, Ballot::default());
        }
        if !self.outbox.may_be_long(from, Long::Promise) {
            return;
        }
        let (mut entries, next) = self.acceptor.report(first, self.options.chunk_bytes);
        if self.options.has(Mutant::PromiseReportsNothing) {
            entries.clear();
        }
        let promise = Body::Promise {
            ballot,
            from: first,
            entries,
            next,
            last: self.acceptor.last,
        };
        if self.options.has(Mutant::PromiseBeforeFsync) {
            self.outbox.send(from, promise);
        } else {
            self.outbox.send_durably(from, promise);
        }
    }

    pub(crate) fn on_promise(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        first: Position,
        entries: Vec<Entry>,
        next: Option<Position>,
        last: Position,
    ) {
        if !self.trusts(from, last) || !self.is_sound(&entries) {
            return;
        }
        let most_bytes = MERGED_WINDOWS * self.options.unchosen_bytes;
        let lowest = self.options.has(Mutant::LowestBallotWins);
        let counts_twice = self.options.has(Mutant::DuplicatePromiseCounted);
        let Role::Candidate(candidacy) = &mut self.role else {
            return;
        };
        let is_awaited = candidacy.awaited.get(&from) == Some(&first) || counts_twice;
        if candidacy.ballot != ballot || !is_awaited {
            return;
        }
        let open = first..candidacy.chosen.saturating_add(MAX_OPEN_POSITIONS);
        candidacy.merged_bytes += entries.iter().map(entry_bytes).sum::<usize>();
        if candidacy.merged_bytes > most_bytes || !entries.iter().all(|entry| open.contains(&entry.position)) {
            // Not what an acceptor can hold. The others are enough, or the next attempt.
            return;
        }
        for entry in entries {
            merge(&mut candidacy.merged, entry, lowest);
        }
        match next {
            // A part that does not move on would keep us here for ever.
            Some(next) if next > first => {
                candidacy.awaited.insert(from, next);
                let chosen = candidacy.chosen;
                self.outbox.send(
                    from,
                    Body::Prepare {
                        ballot,
                        chosen,
                        from: next,
                    },
                );
            }
            _ => {
                candidacy.awaited.remove(&from);
                candidacy.done.insert(from);
                candidacy.answers += 1;
                self.count_promises();
            }
        }
    }

    fn count_promises(&mut self) {
        let Role::Candidate(candidacy) = &mut self.role else {
            return;
        };
        let merged = std::mem::take(&mut candidacy.merged);
        let Role::Candidate(candidacy) = &self.role else { return };
        let twice =
            self.options.has(Mutant::DuplicatePromiseCounted) && candidacy.answers >= self.quorum_of(&self.membership);
        if self.is_quorum(|id| candidacy.done.contains(&id)) || twice {
            return self.lead(candidacy.ballot, merged);
        }
        let Role::Candidate(candidacy) = &mut self.role else {
            return;
        };
        candidacy.merged = merged;
    }

    fn lead(&mut self, ballot: Ballot, merged: BTreeMap<Position, Entry>) {
        // What was learned to be chosen since is settled; the rest must be proposed again, gaps filled.
        let base = self.acceptor.chosen;
        let end = merged.last_key_value().map_or(base, |(position, _)| *position);
        let mut merged = merged;
        let values = (base + 1..=end)
            .map(|p| merged.remove(&p).map_or(Value::Noop, |entry| entry.value))
            .collect();
        self.role = Role::Leader(Box::new(Leader::new(ballot, base, values, self.now_ms)));
        self.refresh_peers();
        self.set_leader(Some(self.options.id), ballot);
    }

    pub(crate) fn on_rejected(&mut self, from: NodeId, ballot: Ballot, promised: Ballot, chosen: Position) {
        if !self.is_plausible(promised.round) {
            return;
        }
        self.note_round(promised.round);
        let ours = match &self.role {
            Role::Candidate(candidacy) => candidacy.ballot,
            Role::Leader(leader) => leader.ballot,
            _ => return,
        };
        if ballot != ours {
            return;
        }
        if promised > ours {
            self.step_down();
        } else if matches!(self.role, Role::Candidate(_)) && chosen > self.acceptor.chosen {
            // It knows more. Learn that, then ask again without waiting for another timeout.
            self.step_down();
            self.fetch(from, chosen);
        }
    }
}

fn merge(merged: &mut BTreeMap<Position, Entry>, entry: Entry, lowest_wins: bool) {
    let held = merged.get(&entry.position).map(|held| held.ballot);
    if held.is_none_or(|held| {
        if lowest_wins {
            held > entry.ballot
        } else {
            held < entry.ballot
        }
    }) {
        merged.insert(entry.position, entry);
    }
}
