//! Rows that a transaction wrote before it changed definitions: sealed at once, because the change may move or reshape them, and
//! put into the record ahead of the statement. A section that is not needed (its statement was rolled back) goes with its file.

use std::fs::File;
use std::io::{BufReader, Read};

use pgrx::PgSqlErrorCode;
use synod_change::BodyReader;

use super::SealedBody;
use super::sink::Sink;
use crate::errors::UserError;
use crate::pg::keys::KeySet;

/// Some rows of a transaction.
pub struct Section {
    pub(super) body: SealedBody,
    pub(super) keys: KeySet,
    pub(super) rows: u64,
    /// Number of the first event that is not in it.
    pub until: u64,
}

impl Section {
    /// Write its changes once more.
    pub(super) fn replay(&self, sink: &mut Sink) -> Result<(), UserError> {
        match &self.body {
            SealedBody::Inline(bytes) => copy(&bytes[..], sink),
            SealedBody::Spilled { file, .. } => {
                let file = File::open(file.path()).map_err(|error| unreadable(&error.to_string()))?;
                copy(BufReader::new(file), sink)
            }
        }
    }
}

fn copy(body: impl Read, sink: &mut Sink) -> Result<(), UserError> {
    let mut reader = BodyReader::new(body);
    while let Some(change) = reader.next().map_err(|error| unreadable(&error.to_string()))? {
        sink.write(&change)?;
    }
    Ok(())
}

fn unreadable(reason: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_IO_ERROR,
        "could not read back the changes of the transaction",
        reason.to_owned(),
        "",
    )
}
