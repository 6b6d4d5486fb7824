//! The claims of the records that committed last.
//!
//! Invariants:
//! - the window holds every record with keys that committed above `floor`, and none at or below it;
//! - `index[hash][mode]` names the latest record in the window with that claim, 0 if there is none;
//! - records <= [`MAX_WINDOW_RECORDS`], keys <= [`MAX_WINDOW_KEYS`];
//! - floor <= lasting floor: behind it stand at most half as many of either, so that it is no floor before as many again have come.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use synod_change::{Key, KeyMode};

use crate::Conflict;
use crate::mutants::{Mutant, active};

/// How many committed records with keys are remembered. A record's base is the position up to which its proposer had
/// certified it a moment before it proposed, so the window needs to cover no more than the proposals in flight.
pub const MAX_WINDOW_RECORDS: usize = 65_536;

/// How many keys they may have together. 3.5 M is what a hash table of 4 Mi places holds without growing (7/8): 100 MB
/// at the most for the table, 32 MB for the keys. At [`synod_change::MAX_KEYS_PER_RECORD`] that is 53 records.
pub const MAX_WINDOW_KEYS: usize = 3_500_000;

/// A record's place in `positions`, from 1; 0 is none. Unique among the records in the window.
type Place = u32;

#[derive(Clone, Debug)]
pub(crate) struct Window {
    limits: (usize, usize),
    floor: u64,
    /// Oldest first: position and number of keys.
    records: VecDeque<(u64, u32)>,
    /// Their keys, end to end.
    hashes: VecDeque<u64>,
    modes: VecDeque<KeyMode>,
    /// How many of the oldest records are not behind the lasting floor, and the keys of those that are.
    passing: usize,
    lasting_keys: usize,
    /// Place of the next record, counted from 0.
    next: usize,
    positions: Vec<u64>,
    index: HashMap<u64, [Place; 4], BuildHasherDefault<HashedKey>>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self::with_limits(MAX_WINDOW_RECORDS, MAX_WINDOW_KEYS)
    }

    /// `records` and `keys` that fit; a record with more than `keys` keys must not be given to [`push`](Self::push).
    pub(crate) fn with_limits(records: usize, keys: usize) -> Self {
        Self {
            limits: (records, keys),
            floor: 0,
            records: VecDeque::new(),
            hashes: VecDeque::new(),
            modes: VecDeque::new(),
            passing: 0,
            lasting_keys: 0,
            next: 0,
            positions: Vec::new(),
            index: HashMap::default(),
        }
    }

    pub(crate) const fn floor(&self) -> u64 {
        self.floor
    }

    /// From here on everything is known, and will be until half a window more has come.
    pub(crate) fn lasting_floor(&self) -> u64 {
        let last = self.passing.checked_sub(1).and_then(|last| self.records.get(last));
        last.map_or(self.floor, |(position, _)| *position)
    }

    pub(crate) const fn limits(&self) -> (usize, usize) {
        self.limits
    }

    /// For a checkpoint: an empty window that starts there.
    pub(crate) fn set_floor(&mut self, floor: u64) {
        debug_assert!(self.records.is_empty(), "{} records", self.records.len());
        self.floor = floor;
    }

    /// Whether conflicts after `base` are all known.
    pub(crate) fn covers(&self, base: u64) -> bool {
        if active(Mutant::FloorInclusive) {
            base > self.floor || self.floor == 0
        } else {
            base >= self.floor
        }
    }

    /// The latest record after `base` with a claim that conflicts with `key`. Meaningful if `base` is covered.
    pub(crate) fn conflict(&self, key: Key, base: u64) -> Option<Conflict> {
        let places = self.index.get(&key.hash)?;
        let latest = KeyMode::ALL
            .iter()
            .filter(|mode| conflicts(key.mode, **mode))
            .filter_map(|mode| self.position_of(places[*mode as usize]))
            .max()?;
        let after = if active(Mutant::BaseInclusive) {
            latest >= base
        } else if active(Mutant::BaseOffByOne) {
            latest > base + 1
        } else {
            latest > base
        };
        after.then_some(Conflict { key, position: latest })
    }

    fn position_of(&self, place: Place) -> Option<u64> {
        self.positions.get((place as usize).checked_sub(1)?).copied()
    }

    /// Adds a committed record; the oldest go until it fits.
    pub(crate) fn push(&mut self, position: u64, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let (max_records, max_keys) = self.limits;
        assert!(
            keys.len() <= max_keys,
            "a record of {} keys does not fit a window of {max_keys}",
            keys.len()
        );
        while self.records.len() >= max_records || self.hashes.len() + keys.len() > max_keys {
            self.evict();
        }
        let place = self.occupy(position);
        self.records.push_back((position, keys.len() as u32));
        for key in keys {
            self.hashes.push_back(key.hash);
            self.modes.push_back(key.mode);
            let places = self.index.entry(key.hash).or_default();
            if active(Mutant::OneModePerKey) {
                *places = [0; 4];
            }
            places[key.mode as usize] = place;
        }
        self.lasting_keys += keys.len();
        while self.records.len() - self.passing > max_records / 2 || self.lasting_keys > max_keys / 2 {
            self.lasting_keys -= self.records[self.passing].1 as usize;
            self.passing += 1;
        }
    }

    fn occupy(&mut self, position: u64) -> Place {
        let slot = self.next;
        match self.positions.get_mut(slot) {
            Some(place) => *place = position,
            None => self.positions.push(position),
        }
        self.next = (slot + 1) % self.limits.0;
        slot as Place + 1
    }

    fn evict(&mut self) {
        let slot = (self.next + self.limits.0 - self.records.len()) % self.limits.0;
        let place = slot as Place + 1;
        let Some((position, keys)) = self.records.pop_front() else {
            return;
        };
        match self.passing.checked_sub(1) {
            Some(fewer) => self.passing = fewer,
            None => self.lasting_keys -= keys as usize,
        }
        debug_assert_eq!(self.positions[slot], position, "slot {slot}, next {}", self.next);
        for (hash, mode) in self
            .hashes
            .drain(..keys as usize)
            .zip(self.modes.drain(..keys as usize))
        {
            if let std::collections::hash_map::Entry::Occupied(mut entry) = self.index.entry(hash) {
                let places = entry.get_mut();
                if places[mode as usize] == place || active(Mutant::EvictsLiveKeys) {
                    places[mode as usize] = 0;
                    if *places == [0; 4] {
                        entry.remove();
                    }
                }
            }
        }
        if !active(Mutant::FloorStays) {
            self.floor = position;
        }
    }

    /// The records in the window, oldest first.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = (u64, usize)> + '_ {
        self.records.iter().map(|(position, keys)| (*position, *keys as usize))
    }

    /// The keys of [`records`](Self::records), end to end.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.hashes.iter().zip(&self.modes).map(|(hash, mode)| Key {
            hash: *hash,
            mode: *mode,
        })
    }
}

fn conflicts(mine: KeyMode, theirs: KeyMode) -> bool {
    if active(Mutant::WeakShare) && mine == KeyMode::Share && theirs == KeyMode::NoKeyUpdate {
        return false;
    }
    mine.conflicts_with(theirs)
}

/// Keys are hashes already; one multiplication more keeps the table even if a proposer made them badly.
#[derive(Clone, Copy, Default)]
struct HashedKey(u64);

impl Hasher for HashedKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = wide as u64 ^ (wide >> 64) as u64;
    }
}
