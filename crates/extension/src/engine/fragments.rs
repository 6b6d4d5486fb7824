//! Large bodies: sent in fragments ahead of their record, a few at a time, so that small transactions pass between them.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use synod_change::{Body, FRAGMENT_BYTES, Record, WriteRecord};
use synod_log::SharedLog;

use super::{Engine, Flight};
use crate::local_key::LocalKey;
use crate::pg::failpoint;
use crate::pg::latch;
use crate::pg::shmem;
use crate::pg::slot::{Outcome, SlotState};

/// Fragments of one upload on their way at the same time: 2 MB.
const WINDOW: usize = 8;

/// Where a body lies.
pub(super) enum Source {
    /// Small enough for the record itself.
    Memory(Bytes),
    /// To be sent in fragments.
    File { file: File, length: u64 },
}

/// One large body being sent.
pub(super) struct Upload {
    flight: Flight,
    write: WriteRecord,
    keys: Vec<LocalKey>,
    file: File,
    length: u64,
    sent: u64,
    crc: u32,
    pieces: usize,
    /// Positions by piece; 0 while on its way.
    positions: Vec<u64>,
    arrived: usize,
    /// Its record will not be proposed: once all pieces have arrived they are closed, so that they can be trimmed.
    given_up: bool,
}

impl<L: SharedLog> Engine<L> {
    pub(super) fn start_upload(
        &mut self,
        flight: Flight,
        write: WriteRecord,
        keys: Vec<LocalKey>,
        file: File,
        length: u64,
    ) {
        let upload = Upload {
            flight,
            write,
            keys,
            file,
            length,
            sent: 0,
            crc: 0,
            pieces: 0,
            positions: Vec::new(),
            arrived: 0,
            given_up: false,
        };
        let id = self.sequence + 1;
        self.uploads.insert(id, upload);
        self.feed_upload(id);
    }

    /// The upload of the record in this slot and generation.
    pub(super) fn upload_of(&self, number: i32, generation: u64) -> Option<&Upload> {
        self.uploads
            .values()
            .find(|upload| !upload.given_up && upload.flight.is_of(number, generation))
    }

    pub(super) fn feed_uploads(&mut self) {
        let ids: Vec<u64> = self.uploads.keys().copied().collect();
        for id in ids {
            self.feed_upload(id);
        }
    }

    /// Send pieces while the window has room; when all have arrived, the record.
    fn feed_upload(&mut self, id: u64) {
        let Some(mut upload) = self.uploads.remove(&id) else {
            return;
        };
        // Its backend may have let go before the record was proposed: then it never happens.
        upload.given_up |= abandoned(upload.flight);
        if upload.given_up {
            self.close_upload(id, upload);
            return;
        }
        let mut pieces = Vec::new();
        let mut readable = true;
        while upload.sent < upload.length && upload.pieces - upload.arrived < WINDOW && self.may_propose() {
            let Some(bytes) = upload.next_piece() else {
                readable = false;
                break;
            };
            pieces.push((upload.pieces, bytes));
            upload.pieces += 1;
            upload.positions.push(0);
        }
        if failpoint::armed("fragments") {
            pieces.reverse();
        }
        for (piece, bytes) in pieces {
            self.propose(Flight::Fragment { upload: id, piece }, Record::Fragment(bytes).encode());
        }
        if !readable {
            refuse(upload.flight, Outcome::SpillFailed, 0);
            self.close_upload(id, upload);
            return;
        }
        if upload.sent == upload.length && upload.arrived == upload.pieces {
            self.finish_upload(id, upload);
        } else {
            self.uploads.insert(id, upload);
        }
    }

    /// The keys are certified again: much may have happened while the body travelled.
    fn finish_upload(&mut self, id: u64, upload: Upload) {
        if !upload.positions.is_sorted_by(|a, b| a < b) {
            // A lost message was sent again behind later pieces; a record names its fragments in their order.
            refuse(upload.flight, Outcome::TooOld, 0);
            self.close_upload(id, upload);
            return;
        }
        let keys = upload.keys.iter().map(|local| (local.key, local.base));
        if let Err(failure) = self.certifier.check(upload.write.transaction, keys) {
            self.node.conflicts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (outcome, winner) = super::collect::refusal(&failure);
            refuse(upload.flight, outcome, winner);
            self.close_upload(id, upload);
            return;
        }
        let body = Body::Fragments {
            positions: upload.positions,
            length: upload.length,
            crc: upload.crc,
        };
        let write = WriteRecord {
            base: self.certifier.position(),
            body,
            ..upload.write
        };
        self.propose(upload.flight, write.encode());
    }

    /// Fragments that no record will name stay open in the certifier, and hold up trimming and joining, until they are closed:
    /// by a record that names them and cannot commit (its base is in the future), so that all nodes forget them alike.
    fn close_upload(&mut self, id: u64, mut upload: Upload) {
        upload.given_up = true;
        if upload.arrived < upload.pieces {
            self.uploads.insert(id, upload);
            return;
        }
        if upload.pieces == 0 {
            return;
        }
        upload.positions.sort_unstable();
        let body = Body::Fragments {
            positions: upload.positions,
            length: upload.length,
            crc: upload.crc,
        };
        let void = WriteRecord {
            base: u64::MAX,
            keys: Vec::new(),
            body,
            ..upload.write
        };
        self.propose(Flight::Close, void.encode());
    }

    /// Whether a body of this transaction is on its way.
    pub(super) fn uploads_of(&self, number: u64) -> bool {
        self.uploads
            .values()
            .any(|upload| upload.write.transaction.number == number && !upload.given_up)
    }

    pub(super) fn fragment_arrived(&mut self, upload: u64, piece: usize, position: u64) {
        if let Some(upload) = self.uploads.get_mut(&upload)
            && let Some(slot) = upload.positions.get_mut(piece)
            && *slot == 0
        {
            *slot = position;
            upload.arrived += 1;
        }
    }
}

impl Upload {
    /// Its record's keys.
    pub(super) fn keys(&self) -> &[LocalKey] {
        &self.keys
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        let length = (self.length - self.sent).min(FRAGMENT_BYTES as u64) as usize;
        let mut piece = vec![0; length];
        self.file.read_exact(&mut piece).ok()?;
        self.sent += length as u64;
        self.crc = crc32c::crc32c_append(self.crc, &piece);
        Some(piece.into())
    }
}

fn abandoned(flight: Flight) -> bool {
    let Flight::Record { slot, generation, .. } = flight else {
        return false;
    };
    shmem::slot(slot).is_none_or(|slot| slot.state_of(generation) != Some(SlotState::Proposed))
}

fn refuse(flight: Flight, outcome: Outcome, winner: u64) {
    if let Flight::Record {
        slot: number,
        generation,
        ..
    } = flight
        && let Some(slot) = shmem::slot(number)
        && slot.abort(generation, SlotState::Proposed, outcome, winner)
    {
        latch::wake(number);
    }
}
