//! Who belongs to the group, what a majority is, and how that changes.
//!
//! The rules, and why one change at a time is safe without joint quorums for ordinary entries:
//! - A membership record at position `p` is chosen by the quorum of the members before it *and* held durably by a
//!   majority of the members after it. Nothing after `p` is proposed before `p` is chosen; `p + 1` on uses the new one.
//! - Two majorities of memberships that differ in one voter intersect.
//! - An acceptor never accepts `p + 1` before it knows `p` to be chosen, and its disk keeps that order. So when the
//!   *second* change after some membership is chosen, a majority of the first one's members knows the first change, and
//!   refuses candidates that do not (`candidate.chosen < own chosen`).

use crate::api::{Action, MembershipChange};
use crate::limits::MAX_MEMBERS;
use crate::message::Body;
use crate::mutant::Mutant;
use crate::node::{Paxos, Role};
use crate::types::{LogId, Member, Membership, NodeId, Position};

impl Membership {
    /// The member of this id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The members whose votes count.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.voter)
    }

    /// How many voters are a majority.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Was this id given out, and its member taken out again?
    pub fn was_removed(&self, id: NodeId) -> bool {
        id.0 != 0 && id.0 < self.next_id && self.member(id).is_none()
    }

    /// The membership after a change, or why it cannot be.
    pub fn changed(&self, change: &MembershipChange) -> Result<Membership, String> {
        let mut new = self.clone();
        new.version = new.version.checked_add(1).ok_or("no version numbers are left")?;
        let found = |id: NodeId| {
            let index = self.members.iter().position(|member| member.id == id);
            index.ok_or_else(|| format!("node {} is not a member", id.0))
        };
        match change {
            MembershipChange::AddLearner { log, info } => {
                if self.members.len() >= MAX_MEMBERS {
                    return Err("the group is full".into());
                }
                if self.members.iter().any(|member| member.log == *log) {
                    return Err("a member with this log directory exists already".into());
                }
                let id = NodeId(self.next_id.max(1));
                new.next_id = id.0.checked_add(1).ok_or("no node ids are left")?;
                new.members.push(Member {
                    id,
                    log: *log,
                    voter: false,
                    info: info.clone(),
                });
            }
            MembershipChange::Promote(id) => {
                let member = &mut new.members[found(*id)?];
                if member.voter {
                    return Err(format!("node {} has a vote already", id.0));
                }
                member.voter = true;
            }
            MembershipChange::Remove(id) => {
                new.members.remove(found(*id)?);
                if new.voters().next().is_none() {
                    return Err("the last voter cannot be removed".into());
                }
            }
            MembershipChange::Describe(id, info) => new.members[found(*id)?].info = info.clone(),
        }
        Ok(new)
    }
}

impl Paxos {
    /// How many of `membership`'s voters are enough.
    pub(crate) fn quorum_of(&self, membership: &Membership) -> usize {
        if self.options.has(Mutant::MinorityIsQuorum) {
            return (membership.voters().count() / 2).max(1);
        }
        membership.quorum()
    }

