//! What running statements may still draw from sequences of the group, so that a node's range has room for all of them at once.
//!
//! A session writes into its slot what its statement may take *before* it looks at the room that there is, and counts what all
//! others have written. So of two that look at the same time at least one sees the other. It takes it back when the statement is
//! over: then what was drawn shows in the sequence. Invariant: the sum is read before the sequence is looked at.
//!
//! How much a statement takes is a guess of the planner's; who takes more is noticed before the commit (`ranges::settle`), by
//! the number of the last void run of values that the transaction knew of when it began to draw. A sequence with CACHE gives a session
//! values that later transactions use: of such a one it counts from when the session began to draw.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use crate::pg::{latch, shmem};

thread_local! {
    /// This session's slot has reservations.
    static ANY: Cell<bool> = const { Cell::new(false) };
    /// The number of the last void run of each sequence when this transaction began to draw from it.
    static KNOWN: RefCell<BTreeMap<u32, u64>> = const { RefCell::new(BTreeMap::new()) };
    /// The same of sequences of which the session may have values in store, since it may.
    static STORED: RefCell<BTreeMap<u32, u64>> = const { RefCell::new(BTreeMap::new()) };
    /// The transaction calls `nextval` itself, not only for the rows that it inserts: what it is given may be in none of them.
    static BY_HAND: Cell<bool> = const { Cell::new(false) };
}

fn sequence_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn values_of(word: u64) -> u64 {
    word & u64::from(u32::MAX)
}

fn own() -> &'static [AtomicU64] {
    shmem::slot(latch::my_number()).map_or(&[], |slot| &slot.reserved[..])
}

/// The running statement may draw so many values. Of more sequences than a slot has room for the last ones are not known.
pub fn reserve(sequence: pg_sys::Oid, values: u64) {
    let oid = u32::from(sequence);
    let place = own().iter().find(|place| {
        let word = place.load(Ordering::Relaxed);
        word == 0 || sequence_of(word) == oid
    });
    if let Some(place) = place {
        let values = values_of(place.load(Ordering::Relaxed)).max(values.min(u64::from(u32::MAX)));
        place.store(u64::from(oid) << 32 | values, Ordering::SeqCst);
        ANY.set(true);
    }
}

/// What all statements of this server that run now may draw from the sequence, this one's included.
pub fn total(sequence: pg_sys::Oid) -> u64 {
    let oid = u32::from(sequence);
    let words = shmem::slots().iter().flat_map(|slot| &slot.reserved);
    words
        .map(|place| place.load(Ordering::SeqCst))
        .filter(|word| sequence_of(*word) == oid)
        .map(values_of)
        .sum()
}

/// The session's statement is over.
pub fn release() {
    if ANY.replace(false) {
        own().iter().for_each(|place| place.store(0, Ordering::SeqCst));
    }
}

/// The transaction is over.
pub fn reset() {
    release();
    BY_HAND.set(false);
    KNOWN.with_borrow_mut(BTreeMap::clear);
}

/// The transaction draws from the sequence from here on, unless it does already. `stores`: the server keeps values of it for the session.
pub fn remember(sequence: pg_sys::Oid, void_number: u64, stores: bool) {
    let note = |known: &mut BTreeMap<u32, u64>| {
        known.entry(sequence.into()).or_insert(void_number);
    };
    KNOWN.with_borrow_mut(note);
    if stores {
        STORED.with_borrow_mut(note);
    }
}

/// How many void runs have come since the transaction, or the session if it has values in store, began to draw; `None`: the transaction
/// never did.
pub fn voids_since(sequence: pg_sys::Oid, void_number: u64) -> Option<u64> {
    let sequence = u32::from(sequence);
    let known = KNOWN.with_borrow(|known| known.get(&sequence).copied())?;
    let stored = STORED.with_borrow(|stored| stored.get(&sequence).copied());
    Some(void_number.wrapping_sub(stored.unwrap_or(known)))
}

/// The session has no values in store any more.
pub fn forget_stored() {
    STORED.with_borrow_mut(BTreeMap::clear);
}

/// The sequences that the transaction may have drawn from.
pub fn drawn() -> Vec<pg_sys::Oid> {
    KNOWN.with_borrow(|known| known.keys().map(|oid| pg_sys::Oid::from(*oid)).collect())
}

/// The transaction is about to call `nextval` for itself, not for the rows that it inserts.
pub fn by_hand() {
    BY_HAND.set(true);
}

/// Whether it has.
pub fn is_by_hand() -> bool {
    BY_HAND.get()
}
