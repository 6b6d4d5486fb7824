//! Transactions whose backends let go while the log was deciding them: `synod.transaction_status` must not call them
//! aborted before they have a verdict.

use std::sync::atomic::Ordering;

use synod_log::SharedLog;

use super::{Engine, Flight};
use crate::pg::shmem::NodeShared;

impl<L: SharedLog> Engine<L> {
    /// The backend of this slot has let go. Before the slot is freed.
    pub(super) fn orphan(&self, slot: i32, generation: u64) {
        let of_slot = |flight: &&Flight| flight.is_of(slot, generation);
        let Some(Flight::Record { transaction, .. }) = self.flights.values().find(of_slot) else {
            return;
        };
        let free = self
            .node
            .orphans
            .iter()
            .find(|orphan| orphan.load(Ordering::Relaxed) == 0);
        match free {
            Some(free) => free.store(*transaction, Ordering::SeqCst),
            None => {
                self.node.more_orphans.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// The transaction has its verdict. After the verdict can be read.
    pub(super) fn adopt(&self, transaction: u64) {
        if let Some(orphan) = self
            .node
            .orphans
            .iter()
            .find(|orphan| orphan.load(Ordering::Relaxed) == transaction)
        {
            orphan.store(0, Ordering::SeqCst);
        }
    }

    /// Nothing of ours is undecided: forget those that had no room.
    pub(super) fn forget_orphans(&self) {
        if self.flights.is_empty() && self.node.more_orphans.load(Ordering::Relaxed) != 0 {
            self.node.more_orphans.store(0, Ordering::SeqCst);
        }
    }
}

/// Whether this transaction of the running incarnation may still be decided without its backend.
pub fn is_orphan(node: &NodeShared, transaction: u64) -> bool {
    node.more_orphans.load(Ordering::SeqCst) != 0
        || node
            .orphans
            .iter()
            .any(|orphan| orphan.load(Ordering::SeqCst) == transaction)
}
