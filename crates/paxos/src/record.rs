//! Bytes of durable records: the content of a segment record, without length and checksum (those are the file's).
//!
//! `tag u8, fields`. Tags are never used again. Fixtures of every released version are kept in `tests/fixtures`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::DurableRecord;
use crate::codec::{self, DecodeError};

impl DurableRecord {
    /// Append the record's bytes.
    pub fn encode(&self, output: &mut BytesMut) {
        output.put_u8(self.tag());
        match self {
            DurableRecord::Promise(ballot) => codec::put_ballot(output, *ballot),
            DurableRecord::Accept(entry) => codec::put_entry(output, entry),
            DurableRecord::Chosen(position) | DurableRecord::Trimmed(position) => output.put_u64_le(*position),
            DurableRecord::Base { chosen, membership } => {
                output.put_u64_le(*chosen);
                codec::put_membership(output, membership);
            }
        }
    }

    /// Read a record that takes up all of `input`. Payloads share its memory.
    pub fn decode(mut input: Bytes) -> Result<DurableRecord, DecodeError> {
        let input = &mut input;
        let record = match codec::get_u8(input)? {
            1 => DurableRecord::Promise(codec::get_ballot(input)?),
            2 => DurableRecord::Accept(codec::get_entry(input)?),
            3 => DurableRecord::Chosen(codec::get_position(input)?),
            4 => DurableRecord::Base {
                chosen: codec::get_position(input)?,
                membership: codec::get_membership(input)?,
            },
            5 => DurableRecord::Trimmed(codec::get_position(input)?),
            tag => return Err(DecodeError::Tag(tag)),
        };
        if input.is_empty() {
            Ok(record)
        } else {
            Err(DecodeError::Trailing)
        }
    }

    /// The tag that the encoding begins with.
    fn tag(&self) -> u8 {
        match self {
            DurableRecord::Promise(_) => 1,
            DurableRecord::Accept(_) => 2,
            DurableRecord::Chosen(_) => 3,
            DurableRecord::Base { .. } => 4,
            DurableRecord::Trimmed(_) => 5,
        }
    }
}