    /// The ids whose word counts for quorums.
    pub(crate) fn electors<'a>(&self, membership: &'a Membership) -> impl Iterator<Item = NodeId> + use<'a> {
        let learners_too = self.options.has(Mutant::LearnerCountsAsVoter);
        membership
            .members
            .iter()
            .filter(move |member| member.voter || learners_too)
            .map(|member| member.id)
    }

    /// Do these nodes include a majority?
    pub(crate) fn is_quorum(&self, mut says_yes: impl FnMut(NodeId) -> bool) -> bool {
        let yes = self.electors(&self.membership).filter(|id| says_yes(*id)).count();
        yes >= self.quorum_of(&self.membership)
    }

    /// The highest number that a majority of `membership` has reached.
    pub(crate) fn majority_mark(&self, membership: &Membership, mark: impl FnMut(NodeId) -> u64) -> u64 {
        let mut marks: Vec<u64> = self.electors(membership).map(mark).collect();
        let quorum = self.quorum_of(membership);
        if marks.len() < quorum {
            return 0;
        }
        marks.sort_unstable_by(|a, b| b.cmp(a));
        marks[quorum - 1]
    }

    /// May this node promise, accept for the count, and stand for election?
    pub(crate) fn can_vote(&self) -> bool {
        if self.options.has(Mutant::ForeignDiskVotes) {
            return true;
        }
        let listed = self.membership.member(self.options.id);
        self.may_acknowledge() && listed.is_some_and(|me| me.voter && me.log == self.options.log)
    }

    /// Is what this node says about its own disk true for ever?
    pub(crate) fn may_acknowledge(&self) -> bool {
        (!self.damaged || self.options.has(Mutant::DamagedDiskVotes)) && !self.fenced
    }

    /// Is the sender who it says it is? Senders that this node does not know yet are newer members; removed ones and
    /// those with another disk are told so.
    pub(crate) fn admits(&mut self, from: NodeId, log: LogId) -> bool {
        if from == self.options.id || from == NodeId(0) || self.fenced {
            return false;
        }
        if self.options.has(Mutant::ForeignDiskVotes) {
            return true;
        }
        let reason = match self.membership.member(from) {
            Some(member) if member.log == log => return true,
            Some(_) => "another log directory is the member of this id",
            None if self.membership.was_removed(from) => "the node was removed from the group",
            None => return true,
        };
        self.outbox.send(
            from,
            Body::Fenced {
                log,
                reason: reason.into(),
            },
        );
        false
    }

    /// A peer says that this log directory is not a member.
    pub(crate) fn on_fenced(&mut self, from: NodeId, log: LogId, reason: String) {
        let is_stranger = self.membership.member(from).is_none() && !self.membership.members.is_empty();
        if log != self.options.log || is_stranger {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&from)
            && self.membership.member(self.options.id).is_none()
        {
            // Who fences a leader that has removed itself knows of the removal: the handover to it is done.
            peer.chosen = peer.chosen.max(self.acceptor.chosen);
            return;
        }
        if self.membership.was_removed(self.options.id) {
            return;
        }
        self.step_down();
        self.fenced = true;
        self.outbox.notice(Action::Fenced(reason));
    }

    /// The host wants a change.
    pub(crate) fn on_change_wanted(&mut self, change: MembershipChange) {
        self.change_deadline_ms = Some(self.now_ms + 4 * self.options.election_timeout_ms);
        if matches!(self.role, Role::Leader(_)) {
            return self.on_change(self.options.id, change);
        }
        match self.leader {
            Some(leader) => self.outbox.send(leader, Body::Change { change }),
            None => self.on_change_refused("there is no leader".into()),
        }
    }

    /// A change arrives at the leader.
    pub(crate) fn on_change(&mut self, from: NodeId, change: MembershipChange) {
        let refusal = match &mut self.role {
            Role::Leader(leader) if leader.change.is_none() && leader.barrier.is_none() => {
                leader.change = Some((from, change));
                return;
            }
            Role::Leader(_) => "another change of the members is under way",
            _ => "this node does not lead",
        };
        self.refuse_change(from, refusal.into());
    }

    pub(crate) fn refuse_change(&mut self, from: NodeId, reason: String) {
        if from == self.options.id {
            self.on_change_refused(reason);
        } else {
            self.outbox.send(from, Body::ChangeRefused { reason });
        }
    }

    pub(crate) fn on_change_refused(&mut self, reason: String) {
        if self.change_deadline_ms.take().is_some() {
            self.outbox.notice(Action::MembershipRefused(reason));
        }
    }

    /// The leader's judgement on a change: the new membership, or why not.
    pub(crate) fn judge_change(&self, change: &MembershipChange) -> Result<Membership, String> {
        let Role::Leader(leader) = &self.role else {
            return Err("this node does not lead".into());
        };
        let new = self.membership.changed(change)?;
        let held = |id: NodeId| -> Position {
            if id == self.options.id {
                self.acceptor.durable
            } else {
                leader.peers.get(&id).map_or(0, |peer| peer.upto)
            }
        };
        let heard = |id: NodeId| {
            let timeout_ms = self.options.election_timeout_ms;
            id == self.options.id
                || leader
                    .peers
                    .get(&id)
                    .is_some_and(|peer| peer.heard_within(self.now_ms, timeout_ms))
        };
        match change {
            MembershipChange::Promote(id) => {
                if !heard(*id) || held(*id).saturating_add(self.options.promote_lag) < self.acceptor.chosen {
                    return Err(format!("node {} has not caught up yet", id.0));
                }
            }
            MembershipChange::Remove(_) => {
                let ready = new.voters().filter(|member| {
                    heard(member.id) && held(member.id).saturating_add(self.options.promote_lag) >= self.acceptor.chosen
                });
                if ready.count() < new.quorum() {
                    return Err("too few of the remaining voters are connected and have caught up".into());
                }
            }
            MembershipChange::AddLearner { .. } | MembershipChange::Describe(..) => {}
        }
        Ok(new)
    }

    /// A membership record was chosen: it holds from the next position on.
    pub(crate) fn on_membership_chosen(&mut self, position: Position, membership: Membership) {
        if membership.version < self.membership.version {
            // A node that joined began with a membership later than the entries that it now learns.
            return;
        }
        self.membership = membership.clone();
        self.change_deadline_ms = None;
        if matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_)) {
            // The votes were asked of the members before it.
            self.step_down();
        }
        if let Role::Leader(leader) = &mut self.role
            && !self.options.has(Mutant::LeaseOutlivesMembers)
        {
            // A majority of the members until now promised: another one may elect from here on.
            leader.lease.end();
        }
        self.refresh_peers();
        self.outbox.notice(Action::MembershipChosen { position, membership });
    }
}
