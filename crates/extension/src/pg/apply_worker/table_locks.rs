//! The tables under the group's DDL lock, as this node's writers see them: locked, so that they wait for the DDL instead of losing
//! to it.
//!
//! Tables that are about to be replicated are locked like those of the group: what is written here until this node has applied that
//! would be nobody else's. And they are read like those of the group (`pg/expected.rs`): the others may have them already.
//!
//! The apply worker takes the locks for its session when it applies the lock's record, and lets them go behind the record that
//! ends it; its own writes and the DDL do not meet them. A lock of this very node is not taken: there the transaction itself
//! holds what it needs, and when it lets go before it is decided, writers wait for that (`expected_own`). Invariants:
//! - locks are held for at most one owner, from a committed record on;
//! - the file `expected` names the tables that are about to be replicated before the record of the lock counts as applied, which is
//!   what other nodes take for this node's word, and until what became of them is durable here; on the owner's node, too. After a crash,
//!   which may set `applied` back to before the record, they are locked from the file;
//! - `expected_guarded` <=> all of `held` is locked. The server releases a session's locks when a transaction of it fails, and the worker
//!   itself does while the log stands still: nothing can end the lock then, and who writes is told so instead of waiting.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use pgrx::{pg_guard, pg_sys};
use synod_change::wire::Decoder;
use synod_change::{DdlLockRecord, ExpectedTable, TableId};

use crate::identity::ExpectedTables;
use crate::pg::give_way::timer;
use crate::pg::shmem::{self, NodeLock, NodeShared};
use crate::pg::{catalog, hierarchy, submit};

const MODE: pg_sys::LOCKMODE = pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE;

/// What is locked for the DDL of another node.
#[derive(Default)]
pub struct TableLocks {
    /// Node and transaction, as the records name them.
    owner: Option<(u32, u64)>,
    /// Where it was given to them, or extended.
    position: u64,
    /// They are nobody's any more when this is applied.
    lost_at: Option<u64>,
    held: Vec<pg_sys::Oid>,
    /// Those of them that are about to be replicated.
    expected: BTreeSet<u32>,
    /// They are a transaction's of this node, which runs or is not decided.
    is_own: bool,
    /// They are in the file.
    is_in_file: bool,
    /// No record that is still to come may end it: it is of before a crash, or of this node, whose own records pass by.
    is_watched: bool,
}

/// Once, at the apply worker's start.
pub fn release_at_exit() {
    // SAFETY: the callback is guarded, makes calls only that are allowed in an exiting process, and never raises.
    unsafe { pg_sys::before_shmem_exit(Some(exiting), pg_sys::Datum::from(0)) }
}

#[pg_guard]
unsafe extern "C-unwind" fn exiting(_code: i32, _argument: pg_sys::Datum) {
    unguard();
    // SAFETY: a transaction that runs is rolled back next, and its locks go with the session's; without one the session's would stay.
    unsafe {
        if !pg_sys::IsTransactionState() {
            pg_sys::LockReleaseAll(pg_sys::DEFAULT_LOCKMETHOD as pg_sys::LOCKMETHODID, true);
        }
    }
}

/// The session's locks are about to go: with a transaction of this process that is rolled back, or while the log stands still.
pub fn unguard() {
    if let Some(node) = shmem::my_node() {
        node.expected_guarded.store(false, Ordering::SeqCst);
    }
}

impl TableLocks {
    /// Lock what the record at `position` names; only note it if it is this node's own. Inside a transaction; may raise, and is then
    /// called again.
    pub fn take(&mut self, position: u64, node: u32, request: &DdlLockRecord, own: bool) -> io::Result<()> {
        if position <= self.position {
            // Applied once more, after a crash or a failure.
            return Ok(());
        }
        let owner = Some((node, request.transaction));
        if self.owner != owner {
            self.release();
            self.owner = owner;
        }
        let expected = expected(request);
        self.expected
            .extend(expected.iter().map(|relation| u32::from(*relation)));
        (self.is_own, self.is_watched) = (own, own);
        self.publish();
        if !own {
            for relation in locked(request).into_iter().chain(expected) {
                if !self.held.contains(&relation) {
                    if stand() {
                        lock(relation);
                    }
                    self.held.push(relation);
                }
            }
        }
        self.save(position)?;
        self.position = position;
        Ok(())
    }

    fn save(&mut self, position: u64) -> io::Result<()> {
        let (Some((node, transaction)), false, Some(directory)) = (self.owner, self.expected.is_empty(), directory())
        else {
            return Ok(());
        };
        let expected = ExpectedTables {
            position,
            node,
            transaction,
            relations: self.expected.iter().copied().collect(),
        };
        crate::node::note_expected_tables(&directory, &expected)?;
        self.is_in_file = true;
        Ok(())
    }

    /// The record at `position`, which ends the lock in force there, is applied and durable.
    pub fn ended(&mut self, position: u64) {
        if position > self.position {
            self.release();
        }
    }

    /// Let the tables go until [`Self::lock_again`].
    pub fn let_go(&self) {
        if stand() {
            unguard();
            self.held.iter().copied().for_each(unlock);
        }
    }

    /// Whether there is anything to lock.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Let go of everything.
    fn release(&mut self) {
        (self.owner, self.lost_at, self.position) = (None, None, 0);
        (self.is_own, self.is_watched) = (false, false);
        let stand = stand();
        self.held.drain(..).filter(|_| stand).for_each(unlock);
        self.expected.clear();
        self.publish();
        if std::mem::take(&mut self.is_in_file)
            && let Some(directory) = directory()
        {
            crate::node::forget_expected_tables(&directory);
        }
    }

