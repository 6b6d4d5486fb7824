//! What a node has promised and accepted, and how much of it is durable and chosen.
//!
//! Invariants:
//! - `trimmed <= chosen + 1`, `chosen <= matched <= last`, `durable <= matched`.
//! - `promised` never falls and is at least the ballot of every accepted entry.
//! - `accepted` holds entries above `chosen` only; `recent` ends exactly at `chosen`.
//! - Every position in `chosen + 1 ..= matched` is accepted in ballot `promised`. So "matched" said to the leader of
//!   `promised` means: each of these is chosen, or accepted in your ballot.
//! - An entry is never replaced by one of a lower ballot, and never when it is chosen.
//! - The copy of a chosen entry bears a ballot at or above one in which it was chosen.

use std::collections::{BTreeMap, VecDeque};

use crate::api::Recovered;
use crate::codec::entry_bytes;
use crate::types::{Ballot, Entry, Position, Value};

/// What will be true when a ticket is reported durable. Of an older ballot only what was chosen when the next one was promised: at the
/// positions above it other values may have been chosen since, which came with a later ticket.
#[derive(Clone, Debug)]
struct Mark {
    ticket: u64,
    matched: Position,
}

#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    pub(crate) promised: Ballot,
    pub(crate) chosen: Position,
    pub(crate) trimmed: Position,
    pub(crate) accepted: BTreeMap<Position, Entry>,
    /// See the invariants.
    pub(crate) matched: Position,
    /// The highest position held, in any ballot.
    pub(crate) last: Position,
    /// The part of `matched` that is durable.
    pub(crate) durable: Position,
    marks: VecDeque<Mark>,
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    recent_limit_bytes: usize,
}

impl Acceptor {
    pub(crate) fn new(recovered: Recovered, recent_limit_bytes: usize) -> Acceptor {
        let Recovered {
            promised,
            chosen,
            trimmed,
            accepted,
            ..
        } = recovered;
        let last = accepted
            .last_key_value()
            .map_or(chosen, |(position, _)| (*position).max(chosen));
        let promised = accepted.values().map(|entry| entry.ballot).fold(promised, Ballot::max);
        let mut acceptor = Acceptor {
            promised,
            chosen,
            trimmed,
            accepted,
            matched: chosen,
            last,
            durable: chosen,
            marks: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_limit_bytes,
        };
        acceptor.extend_matched();
        acceptor.durable = acceptor.matched;
        acceptor
    }

    /// Promise a ballot. True if it is news, and must be recorded.
    pub(crate) fn promise(&mut self, ballot: Ballot) -> bool {
        if ballot <= self.promised {
            return false;
        }
        self.promised = ballot;
        // What was accepted in the old ballot says nothing to the leader of the new one; what is chosen does.
        self.matched = self.chosen;
        self.durable = self.durable.min(self.chosen);
        for mark in &mut self.marks {
            mark.matched = mark.matched.min(self.chosen);
        }
        true
    }

    /// Accept an entry of ballot `promised`. True: it must be recorded.
    pub(crate) fn accept(&mut self, entry: Entry) {
        self.matched = self.matched.max(entry.position);
        self.last = self.last.max(entry.position);
        self.accepted.insert(entry.position, entry);
    }

    /// Take in an entry that is chosen, next after `ahead` others not yet marked chosen. True: it must be recorded.
    pub(crate) fn learn(&mut self, entry: &Entry) -> bool {
        if self
            .accepted
            .get(&entry.position)
            .is_some_and(|held| held.ballot >= entry.ballot)
        {
            return false;
        }
        self.last = self.last.max(entry.position);
        self.accepted.insert(entry.position, entry.clone());
        true
    }

    /// An unchosen membership record stands right before `position`: nothing may follow it yet.
    pub(crate) fn is_barred(&self, position: Position) -> bool {
        let before = self.accepted.get(&position.saturating_sub(1));
        before.is_some_and(|entry| matches!(entry.value, Value::Membership(_)))
    }

    /// Mark the next position as chosen and return its entry.
    pub(crate) fn choose_next(&mut self) -> Option<Entry> {
        let entry = self.accepted.remove(&(self.chosen + 1))?;
        self.chosen += 1;
        self.recent_bytes += entry_bytes(&entry);
        self.recent.push_back(entry.clone());
        while self.recent_bytes > self.recent_limit_bytes {
            let Some(first) = self.recent.pop_front() else { break };
            self.recent_bytes -= entry_bytes(&first);
        }
        if self.matched < self.chosen {
            self.matched = self.chosen;
            self.extend_matched();
        }
        Some(entry)
    }

    fn extend_matched(&mut self) {
        let promised = self.promised;
        while self
            .accepted
            .get(&(self.matched + 1))
            .is_some_and(|entry| entry.ballot == promised)
        {
            self.matched += 1;
        }
    }

    /// What is held now becomes durable with this ticket; `None`: it is already.
    pub(crate) fn mark(&mut self, ticket: Option<u64>) {
        let Some(ticket) = ticket else {
            self.durable = self.matched;
            return;
        };
        let matched = self.matched;
        if self.marks.back().is_none_or(|last| last.matched != matched) {
            self.marks.push_back(Mark { ticket, matched });
        }
    }

    /// Everything up to this ticket is durable.
    pub(crate) fn persisted(&mut self, ticket: u64) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.ticket <= ticket) {
            self.durable = self.durable.max(mark.matched);
        }
    }

    /// The first position that memory holds without a gap up to `matched`.
    pub(crate) fn first_in_memory(&self) -> Position {
        self.chosen + 1 - self.recent.len() as Position
    }

    /// An entry from memory.
    pub(crate) fn entry(&self, position: Position) -> Option<&Entry> {
        if position > self.chosen {
            return self.accepted.get(&position);
        }
        let offset = position.checked_sub(self.first_in_memory())?;
        self.recent.get(offset as usize)
    }

    /// Entries from memory, from `from` up to `upto`: at least one, as many as fit.
    pub(crate) fn chunk(&self, from: Position, upto: Position, limit_bytes: usize) -> (Vec<Entry>, usize) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for position in from..=upto {
            let Some(entry) = self.entry(position) else { break };
            let size = entry_bytes(entry);
            if !entries.is_empty() && bytes + size > limit_bytes {
                break;
            }
            bytes += size;
            entries.push(entry.clone());
        }
        (entries, bytes)
    }

    /// What was accepted from `from` on: up to a chunk, and where the rest begins.
    pub(crate) fn report(&self, from: Position, limit_bytes: usize) -> (Vec<Entry>, Option<Position>) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (position, entry) in self.accepted.range(from..) {
            let size = entry_bytes(entry);
            if !entries.is_empty() && bytes + size > limit_bytes {
                return (entries, Some(*position));
            }
            bytes += size;
            entries.push(entry.clone());
        }
        (entries, None)
    }
}
