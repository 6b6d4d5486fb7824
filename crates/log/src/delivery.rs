//! Handing chosen entries to the owner: in order, each once, with their places.
//!
//! Entries come from memory when the owner keeps up, and from the segments when it lags (after a start, or because
//! more is learned than it takes). `next` is the next position to hand over; `recent` is a run of entries that begins
//! at or above `next` and ends at `chosen`, or is empty.

use std::collections::VecDeque;

use crate::places::Places;
use crate::reader::{SegmentError, SegmentReader};
use crate::{ChosenEntry, Entry, Position, Value};

/// Handed over with one event, at most about: bounds the memory of a long replay and the time until the owner does
/// something else.
const CHUNK_BYTES: usize = 1 << 20;

/// Entries kept in memory for an owner that lags: beyond it, they are read from the disk again.
const RECENT_BYTES: usize = 16 << 20;

pub(crate) struct Delivery {
    next: Position,
    chosen: Position,
    recent: VecDeque<Entry>,
    recent_bytes: usize,
}

impl Delivery {
    /// To an owner who has dealt with everything below `next`, of a log that is chosen up to `chosen`.
    pub fn new(next: Position, chosen: Position) -> Delivery {
        Delivery {
            next: next.max(1),
            chosen,
            recent: VecDeque::new(),
            recent_bytes: 0,
        }
    }

    /// The next entries are chosen.
    pub fn chosen(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last() else { return };
        self.chosen = last.position;
        for entry in entries {
            if entry.position >= self.next && self.recent_bytes < RECENT_BYTES {
                self.recent_bytes += bytes(&entry);
                self.recent.push_back(entry);
            } else if self.recent_bytes >= RECENT_BYTES {
                // A run must end at `chosen`: from here on, from the disk.
                self.recent.clear();
                self.recent_bytes = 0;
            }
        }
    }

    /// More is chosen than was handed over.
    pub fn lags(&self) -> bool {
        self.next <= self.chosen
    }

    /// The next entry to hand over is written.
    pub fn ready(&self, places: &Places) -> bool {
        places.get(self.next).is_some()
    }

    /// The next chunk, as far as it is written. Empty: nothing now.
    pub fn take(&mut self, places: &Places, reader: &mut SegmentReader) -> Result<Vec<ChosenEntry>, SegmentError> {
        let mut chunk = Vec::new();
        if self.next > self.chosen {
            return Ok(chunk);
        }
        match self.recent.front() {
            Some(first) if first.position == self.next => self.take_recent(places, &mut chunk),
            first => {
                let upto = first.map_or(self.chosen, |first| first.position - 1);
                let run = places.run(self.next, upto, CHUNK_BYTES);
                let mut entries = Vec::with_capacity(run.len());
                reader.read(&run, &mut entries)?;
                chunk.extend(
                    entries
                        .into_iter()
                        .zip(run)
                        .map(|(entry, location)| ChosenEntry { entry, location }),
                );
                self.next += chunk.len() as u64;
            }
        }
        Ok(chunk)
    }

    fn take_recent(&mut self, places: &Places, chunk: &mut Vec<ChosenEntry>) {
        let mut taken = 0;
        while taken < CHUNK_BYTES
            && let Some(location) = self.recent.front().and_then(|entry| places.get(entry.position))
            && let Some(entry) = self.recent.pop_front()
        {
            taken += bytes(&entry);
            self.next = entry.position + 1;
            chunk.push(ChosenEntry { entry, location });
        }
        self.recent_bytes -= taken;
    }
}

fn bytes(entry: &Entry) -> usize {
    let payload = match &entry.value {
        Value::Command(command) => command.payload.len(),
        Value::Noop | Value::Membership(_) => 0,
    };
    size_of::<Entry>() + payload
}
