//! What a session asks the group to do at once, whatever becomes of its transaction: entries of named logs, and ranges of
//! sequences.
//!
//! A service change is the only change of its record. Every node carries it out in its turn by writing tables of the
//! extension, so that what comes of it is a function of the log. Inside an item of the body: a kind (u8), then its fields.

use crate::wire::{Decoder, put_bytes, put_signed, put_varint};
use crate::{DecodeError, TableId};

/// The longest name of a log, so that `synod_` and the name are a channel's name.
pub const MAX_LOG_NAME: usize = 57;
/// The largest value of a log's entry.
pub const MAX_LOG_VALUE: usize = 16 << 20;
/// Columns that one sequence feeds.
const MAX_FEEDS: usize = 1024;

const WHAT: &str = "service record";
const APPEND: u8 = 1;
const TRIM: u8 = 2;
const GRANT: u8 = 3;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A new last entry of a named log.
    Append(Append),
    /// A named log loses its entries below a round; the last one stays in any case.
    Trim {
        /// Its name.
        log: String,
        /// The first round to keep.
        before: u64,
    },
    /// The proposer wants values of a sequence for itself.
    Grant(Grant),
}

/// A new last entry of a named log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Its name.
    pub log: String,
    /// Only if this is the log's last round by then (0: if it has no entry).
    pub after: Option<u64>,
    /// When it was asked for, in microseconds since 2000-01-01 UTC.
    pub time_us: i64,
    /// What the value is.
    pub kind: ValueKind,
    /// Its bytes; text and jsonb in the databases' encoding.
    pub value: Vec<u8>,
}

/// The type of an entry's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueKind {
    /// bytea
    Bytea = 0,
    /// text
    Text = 1,
    /// jsonb, as text
    Jsonb = 2,
}

impl ValueKind {
    const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Bytea,
            1 => Self::Text,
            2 => Self::Jsonb,
            _ => return None,
        })
    }
}

/// Values of a sequence that are to be the proposer's alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The columns that the sequence feeds, as the proposer knows them: what was granted for one of them counts for all.
    pub feeds: Vec<(TableId, u16)>,
    /// The first value that would do; what other nodes were granted lies before what is granted.
    pub first: i64,
    /// How many.
    pub count: u64,
    /// From one value to the next; not 0.
    pub increment: i64,
    /// The least value of the sequence.
    pub least: i64,
    /// Its greatest.
    pub greatest: i64,
    /// It begins again at its end.
    pub cycle: bool,
    /// `first` itself, or nothing.
    pub exact: bool,
}

impl Service {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Append(append) => append.encode(out),
            Self::Trim { log, before } => {
                out.push(TRIM);
                put_bytes(out, log.as_bytes());
                put_varint(out, *before);
            }
            Self::Grant(grant) => grant.encode(out),
        }
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for a newer release's service, [`DecodeError::Corrupt`] for damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(WHAT, bytes);
        let service = match decoder.u8()? {
            APPEND => Self::Append(Append::decode(&mut decoder)?),
            TRIM => Self::Trim {
                log: log_name(&mut decoder)?,
                before: decoder.varint()?,
            },
            GRANT => Self::Grant(Grant::decode(&mut decoder)?),
            other => {
                return Err(DecodeError::Unknown {
                    what: "kind of service",
                    number: other.into(),
                });
            }
        };
        decoder.finish()?;
        Ok(service)
    }
}

impl Append {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(APPEND);
        put_bytes(out, self.log.as_bytes());
        out.push(u8::from(self.after.is_some()));
        put_varint(out, self.after.unwrap_or_default());
        out.extend_from_slice(&self.time_us.to_le_bytes());
        out.push(self.kind as u8);
        put_bytes(out, &self.value);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let log = log_name(decoder)?;
        let conditional = decoder.bool()?;
        let after = decoder.varint()?;
        if !conditional && after != 0 {
            return Err(decoder.corrupt("an unused field is set"));
        }
        let time_us = decoder.i64()?;
        let kind = ValueKind::from_u8(decoder.u8()?).ok_or(decoder.corrupt("its value is of no known type"))?;
        let value = decoder.bytes()?;
        if value.len() > MAX_LOG_VALUE {
            return Err(decoder.corrupt("its value is too long"));
        }
        Ok(Self {
            log,
            after: conditional.then_some(after),
            time_us,
            kind,
            value: value.to_vec(),
        })
    }
}

impl Grant {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(GRANT);
        put_varint(out, self.feeds.len() as u64);
        for (table, column) in &self.feeds {
            out.extend_from_slice(&table.0.to_le_bytes());
            put_varint(out, (*column).into());
        }
        put_varint(out, self.count);
        for value in [self.first, self.increment, self.least, self.greatest] {
            put_signed(out, value);
        }
        out.push(u8::from(self.cycle) | u8::from(self.exact) << 1);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let feeds = (0..decoder.count(MAX_FEEDS, 9)?)
            .map(|_| Ok((TableId(decoder.u64()?), decoder.varint_u16()?)))
            .collect::<Result<Vec<_>, DecodeError>>()?;
        let count = decoder.varint()?;
        let [first, increment, least, greatest] = [
            decoder.signed()?,
            decoder.signed()?,
            decoder.signed()?,
            decoder.signed()?,
        ];
        let flags = decoder.u8()?;
        if flags > 3 || increment == 0 || count == 0 || least > greatest {
            return Err(decoder.corrupt("it asks for no range that can be"));
        }
        Ok(Self {
            feeds,
            first,
            count,
            increment,
            least,
            greatest,
            cycle: flags & 1 != 0,
            exact: flags & 2 != 0,
        })
    }

    /// What is granted when everything up to `granted` was granted before (`None`: nothing was): the first and the last
    /// value, both of the proposer's. `None`: nothing is left, or not at `first`.
    #[must_use]
    pub fn range(&self, granted: Option<i64>) -> Option<(i64, i64)> {
        // In 128 bits nothing overflows: differences are below 2^65, and the count is cut before it multiplies.
        let [first, step, least, greatest] = [self.first, self.increment, self.least, self.greatest].map(i128::from);
        let ascending = step > 0;
        let free = granted.map_or(first, |granted| i128::from(granted) + step);
        let wanted = if ascending { free.max(first) } else { free.min(first) };
        let inside = (least..=greatest).contains(&wanted);
        if self.exact && (wanted != first || !inside) {
            return None;
        }
        let from = match (inside, self.cycle, ascending) {
            (true, ..) => wanted,
            (false, true, true) => least,
            (false, true, false) => greatest,
            (false, false, _) => return None,
        };
        let limit = if ascending { greatest } else { least };
        let steps = (i128::from(self.count) - 1).min((limit - from) / step);
        let last = i64::try_from(from + steps * step).ok()?;
        Some((i64::try_from(from).ok()?, last))
    }
}

fn log_name(decoder: &mut Decoder<'_>) -> Result<String, DecodeError> {
    let name = decoder.string()?;
    if name.is_empty() || name.len() > MAX_LOG_NAME {
        return Err(decoder.corrupt("the name of a log is too short or too long"));
    }
    Ok(name)
}
