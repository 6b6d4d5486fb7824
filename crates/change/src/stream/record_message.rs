//! `synod.record`: the messages by which a node's WAL says what a record of the group's log did, so that the change stream tells it
//! under the same ids and in the same order on every node. Rows are in them as the node stores them; nothing here leaves a node.
//!
//! ```text
//! version u8 = 1 | kind u8 | what the kind says | items, cut anywhere
//! kind 1  begin    header: the record's items begin. Written where it is applied, ahead of its changes
//! kind 2  more     group: more items
//! kind 3  end      header: these are its last items. Written where it was made, before the commit
//! kind 4  nothing  the transaction wrote replicated tables, but no record tells of it
//! kind 5  copied   CSN varint: the transaction copies what the group has up to there
//! header           group 16 bytes | CSN, CSN before it, node, incarnation, number: varints | commit time i64
//! item             kind u8 | length varint | that many bytes
//! ```
//! One local transaction holds either `begin more* (begin more*)*` or `more* end`; `nothing` and `copied` stand alone.

use crate::wire::{Decoder, put_bytes, put_varint, varint_length};
use crate::{DecodeError, TransactionId};

/// The prefix of these messages.
pub const RECORD_PREFIX: &str = "synod.record";

const VERSION: u8 = 1;
const WHAT: &str = "record message";

const BEGIN: u8 = 1;
const MORE: u8 = 2;
const END: u8 = 3;
const NOTHING: u8 = 4;
const COPIED: u8 = 5;

const INSERT: u8 = 1;
const UPDATE: u8 = 2;
const DELETE: u8 = 3;
const TRUNCATE: u8 = 4;
const TOO_LARGE: u8 = 5;
const DDL: u8 = 6;

/// Which record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Of this group.
    pub group: [u8; 16],
    /// Its CSN.
    pub csn: u64,
    /// The CSN of the record before it: of the last one that committed.
    pub previous_csn: u64,
    /// The transaction that made it.
    pub transaction: TransactionId,
    /// When that committed, in microseconds since 2000-01-01 UTC.
    pub commit_time_us: i64,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordMessage<'a> {
    /// A record begins, with these first items.
    Begin(RecordHeader, &'a [u8]),
    /// More of a record's items; of which group.
    More([u8; 16], &'a [u8]),
    /// The record is this one, and these are its last items.
    End(RecordHeader, &'a [u8]),
    /// There is no record.
    Nothing,
    /// The transaction is a copy of what the group had up to this CSN.
    Copied(u64),
}

impl<'a> RecordMessage<'a> {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::Begin(header, items) => {
                out.push(BEGIN);
                put_header(out, header);
                out.extend_from_slice(items);
            }
            Self::More(group, items) => {
                out.push(MORE);
                out.extend_from_slice(group);
                out.extend_from_slice(items);
            }
            Self::End(header, items) => {
                out.push(END);
                put_header(out, header);
                out.extend_from_slice(items);
            }
            Self::Nothing => out.push(NOTHING),
            Self::Copied(csn) => {
                out.push(COPIED);
                put_varint(out, *csn);
            }
        }
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// For a newer release's message, and for damage.
    pub fn decode(content: &'a [u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(WHAT, content);
        let version = decoder.u8()?;
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "version of record messages",
                number: version.into(),
            });
        }
        let kind = decoder.u8()?;
        let message = match kind {
            BEGIN => {
                let header = read_header(&mut decoder)?;
                Self::Begin(header, decoder.take(decoder.remaining())?)
            }
            MORE => Self::More(decoder.array()?, decoder.take(decoder.remaining())?),
            END => {
                let header = read_header(&mut decoder)?;
                Self::End(header, decoder.take(decoder.remaining())?)
            }
            NOTHING => Self::Nothing,
            COPIED => Self::Copied(decoder.varint()?),
            other => {
                return Err(DecodeError::Unknown {
                    what: "kind of record message",
                    number: other.into(),
                });
            }
        };
        decoder.finish()?;
        Ok(message)
    }
}

