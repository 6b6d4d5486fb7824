//! What a member may claim. The members of a group trust each other with what they write, but a broken or hostile one must
//! not make the others panic, take memory without bound, or use up numbers that nobody can count beyond.
//!
//! Every limit lies far above what a sound member says, and what is beyond it is treated as a message that was lost.

use crate::node::Paxos;
use crate::types::{Entry, Membership, Position, Value};

/// The longest payload of a proposal.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// The longest description of a member.
pub const MAX_INFO_BYTES: usize = 16 << 10;
/// Members of a group, learners included.
pub const MAX_MEMBERS: usize = 64;
/// The longest reason in a message.
pub(crate) const MAX_REASON_BYTES: usize = 4 << 10;
/// Positions are counted up to here: CSNs are signed in SQL.
pub const MAX_POSITION: Position = i64::MAX as Position;

/// A round may be ahead of the promised one by so much: nine years of an election every second, for a node that comes back
/// or begins. To use the rounds up in such steps takes 2^36 messages, each of which is answered from the disk; without
/// a limit one is enough, and no ballot beats the last one ever again.
const MAX_ROUND_STEP: u64 = 1 << 28;
/// A candidate is told of so many positions above what is chosen: four times what a leader leaves unchosen when all of it is
/// as small as can be.
pub(crate) const MAX_OPEN_POSITIONS: u64 = 1 << 22;
/// Those who wait at a leader for the tail; a node asks once for all of its sessions.
pub(crate) const MAX_WAITERS: usize = 1 << 12;
/// Changes of the members between two that an acceptor sees.
const MAX_CHANGES: u64 = 1 << 16;

impl Paxos {
    /// Whether a sound member can have come to this round.
    pub(crate) fn is_plausible(&self, round: u64) -> bool {
        round <= self.acceptor.promised.round.saturating_add(MAX_ROUND_STEP)
    }

    /// Somebody has heard of this round.
    pub(crate) fn note_round(&mut self, round: u64) {
        if self.is_plausible(round) {
            self.seen_round = self.seen_round.max(round);
        }
    }

    /// Whether entries can be what a sound member sends: contiguous, and of values that can be.
    pub(crate) fn is_sound(&self, entries: &[Entry]) -> bool {
        entries
            .windows(2)
            .all(|pair| pair[0].position.checked_add(1) == Some(pair[1].position))
            && entries.iter().all(|entry| self.is_sound_value(entry))
    }

    fn is_sound_value(&self, entry: &Entry) -> bool {
        match &entry.value {
            Value::Membership(membership) => self.membership.may_be_followed_by(membership),
            Value::Noop | Value::Command(_) => true,
        }
    }
}

impl Membership {
    /// Whether a group can go from this membership to the other one, be it by way of others. An older one is known already.
    fn may_be_followed_by(&self, other: &Membership) -> bool {
        let ascend = other.members.windows(2).all(|pair| pair[0].id < pair[1].id);
        let given_out = other.members.last().is_none_or(|last| last.id.0 < other.next_id);
        ascend
            && given_out
            && other.voters().next().is_some()
            && other.version <= self.version.saturating_add(MAX_CHANGES)
            && u64::from(other.next_id) <= u64::from(self.next_id) + MAX_CHANGES
    }
}
