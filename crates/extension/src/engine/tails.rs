//! Strong reads: one quorum round for all readers that wait when it starts.
//!
//! `served <= asked <= requested`, all counts of tickets. A ticket is served when a round that began after it was taken gave a
//! tail, and verdicts up to that tail are known: `tail_target` is then the last committing position.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use synod_log::SharedLog;

use super::Engine;
use crate::pg::latch;
use crate::pg::shmem::{NodeShared, slots};

/// Rounds under way and answered.
pub(super) struct Tails {
    asked: u64,
    answered: VecDeque<(u64, u64)>,
}

impl Tails {
    pub(super) fn new(node: &NodeShared) -> Self {
        // Tickets of before a restart of this worker are asked again.
        Self {
            asked: node.tail_served.load(Ordering::SeqCst),
            answered: VecDeque::new(),
        }
    }

    /// A round gave a tail for all tickets up to `token`.
    pub(super) fn answered(&mut self, token: u64, position: u64) {
        self.answered.push_back((token, position));
    }
}

impl<L: SharedLog> Engine<L> {
    /// Begin a round when somebody asked since the last one began.
    pub(super) fn ask_tails(&mut self) {
        let requested = self.node.tail_requested.load(Ordering::SeqCst);
        if requested > self.tails.asked {
            self.tails.asked = requested;
            self.log.tail(requested);
        }
    }

    /// Serve the tickets whose tail is certified.
    pub(super) fn serve_tails(&mut self) {
        let certified = self.certifier.position();
        let mut served = 0;
        while let Some((token, position)) = self.tails.answered.front().copied() {
            if position > certified {
                break;
            }
            served = served.max(token);
            self.tails.answered.pop_front();
        }
        if served <= self.node.tail_served.load(Ordering::SeqCst) {
            return;
        }
        self.node
            .tail_target
            .store(self.certifier.last_commit(), Ordering::SeqCst);
        self.node.tail_served.store(served, Ordering::SeqCst);
        let index = self.node.index() as u32;
        for (number, slot) in slots().iter().enumerate() {
            let ticket = slot.awaits_tail.load(Ordering::SeqCst);
            if ticket != 0 && ticket <= served && slot.node.load(Ordering::Relaxed) == index {
                latch::wake(number as i32);
            }
        }
    }
}
