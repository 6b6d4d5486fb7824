//! Where is the end of the log? Answered by the leader with one quorum round for everybody who waits.
//!
//! Why the answer is linearizable: the leader notes its `chosen` (after an entry of its own ballot is chosen, so that it
//! knows everything that earlier leaders have chosen), then a majority says that it has promised nothing higher. So no later
//! leader had chosen anything when the question came in, and what this one has chosen is at or below the mark.
//!
//! Invariants: `waiters` ascend by `round`; a waiter with `round == 0` has no mark yet; an answered or failed question is
//! forgotten, so that a late answer finds nobody.

use std::collections::VecDeque;

use crate::api::Action;
use crate::limits::MAX_WAITERS;
use crate::message::Body;
use crate::mutant::Mutant;
use crate::node::{Paxos, Role};
use crate::types::{NodeId, Position};

/// Somebody who waits at the leader.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    node: NodeId,
    session: u64,
    token: u64,
    /// The mark, and the round that confirms it; 0 while there is none.
    position: Position,
    round: u64,
}

/// This node's own questions, oldest first: (token, when it was asked).
#[derive(Clone, Debug, Default)]
pub(crate) struct Questions {
    open: VecDeque<(u64, u64)>,
}

impl Paxos {
    pub(crate) fn on_question(&mut self, token: u64) {
        self.questions.open.push_back((token, self.now_ms));
        match (&self.role, self.leader) {
            (Role::Leader(_), _) => self.on_tail_request(self.options.id, self.options.session, token),
            (_, Some(leader)) => self.outbox.send(leader, Body::TailRequest { token }),
            (_, None) => self.fail_questions(token),
        }
    }

    /// Fail the questions up to this token.
    pub(crate) fn fail_questions(&mut self, token: u64) {
        let mut last = None;
        while let Some((open, _)) = self.questions.open.pop_front_if(|(open, _)| *open <= token) {
            last = Some(open);
        }
        if let Some(token) = last {
            self.outbox.notice(Action::TailFailed { token });
        }
    }

    pub(crate) fn tick_questions(&mut self) {
        let late_ms = self.options.tail_timeout_ms;
        let late = self
            .questions
            .open
            .iter()
            .take_while(|(_, asked_ms)| asked_ms + late_ms <= self.now_ms)
            .last();
        if let Some((token, _)) = late.copied() {
            self.fail_questions(token);
        }
    }

    pub(crate) fn on_tail_request(&mut self, node: NodeId, session: u64, token: u64) {
        match &mut self.role {
            // Who is turned away asks again.
            Role::Leader(leader) if leader.waiters.len() >= MAX_WAITERS => {}
            Role::Leader(leader) => leader.waiters.push_back(Waiter {
                node,
                session,
                token,
                position: 0,
                round: 0,
            }),
            _ => self.outbox.send(
                node,
                Body::TailReply {
                    session,
                    token,
                    position: None,
                },
            ),
        }
    }

    /// Marks and a round for those who wait without; answers for those whose round is confirmed.
    pub(crate) fn start_round(&mut self) {
        let chosen = self.acceptor.chosen;
        let may_mark = self.options.has(Mutant::TailBeforeOwnEntry);
        if self.holds_lease() {
            self.answer_unmarked(chosen);
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.is_established(chosen) || may_mark {
            let round = leader.round + 1;
            let mut is_new = false;
            for waiter in leader.waiters.iter_mut().rev().take_while(|waiter| waiter.round == 0) {
                (waiter.position, waiter.round) = (chosen, round);
                is_new = true;
            }
            if is_new {
                leader.heartbeat_at_ms = self.now_ms + self.options.heartbeat_ms;
                self.send_heartbeats();
            }
        }
        self.answer_waiters();
    }

    /// Under a lease the tail needs no round.
    fn answer_unmarked(&mut self, chosen: Position) {
        let Role::Leader(leader) = &mut self.role else { return };
        let marked = leader.waiters.partition_point(|waiter| waiter.round != 0);
        for waiter in leader.waiters.split_off(marked) {
            self.answer(waiter.node, waiter.session, waiter.token, Some(chosen));
        }
    }

    fn answer_waiters(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let (me, current) = (self.options.id, leader.round);
        let mut confirmed = self.majority_mark(&self.membership, |id| {
            if id == me {
                current
            } else {
                leader.peers.get(&id).map_or(0, |peer| peer.round)
            }
        });
        if self.options.has(Mutant::TailWithoutQuorum) {
            confirmed = current;
        }
        self.extend_lease(confirmed);
        let mut answered = Vec::new();
        let Role::Leader(leader) = &mut self.role else { return };
        while let Some(waiter) = leader
            .waiters
            .pop_front_if(|waiter| waiter.round != 0 && waiter.round <= confirmed)
        {
            answered.push(waiter);
        }
        for waiter in answered {
            self.answer(waiter.node, waiter.session, waiter.token, Some(waiter.position));
        }
    }

    /// The leader leads no more.
    pub(crate) fn disappoint(&mut self, waiters: VecDeque<Waiter>) {
        for waiter in waiters {
            self.answer(waiter.node, waiter.session, waiter.token, None);
        }
    }

    fn answer(&mut self, node: NodeId, session: u64, token: u64, position: Option<Position>) {
        if node == self.options.id {
            self.on_tail_reply(session, token, position);
        } else {
            self.outbox.send(
                node,
                Body::TailReply {
                    session,
                    token,
                    position,
                },
            );
        }
    }

    pub(crate) fn on_tail_reply(&mut self, session: u64, token: u64, position: Option<Position>) {
        // An earlier process of this node counted from one, too.
        if session != self.options.session {
            return;
        }
        let Some(position) = position else {
            return self.fail_questions(token);
        };
        let mut is_open = false;
        while self.questions.open.pop_front_if(|(open, _)| *open <= token).is_some() {
            is_open = true;
        }
        if is_open {
            self.outbox.notice(Action::Tail { token, position });
        }
    }
}
