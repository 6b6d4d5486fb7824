//! Where an event stands, told relative to the event before.
//!
//! Flags (u8), then what they announce, then the distance of the LSN from the last one told (signed varint). Flags: the two lowest
//! bits say how the id is told (0: the last one's successor; 1 group, CSN, ordinal; 2 LSN, ordinal; 3 xid, ordinal), the third
//! that the xid follows, because it is not the last one's.

use crate::DecodeError;
use crate::stream::{EventId, Place, Transaction};
use crate::wire::{Decoder, put_bytes, put_signed, put_varint};

const ID: u8 = 3;
const ID_NEXT: u8 = 0;
const ID_GROUP: u8 = 1;
const ID_COMMIT: u8 = 2;
const ID_OPEN: u8 = 3;
const XID: u8 = 4;

/// What an ordinal counts within.
#[derive(Debug, Default)]
enum Base {
    #[default]
    Nothing,
    Group {
        group: String,
        csn: u64,
    },
    Commit(u64),
    Open(u32),
}

/// The last place told. A transaction's beginning sets it, so that no transaction depends on the one before.
#[derive(Debug, Default)]
pub(super) struct Here {
    base: Base,
    ordinal: u64,
    lsn: u64,
    xid: u32,
}

impl Here {
    /// A transaction, or a block of one, begins.
    pub(super) fn enter(&mut self, transaction: &Transaction<'_>) {
        self.base = match (transaction.csn, transaction.commit_lsn) {
            (Some((group, csn)), _) => Base::Group {
                group: group.to_owned(),
                csn,
            },
            (None, Some(lsn)) => Base::Commit(lsn),
            (None, None) => Base::Open(transaction.xid),
        };
        self.ordinal = 0;
        self.xid = transaction.xid;
        self.lsn = transaction.commit_lsn.unwrap_or(0);
    }

    fn is_next(&self, id: &EventId<'_>) -> bool {
        let (same, ordinal) = match (id, &self.base) {
            (EventId::Group { group, csn, ordinal }, Base::Group { group: g, csn: c }) => {
                (group == g && csn == c, ordinal)
            }
            (EventId::Commit { lsn, ordinal }, Base::Commit(l)) => (lsn == l, ordinal),
            (EventId::Open { xid, ordinal }, Base::Open(x)) => (xid == x, ordinal),
            _ => return false,
        };
        same && Some(*ordinal) == self.ordinal.checked_add(1)
    }

    fn set(&mut self, id: &EventId<'_>) {
        match *id {
            EventId::Group { group, csn, ordinal } => {
                self.base = Base::Group {
                    group: group.to_owned(),
                    csn,
                };
                self.ordinal = ordinal;
            }
            EventId::Commit { lsn, ordinal } => {
                self.base = Base::Commit(lsn);
                self.ordinal = ordinal;
            }
            EventId::Open { xid, ordinal } => {
                self.base = Base::Open(xid);
                self.ordinal = ordinal;
            }
        }
    }

    /// An event that took more ordinals than one.
    pub(super) const fn skip(&mut self, ordinals: u64) {
        self.ordinal = self.ordinal.saturating_add(ordinals);
    }

    pub(super) fn put(&mut self, place: &Place<'_>, out: &mut Vec<u8>) {
        let xid = if place.xid == self.xid { 0 } else { XID };
        if self.is_next(&place.id) {
            out.push(ID_NEXT | xid);
            self.ordinal += 1;
        } else {
            match place.id {
                EventId::Group { group, csn, ordinal } => {
                    out.push(ID_GROUP | xid);
                    put_bytes(out, group.as_bytes());
                    put_varint(out, csn);
                    put_varint(out, ordinal);
                }
                EventId::Commit { lsn, ordinal } => {
                    out.push(ID_COMMIT | xid);
                    put_varint(out, lsn);
                    put_varint(out, ordinal);
                }
                EventId::Open { xid: of, ordinal } => {
                    out.push(ID_OPEN | xid);
                    put_varint(out, of.into());
                    put_varint(out, ordinal);
                }
            }
            self.set(&place.id);
        }
        if xid != 0 {
            put_varint(out, place.xid.into());
            self.xid = place.xid;
        }
        put_signed(out, place.lsn.wrapping_sub(self.lsn) as i64);
        self.lsn = place.lsn;
    }

    /// The counterpart of [`put`](Self::put); [`place`](Self::place) then gives what was read.
    pub(super) fn read(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let flags = decoder.u8()?;
        if flags & !(ID | XID) != 0 {
            return Err(decoder.corrupt("an unknown flag of a place is set"));
        }
        match flags & ID {
            ID_NEXT => {
                self.ordinal = self
                    .ordinal
                    .checked_add(1)
                    .ok_or(decoder.corrupt("an ordinal is out of range"))?;
            }
            ID_GROUP => {
                let group = decoder.text()?;
                let (csn, ordinal) = (decoder.varint()?, decoder.varint()?);
                self.set(&EventId::Group { group, csn, ordinal });
            }
            ID_COMMIT => {
                let (lsn, ordinal) = (decoder.varint()?, decoder.varint()?);
                self.set(&EventId::Commit { lsn, ordinal });
            }
            _ => {
                let (xid, ordinal) = (decoder.varint_u32()?, decoder.varint()?);
                self.set(&EventId::Open { xid, ordinal });
            }
        }
        if flags & XID != 0 {
            self.xid = decoder.varint_u32()?;
        }
        self.lsn = self.lsn.wrapping_add(decoder.signed()? as u64);
        if matches!(self.base, Base::Nothing) {
            return Err(decoder.corrupt("an event has no id"));
        }
        Ok(())
    }

    /// The last place told.
    pub(super) fn place(&self) -> Place<'_> {
        let ordinal = self.ordinal;
        let id = match &self.base {
            Base::Group { group, csn } => EventId::Group {
                group,
                csn: *csn,
                ordinal,
            },
            Base::Commit(lsn) => EventId::Commit { lsn: *lsn, ordinal },
            Base::Open(xid) => EventId::Open { xid: *xid, ordinal },
            // Not reached: `read` refuses it.
            Base::Nothing => EventId::Open { xid: 0, ordinal },
        };
        Place {
            id,
            lsn: self.lsn,
            xid: self.xid,
        }
    }
}
