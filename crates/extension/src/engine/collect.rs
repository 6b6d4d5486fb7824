//! From the slots into the log: certify locally, then propose.

use std::sync::atomic::{AtomicU64, Ordering};

use synod_change::{Body, Key, MAX_INLINE_BODY_BYTES, TransactionId, WriteRecord};
use synod_log::SharedLog;
use synod_rules::CheckFailure;

use super::{Engine, Flight, fragments};
use crate::local_key::{self, LocalKey};
use crate::pg::shmem::{self, MAX_SLOTS, NodeShared, slots};
use crate::pg::slot::{Outcome, Slot, SlotState};
use crate::pg::submit::{remove_spill, spill_paths};
use crate::pg::{latch, turn};

/// A record as it lies in a slot.
struct Collected {
    keys: Vec<LocalKey>,
    body: fragments::Source,
    transaction: TransactionId,
    commit_time_us: i64,
}

impl<L: SharedLog> Engine<L> {
    /// Take every queued record, unless the gate is shut or there is no quorum to propose to: then they stay marked.
    pub(super) fn collect(&mut self) {
        let words = &self.node.marked[..slots().len().div_ceil(64).min(MAX_SLOTS / 64)];
        if words.iter().all(|word| word.load(Ordering::SeqCst) == 0) {
            self.node.gate_shut.store(false, Ordering::SeqCst);
            return;
        }
        let index = self.node.index() as u32;
        // Shut before counting: who commits while we count then wakes us.
        self.node.gate_shut.store(true, Ordering::SeqCst);
        let shut = turn::waiting(self.node) > turn::GATE;
        if !shut {
            self.node.gate_shut.store(false, Ordering::SeqCst);
        }
        let open = self.started && self.node.quorum.load(Ordering::Acquire) && !shut && self.may_propose();
        let mut taken = 0;
        for number in words.iter().enumerate().flat_map(|(at, word)| bits(at, word)) {
            let Some(slot) = shmem::slot(number) else { continue };
            let (generation, state) = slot.read();
            match state {
                _ if slot.node.load(Ordering::Relaxed) != index => {}
                SlotState::Queued if slot.incarnation.load(Ordering::Relaxed) != self.incarnation => {
                    // Handed to the worker before this one: its id would not be the one that its user was told.
                    slot.abort(generation, SlotState::Queued, Outcome::Stopped, 0);
                    latch::wake(number);
                }
                SlotState::Queued if !open => {
                    self.node.marked[number as usize / 64].fetch_or(1 << (number % 64), Ordering::SeqCst);
                }
                SlotState::Queued if slot.swap(generation, SlotState::Queued, SlotState::Proposed) => {
                    self.take(number, slot, generation);
                    taken += 1;
                }
                SlotState::Detached => self.free_detached(number, slot, generation),
                _ => {}
            }
        }
        if taken > 0 {
            self.node.batches.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&mut self, number: i32, slot: &Slot, generation: u64) {
        if slot.asks_for_ddl_lock.load(Ordering::Relaxed) {
            self.take_ddl_lock(number, slot, generation);
            return;
        }
        let Some(record) = self.read(number, slot, generation) else {
            self.refuse(number, slot, generation, Outcome::SpillFailed, 0);
            return;
        };
        let keys = record.keys.iter().map(|local| (local.key, local.base));
        if let Err(failure) = self.certifier.check(record.transaction, keys) {
            self.node.conflicts.fetch_add(1, Ordering::Relaxed);
            let (outcome, winner) = refusal(&failure);
            self.refuse(number, slot, generation, outcome, winner);
            return;
        }
        let write = WriteRecord {
            base: self.certifier.position(),
            transaction: record.transaction,
            commit_time_us: record.commit_time_us,
            keys: record.keys.iter().map(|local| local.key).collect::<Vec<Key>>(),
            body: Body::Inline(bytes::Bytes::new()),
        };
        let flight = Flight::Record {
            slot: number,
            generation,
            transaction: record.transaction.number,
        };
        match record.body {
            fragments::Source::Memory(body) => {
                let write = WriteRecord {
                    body: Body::Inline(body),
                    ..write
                };
                self.propose(flight, write.encode());
            }
            fragments::Source::File { file, length } => self.start_upload(flight, write, record.keys, file, length),
        }
    }

    fn read(&self, number: i32, slot: &Slot, generation: u64) -> Option<Collected> {
        let transaction = TransactionId {
            node: self.node_id,
            incarnation: self.incarnation,
            number: slot.record_transaction.load(Ordering::Relaxed),
        };
        let commit_time_us = slot.commit_time_us.load(Ordering::Relaxed) as i64;
        let count = slot.keys.load(Ordering::Relaxed) as usize;
        if !slot.spilled.load(Ordering::Acquire) {
            let payload = bytes::Bytes::from(slot.read_payload());
            let keys = local_key::decode(&payload, count)?;
            let body = fragments::Source::Memory(payload.slice(count * local_key::KEY_BYTES..));
            return Some(Collected {
                keys,
                body,
                transaction,
                commit_time_us,
            });
        }
        let (body_path, keys_path) = spill_paths(self.node.database.load(Ordering::Relaxed), number, generation);
        let keys = local_key::decode(&std::fs::read(&keys_path).ok()?, count)?;
        let length = slot.body_length.load(Ordering::Relaxed);
        let body = if length <= MAX_INLINE_BODY_BYTES as u64 {
            fragments::Source::Memory(std::fs::read(&body_path).ok()?.into())
        } else {
            fragments::Source::File {
                file: std::fs::File::open(&body_path).ok()?,
                length,
            }
        };
        remove_spill(self.node, number, generation);
        Some(Collected {
            keys,
            body,
            transaction,
            commit_time_us,
        })
    }

    /// The backend of this slot waits for its verdict and holds a lock that apply needs. If a decided record conflicts with
    /// its own, the verdict is certain: whatever position it gets is above that record, and its base is below. It need not
    /// wait for it, not even for a majority.
    pub fn abort_if_lost(&self, number: i32) {
        let Some(slot) = shmem::slot(number) else { return };
        let (generation, state) = slot.read();
        if state != SlotState::Proposed || slot.node.load(Ordering::Relaxed) != self.node.index() as u32 {
            return;
        }
        let keys = if let Some(upload) = self.upload_of(number, generation) {
            upload.keys().to_vec()
        } else if self.is_flying(number, generation) && !slot.spilled.load(Ordering::Acquire) {
            let count = slot.keys.load(Ordering::Relaxed) as usize;
            local_key::decode(&slot.read_payload(), count).unwrap_or_default()
        } else {
            return;
        };
        let keys = keys.iter().map(|local| (local.key, local.base));
        let by = self.own(slot.record_transaction.load(Ordering::Relaxed));
        if let Some(conflict) = self.certifier.lost(by, keys) {
            self.refuse(number, slot, generation, Outcome::Conflict, conflict.position);
        }
    }

    fn is_flying(&self, number: i32, generation: u64) -> bool {
        self.flights.values().any(|flight| flight.is_of(number, generation))
    }

    pub(super) fn refuse(&self, number: i32, slot: &Slot, generation: u64, outcome: Outcome, winner: u64) {
        if slot.abort(generation, SlotState::Proposed, outcome, winner) {
            latch::wake(number);
        }
    }

    /// What was proposed goes on without its slot; what was only queued never happened.
    fn free_detached(&self, number: i32, slot: &Slot, generation: u64) {
        if slot.spilled.load(Ordering::Acquire) {
            remove_spill(self.node, number, generation);
        }
        self.orphan(number, generation);
        slot.free(generation, SlotState::Detached);
        latch::wake(number);
    }
}

/// The numbers of the slots marked in the word at this place, which are not marked any more.
fn bits(at: usize, word: &AtomicU64) -> impl Iterator<Item = i32> + use<> {
    let mut left = if word.load(Ordering::SeqCst) == 0 {
        0
    } else {
        word.swap(0, Ordering::SeqCst)
    };
    std::iter::from_fn(move || {
        let bit = (left != 0).then(|| left.trailing_zeros())?;
        left &= left - 1;
        Some((at * 64) as i32 + bit as i32)
    })
}

/// Abort whatever is queued and wake who waits: the worker is about to end.
pub fn refuse_all(node: &NodeShared) {
    let index = node.index() as u32;
    for (number, slot) in slots().iter().enumerate() {
        if slot.node.load(Ordering::Relaxed) != index {
            continue;
        }
        let (generation, state) = slot.read();
        if state == SlotState::Queued {
            slot.abort(generation, SlotState::Queued, Outcome::Stopped, 0);
        }
        latch::wake(number as i32);
    }
}

/// A failed local certification in the slot's terms.
pub(super) fn refusal(failure: &CheckFailure) -> (Outcome, u64) {
    match failure {
        CheckFailure::Conflict(conflict) => (Outcome::Conflict, conflict.position),
        CheckFailure::TooOld { .. } => (Outcome::TooOld, 0),
    }
}
