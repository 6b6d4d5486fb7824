//! Who commits a record: a live backend of this server, or the apply worker.

use std::sync::atomic::Ordering;

use super::source::Pending;
use crate::pg::shmem::{self, NodeShared};
use crate::pg::slot::{Slot, SlotState};

/// Whether a backend of this server holds the record and will commit it itself. The log worker puts a record's slot into TURN
/// before it publishes the verdict, so a record that nobody holds by now is nobody's for good.
pub fn is_live(node: &NodeShared, record: &Pending) -> bool {
    // Not its incarnation: a backend that has its turn keeps it when the log worker alone starts again.
    record.node == node.node_id.load(Ordering::SeqCst)
        && shmem::slots().iter().any(|slot| holds(node, slot, record.csn))
}

fn holds(node: &NodeShared, slot: &Slot, csn: u64) -> bool {
    let before = slot.read();
    [SlotState::Turn, SlotState::Committing].contains(&before.1)
        && slot.csn.load(Ordering::SeqCst) == csn
        && slot.node.load(Ordering::SeqCst) == node.index() as u32
        && {
            let after = slot.read();
            after.0 == before.0 && [SlotState::Turn, SlotState::Committing].contains(&after.1)
        }
}
