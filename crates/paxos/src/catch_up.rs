//! Chosen entries for those who missed them, from anybody who has them.
//!
//! A chosen entry is a fact: it needs no ballot and no leader. `Fetch` pulls one chunk; a leader that cannot feed a
//! follower from memory serves it as if it had asked. One read of the disk per peer is under way at a time.
//!
//! Invariants:
//! - Only entries at or below `chosen` are served as facts.
//! - A fact raises the promise to its ballot, so that an acknowledgement to an older leader cannot cover a value that a
//!   newer one has chosen.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Action, DurableRecord};
use crate::limits::MAX_POSITION;
use crate::message::Body;
use crate::node::{Paxos, Role};
use crate::outbox::Long;
use crate::types::{Entry, NodeId, Position};

/// For so many election timeouts others are asked for what one peer has given up.
const GIVEN_UP_TIMEOUTS: u64 = 10;

#[derive(Clone, Debug, Default)]
pub(crate) struct CatchUp {
    /// Something arrived that the leader wants acknowledged.
    pub(crate) must_acknowledge: bool,
    /// Disk reads under way, and since when.
    reading: BTreeMap<NodeId, u64>,
    /// Disk reads to ask the host for.
    wanted: Vec<Action>,
    /// Whom we asked, and when.
    fetching: Option<(NodeId, u64)>,
    /// Who says to have given up what comes next here.
    given_up: Option<GivenUp>,
}

/// Peers say that they have given up what this node needs next.
#[derive(Clone, Debug)]
struct GivenUp {
    by: BTreeSet<NodeId>,
    /// Who was asked instead, and may not have answered.
    asked: BTreeSet<NodeId>,
    since_ms: u64,
}

impl GivenUp {
    fn new(now_ms: u64) -> GivenUp {
        GivenUp {
            by: BTreeSet::new(),
            asked: BTreeSet::new(),
            since_ms: now_ms,
        }
    }
}

impl Paxos {
    pub(crate) fn drain_reads(&mut self, actions: &mut Vec<Action>) {
        actions.append(&mut self.catch_up.wanted);
    }

    /// Something was chosen here, or a leader knows no more: nothing is missing that others have given up.
    pub(crate) fn moved_on(&mut self) {
        self.catch_up.given_up = None;
    }

    /// Ask a peer for what it knows to be chosen and we do not. One question at a time.
    pub(crate) fn fetch(&mut self, from: NodeId, chosen: Position) {
        let patience_ms = 2 * self.options.heartbeat_ms;
        let is_busy = self
            .catch_up
            .fetching
            .is_some_and(|(_, at_ms)| self.now_ms < at_ms + patience_ms);
        if chosen <= self.acceptor.chosen || is_busy {
            return;
        }
        self.catch_up.fetching = Some((from, self.now_ms));
        self.outbox.send(
            from,
            Body::Fetch {
                from: self.acceptor.chosen + 1,
            },
        );
    }

    /// Send a peer chosen entries from `first` on: one chunk.
    pub(crate) fn serve(&mut self, to: NodeId, first: Position) {
        let chosen = self.acceptor.chosen;
        if first == 0 || first > chosen {
            return;
        }
        if first < self.acceptor.trimmed {
            self.outbox.send(
                to,
                Body::Trimmed {
                    below: self.acceptor.trimmed,
                },
            );
            return;
        }
        let limit_bytes = self.options.chunk_bytes;
        if first >= self.acceptor.first_in_memory() {
            if !self.outbox.may_be_long(to, Long::Learn) {
                return;
            }
            let (entries, _) = self.acceptor.chunk(first, chosen, limit_bytes);
            self.outbox.send(to, Body::Learn { entries, chosen });
        } else if self.catch_up.reading.insert(to, self.now_ms).is_none() {
            self.catch_up.wanted.push(Action::ReadEntries {
                to,
                from: first,
                max_bytes: limit_bytes,
            });
        }
    }

