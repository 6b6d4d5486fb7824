//! What a leader knows of one peer, and what is on the way to it.
//!
//! Invariants: `upto` only grows; `in_flight` ascends, lies below `next`, and sums up to
//! `in_flight_bytes`.

use std::collections::VecDeque;

use crate::types::Position;

/// What the leader knows of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Durable there, in this ballot.
    pub(crate) upto: Position,
    /// Chosen there, as far as it said.
    pub(crate) chosen: Position,
    /// The next position to send.
    pub(crate) next: Position,
    /// Sent and not acknowledged: (last position, bytes) per message.
    in_flight: VecDeque<(Position, usize)>,
    pub(crate) in_flight_bytes: usize,
    /// The watermark it was last sent.
    pub(crate) told_chosen: Position,
    /// The last round it has confirmed.
    pub(crate) round: u64,
    /// The round before which `known_last` was learnt: an answer to a later one may not say less.
    pub(crate) last_round: u64,
    pub(crate) heard_ms: Option<u64>,
    /// Of its own proposals, how many were proposed in this window (`handover.rs`).
    pub(crate) proposed: u64,
    /// The last gap it reported, and when: one answer per gap is enough.
    pub(crate) gap: Option<(Position, u64)>,
}

impl Peer {
    pub(crate) fn new(next: Position) -> Peer {
        Peer {
            upto: 0,
            chosen: 0,
            next,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            told_chosen: 0,
            round: 0,
            last_round: 0,
            heard_ms: None,
            proposed: 0,
            gap: None,
        }
    }

    pub(crate) fn heard_within(&self, now_ms: u64, timeout_ms: u64) -> bool {
        self.heard_ms.is_some_and(|heard_ms| now_ms < heard_ms + timeout_ms)
    }

    pub(crate) fn acknowledged(&mut self, upto: Position) {
        self.upto = self.upto.max(upto);
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(last, _)| *last <= upto) {
            self.in_flight_bytes -= bytes;
        }
    }

    pub(crate) fn sent(&mut self, last: Position, bytes: usize) {
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
        self.next = last + 1;
    }

    pub(crate) fn send_again_from(&mut self, next: Position) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.next = next;
    }
}