fn put_header(out: &mut Vec<u8>, header: &RecordHeader) {
    out.extend_from_slice(&header.group);
    put_varint(out, header.csn);
    put_varint(out, header.previous_csn);
    put_varint(out, header.transaction.node.into());
    put_varint(out, header.transaction.incarnation);
    put_varint(out, header.transaction.number);
    out.extend_from_slice(&header.commit_time_us.to_le_bytes());
}

fn read_header(decoder: &mut Decoder<'_>) -> Result<RecordHeader, DecodeError> {
    let header = RecordHeader {
        group: decoder.array()?,
        csn: decoder.varint()?,
        previous_csn: decoder.varint()?,
        transaction: TransactionId {
            node: decoder.varint_u32()?,
            incarnation: decoder.varint()?,
            number: decoder.varint()?,
        },
        commit_time_us: decoder.i64()?,
    };
    if header.previous_csn >= header.csn {
        return Err(decoder.corrupt("the record before it is not before it"));
    }
    Ok(header)
}

/// A change of a record. Relations are oids of `pg_class` here, rows what the node's heap holds, headers shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A new row.
    Insert {
        /// Where.
        relation: u32,
        /// The row.
        new: &'a [u8],
    },
    /// A row that changed.
    Update {
        /// Where.
        relation: u32,
        /// What the replica identity has of the version before, if it is to be told.
        old: Option<&'a [u8]>,
        /// The row now.
        new: &'a [u8],
    },
    /// A row that is gone.
    Delete {
        /// Where.
        relation: u32,
        /// What the replica identity has of it.
        old: Option<&'a [u8]>,
    },
    /// Tables that were emptied.
    Truncate {
        /// RESTART IDENTITY.
        restart_identity: bool,
        /// All of them.
        relations: Vec<u32>,
    },
    /// A change of a row that is too large for the server to be told at all.
    TooLarge {
        /// Where.
        relation: u32,
    },
    /// The next DDL message in the transaction, before the next item, is a change of the record.
    Ddl,
}

impl Item<'_> {
    /// Appends the item to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind());
        put_varint(out, self.length());
        match self {
            Self::Insert { relation, new } => {
                out.extend_from_slice(&relation.to_le_bytes());
                out.extend_from_slice(new);
            }
            Self::Update { relation, old, new } => {
                out.extend_from_slice(&relation.to_le_bytes());
                put_optional(out, *old);
                out.extend_from_slice(new);
            }
            Self::Delete { relation, old } => {
                out.extend_from_slice(&relation.to_le_bytes());
                put_optional(out, *old);
            }
            Self::Truncate {
                restart_identity,
                relations,
            } => {
                out.push((*restart_identity).into());
                put_varint(out, relations.len() as u64);
                for relation in relations {
                    out.extend_from_slice(&relation.to_le_bytes());
                }
            }
            Self::TooLarge { relation } => out.extend_from_slice(&relation.to_le_bytes()),
            Self::Ddl => {}
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Insert { .. } => INSERT,
            Self::Update { .. } => UPDATE,
            Self::Delete { .. } => DELETE,
            Self::Truncate { .. } => TRUNCATE,
            Self::TooLarge { .. } => TOO_LARGE,
            Self::Ddl => DDL,
        }
    }

    /// Of all that follows it.
    fn length(&self) -> u64 {
        match self {
            Self::Insert { new, .. } => 4 + new.len() as u64,
            Self::Update { old, new, .. } => 4 + optional_length(*old) + new.len() as u64,
            Self::Delete { old, .. } => 4 + optional_length(*old),
            Self::Truncate { relations, .. } => {
                let count = relations.len() as u64;
                1 + varint_length(count) + 4 * count
            }
            Self::TooLarge { .. } => 4,
            Self::Ddl => 0,
        }
    }

    /// How many ordinals it takes: an event each, of a truncation one per table.
    #[must_use]
    pub fn ordinals(&self) -> u64 {
        match self {
            Self::Truncate { relations, .. } => relations.len() as u64,
            _ => 1,
        }
    }
}