    pub(crate) fn on_entries_read(&mut self, to: NodeId, entries: Vec<Entry>) {
        self.catch_up.reading.remove(&to);
        let chosen = self.acceptor.chosen;
        if entries.last().is_some_and(|last| last.position <= chosen) {
            self.outbox.send(to, Body::Learn { entries, chosen });
        }
    }

    pub(crate) fn on_read_failed(&mut self, to: NodeId) {
        self.catch_up.reading.remove(&to);
    }

    pub(crate) fn on_learn(&mut self, from: NodeId, entries: Vec<Entry>, chosen: Position) {
        let is_sound = self.is_sound(&entries)
            && entries.iter().all(|entry| self.is_plausible(entry.ballot.round))
            && entries.last().is_none_or(|last| last.position <= chosen);
        // A leader knows; and what it has proposed is chosen by counting only.
        if !is_sound || matches!(self.role, Role::Leader(_)) {
            return;
        }
        let before = self.acceptor.chosen;
        for entry in entries {
            if entry.position == self.acceptor.chosen + 1 {
                self.learn(entry);
            }
        }
        self.catch_up.fetching = None;
        self.catch_up.must_acknowledge |= self.acceptor.chosen > before;
        if self.acceptor.chosen < chosen {
            self.fetch(from, chosen);
        } else if self.leader == Some(from) && matches!(self.role, Role::Follower) {
            // Up to date: from here on the leader's stream connects.
            let (ballot, received) = (self.leader_ballot, self.acceptor.matched);
            self.outbox.send(from, Body::Gap { ballot, received });
        } else if self.leader.is_none() {
            // A candidate that was refused for knowing too little need not wait for another timeout.
            let soon_ms = self.now_ms + self.random() % self.options.heartbeat_ms.max(1);
            self.election_at_ms = self.election_at_ms.min(soon_ms);
        }
    }

    fn learn(&mut self, entry: Entry) {
        let position = entry.position;
        self.note_round(entry.ballot.round);
        if self.acceptor.promise(entry.ballot) && !matches!(self.role, Role::Follower) {
            // The group has gone on in a newer ballot than the one we stand for.
            self.step_down();
        }
        if self.acceptor.learn(&entry) {
            self.outbox.record(DurableRecord::Accept(entry));
        }
        self.advance_chosen(position);
    }

    /// A peer has given up what comes next here. One alone is not believed at once: what follows from it is a copy of
    /// everything in the place of what this node has. Others are asked, who may still have it; and a leader that knows no more
    /// than this node does shows that nothing is missing ([`Paxos::moved_on`]).
    pub(crate) fn on_trimmed(&mut self, from: NodeId, below: Position) {
        self.catch_up.fetching = None;
        let first = self.acceptor.chosen + 1;
        if below <= first || below > MAX_POSITION || matches!(self.role, Role::Leader(_)) {
            return;
        }
        let me = self.options.id;
        let mut others: Vec<_> = self.membership.voters().map(|member| member.id).collect();
        others.retain(|id| *id != me);
        let enough = self.membership.quorum().min(others.len());
        let patience_ms = GIVEN_UP_TIMEOUTS * self.options.election_timeout_ms;
        let now_ms = self.now_ms;
        let given_up = self.catch_up.given_up.get_or_insert_with(|| GivenUp::new(now_ms));
        given_up.by.insert(from);
        if given_up.by.len() >= enough || given_up.since_ms + patience_ms <= now_ms {
            self.outbox.notice(Action::TooFarBehind { peer: from, below });
            return;
        }
        others.retain(|id| !given_up.by.contains(id));
        if others.iter().all(|id| given_up.asked.contains(id)) {
            given_up.asked.clear();
        }
        if let Some(next) = others.into_iter().find(|id| given_up.asked.insert(*id)) {
            self.catch_up.fetching = Some((next, now_ms));
            self.outbox.send(next, Body::Fetch { from: first });
        }
    }
}
