//! Where each position's latest accepted value lies.
//!
//! Invariants: a place that [`Places::get`] gives is that of the value accepted last, and it is written: other
//! processes can read it. Twelve bytes per position that is not trimmed.

use std::collections::{HashMap, VecDeque};

use crate::storage::Stored;
use crate::{Location, Position};

const NOWHERE: Location = Location {
    segment: 0,
    offset: 0,
    length: 0,
};

/// Positions without a value between two with one: none in a sound log.
const MOST_APART: u64 = 1 << 22;

/// The places of all positions from `first` on.
#[derive(Default)]
pub(crate) struct Places {
    first: Position,
    locations: VecDeque<Location>,
    /// Positions accepted and not yet written, with the ticket that will write them.
    unwritten: HashMap<Position, u64>,
}

impl Places {
    /// A value for this position was handed to the storage.
    pub fn accepted(&mut self, position: Position, ticket: u64) {
        self.unwritten.insert(position, ticket);
    }

    /// Values were written, all of them by tickets up to `ticket`, or by the one after it.
    pub fn written(&mut self, ticket: u64, stored: &[Stored]) {
        for one in stored {
            self.set(one.position, one.location);
            // A later value for the position may be on its way; what is written of the ticket after `ticket` waits for
            // its completion.
            if self
                .unwritten
                .get(&one.position)
                .is_some_and(|waiting| *waiting <= ticket)
            {
                self.unwritten.remove(&one.position);
            }
        }
    }

    /// All values handed over with tickets up to this one are written.
    pub fn durable(&mut self, ticket: u64) {
        if !self.unwritten.is_empty() {
            self.unwritten.retain(|_, waiting| *waiting > ticket);
        }
    }

    /// Whether a value can stand at this position: the values of a log lie close together. Of a position far away from all
    /// others the table would fill the memory.
    pub fn is_near(&self, position: Position) -> bool {
        let end = self.first.saturating_add(self.locations.len() as u64);
        self.locations.is_empty()
            || (self.first.saturating_sub(MOST_APART)..=end.saturating_add(MOST_APART)).contains(&position)
    }

    /// Note the place of a value that is [near](Self::is_near).
    pub fn set(&mut self, position: Position, location: Location) {
        if self.locations.is_empty() {
            self.first = position;
        }
        while position < self.first {
            self.locations.push_front(NOWHERE);
            self.first -= 1;
        }
        let at = (position - self.first) as usize;
        if at >= self.locations.len() {
            self.locations.resize(at + 1, NOWHERE);
        }
        self.locations[at] = location;
    }

    /// Where the value lies; `None` if there is none, or if it is not written yet.
    pub fn get(&self, position: Position) -> Option<Location> {
        let at = position.checked_sub(self.first)? as usize;
        let location = *self.locations.get(at)?;
        (location != NOWHERE && !self.unwritten.contains_key(&position)).then_some(location)
    }

    /// The places of `from..=upto`, up to the first that is missing, and up to `max_bytes` (but at least one).
    pub fn run(&self, from: Position, upto: Position, max_bytes: usize) -> Vec<Location> {
        let mut bytes = 0;
        let mut run = Vec::new();
        for position in from..=upto {
            let Some(location) = self.get(position) else { break };
            bytes += location.length as usize;
            if bytes > max_bytes && !run.is_empty() {
                break;
            }
            run.push(location);
        }
        run
    }

    /// Forget everything below.
    pub fn trim(&mut self, below: Position) {
        while self.first < below && self.locations.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The first position of `from..=upto` without a place.
    pub fn first_missing(&self, from: Position, upto: Position) -> Option<Position> {
        (from..=upto).find(|position| self.get(*position).is_none())
    }
}
