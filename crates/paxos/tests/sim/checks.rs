//! What must hold at every step. Everything here is derived from what the nodes report and from what lies on their
//! disks, never from their memory.

use std::collections::BTreeMap;

use synod_paxos::{Ballot, Entry, LogId, Membership, Position, Value};

use crate::disk::Disk;

#[derive(Default)]
pub struct Checks {
    /// The first value reported as chosen, per position.
    pub chosen: BTreeMap<Position, Value>,
    /// The value proposed per ballot and position.
    proposed: BTreeMap<(Ballot, Position), Value>,
    /// From this position on, these members.
    pub memberships: BTreeMap<Position, Membership>,
    pub violation: Option<String>,
}

impl Checks {
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn tail(&self) -> Position {
        self.chosen.last_key_value().map_or(0, |(position, _)| *position)
    }

    /// The members whose quorum decides a position.
    pub fn membership_at(&self, position: Position) -> &Membership {
        self.memberships
            .range(..=position)
            .next_back()
            .expect("a first membership")
            .1
    }

    pub fn latest_membership(&self) -> &Membership {
        self.membership_at(Position::MAX)
    }

    /// One value per ballot and position: a leader never says two things.
    pub fn on_proposed(&mut self, entry: &Entry) {
        let known = self
            .proposed
            .entry((entry.ballot, entry.position))
            .or_insert_with(|| entry.value.clone());
        if *known != entry.value {
            self.fail(format!(
                "two values proposed at {} in {:?}",
                entry.position, entry.ballot
            ));
        }
    }

    /// A node reports an entry as chosen.
    pub fn on_chosen<'a>(&mut self, entry: &Entry, disks: impl Fn(LogId) -> Option<&'a Disk>) {
        let position = entry.position;
        if let Some(known) = self.chosen.get(&position) {
            if *known != entry.value {
                self.fail(format!(
                    "two values chosen at {position}: {known:?} and {:?}",
                    entry.value
                ));
            }
            return;
        }
        if position != self.tail() + 1 {
            self.fail(format!("{position} chosen, but the last was {}", self.tail()));
            return;
        }
        self.check_durable(entry, &disks);
        self.chosen.insert(position, entry.value.clone());
        if let Value::Membership(membership) = &entry.value {
            self.memberships.insert(position + 1, membership.clone());
        }
    }

    /// A majority of the voters holds it durably when it is reported for the first time.
    fn check_durable<'a>(&mut self, entry: &Entry, disks: &impl Fn(LogId) -> Option<&'a Disk>) {
        let holds = |membership: &Membership| {
            let holders = membership.voters().filter(|member| {
                let Some(disk) = disks(member.log) else { return false };
                disk.entries
                    .get(&entry.position)
                    .is_some_and(|held| held.value == entry.value)
            });
            holders.count() >= membership.quorum()
        };
        let is_held = holds(self.membership_at(entry.position));
        let is_held_after = match &entry.value {
            Value::Membership(after) => holds(after),
            _ => true,
        };
        if !is_held || !is_held_after {
            self.fail(format!("{} chosen, but no majority holds it durably", entry.position));
        }
    }

    /// What a node finds on its disk at the start.
    pub fn on_recovered(&mut self, disk: &Disk) {
        if disk.synced.trimmed > disk.synced.chosen + 1 {
            self.fail(format!(
                "trimmed below {}, chosen {}",
                disk.synced.trimmed, disk.synced.chosen
            ));
        }
        for (position, entry) in disk.entries.range(..=disk.synced.chosen) {
            if self.chosen.get(position).is_some_and(|value| *value != entry.value) {
                self.fail(format!(
                    "the disk holds another value than the chosen one at {position}"
                ));
            }
        }
    }

    /// A tail is not older than what was known when it was asked for, and not ahead of what is chosen.
    pub fn on_tail(&mut self, position: Position, floor: Position) {
        if position < floor || position > self.tail() {
            self.fail(format!(
                "tail {position}, but {floor} was chosen before the question, and now {}",
                self.tail()
            ));
        }
    }
}
