//! Messages of our own in the WAL: what a transaction tells about itself beside its rows. Each stands in the stream where it was
//! written, as any logical message does; readers see what it means, not the message.
//!
//! ```text
//! synod.context   version u8 = 1 | a JSON object in UTF-8
//! synod.ddl       version u8 = 1 | tag, object type, object, SQL, search path: length and bytes in UTF-8 | count of tables | oids u32
//! ```
//! A version that is not known is an error of the reader: it would tell less than there is.

use crate::DecodeError;
use crate::wire::{Decoder, put_bytes, put_varint};

/// All prefixes of ours begin with this; users' must not.
pub const OWN_PREFIX: &str = "synod.";
/// Who does what follows in the transaction.
pub const CONTEXT_PREFIX: &str = "synod.context";
/// A definition was changed.
pub const DDL_PREFIX: &str = "synod.ddl";

const VERSION: u8 = 1;
const CONTEXT: &str = "context message";
const DDL: &str = "DDL message";

/// The content of a message that says who does what follows: a JSON object.
#[must_use]
pub fn encode_context(context: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + context.len());
    out.push(VERSION);
    out.extend_from_slice(context.as_bytes());
    out
}

/// The JSON object in what [`encode_context`] made.
///
/// # Errors
/// For a newer release's message, and for damage.
pub fn decode_context(content: &[u8]) -> Result<&str, DecodeError> {
    let mut decoder = Decoder::new(CONTEXT, content);
    check_version(&mut decoder, "version of context messages")?;
    let text = decoder.take(decoder.remaining())?;
    std::str::from_utf8(text).map_err(|_| DecodeError::corrupt(CONTEXT, "it is not UTF-8"))
}

/// A change of definitions, as its message has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DdlMessage {
    /// The command tag.
    pub tag: String,
    /// What kind of object; empty when not known.
    pub object_type: String,
    /// Its schema-qualified, quoted name; empty when not known.
    pub object: String,
    /// The statement; empty when it has no text of its own.
    pub sql: String,
    /// The search path that its names were looked up in.
    pub search_path: String,
    /// `pg_class.oid` of the tables that it made or changed.
    pub tables: Vec<u32>,
}

impl DdlMessage {
    /// The message's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for text in [&self.tag, &self.object_type, &self.object, &self.sql, &self.search_path] {
            put_bytes(&mut out, text.as_bytes());
        }
        put_varint(&mut out, self.tables.len() as u64);
        for table in &self.tables {
            out.extend_from_slice(&table.to_le_bytes());
        }
        out
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// For a newer release's message, and for damage.
    pub fn decode(content: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(DDL, content);
        check_version(&mut decoder, "version of DDL messages")?;
        let (tag, object_type, object) = (decoder.string()?, decoder.string()?, decoder.string()?);
        let (sql, search_path) = (decoder.string()?, decoder.string()?);
        let count = decoder.count(usize::MAX, 4)?;
        let tables = (0..count).map(|_| decoder.u32()).collect::<Result<_, _>>()?;
        decoder.finish()?;
        Ok(Self {
            tag,
            object_type,
            object,
            sql,
            search_path,
            tables,
        })
    }
}

fn check_version(decoder: &mut Decoder<'_>, what: &'static str) -> Result<(), DecodeError> {
    match decoder.u8()? {
        VERSION => Ok(()),
        number => Err(DecodeError::Unknown {
            what,
            number: number.into(),
        }),
    }
}
