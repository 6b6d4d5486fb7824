//! Where the stream is, in a table of the target (`synod_stream.position`), written in the same transactions as the rows.

use super::{Postgres, Undone};
use crate::failure::Failure;
use crate::session::Session;
use crate::stream::lsn;
use crate::stream::resume::Resume;
use crate::stream::source::literal;

/// A position that a crash of the target takes back is one that the slot is beyond already.
pub const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
                           WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

/// What the target keeps for us.
pub const SCHEMA: &str = "\
CREATE SCHEMA IF NOT EXISTS synod_stream;
COMMENT ON SCHEMA synod_stream IS 'kept by synod stream: how far rows of other servers were written to this database';
CREATE TABLE IF NOT EXISTS synod_stream.position (
    source text, slot text, lsn pg_catalog.pg_lsn NOT NULL, commit_lsn pg_catalog.pg_lsn NOT NULL, csn bigint NOT NULL,
    updated_at timestamptz NOT NULL, PRIMARY KEY (source, slot));
COMMENT ON TABLE synod_stream.position IS 'up to where the stream of a slot has been written here, in the same transactions as its rows';
CREATE TABLE IF NOT EXISTS synod_stream.parked (
    source text, slot text, event_id text, table_name text NOT NULL, statement text NOT NULL, reason text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY (source, slot, event_id));
COMMENT ON TABLE synod_stream.parked IS 'changes that this database refused; synod stream --replay-parked runs them once more'";

impl Postgres {
    /// Where the stream of this slot is.
    pub(super) fn position(&self, session: &mut Session) -> Result<Option<Resume>, Failure> {
        let rows = session.rows(
            "SELECT lsn, commit_lsn, csn FROM synod_stream.position WHERE source = $1 AND slot = $2",
            &[Some(&self.source), Some(&self.slot)],
        )?;
        Ok(rows.into_iter().next().map(|row| {
            let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            Resume {
                lsn: lsn::parse(&field(1)).unwrap_or_default(),
                csn: field(2).parse().unwrap_or_default(),
                last_id: None,
                start_lsn: lsn::parse(&field(0)),
            }
        }))
    }

    /// Store it, in the open transaction. It goes on from the one that is known, or not at all: a commit whose connection was lost may
    /// have come after that one was read, and its rows would be there twice.
    pub(super) fn store(&mut self, position: &Resume) -> Result<(), Undone> {
        let [place, known] = [position, &self.stored].map(|position| {
            let start = lsn::text(position.start_lsn.unwrap_or_default());
            format!("'{start}', '{}', {}", lsn::text(position.lsn), position.csn)
        });
        let sql = format!(
            "INSERT INTO synod_stream.position AS p (source, slot, lsn, commit_lsn, csn, updated_at) \
             VALUES ({}, {}, {place}, pg_catalog.now()) ON CONFLICT (source, slot) DO UPDATE \
             SET lsn = EXCLUDED.lsn, commit_lsn = EXCLUDED.commit_lsn, csn = EXCLUDED.csn, updated_at = EXCLUDED.updated_at \
             WHERE (p.lsn, p.commit_lsn, p.csn) = ({known})",
            literal(&self.source),
            literal(&self.slot),
        );
        match self.counted(&sql)?.first() {
            Some(1) => Ok(()),
            _ => Err(Undone::Lost("another session has stored a position meanwhile".into())),
        }
    }
}
