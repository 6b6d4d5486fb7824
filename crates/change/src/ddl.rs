//! A DDL statement as it travels: its text, and what its meaning depends on beside the catalogs.
//!
//! ```text
//! of_group bool | transaction_time i64 | role, text, only_without: length and bytes | count of settings, each name and value
//! ```

use crate::DecodeError;
use crate::wire::{Decoder, put_bytes, put_varint};

const WHAT: &str = "DDL statement";

/// A statement that changes definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DdlStatement {
    /// Whether it concerns objects that every member must have. Of any other statement a member leaves out what it cannot do
    /// because the objects are not there.
    pub of_group: bool,
    /// What `now()` was, in microseconds since 2000-01-01 UTC.
    pub transaction_time_us: i64,
    /// Who ran it: the name of the role whose privileges counted; empty: the server itself.
    pub role: String,
    /// Its text: one statement, or several that make a table.
    pub text: String,
    /// A member that has a relation of this name (with its schema, quoted), or with `SCHEMA ` before it a schema, leaves it out;
    /// empty: nobody does.
    pub only_without: String,
    /// Settings (name, value) that its meaning depends on.
    pub settings: Vec<(String, String)>,
}

impl DdlStatement {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.of_group)];
        out.extend_from_slice(&self.transaction_time_us.to_le_bytes());
        put_bytes(&mut out, self.role.as_bytes());
        put_bytes(&mut out, self.text.as_bytes());
        put_bytes(&mut out, self.only_without.as_bytes());
        put_varint(&mut out, self.settings.len() as u64);
        for (name, value) in &self.settings {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(WHAT, bytes);
        let of_group = decoder.bool()?;
        let transaction_time_us = decoder.i64()?;
        let (role, text, only_without) = (decoder.string()?, decoder.string()?, decoder.string()?);
        let count = decoder.count(usize::MAX, 2)?;
        let settings = (0..count)
            .map(|_| Ok((decoder.string()?, decoder.string()?)))
            .collect::<Result<_, DecodeError>>()?;
        decoder.finish()?;
        Ok(Self {
            of_group,
            transaction_time_us,
            role,
            text,
            only_without,
            settings,
        })
    }
}
