//! From the log to verdicts: every entry in order, the same on every node.

use std::sync::atomic::Ordering;

use synod_change::{DecodeError, Record};
use synod_log::{ChosenEntry, SharedLog, Value};
use synod_rules::{Abort, Input, Skip, Verdict};

use super::{Engine, Flight, Stop};
use crate::pg::shmem;
use crate::pg::slot::{Outcome, SlotState};
use crate::pg::{latch, turn};

/// What the index says of an entry whose verdict was given elsewhere ([`synod_log::Verdict`]).
const VERDICT_UNKNOWN: u8 = 0;

impl<L: SharedLog> Engine<L> {
    /// Give verdicts on newly chosen entries and tell who waits for them.
    pub(super) fn decide(&mut self, entries: Vec<ChosenEntry>) -> Result<(), Stop> {
        let mut previous = self.certifier.last_commit();
        let mut waiting = Vec::new();
        let mut decided = Vec::new();
        for chosen in &entries {
            let position = chosen.entry.position;
            if position <= self.certifier.position() {
                self.place(chosen)?;
                continue;
            }
            self.count_bytes(chosen.location.length.into());
            let (verdict, flight) = self.certify(chosen)?;
            self.index
                .record(position, chosen.location, verdict.code())
                .map_err(|error| Stop::Files(error.to_string()))?;
            if let Some(flight) = flight {
                self.land(position, flight, &verdict, previous, &mut waiting, &mut decided)?;
            } else if verdict.commits() {
                // Certified again after a start of this worker alone, it may still be a live backend's.
                waiting.push((previous, turn::owner(self.node, position)));
            }
            if verdict.commits() {
                previous = position;
            }
        }
        self.index.flush().map_err(|error| Stop::Files(error.to_string()))?;
        // The order matters: the index is readable, then `certified` moves, then successors are woken.
        self.publish_certified();
        for (previous, slot) in waiting {
            turn::announce(self.node, previous, slot);
        }
        for transaction in decided {
            self.adopt(transaction);
        }
        Ok(())
    }

    /// An entry from before the checkpoint, delivered for the sake of fragments: a node that joined has only its verdict, so
    /// to speak, not where it lies.
    fn place(&mut self, chosen: &ChosenEntry) -> Result<(), Stop> {
        let files = |error: synod_log::StorageError| Stop::Files(error.to_string());
        let position = chosen.entry.position;
        if self.index.lookup(position).map_err(files)?.is_none() {
            self.index
                .record(position, chosen.location, VERDICT_UNKNOWN)
                .map_err(files)?;
        }
        Ok(())
    }

    fn certify(&mut self, chosen: &ChosenEntry) -> Result<(Verdict, Option<Flight>), Stop> {
        let position = chosen.entry.position;
        let command = match &chosen.entry.value {
            Value::Command(command) => command,
            Value::Noop => return Ok((self.certifier.apply(position, Input::Nothing), None)),
            Value::Membership(membership) => {
                let ids: Vec<u32> = membership.members.iter().map(|member| member.id.0).collect();
                return Ok((self.certifier.apply(position, Input::Members(&ids)), None));
            }
        };
        let record = Record::decode(&command.payload).map_err(|error| unreadable(position, &error))?;
        let id = (command.id.node.0, command.id.incarnation, command.id.sequence).into();
        let verdict = self.certifier.apply(position, Input::Command { id, record: &record });
        let own = command.id.node.0 == self.node_id && command.id.incarnation == self.incarnation;
        if own && matches!(verdict, Verdict::Skip(Skip::Fenced)) {
            return Err(Stop::Fenced);
        }
        let duplicate = matches!(verdict, Verdict::Skip(Skip::Duplicate));
        let flight = if own && !duplicate {
            self.flights.remove(&command.id.sequence)
        } else {
            None
        };
        Ok((verdict, flight))
    }

    /// One of our own proposals has its verdict.
    fn land(
        &mut self,
        position: u64,
        flight: Flight,
        verdict: &Verdict,
        previous: u64,
        waiting: &mut Vec<(u64, Option<i32>)>,
        decided: &mut Vec<u64>,
    ) -> Result<(), Stop> {
        match flight {
            Flight::Start => self.started = true,
            Flight::Close | Flight::DdlUnlock => {
                if verdict.commits() {
                    waiting.push((previous, None));
                }
            }
            Flight::DdlLock { slot, generation } => {
                if verdict.commits() {
                    waiting.push((previous, None));
                }
                super::ddl_lock::answer(slot, generation, position, verdict);
            }
            Flight::Fragment { upload, piece } => self.fragment_arrived(upload, piece, position),
            Flight::Record {
                slot: number,
                generation,
                transaction,
            } => {
                decided.push(transaction);
                let Some(slot) = shmem::slot(number) else { return Ok(()) };
                match verdict {
                    Verdict::Commit { .. } => {
                        let held = slot.state_of(generation) == Some(SlotState::Proposed);
                        if held {
                            slot.csn.store(position, Ordering::Release);
                            slot.prev.store(previous, Ordering::Release);
                        }
                        if held && slot.service.load(Ordering::Acquire) {
                            if slot.swap(generation, SlotState::Proposed, SlotState::Decided) {
                                latch::wake(number);
                            }
                            waiting.push((previous, None));
                            return Ok(());
                        }
                        let held = held && slot.swap(generation, SlotState::Proposed, SlotState::Turn);
                        waiting.push((previous, held.then_some(number)));
                    }
                    Verdict::Abort(abort) => {
                        self.node.conflicts.fetch_add(1, Ordering::Relaxed);
                        let (outcome, winner) = match abort {
                            Abort::Conflict(conflict) => (Outcome::Conflict, conflict.position),
                            Abort::TooOld | Abort::Malformed => (Outcome::TooOld, 0),
                            Abort::DdlLocked => (Outcome::DdlLocked, 0),
                        };
                        if slot.abort(generation, SlotState::Proposed, outcome, winner) {
                            latch::wake(number);
                        }
                    }
                    Verdict::Skip(_) => {}
                }
            }
        }
        Ok(())
    }
}

fn unreadable(position: u64, error: &DecodeError) -> Stop {
    let reason = match error {
        DecodeError::Unknown { .. } => format!("{error}; a newer release of synod wrote it: upgrade this node"),
        _ => error.to_string(),
    };
    Stop::Record { position, reason }
}