    fn publish(&self) {
        if let Some(node) = shmem::my_node() {
            let expected: Vec<u32> = self.expected.iter().copied().collect();
            node.expected_own.store(self.is_own, Ordering::SeqCst);
            node.expect(&expected);
        }
    }

    /// The owner may have lost the lock without a record of its own: its node began anew or left. If so the locks go once all that is
    /// decided by now is applied: what ended the lock may just as well be the owner's record, which has yet to find the tables locked.
    pub fn look_whether_lost(&mut self, node: &NodeShared) {
        // Not while verdicts of before a start of the log worker are given anew, which may begin between two looks.
        let is_known = || node.certified.load(Ordering::SeqCst) >= self.position;
        if let Some(owner) = self.owner
            && is_known()
            && published(node)
                .is_none_or(|(position, lock_node, lock)| position == 0 || owner != (lock_node, lock.transaction))
            && is_known()
        {
            // Published before the end of the lock is.
            self.lost_at.get_or_insert(node.last_commit.load(Ordering::SeqCst));
        }
    }

    /// Whether the end of the lock has to be looked for, or has come and waits for what is decided to be applied: nothing wakes the
    /// worker for it.
    pub fn is_watched(&self) -> bool {
        self.is_watched || self.lost_at.is_some()
    }

    /// Let go of locks whose owner lost them.
    pub fn release_if_lost(&mut self, node: &NodeShared) {
        if self.is_watched {
            self.look_whether_lost(node);
        }
        if self.lost_at.is_some_and(|at| node.applied.load(Ordering::SeqCst) >= at) {
            self.release();
        }
    }

    /// What must be locked when the worker starts behind the lock's record, or after a crash. Inside a transaction; may raise, and is
    /// then called again.
    pub fn resume(&mut self, node: &NodeShared) -> io::Result<()> {
        if self.owner.is_none() {
            let saved = directory().map_or(Ok(None), |directory| crate::node::expected_tables(&directory))?;
            if let Some(saved) = saved {
                self.owner = Some((saved.node, saved.transaction));
                self.position = saved.position;
                // The transaction may run still: it has the locks, and may wait for this worker.
                self.is_own = saved.node == node.node_id.load(Ordering::SeqCst)
                    && published(node).is_some_and(|(position, ..)| position == saved.position)
                    && node.ddl_incarnation.load(Ordering::SeqCst) == node.incarnation.load(Ordering::SeqCst)
                    && submit::process_of(node, saved.transaction).is_some();
                if !self.is_own {
                    self.held = saved.relations.iter().map(|oid| pg_sys::Oid::from(*oid)).collect();
                }
                self.expected = saved.relations.into_iter().collect();
                (self.is_in_file, self.is_watched) = (true, true);
            }
        }
        // What another worker has published before.
        self.publish();
        if let Some((position, owner, request)) = published(node)
            && position <= node.applied.load(Ordering::SeqCst)
            && position > self.position
            && owner != node.node_id.load(Ordering::SeqCst)
        {
            self.take(position, owner, &request, false)?;
            self.is_watched = true;
        }
        self.lock_again(node);
        Ok(())
    }

    /// Lock what was locked before a transaction of this session failed. Inside a transaction; may raise, and is then called again.
    pub fn lock_again(&mut self, node: &NodeShared) {
        if stand() {
            return;
        }
        timer::start();
        for relation in &self.held {
            lock(*relation);
        }
        timer::stop();
        node.expected_guarded.store(true, Ordering::SeqCst);
    }
}

/// Whether the session has what `held` says.
pub fn stand() -> bool {
    shmem::my_node().is_some_and(|node| node.expected_guarded.load(Ordering::SeqCst))
}

fn lock(relation: pg_sys::Oid) {
    let mut lock = lock_id(relation);
    // SAFETY: inside a transaction; the lock outlives it, on purpose.
    unsafe { pg_sys::LockRelationIdForSession(&mut lock, MODE) }
}

fn unlock(relation: pg_sys::Oid) {
    let mut lock = lock_id(relation);
    // SAFETY: taken by this session in `lock`.
    unsafe { pg_sys::UnlockRelationIdForSession(&mut lock, MODE) }
}

fn directory() -> Option<std::path::PathBuf> {
    let node = shmem::my_node()?;
    Some(crate::node::directory(node.database.load(Ordering::Relaxed)))
}

/// The tables of the group that the lock covers.
fn locked(request: &DdlLockRecord) -> Vec<pg_sys::Oid> {
    if request.all {
        return catalog::all().into_iter().map(|(_, oid)| oid).collect();
    }
    let tables = request.tables.iter();
    tables.filter_map(|id| catalog::relation_of(*id)).collect()
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

/// The expected tables that are here, with the hierarchies that they stand for.
fn expected(request: &DdlLockRecord) -> Vec<pg_sys::Oid> {
    let found = request
        .expected
        .iter()
        .filter_map(|table| catalog::named(&table.schema, &table.name));
    found
        .flat_map(|table| hierarchy::whole(table, pg_sys::NoLock))
        .collect()
}

fn lock_id(relation: pg_sys::Oid) -> pg_sys::LockRelId {
    pg_sys::LockRelId {
        relId: relation,
        // SAFETY: reads a global of this process.
        dbId: unsafe { pg_sys::MyDatabaseId },
    }
}
