//! The group's DDL lock: who has it, and which tables it keeps the other nodes' writes off.
//!
//! Invariants:
//! - one transaction has it at a time; its node's current incarnation and membership outlive it;
//! - from the position where a table was named until the lock's end no other node's write to it commits, so that nothing
//!   that another node wrote meanwhile meets the holder's own local locks on it. Writes of the holder's own node are ordered by
//!   those locks.

use std::collections::{BTreeMap, BTreeSet};

use synod_change::{DdlLockRecord, ExpectedTable, Key, TableId, TransactionId, table_key};

/// More tables than this are "all".
const MAX_TABLES: usize = 4096;

/// The group's DDL lock, held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DdlLock {
    /// Whose it is.
    pub owner: TransactionId,
    /// Where it was given, or last extended.
    pub position: u64,
    /// Every table is the owner's.
    pub all: bool,
    pub(crate) tables: BTreeMap<u64, TableId>,
    /// The tables that it is about to replicate.
    pub expected: BTreeSet<ExpectedTable>,
}

impl DdlLock {
    pub(crate) fn new(owner: TransactionId, position: u64, request: &DdlLockRecord) -> Self {
        let mut lock = Self {
            owner,
            position,
            all: false,
            tables: BTreeMap::new(),
            expected: BTreeSet::new(),
        };
        lock.add(request);
        lock
    }

    fn add(&mut self, request: &DdlLockRecord) {
        self.all |= request.all;
        self.expected.extend(request.expected.iter().cloned());
        self.tables
            .extend(request.tables.iter().map(|table| (table_key(*table), *table)));
        if self.tables.len() > MAX_TABLES {
            self.all = true;
            self.tables.clear();
        }
    }

    /// The tables that the owner has for itself.
    pub fn tables(&self) -> impl ExactSizeIterator<Item = TableId> + '_ {
        self.tables.values().copied()
    }

    /// Whether the key is that of one of its tables.
    pub(crate) fn covers(&self, key: Key) -> bool {
        self.tables.contains_key(&key.hash)
    }

    /// The first key of another transaction that the lock does not allow.
    pub(crate) fn refuses(&self, keys: impl IntoIterator<Item = Key>, by: TransactionId) -> Option<Key> {
        if (by.node, by.incarnation) == (self.owner.node, self.owner.incarnation) {
            return None;
        }
        keys.into_iter().find(|key| self.all || self.covers(*key))
    }
}

/// Gives or extends the lock. False when another transaction has it.
pub(crate) fn grant(lock: &mut Option<DdlLock>, owner: TransactionId, position: u64, request: &DdlLockRecord) -> bool {
    match lock {
        None => {
            *lock = Some(DdlLock::new(owner, position, request));
            true
        }
        Some(held) if held.owner == owner => {
            held.position = position;
            held.add(request);
            true
        }
        Some(_) => false,
    }
}
