//! One slot per PGPROC: the hand-over of a transaction's record to the log worker, and its way back.
//!
//! States move by compare-and-swap only; who wins the swap owns the record:
//!
//! ```text
//! FREE -> FILLING -> QUEUED -> PROPOSED -> TURN -> COMMITTING -> FREE
//!                      |  |        |  |       `-> DETACHED
//!                      |  `-> ABORT `-> ABORT -> FREE          (certification conflict, no quorum, stopped)
//!                      `-> DETACHED <-'  -> FREE               (freed by the log worker)
//! ```
//!
//! The record of a service (`pg/service.rs`) has no transaction that could commit it: PROPOSED -> DECIDED -> FREE, and the
//! apply worker carries it out on this node, too.
//!
//! A detached record is nobody's any more: if the log decides that it commits, the apply worker applies it as if it
//! came from another node. `generation` tells two uses of a slot apart.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Records up to this many bytes (keys and body) travel in the slot itself, larger ones in a spill file.
pub const INLINE_BYTES: usize = 16 * 1024;
/// Sequences of which a statement can have values reserved at once.
pub const RESERVATIONS: usize = 4;

/// Where a record is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum SlotState {
    /// Unused.
    Free = 0,
    /// The backend writes its record into the slot.
    Filling = 1,
    /// Waits for the log worker.
    Queued = 2,
    /// In the log worker's hands: certified once, proposed or being proposed.
    Proposed = 3,
    /// Decided: commits when `applied == prev`.
    Turn = 4,
    /// The backend commits now.
    Committing = 5,
    /// Decided, or refused before the log: must roll back; `outcome` says why.
    Abort = 6,
    /// Given up by its backend.
    Detached = 7,
    /// Decided, and the apply worker's: the backend only has to read `csn`.
    Decided = 8,
}

/// Why a record must roll back, in [`Slot::outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// No verdict yet.
    None = 0,
    /// A conflicting record committed first.
    Conflict = 1,
    /// The transaction is older than what certification remembers.
    TooOld = 2,
    /// Nothing was proposed because no quorum is reachable.
    NoQuorum = 3,
    /// The log worker stopped, or this node's identity was fenced.
    Stopped = 4,
    /// Its spill file could not be read; nothing was proposed.
    SpillFailed = 5,
    /// The request for the DDL lock was granted, at the position in `winner`.
    DdlLockGranted = 6,
    /// Another transaction has the DDL lock, or this one had it and lost it.
    DdlLocked = 7,
}

impl Outcome {
    fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Conflict,
            2 => Self::TooOld,
            3 => Self::NoQuorum,
            4 => Self::Stopped,
            5 => Self::SpillFailed,
            6 => Self::DdlLockGranted,
            7 => Self::DdlLocked,
            _ => Self::None,
        }
    }
}

/// The shared-memory slot of one PGPROC. Payloads lie apart, so that looking at all slots stays within a few pages.
#[repr(C, align(64))]
pub struct Slot {
    /// `generation << 8 | SlotState`.
    word: AtomicU64,
    /// Index of the node in [`super::shmem::Shared::nodes`].
    pub node: AtomicU32,
    /// An [`Outcome`].
    pub outcome: AtomicU32,
    /// With `Outcome::Conflict`: the position of the record that won.
    pub winner: AtomicU64,
    /// The number of the process' running transaction within this incarnation, once somebody asked for it; 0: none.
    pub transaction: AtomicU64,
    /// The number of the transaction whose record is in the slot. Stable until the slot is free.
    pub record_transaction: AtomicU64,
    /// The incarnation that the record was handed to: part of its transaction's id.
    pub incarnation: AtomicU64,
    /// Set with TURN: this record's CSN.
    pub csn: AtomicU64,
    /// Set with TURN: the committing position before it.
    pub prev: AtomicU64,
    /// Number of certification keys at the start of the payload.
    pub keys: AtomicU32,
    /// Bytes used in `payload`.
    pub inline_length: AtomicU32,
    /// Set when keys and body are in the spill file of this slot and generation.
    pub spilled: AtomicBool,
    /// The record is a service's.
    pub service: AtomicBool,
    /// Not a record but a request for the DDL lock (see `crate::engine`'s `ddl_lock`), or for more tables under it.
    pub asks_for_ddl_lock: AtomicBool,
    /// Length of the body in bytes.
    pub body_length: AtomicU64,
    /// Commit time, microseconds since 2000-01-01.
    pub commit_time_us: AtomicU64,

