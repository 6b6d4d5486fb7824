//! Leases: for a while after a heartbeat its receivers help nobody else to lead, so that the leader can say where the log ends
//! without asking. Off unless the host wants it ([`crate::Paxos::want_lease`]): it relies on clocks, as nothing else here does.
//!
//! Why an answer under a lease is linearizable: a leader's heartbeat asks for a promise of `lease_ms`. Who answers it has
//! promised, from a moment after the heartbeat left, for that long on its own clock. The leader counts from before it left,
//! and less ([`usable_ms`]), so that its end comes first on any two clocks whose rates differ by less than [`DRIFT`]. Up to
//! then a majority, itself included, elects nobody else, so nothing is chosen but by this leader, and what this leader has
//! chosen it publishes ([`Action::Lease`]) before it tells anybody.
//!
//! Invariants:
//! - the clock is the host's own, not the one that `now_ms` smooths: it goes on while the process is stopped or the machine sleeps;
//! - a heartbeat is dated before it leaves, a promise after it came in (see [`crate::Paxos::set_clock`]);
//! - the length travels with the heartbeat: what a follower's own setting says does not matter;
//! - a promise is not written down; who starts anew keeps from voting for as long as any promise may last.
//! - a leader that promises another one its ballot, or sees the members change, has ended its lease before it says so.

use std::collections::VecDeque;

use crate::api::Action;
use crate::mutant::Mutant;
use crate::node::{Paxos, Role};
use crate::types::{Ballot, Position};

/// The rates of two clocks differ by less than one part in this many.
const DRIFT: u64 = 20;
/// Clocks are read in whole milliseconds.
const GRAIN_MS: u64 = 2;
/// Rounds under way that are remembered.
const ROUNDS: usize = 64;

/// What a leader makes of a promise of this length, counted from before it asked.
fn usable_ms(promised_ms: u64) -> u64 {
    promised_ms.saturating_sub(promised_ms / DRIFT + GRAIN_MS)
}

/// This node's side of leases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    /// As leader, ask for promises.
    wanted: bool,
    /// The host's clock; `None` before it said.
    clock_ms: Option<u64>,
    /// Until then this node helps nobody to lead.
    promised_until_ms: u64,
    /// What the host was told last.
    published: (u64, Position),
}

/// A leader's lease.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Rounds that asked for promises: number, and the clock before they left.
    rounds: VecDeque<(u64, u64)>,
    until_ms: u64,
}

impl Held {
    /// What was promised so far counts no more.
    pub(crate) fn end(&mut self) {
        self.rounds.clear();
        self.until_ms = 0;
    }
}

impl Paxos {
    /// Whether this node asks for leases when it leads. Any mixture of answers in a group is safe.
    pub fn want_lease(&mut self, wanted: bool) {
        self.leases.wanted = wanted;
        if !wanted && let Role::Leader(leader) = &mut self.role {
            // A round that asks for nothing must not confirm one that did.
            leader.lease.end();
        }
    }

    /// It does.
    pub(crate) fn wants_lease(&self) -> bool {
        self.leases.wanted
    }

    /// The host's clock, in milliseconds: one that goes on while the process is stopped and while the machine sleeps. Leases
    /// work only if it is read, and passed here, *after* a message or a question came in and before it is handled.
    pub fn set_clock(&mut self, now_ms: u64) {
        let leases = &mut self.leases;
        if leases.clock_ms.is_none() && !self.options.has(Mutant::LeaseForgottenAtStart) {
            // What the process before this one promised is not known.
            leases.promised_until_ms = now_ms + self.options.election_timeout_ms;
        }
        leases.clock_ms = leases.clock_ms.max(Some(now_ms));
    }

    /// Whether this node has promised to help nobody, itself included. The leader that it promised to hears of it in time
    /// to be elected again as soon as any other: promises end before elections begin.
    pub(crate) fn is_bound(&self) -> bool {
        let leases = &self.leases;
        let alone = self.membership.voters().all(|member| member.id == self.options.id);
        !alone
            && leases.clock_ms.is_some_and(|now_ms| now_ms < leases.promised_until_ms)
            && !self.options.has(Mutant::LeaseDoesNotBind)
    }

    /// Whether a heartbeat's round may be confirmed: then what it asks for is promised.
    pub(crate) fn may_lease(&mut self, ballot: Ballot, lease_ms: u64) -> bool {
        // A ballot that is too low is refused, and whoever has it promised nothing.
        ballot < self.acceptor.promised || self.grant_lease(lease_ms)
    }

    /// A leader asks for a promise. False: it asks for more than this node would keep over a restart.
    fn grant_lease(&mut self, lease_ms: u64) -> bool {
        if lease_ms == 0 {
            return true;
        }
        let Some(now_ms) = self.leases.clock_ms else {
            return false;
        };
        if lease_ms > self.options.election_timeout_ms {
            return false;
        }
        self.leases.promised_until_ms = self.leases.promised_until_ms.max(now_ms + lease_ms);
        true
    }

    /// A round is about to leave: how long a promise it asks for.
    pub(crate) fn lease_to_ask(&mut self) -> u64 {
        let leases = &self.leases;
        let member = self.membership.member(self.options.id).is_some();
        let Role::Leader(leader) = &mut self.role else { return 0 };
        let Some(now_ms) = leases.clock_ms.filter(|_| leases.wanted && member) else {
            leader.lease.end();
            return 0;
        };
        if leader.lease.rounds.len() == ROUNDS {
            leader.lease.rounds.pop_front();
        }
        leader.lease.rounds.push_back((leader.round, now_ms));
        self.options.election_timeout_ms
    }

    /// A majority has confirmed all rounds up to this one.
    pub(crate) fn extend_lease(&mut self, confirmed: u64) {
        let length_ms = if self.options.has(Mutant::LeaseNotShortened) {
            self.options.election_timeout_ms
        } else {
            usable_ms(self.options.election_timeout_ms)
        };
        let Role::Leader(leader) = &mut self.role else { return };
        while let Some((_, left_ms)) = leader.lease.rounds.pop_front_if(|(round, _)| *round <= confirmed) {
            leader.lease.until_ms = left_ms + length_ms;
        }
    }

    /// Whether the tail can be told without a round. Right only if the clock was set after the question came in.
    pub(crate) fn holds_lease(&self) -> bool {
        let (until_ms, _) = self.lease();
        self.leases.clock_ms.is_some_and(|now_ms| now_ms < until_ms)
    }

    /// End of the lease, and the tail under it; zeros: none.
    fn lease(&self) -> (u64, Position) {
        let member = self.membership.member(self.options.id).is_some();
        match &self.role {
            Role::Leader(leader)
                if self.leases.wanted
                    && member
                    && leader.lease.until_ms != 0
                    && leader.is_established(self.acceptor.chosen) =>
            {
                (leader.lease.until_ms, self.acceptor.chosen)
            }
            _ => (0, 0),
        }
    }

    /// Before anything else leaves: what is chosen, for those who read it under the lease.
    pub(crate) fn publish_lease(&mut self, actions: &mut Vec<Action>) {
        let lease = self.lease();
        if lease != self.leases.published {
            self.leases.published = lease;
            let (until_ms, tail) = lease;
            actions.push(Action::Lease { until_ms, tail });
        }
    }
}
