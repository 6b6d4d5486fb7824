//! Committing in turn: the one place where the applied CSN moves.
//!
//! A turn is held from [`Turn::take`] to [`Turn::finish`] (or [`Turn::give_back`] on error). Between them the
//! transaction commits with the node's replication origin, whose progress *is* the durable applied CSN. Invariants:
//! at most one process per node holds the turn (LWLock), and it commits the record that follows `applied`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrx::pg_sys;

use super::shmem::{LockGuard, NEXT_OF, NodeLock, NodeShared, slots};
use super::slot::{Slot, SlotState};
use super::{hold, latch};

/// Own commits that may wait for their turn before the log worker leaves new records in their slots: batches then grow,
/// where otherwise single commits would trickle through, each with its own messages and fsyncs.
pub const GATE: usize = 8;

/// Name of the replication origin that carries a database's applied CSN.
pub fn origin_name(database: u32) -> String {
    format!("synod_{database}")
}

/// The held turn.
pub struct Turn {
    node: &'static NodeShared,
    csn: u64,
    lock: Option<LockGuard>,
}

impl Turn {
    /// Take the turn for the record at `csn`: the commit that follows is recorded under the node's replication origin
    /// with this CSN, and asynchronously (the log has it already), unless it does something that the log does not have: then
    /// as the user's `synchronous_commit` says. Must run inside the transaction that commits. `commit_time_us` is the record's: so
    /// the time of the commit, too, is the same on every node (`pg_xact_commit_timestamp`, logical decoding).
    pub fn take(node: &'static NodeShared, csn: u64, commit_time_us: i64) -> Self {
        loop {
            if let Some(turn) = Self::try_take(node, csn, commit_time_us) {
                return turn;
            }
            // Held since this process was told that its turn has come: for a moment, and a hold has a deadline.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// As [`Self::take`]; `None`: the node is held before `csn`.
    pub fn try_take(node: &'static NodeShared, csn: u64, commit_time_us: i64) -> Option<Self> {
        let origin = node.origin.load(Ordering::Acquire) as pg_sys::RepOriginId;
        let lock = node.lock(NodeLock::Turn, true);
        if hold::stops(node, csn) {
            return None;
        }
        // SAFETY: inside a transaction; an ERROR in setup (origin in use, too few slots) releases the lock by abort.
        unsafe {
            super::compat::replorigin_session_setup(origin);
            pg_sys::replorigin_session_origin = origin;
            pg_sys::replorigin_session_origin_lsn = csn;
            pg_sys::replorigin_session_origin_timestamp = commit_time_us;
        }
        // Only a transaction with an id writes a commit record, which carries the CSN.
        // SAFETY: inside a transaction.
        let xid = unsafe { pg_sys::GetCurrentTransactionId() };
        node.recent.begin_current(csn, xid);
        // What else the transaction wrote is in no log.
        if !super::mixed::wrote_other_tables() {
            set_asynchronous_commit();
        }
        Some(Self {
            node,
            csn,
            lock: Some(lock),
        })
    }

    /// The record that commits.
    pub fn csn(&self) -> u64 {
        self.csn
    }

    /// Its node.
    pub fn node(&self) -> &'static NodeShared {
        self.node
    }

    /// In `XACT_EVENT_COMMIT`: publish the new applied CSN and wake who comes next. Never raises.
    pub fn finish(mut self) {
        reset_origin();
        self.node.recent.note_current(self.csn);
        self.node.applied.store(self.csn, Ordering::SeqCst);
        self.node.recent.end_current(self.csn);
        self.lock = None;
        wake_successor(self.node, self.csn);
        wake_readers(self.node, self.csn);
        if self.node.gate_shut.load(Ordering::SeqCst) && waiting(self.node) <= GATE / 2 {
            self.node.gate_shut.store(false, Ordering::SeqCst);
            self.node.wake_log_worker();
        }
    }

    /// On error: the record stays to be applied by the apply worker.
    pub fn give_back(mut self) {
        reset_origin();
        self.node.recent.end_current(self.csn);
        if let Some(lock) = self.lock.take() {
            // Abort has released all LWLocks already (LWLockReleaseAll comes before the callbacks).
            std::mem::forget(lock);
        }
        self.node.wake_apply_worker();
    }
}

/// Take the origin off this session, so that the next who commits can have it.
pub fn reset_origin() {
    // SAFETY: these are this process' globals; reset only when our origin is set up in this session.
    unsafe {
        pg_sys::replorigin_session_origin = 0;
        pg_sys::replorigin_session_origin_lsn = 0;
        pg_sys::replorigin_session_origin_timestamp = 0;
        super::compat::replorigin_session_reset_if_setup();
    }
}

fn set_asynchronous_commit() {
    // SAFETY: GUC_ACTION_LOCAL undoes the change at the end of this transaction, after it was read.
    unsafe {
        pg_sys::set_config_option(
            c"synchronous_commit".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Announce that the record at `csn` follows `prev`, committed by `slot` (or by the apply worker), and wake it when its
/// turn has come already.
pub fn announce(node: &NodeShared, prev: u64, slot: Option<i32>) {
    let tag = slot.map_or(0, |slot| slot as u64 + 1);
    node.next_of[prev as usize % NEXT_OF].store(prev << 16 | tag, Ordering::SeqCst);
    if node.applied.load(Ordering::SeqCst) == prev {
        match slot {
            Some(slot) => wake_committer(node, slot, prev),
            None => node.wake_apply_worker(),
        }
    }
}

/// Wake who commits after `csn`. An unknown successor is the apply worker's business: it reads the log.
pub fn wake_successor(node: &NodeShared, csn: u64) {
    let entry = node.next_of[csn as usize % NEXT_OF].load(Ordering::SeqCst);
    if entry >> 16 == csn && entry & 0xffff != 0 {
        wake_committer(node, (entry & 0xffff) as i32 - 1, csn);
    } else if node.last_commit.load(Ordering::SeqCst) > csn {
        node.wake_apply_worker();
    }
}

/// Wake the backend whose turn it is after `prev`; if it has let go meanwhile, the record is the apply worker's. (One that lets
/// go later wakes the apply worker itself, and `applied` has moved by then.)
fn wake_committer(node: &NodeShared, number: i32, prev: u64) {
    latch::wake(number);
    let holds = |slot: &Slot| slot.read().1 == SlotState::Turn && slot.prev.load(Ordering::SeqCst) == prev;
    if !super::shmem::slot(number).is_some_and(holds) {
        node.wake_apply_worker();
    }
}

/// Wake who waits for `applied` to reach `csn`.
pub fn wake_readers(node: &NodeShared, csn: u64) {
    if node.applied_waiters.load(Ordering::SeqCst) == 0 {
        return;
    }
    let index = node.index() as u32;
    for (number, slot) in slots().iter().enumerate() {
        let awaited = slot.awaits_applied.load(Ordering::SeqCst);
        if awaited != 0 && awaited <= csn && slot.node.load(Ordering::Relaxed) == index {
            latch::wake(number as i32);
        }
    }
}

/// The backend of this server that is about to commit the record at `csn`, or commits it now; whatever its incarnation: one
/// that has its turn keeps it when the log worker alone starts again. The log worker puts a record's slot into TURN before it
/// publishes the verdict, so a published record that nobody owns is nobody's for good.
pub fn owner(node: &NodeShared, csn: u64) -> Option<i32> {
    let index = node.index() as u32;
    let state = |slot: &Slot| {
        let (generation, state) = slot.read();
        matches!(state, SlotState::Turn | SlotState::Committing).then_some(generation)
    };
    let owns = |slot: &Slot| {
        let before = state(slot);
        before.is_some()
            && slot.csn.load(Ordering::SeqCst) == csn
            && slot.node.load(Ordering::SeqCst) == index
            // What was read belongs to this use of the slot.
            && state(slot) == before
    };
    slots().iter().position(owns).map(|number| number as i32)
}

/// Own decided records that wait for their turn.
pub fn waiting(node: &NodeShared) -> usize {
    let index = node.index() as u32;
    let waits = |slot: &&Slot| slot.node.load(Ordering::Relaxed) == index && slot.read().1 == SlotState::Turn;
    slots().iter().filter(waits).count()
}

/// The applied CSN that survives a crash of this server: flushes the WAL up to it.
pub fn durable_applied(node: &NodeShared) -> u64 {
    let origin = node.origin.load(Ordering::Acquire) as pg_sys::RepOriginId;
    if origin == 0 {
        return 0;
    }
    // SAFETY: reads shared memory under its own locks; needs a PGPROC, not a transaction.
    unsafe { pg_sys::replorigin_get_progress(origin, true) }
}
