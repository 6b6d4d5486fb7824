//! The tables under the group's DDL lock, as this node's writers see them: locked, so that they wait for the DDL instead of losing
//! to it.
//!
//! Tables that are about to be replicated are locked like those of the group: what is written here until this node has applied that
//! would be nobody else's. And they are read like those of the group (`NodeShared::expects`): the others may have them already.
//!
//! The apply worker takes the locks for its session when it applies the lock's record, and lets them go behind the record that
//! ends it; its own writes and the DDL do not meet them. A lock of this very node is not taken: there the transaction itself
//! holds what it needs. Invariant: locks are held for at most one owner, from a committed record on.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use pgrx::pg_sys;
use synod_change::wire::Decoder;
use synod_change::{DdlLockRecord, ExpectedTable, TableId};

use crate::pg::shmem::{self, NodeLock, NodeShared};
use crate::pg::{catalog, partition};

const MODE: pg_sys::LOCKMODE = pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE;

/// What is locked for the DDL of another node.
#[derive(Default)]
pub struct TableLocks {
    /// Node and transaction, as the records name them.
    owner: Option<(u32, u64)>,
    /// They are nobody's any more when this is applied.
    lost_at: Option<u64>,
    held: Vec<pg_sys::Oid>,
    /// Those of them that are about to be replicated.
    expected: BTreeSet<u32>,
}

impl TableLocks {
    /// Lock what the record names. Inside a transaction; may raise, and is then called again.
    pub fn take(&mut self, node: u32, request: &DdlLockRecord) {
        let owner = Some((node, request.transaction));
        if self.owner != owner {
            self.release();
            self.owner = owner;
        }
        let relations: Vec<pg_sys::Oid> = if request.all {
            catalog::all().into_iter().map(|(_, oid)| oid).collect()
        } else {
            request
                .tables
                .iter()
                .filter_map(|id| catalog::relation_of(*id))
                .collect()
        };
        let expected = expected(request);
        self.expected
            .extend(expected.iter().map(|relation| u32::from(*relation)));
        self.publish();
        for relation in relations.into_iter().chain(expected) {
            if !self.held.contains(&relation) {
                let mut lock = lock_id(relation);
                // SAFETY: inside a transaction; the lock outlives it, on purpose.
                unsafe { pg_sys::LockRelationIdForSession(&mut lock, MODE) }
                self.held.push(relation);
            }
        }
    }

    /// Let go of everything.
    pub fn release(&mut self) {
        (self.owner, self.lost_at) = (None, None);
        for relation in self.held.drain(..) {
            let mut lock = lock_id(relation);
            // SAFETY: taken by this session in `take`.
            unsafe { pg_sys::UnlockRelationIdForSession(&mut lock, MODE) }
        }
        self.expected.clear();
        self.publish();
    }

    fn publish(&self) {
        if let Some(node) = shmem::my_node() {
            let expected: Vec<u32> = self.expected.iter().copied().collect();
            node.expect(&expected);
        }
    }

    /// The owner may have lost the lock without a record of its own: its node began anew or left. If so the locks go once all that is
    /// decided by now is applied: what ended the lock may just as well be the owner's record, which has yet to find the tables locked.
    pub fn look_whether_lost(&mut self, node: &NodeShared) {
        if let Some(owner) = self.owner
            && published(node)
                .is_none_or(|(position, lock_node, lock)| position == 0 || owner != (lock_node, lock.transaction))
        {
            // Published before the end of the lock is.
            self.lost_at = Some(node.last_commit.load(Ordering::SeqCst));
        }
    }

    /// Whether they are kept only until what is decided is applied.
    pub fn are_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    /// Let go of locks whose owner lost them.
    pub fn release_if_lost(&mut self, node: &NodeShared) {
        if self.lost_at.is_some_and(|at| node.applied.load(Ordering::SeqCst) >= at) {
            self.release();
        }
    }

    /// What must be locked when the worker starts behind the lock's record. Inside a transaction.
    pub fn resume(&mut self, node: &NodeShared) {
        // What another worker has published before.
        self.publish();
        if let Some((position, owner, request)) = published(node)
            && position <= node.applied.load(Ordering::SeqCst)
            && owner != node.node_id.load(Ordering::SeqCst)
        {
            self.take(owner, &request);
        }
    }
}

/// The lock as the log worker knows it: position, node, and what it covers.
fn published(node: &NodeShared) -> Option<(u64, u32, DdlLockRecord)> {
    let _meta = node.lock(NodeLock::Meta, false);
    let position = node.ddl_position.load(Ordering::SeqCst);
    let count = node.ddl_table_count.load(Ordering::SeqCst) as usize;
    let tables = node.ddl_tables.iter().take(count);
    let request = DdlLockRecord {
        transaction: node.ddl_transaction.load(Ordering::SeqCst),
        all: node.ddl_all.load(Ordering::SeqCst),
        tables: tables.map(|table| TableId(table.load(Ordering::SeqCst))).collect(),
        expected: decode_expected(&node.read_expected()),
    };
    (position != 0).then(|| (position, node.ddl_node.load(Ordering::SeqCst), request))
}

fn decode_expected(bytes: &[u8]) -> Vec<ExpectedTable> {
    let mut decoder = Decoder::new("expected tables", bytes);
    let mut tables = Vec::new();
    while decoder.remaining() > 0 {
        // The log worker has encoded them.
        match ExpectedTable::read(&mut decoder) {
            Ok(table) => tables.push(table),
            Err(_) => break,
        }
    }
    tables
}

/// The expected tables that are here, with their partitions.
fn expected(request: &DdlLockRecord) -> Vec<pg_sys::Oid> {
    let found = request
        .expected
        .iter()
        .filter_map(|table| catalog::named(&table.schema, &table.name));
    found
        .flat_map(|table| partition::members(table, pg_sys::NoLock))
        .collect()
}

fn lock_id(relation: pg_sys::Oid) -> pg_sys::LockRelId {
    pg_sys::LockRelId {
        relId: relation,
        // SAFETY: reads a global of this process.
        dbId: unsafe { pg_sys::MyDatabaseId },
    }
}
