//! Following: accept what the leader of the promised ballot proposes, and say so when it is durable.
//!
//! Invariants:
//! - Entries are accepted without gaps: position `matched + 1` or not at all. Out of order means lost; the leader sends it
//!   again.
//! - An acknowledgement leaves with the fsync of what it acknowledges, never before.
//! - The leader's watermark counts only up to `matched`: what lies there is chosen or of the leader's own ballot. An entry
//!   of an older ballot at a position below the watermark may be another value than the chosen one.

use crate::api::DurableRecord;
use crate::message::Body;
use crate::mutant::Mutant;
use crate::node::{Paxos, Role};
use crate::types::{Ballot, Entry, NodeId, Position};

impl Paxos {
    pub(crate) fn on_accept(&mut self, from: NodeId, ballot: Ballot, chosen: Position, entries: Vec<Entry>) {
        let is_sound = entries.iter().all(|entry| entry.ballot == ballot) && self.is_sound(&entries);
        if !is_sound || !self.hear_leader(from, ballot) {
            return;
        }
        let mut is_connected = true;
        self.catch_up.must_acknowledge |= !entries.is_empty();
        self.follow_watermark(chosen);
        for entry in entries {
            let position = entry.position;
            if position <= self.acceptor.matched {
                continue;
            }
            let is_next = position == self.acceptor.matched + 1 || self.options.has(Mutant::GapAcknowledged);
            if self.acceptor.is_barred(position) {
                // The record before it may just have become chosen.
                self.follow_watermark(chosen);
            }
            let is_barred = self.acceptor.is_barred(position) && !self.options.has(Mutant::MembershipBeforeChosen);
            if !is_next || is_barred {
                is_connected = false;
                break;
            }
            self.acceptor.accept(entry.clone());
            self.outbox.record(DurableRecord::Accept(entry));
        }
        self.follow_watermark(chosen);
        if !is_connected || self.acceptor.chosen < chosen {
            self.outbox.send(
                from,
                Body::Gap {
                    ballot,
                    received: self.acceptor.matched,
                },
            );
        }
    }

    /// The leader of the promised ballot knows everything up to `chosen` to be chosen.
    pub(crate) fn follow_watermark(&mut self, chosen: Position) {
        if chosen <= self.acceptor.chosen {
            self.moved_on();
        }
        let mut known = chosen.min(self.acceptor.matched);
        if self.options.has(Mutant::ChosenWithoutBallotCheck) {
            known = chosen.min(self.acceptor.last);
        }
        self.advance_chosen(known);
    }

    pub(crate) fn on_heartbeat(&mut self, from: NodeId, ballot: Ballot, round: u64, chosen: Position, sent: Position) {
        if !self.hear_leader(from, ballot) {
            return;
        }
        self.follow_watermark(chosen);
        let acceptor = &self.acceptor;
        let received = acceptor.matched;
        let gap = received < sent.max(chosen);
        let (round, upto, last) = if self.may_acknowledge() {
            (round, acceptor.durable, acceptor.last)
        } else {
            // A disk that has lost something can vouch for nothing, not even for its promise.
            (0, 0, Position::MAX)
        };
        let chosen = acceptor.chosen;
        self.outbox.send(
            from,
            Body::HeartbeatReply {
                ballot,
                round,
                received,
                upto,
                last,
                chosen,
                gap,
            },
        );
    }

    /// Acknowledge, once for everything that arrived since the last flush; pass on proposals.
    pub(crate) fn flush_follower(&mut self) {
        self.forward_proposals();
        if !std::mem::take(&mut self.catch_up.must_acknowledge) || !matches!(self.role, Role::Follower) {
            return;
        }
        let Some(leader) = self.leader else { return };
        if !self.may_acknowledge() || self.leader_ballot != self.acceptor.promised {
            return;
        }
        let acceptor = &self.acceptor;
        let accepted = Body::Accepted {
            ballot: acceptor.promised,
            upto: acceptor.matched,
            last: acceptor.last,
        };
        if self.options.has(Mutant::AckBeforeFsync) {
            self.outbox.send(leader, accepted);
        } else {
            self.outbox.send_durably(leader, accepted);
        }
    }
}
