//! The records to apply, read from the log's files as far as verdicts are published.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::path::Path;

use bytes::Bytes;
use synod_change::{AssembledBody, Body, DdlLockRecord, DecodeError, Record, TransactionId, ddl_key};
use synod_log::{Decided, ReadError, Reader, Value};
use synod_rules::VerdictKind;

/// Read ahead by about this much.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// Why the next record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The files.
    #[error("{0}")]
    Log(#[from] ReadError),
    /// The record's bytes.
    #[error("the record at {position} cannot be read: {source}")]
    Record {
        /// Where.
        position: u64,
        /// Why.
        source: DecodeError,
    },
}

/// What a record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Changes of rows and of what is replicated.
    Rows,
    /// Statements that change definitions, and changes.
    Ddl,
    /// The DDL lock was given to a transaction of the record's node.
    Lock(DdlLockRecord),
    /// It was given back.
    Unlock,
}

/// A record to apply.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its position.
    pub csn: u64,
    /// The node where it was made.
    pub node: u32,
    /// By which transaction.
    pub transaction: TransactionId,
    /// When its commit began, in microseconds since 2000-01-01 UTC; 0: it is no transaction's.
    pub commit_time_us: i64,
    /// How many fragments its body is in; 0: it is in the record.
    pub fragments: usize,
    /// What it asks for.
    pub work: Work,
}

/// Reads ahead.
pub struct Source {
    reader: Reader,
    log: std::path::PathBuf,
    index: std::path::PathBuf,
    /// Entries read and not yet looked at, the first at `position`.
    ahead: VecDeque<Decided>,
    /// The next position to look at.
    position: u64,
    /// The record found at `position - 1`, not yet taken.
    current: Option<(Pending, Body)>,
    /// A node began anew, or the membership changed, in what was passed.
    owners_changed: bool,
}

impl Source {
    /// Over the files of a node.
    pub fn new(directory: &Path) -> Self {
        let (log, index) = (directory.join("log"), directory.join("index"));
        Self {
            reader: Reader::new(&log, &index),
            log,
            index,
            ahead: VecDeque::new(),
            position: 1,
            current: None,
            owners_changed: false,
        }
    }

    /// Everything up to `csn` is done.
    pub fn start_after(&mut self, csn: u64) {
        self.ahead.clear();
        self.current = None;
        self.position = csn + 1;
    }

    /// Go back to right after `csn`: what was taken from there on was not committed.
    pub fn rewind(&mut self, csn: u64) {
        self.start_after(csn);
    }

    /// Somebody else has done everything up to `csn`.
    pub fn skip_to(&mut self, csn: u64) {
        if self.current.as_ref().is_some_and(|(pending, _)| pending.csn <= csn) {
            self.current = None;
        }
        while self.position <= csn && self.ahead.pop_front().is_some() {
            self.position += 1;
        }
        self.position = self.position.max(csn + 1);
    }

    /// The next record that commits, if one is decided up to `certified`.
    pub fn next(&mut self, certified: u64) -> Result<Option<&Pending>, SourceError> {
        while self.current.is_none() {
            if self.ahead.is_empty() && !self.read_ahead(certified)? {
                return Ok(None);
            }
            let Some(decided) = self.ahead.pop_front() else { break };
            self.position += 1;
            if VerdictKind::from_u8(decided.verdict) == Some(VerdictKind::Commit) {
                self.current = Some(open(decided)?);
            } else {
                let start = VerdictKind::from_u8(decided.verdict) == Some(VerdictKind::Start);
                self.owners_changed |= start || matches!(decided.entry.value, Value::Membership(_));
            }
        }
        Ok(self.current.as_ref().map(|(pending, _)| pending))
    }

    /// Whether the owner of the DDL lock may have lost it, in what was passed since the last call.
    pub fn owners_changed(&mut self) -> bool {
        std::mem::take(&mut self.owners_changed)
    }

    fn read_ahead(&mut self, certified: u64) -> Result<bool, SourceError> {
        if self.position > certified {
            return Ok(false);
        }
        let mut entries = Vec::new();
        self.reader
            .read_range(self.position, certified, READ_AHEAD_BYTES, &mut entries)?;
        self.ahead = entries.into();
        Ok(!self.ahead.is_empty())
    }

    /// The body of the record that [`Source::next`] found, which counts as done from here on.
    pub fn take_body(&mut self) -> Result<Box<dyn Read>, SourceError> {
        Ok(match self.current.take() {
            None => Box::new(io::empty()),
            Some((_, Body::Inline(bytes))) => Box::new(Cursor::new(bytes)),
            Some((_, Body::Fragments { positions, length, crc })) => {
                let mut reader = Reader::new(&self.log, &self.index);
                let pieces = positions
                    .into_iter()
                    .map(move |position| fragment(&mut reader, position));
                Box::new(AssembledBody::new(pieces, length, crc))
            }
        })
    }
}

fn open(decided: Decided) -> Result<(Pending, Body), SourceError> {
    let position = decided.entry.position;
    let wrong = |source| SourceError::Record { position, source };
    let empty = |node, work| {
        let pending = Pending {
            csn: position,
            node,
            transaction: TransactionId::default(),
            commit_time_us: 0,
            fragments: 0,
            work,
        };
        // A stream without changes.
        Ok((pending, Body::Inline(synod_change::BodyWriter::new().finish().into())))
    };
    let Value::Command(command) = &decided.entry.value else {
        return empty(0, Work::Rows);
    };
    let node = command.id.node.0;
    let record = match Record::decode(&command.payload).map_err(wrong)? {
        Record::Write(record) => record,
        Record::DdlLock(lock) => return empty(node, Work::Lock(lock)),
        Record::DdlUnlock(_) => return empty(node, Work::Unlock),
        // The certifier lets no other record commit.
        _ => return empty(node, Work::Rows),
    };
    let fragments = match &record.body {
        Body::Inline(_) => 0,
        Body::Fragments { positions, .. } => positions.len(),
    };
    let mark = ddl_key();
    let ddl = record.keys.iter().any(|key| key.hash == mark);
    let pending = Pending {
        csn: position,
        node,
        transaction: record.transaction,
        commit_time_us: record.commit_time_us,
        fragments,
        work: if ddl { Work::Ddl } else { Work::Rows },
    };
    Ok((pending, record.body))
}

fn fragment(reader: &mut Reader, position: u64) -> io::Result<Bytes> {
    let decided = reader.read(position).map_err(io::Error::other)?;
    if let Value::Command(command) = &decided.entry.value
        && let Record::Fragment(piece) = Record::decode(&command.payload).map_err(io::Error::other)?
    {
        return Ok(piece);
    }
    Err(io::Error::other(format!("there is no fragment at {position}")))
}
