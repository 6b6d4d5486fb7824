//! Which values of which sequence this node may give out, in shared memory: after any restart it knows nothing, so that what
//! was granted before is given up (a sequence goes back in a crash, the log's rows do not).
//!
//! Invariant: the two ends of a range are read and written under the lock of the sequence's page (`pg/sequence.rs`), which
//! guards the sequence's position, too. An entry may be forgotten at any time: its range is given up then, nothing else.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

/// Sequences of a database with a range at the same time; a power of two.
const SEQUENCES: usize = 1024;
/// Entries looked at for a sequence.
const PROBES: usize = 8;

/// Values from `first` to `last`, in the direction of the sequence; none when `last` comes before `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: i64,
    /// The last, which is on a step.
    pub last: i64,
}

/// One sequence.
#[repr(C)]
struct Entry {
    /// Its relation; 0: unused.
    sequence: AtomicU32,
    first: AtomicI64,
    last: AtomicI64,
    /// How many values the last grant had.
    size: AtomicU64,
    /// When it came, in microseconds since 2000-01-01.
    granted_us: AtomicU64,
    /// Changes with every run of values that was given out here behind the end of a range and is another node's.
    void_runs: AtomicU64,
    /// The last such run.
    void_first: AtomicI64,
    void_last: AtomicI64,
}

/// Values that were given out here and are another node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Void {
    /// Counts them, for this sequence.
    pub number: u64,
    /// The values.
    pub run: Range,
}

/// The ranges of a node.
#[repr(C)]
pub struct RangeTable([Entry; SEQUENCES]);

impl RangeTable {
    fn probe(sequence: pg_sys::Oid) -> impl Iterator<Item = usize> {
        let hash = u32::from(sequence).wrapping_mul(0x9e37_79b1) as usize >> 8;
        (0..PROBES).map(move |step| (hash + step) % SEQUENCES)
    }

    fn find(&self, sequence: pg_sys::Oid) -> Option<&Entry> {
        Self::probe(sequence)
            .map(|at| &self.0[at])
            .find(|entry| entry.sequence.load(Ordering::Acquire) == u32::from(sequence))
    }

    /// The range of a sequence. Under the lock of its page.
    pub fn get(&self, sequence: pg_sys::Oid) -> Option<Range> {
        let entry = self.find(sequence)?;
        Some(Range {
            first: entry.first.load(Ordering::Acquire),
            last: entry.last.load(Ordering::Acquire),
        })
    }

    /// From here on this is its range. Under the lock of its page, exclusive. When there is no room another one is forgotten.
    pub fn set(&self, sequence: pg_sys::Oid, range: Range, size: u64, now_us: u64) {
        let entry = self.find(sequence).unwrap_or_else(|| {
            let entry = self.claim(sequence);
            // Who remembers the number that it had here before must not find that nothing has happened since.
            entry.void_runs.fetch_add(2, Ordering::AcqRel);
            entry
        });
        entry.first.store(range.first, Ordering::Release);
        entry.last.store(range.last, Ordering::Release);
        entry.size.store(size, Ordering::Relaxed);
        entry.granted_us.store(now_us, Ordering::Relaxed);
        entry.sequence.store(u32::from(sequence), Ordering::Release);
    }

    /// The last values that were given out behind the end. Under the lock of its page.
    pub fn last_void(&self, sequence: pg_sys::Oid) -> Option<Void> {
        let entry = self.find(sequence)?;
        Some(Void {
            number: entry.void_runs.load(Ordering::Acquire),
            run: Range {
                first: entry.void_first.load(Ordering::Acquire),
                last: entry.void_last.load(Ordering::Acquire),
            },
        })
    }

    /// These values were given out here and are another node's. Under the lock of its page, exclusive.
    pub fn note_void(&self, sequence: pg_sys::Oid, run: Range) {
        if let Some(entry) = self.find(sequence) {
            entry.void_first.store(run.first, Ordering::Release);
            entry.void_last.store(run.last, Ordering::Release);
            entry.void_runs.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// An entry that is nobody's while it is filled: its number is one that no sequence has.
    fn claim(&self, sequence: pg_sys::Oid) -> &Entry {
        const FILLING: u32 = u32::MAX;
        let take = |entry: &&Entry, from: u32| {
            entry
                .sequence
                .compare_exchange(from, FILLING, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        let entries = || Self::probe(sequence).map(|at| &self.0[at]);
        if let Some(entry) = entries().find(|entry| take(entry, 0)) {
            return entry;
        }
        // Another sequence's: it gives up its range.
        let taken = entries().find(|entry| {
            let from = entry.sequence.load(Ordering::Acquire);
            from != FILLING && take(entry, from)
        });
        // All are being filled by others this very moment: share the last one; who comes last has it.
        taken.unwrap_or(&self.0[Self::probe(sequence).last().unwrap_or(0)])
    }

    /// The range of a sequence is given up.
    pub fn forget(&self, sequence: pg_sys::Oid) {
        if let Some(entry) = self.find(sequence) {
            let _ = entry
                .sequence
                .compare_exchange(u32::from(sequence), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// How many values the last grant had, and when it came.
    pub fn last_grant(&self, sequence: pg_sys::Oid) -> Option<(u64, u64)> {
        let entry = self.find(sequence)?;
        Some((
            entry.size.load(Ordering::Relaxed),
            entry.granted_us.load(Ordering::Relaxed),
        ))
    }
}