fn optional_length(bytes: Option<&[u8]>) -> u64 {
    1 + bytes.map_or(0, |bytes| varint_length(bytes.len() as u64) + bytes.len() as u64)
}

fn put_optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(bytes.is_some().into());
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

/// Puts the items of a record together again, from the pieces that its messages hold. Keeps at most one item.
#[derive(Debug, Default)]
pub struct ItemReader {
    /// The beginning of an item whose end is in a later message.
    rest: Vec<u8>,
}

impl ItemReader {
    /// Calls `each` for every item that is whole with these bytes.
    ///
    /// # Errors
    /// For damage.
    pub fn read(&mut self, bytes: &[u8], mut each: impl FnMut(Item<'_>)) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            let used = read_items(bytes, &mut each)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        self.rest.extend_from_slice(bytes);
        let whole = std::mem::take(&mut self.rest);
        let used = read_items(&whole, &mut each)?;
        self.rest = whole;
        self.rest.drain(..used);
        Ok(())
    }

    /// No more bytes come for this record.
    ///
    /// # Errors
    /// When an item's end is missing.
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        self.rest.clear();
        Err(DecodeError::corrupt(WHAT, "its last item ends too early"))
    }
}

/// How many bytes the whole items at the beginning take.
fn read_items(bytes: &[u8], each: &mut impl FnMut(Item<'_>)) -> Result<usize, DecodeError> {
    let mut at = 0;
    while let Some((kind, from, to)) = next_item(&bytes[at..])? {
        each(read_item(kind, &bytes[at + from..at + to])?);
        at += to;
    }
    Ok(at)
}

/// Kind, begin and end of the first item, if all of it is there.
fn next_item(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, DecodeError> {
    const LENGTH_BYTES: usize = 10;
    let Some((kind, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let ends = rest.iter().take(LENGTH_BYTES).position(|byte| byte & 0x80 == 0);
    let Some(last) = ends else {
        if rest.len() >= LENGTH_BYTES {
            return Err(DecodeError::corrupt(WHAT, "the length of an item is out of range"));
        }
        return Ok(None);
    };
    let length = Decoder::new(WHAT, &rest[..=last]).varint()?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= isize::MAX as usize / 2)
        .ok_or(DecodeError::corrupt(WHAT, "the length of an item is out of range"))?;
    let from = 2 + last;
    Ok((bytes.len() - from >= length).then_some((*kind, from, from + length)))
}

fn read_item(kind: u8, rest: &[u8]) -> Result<Item<'_>, DecodeError> {
    let mut decoder = Decoder::new(WHAT, rest);
    let item = match kind {
        INSERT => Item::Insert {
            relation: decoder.u32()?,
            new: decoder.take(decoder.remaining())?,
        },
        UPDATE => Item::Update {
            relation: decoder.u32()?,
            old: read_optional(&mut decoder)?,
            new: decoder.take(decoder.remaining())?,
        },
        DELETE => Item::Delete {
            relation: decoder.u32()?,
            old: read_optional(&mut decoder)?,
        },
        TRUNCATE => {
            let restart_identity = decoder.bool()?;
            let count = decoder.count(usize::MAX, 4)?;
            Item::Truncate {
                restart_identity,
                relations: (0..count).map(|_| decoder.u32()).collect::<Result<_, _>>()?,
            }
        }
        TOO_LARGE => Item::TooLarge {
            relation: decoder.u32()?,
        },
        DDL => Item::Ddl,
        other => {
            return Err(DecodeError::Unknown {
                what: "kind of item",
                number: other.into(),
            });
        }
    };
    decoder.finish()?;
    Ok(item)
}

fn read_optional<'a>(decoder: &mut Decoder<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    Ok(if decoder.bool()? { Some(decoder.bytes()?) } else { None })
}
