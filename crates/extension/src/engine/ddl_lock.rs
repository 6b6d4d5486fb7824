//! The group's DDL lock, on its way between backends and the log.
//!
//! A backend asks through its slot and is told by the slot's outcome; the position of a lock that was given is applied by the apply
//! worker, like everything that has no backend. Invariant: a lock of this incarnation whose transaction is over is given back,
//! whatever its backend did: [`Engine::end_ddl_lock`] looks at the slots after every round.

use std::sync::atomic::Ordering;
use std::time::Duration;

use synod_change::{DdlLockRecord, Record, TransactionId};
use synod_log::SharedLog;
use synod_rules::Verdict;

use super::{Engine, Flight};
use crate::pg::latch;
use crate::pg::shmem::{self, NodeLock, NodeShared, slots};
use crate::pg::slot::{Outcome, Slot, SlotState};

/// The holder of the lock, or its node, is given up when it acknowledged nothing for so long.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How often the leader puts an entry into the log to see whether the holder's node is there.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// What the leader has heard of the node whose transaction has the lock.
#[derive(Default)]
pub(super) struct Watch {
    owner: TransactionId,
    acknowledged: u64,
    /// It has not acknowledged all, and nothing since then.
    silent_since: Option<Duration>,
    asked: Duration,
}

impl<L: SharedLog> Engine<L> {
    pub(super) fn take_ddl_lock(&mut self, number: i32, slot: &Slot, generation: u64) {
        let transaction = slot.record_transaction.load(Ordering::Relaxed);
        let owner = self.own(transaction);
        if self.certifier.ddl_lock().is_some_and(|lock| lock.owner != owner) {
            self.refuse(number, slot, generation, Outcome::DdlLocked, 0);
            return;
        }
        // The slot holds the record itself.
        let payload = slot.read_payload().into();
        let record = match Record::decode(&payload) {
            Ok(record @ Record::DdlLock(DdlLockRecord { transaction: of, .. })) if of == transaction => record,
            _ => {
                self.refuse(number, slot, generation, Outcome::Stopped, 0);
                return;
            }
        };
        let flight = Flight::DdlLock {
            slot: number,
            generation,
        };
        self.propose(flight, record.encode());
    }

    pub(super) fn own(&self, number: u64) -> TransactionId {
        TransactionId {
            node: self.node_id,
            incarnation: self.incarnation,
            number,
        }
    }

    /// Give the lock back when its transaction is over and has no record on its way.
    pub(super) fn end_ddl_lock(&mut self) {
        let Some(owner) = self.certifier.ddl_lock().map(|lock| lock.owner) else {
            return;
        };
        if owner != self.own(owner.number) || !self.may_propose() {
            return;
        }
        let index = self.node.index() as u32;
        let runs = slots().iter().any(|slot| {
            slot.node.load(Ordering::SeqCst) == index && slot.transaction.load(Ordering::SeqCst) == owner.number
        });
        let on_its_way = self.flights.values().any(|flight| match flight {
            Flight::Record { transaction, .. } => *transaction == owner.number,
            Flight::DdlLock { .. } | Flight::DdlUnlock => true,
            _ => false,
        });
        if !runs && !on_its_way && !self.uploads_of(owner.number) {
            self.propose(Flight::DdlUnlock, Record::DdlUnlock(owner).encode());
        }
    }

    /// The leader takes the lock away from a node that is not heard of: what it keeps others from must not wait for its return.
    pub(super) fn watch_ddl_owner(&mut self, now: Duration) {
        let status = self.log.status();
        let leads = status.leader.is_some_and(|leader| leader.0 == self.node_id);
        let owner = self.certifier.ddl_lock().map(|lock| lock.owner);
        let Some(owner) = owner.filter(|owner| leads && owner.node != self.node_id) else {
            self.ddl_watch = Watch::default();
            return;
        };
        let known = status.acknowledged.iter().find(|(node, _)| node.0 == owner.node);
        let acknowledged = known.map_or(0, |(_, position)| *position);
        let watch = &mut self.ddl_watch;
        if watch.owner != owner || acknowledged > watch.acknowledged || acknowledged >= status.chosen {
            watch.silent_since = (acknowledged < status.chosen).then_some(now);
        } else if watch.silent_since.is_none() {
            watch.silent_since = Some(now);
        }
        (watch.owner, watch.acknowledged) = (owner, acknowledged);
        if now.saturating_sub(watch.asked) < ASK_EVERY || !self.may_propose() {
            return;
        }
        let silent = self
            .ddl_watch
            .silent_since
            .is_some_and(|since| now.saturating_sub(since) >= GONE_AFTER);
        // Where nothing is written, an entry that means nothing shows whether the node is there.
        let entry = match self.ddl_watch.silent_since {
            Some(_) if silent => owner,
            Some(_) => return,
            None => TransactionId::default(),
        };
        self.ddl_watch.asked = now;
        self.propose(Flight::DdlUnlock, Record::DdlUnlock(entry).encode());
    }

    /// For backends and the apply worker.
    pub(super) fn publish_ddl_lock(&self) {
        let node = self.node;
        let lock = self.certifier.ddl_lock();
        let position = lock.map_or(0, |lock| lock.position);
        if node.ddl_position.load(Ordering::SeqCst) == position {
            return;
        }
        {
            let _meta = node.lock(NodeLock::Meta, true);
            node.ddl_position.store(position, Ordering::SeqCst);
            if let Some(lock) = lock {
                node.ddl_node.store(lock.owner.node, Ordering::SeqCst);
                node.ddl_incarnation.store(lock.owner.incarnation, Ordering::SeqCst);
                node.ddl_transaction.store(lock.owner.number, Ordering::SeqCst);
                let count = lock.tables().len();
                let fits = count <= node.ddl_tables.len();
                node.ddl_all.store(lock.all || !fits, Ordering::SeqCst);
                node.ddl_table_count
                    .store(if fits { count as u32 } else { 0 }, Ordering::SeqCst);
                let mut expected = Vec::new();
                lock.expected.iter().for_each(|table| table.put(&mut expected));
                node.write_expected(&expected);
                for (place, table) in node.ddl_tables.iter().zip(lock.tables()) {
                    place.store(table.0, Ordering::SeqCst);
                }
            }
        }
        wake_waiters(node);
    }
}

fn wake_waiters(node: &NodeShared) {
    let index = node.index() as u32;
    for (number, slot) in slots().iter().enumerate() {
        if slot.awaits_ddl_lock.load(Ordering::SeqCst) && slot.node.load(Ordering::SeqCst) == index {
            latch::wake(number as i32);
        }
    }
}

/// Tell the backend that asked.
pub(super) fn answer(number: i32, generation: u64, position: u64, verdict: &Verdict) {
    let Some(slot) = shmem::slot(number) else { return };
    let (outcome, at) = match verdict {
        Verdict::Commit { .. } => (Outcome::DdlLockGranted, position),
        _ => (Outcome::DdlLocked, 0),
    };
    if slot.abort(generation, SlotState::Proposed, outcome, at) {
        latch::wake(number);
    }
}