    /// The process waits for `applied` of its node to reach this; 0: it does not wait.
    pub awaits_applied: AtomicU64,
    /// The process waits for this tail ticket; 0: it does not.
    pub awaits_tail: AtomicU64,
    /// For the parallel workers of the process' query: up to where it has passed the read barrier, and one more; 0: it has not.
    pub passed: AtomicU64,
    /// The process waits for the DDL lock to be free.
    pub awaits_ddl_lock: AtomicBool,
    /// What the running statement may draw from sequences of the group, each `sequence << 32 | values`; 0: unused.
    pub reserved: [AtomicU64; RESERVATIONS],
    /// Set by give-way: the transaction that must end with 40001, `pid << 32 | local transaction id`. One that has ended is
    /// not meant any more, so nobody clears it.
    pub doomed: AtomicU64,
    /// Set by the apply worker: the process that ends for its temporary object's sake. One that has ended is not meant any more.
    pub ended_for_temporary: AtomicI32,
}

impl Slot {
    /// Generation and state.
    pub fn read(&self) -> (u64, SlotState) {
        split(self.word.load(Ordering::SeqCst))
    }

    /// State, if the slot still is in this generation.
    pub fn state_of(&self, generation: u64) -> Option<SlotState> {
        let (now, state) = self.read();
        (now == generation).then_some(state)
    }

    /// Move from one state to another; false when somebody else was first.
    pub fn swap(&self, generation: u64, from: SlotState, to: SlotState) -> bool {
        self.word
            .compare_exchange(
                join(generation, from),
                join(generation, to),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_ok()
    }

    /// Begin a new use: FREE -> FILLING with the next generation. `None` when the slot is not free.
    pub fn take(&self) -> Option<u64> {
        let (generation, state) = self.read();
        let next = generation + 1;
        (state == SlotState::Free
            && self
                .word
                .compare_exchange(
                    join(generation, SlotState::Free),
                    join(next, SlotState::Filling),
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                )
                .is_ok())
        .then_some(next)
    }

    /// Free the slot from a state that the caller owns.
    pub fn free(&self, generation: u64, from: SlotState) {
        let _ = self.swap(generation, from, SlotState::Free);
    }

    /// Roll back with a reason: QUEUED or PROPOSED -> ABORT. False when the backend has let go.
    pub fn abort(&self, generation: u64, from: SlotState, outcome: Outcome, winner: u64) -> bool {
        self.winner.store(winner, Ordering::Relaxed);
        self.outcome.store(outcome as u32, Ordering::Release);
        self.swap(generation, from, SlotState::Abort)
    }

    /// Let go of the record: from QUEUED, PROPOSED or TURN. The state it was in, or `None` when it was too late.
    pub fn detach(&self, generation: u64) -> Option<SlotState> {
        [SlotState::Queued, SlotState::Proposed, SlotState::Turn]
            .into_iter()
            .find(|from| self.swap(generation, *from, SlotState::Detached))
            .or_else(|| {
                // The state may have moved on while we tried the earlier ones.
                [SlotState::Proposed, SlotState::Turn]
                    .into_iter()
                    .find(|from| self.swap(generation, *from, SlotState::Detached))
            })
    }

    /// Why it must roll back.
    pub fn outcome(&self) -> Outcome {
        Outcome::from_u32(self.outcome.load(Ordering::Acquire))
    }

    /// Copy bytes into the payload at `offset`. The caller made sure that they fit.
    pub fn write_payload(&self, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= INLINE_BYTES);
        let target = &super::shmem::payload(self)[offset..offset + bytes.len()];
        // SAFETY: AtomicU8 has the layout of u8; only the owner of a FILLING slot writes, and nobody reads before QUEUED.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr().cast::<u8>().cast_mut(), bytes.len());
        }
    }

    /// The payload's first `inline_length` bytes, copied.
    pub fn read_payload(&self) -> Vec<u8> {
        let length = (self.inline_length.load(Ordering::Acquire) as usize).min(INLINE_BYTES);
        let mut bytes = vec![0_u8; length];
        // SAFETY: as above: written before QUEUED, stable until the slot is freed, read by the log worker only.
        unsafe {
            std::ptr::copy_nonoverlapping(
                super::shmem::payload(self).as_ptr().cast::<u8>(),
                bytes.as_mut_ptr(),
                length,
            );
        }
        bytes
    }
}

fn join(generation: u64, state: SlotState) -> u64 {
    generation << 8 | state as u64
}

fn split(word: u64) -> (u64, SlotState) {
    let state = match word & 0xff {
        1 => SlotState::Filling,
        2 => SlotState::Queued,
        3 => SlotState::Proposed,
        4 => SlotState::Turn,
        5 => SlotState::Committing,
        6 => SlotState::Abort,
        7 => SlotState::Detached,
        8 => SlotState::Decided,
        _ => SlotState::Free,
    };
    (word >> 8, state)
}
