//! Rows written to another PostgreSQL.
//!
//! Exactly once: the position is stored in the same transaction as the rows (`synod_stream.position`), so after any crash the
//! target itself says where to go on. Transactions of the source that come close together share one of the target; what can be
//! seen there is always the state after some transaction of the source.
//!
//! What cannot be done (a unique conflict, a row that is not there, a column that is missing) is refused, never passed over: the
//! target's transaction is rolled back, its part of the stream comes again, and now every statement runs by itself under a
//! savepoint, so that the one event is known. It stops the stream there, or is parked in `synod_stream.parked`, in the same
//! transaction. What is refused only at the end of a transaction is that transaction (`whole`).

mod batch;
mod mapping;
mod parked;
mod position;
mod statement;
mod whole;

use std::time::{Duration, Instant};

use synod_change::stream::literal::SETTINGS;
use synod_change::stream::{Event, Transaction};
use synod_libpq::PqError;

use super::{GivenUp, IDLE_EVERY, Opening, Reached, Refused, Sink, Told, Trouble};
use crate::failure::{Failure, sentence};
use crate::session::{Session, Target};
use crate::stream::resume::{Resume, Timeline};
use crate::stream::template::first_table;
use batch::Batch;
use parked::Parked;
use position::{DURABLE, HAS_SCHEMA, SCHEMA};
use statement::Statement;
use whole::Whole;

pub use mapping::Mapping;

/// Statements are sent when so many bytes of them wait.
const BATCH_BYTES: usize = 256 * 1024;
/// A transaction of the target ends at the next end of one of the source, when so many bytes went into it.
const TRANSACTION_BYTES: usize = 8 << 20;

/// Why a statement is refused that found nothing.
const NOT_THERE: &str = "the row is not there";

/// A target that takes longer for one batch of statements has not answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(900);

/// The sink.
pub struct Postgres {
    target: Target,
    mapping: Mapping,
    source: String,
    slot: String,
    /// The WAL that is read.
    of: Timeline,
    session: Option<Session>,
    /// A transaction of the target is open.
    open: bool,
    /// A transaction of the source is under way.
    inside: bool,
    batch: Batch,
    /// Bytes that went into the open transaction.
    bytes: usize,
    stored: Resume,
    last: Resume,
    /// Of the transaction under way, if it has one.
    csn: Option<u64>,
    stored_at: Option<Instant>,
    /// Everything before here is committed there. A position of the server that is read now, unlike that of `stored`, which may be
    /// one of another node of the group.
    durable: Reached,
    /// Up to this transaction every statement runs by itself.
    careful: Option<(u64, u64)>,
    /// Refused and not given up yet: the event and its statement, which is empty if there is none.
    refused: Option<(Refused, Batch)>,
    given_up: Option<String>,
    /// Refused at its end.
    whole: Option<Whole>,
    /// The transaction under way is that one, and given up.
    parks: bool,
}

/// Why statements were not done.
enum Undone {
    /// The connection is lost, or the server has no room: nothing of the open transaction holds.
    Lost(String),
    /// The target does not want it.
    Unwanted(String),
}

impl Postgres {
    /// To this database, for the stream of `slot` of `source`.
    pub fn new(dsn: &str, mapping: Mapping, source: &str, slot: &str, patience: Duration) -> Result<Self, Failure> {
        let mut target = Target::given(Some(dsn), patience)?;
        target.whom = "the target".into();
        Ok(Self {
            target,
            mapping,
            source: source.to_owned(),
            slot: slot.to_owned(),
            of: Timeline::default(),
            session: None,
            open: false,
            inside: false,
            batch: Batch::default(),
            bytes: 0,
            stored: Resume::default(),
            last: Resume::default(),
            csn: None,
            stored_at: None,
            durable: Reached::default(),
            careful: None,
            refused: None,
            given_up: None,
            whole: None,
            parks: false,
        })
    }

    fn connect(&mut self) -> Result<Session, Failure> {
        let mut session = self.target.connect("stream target")?;
        session.patience = ANSWER_TIMEOUT;
        session.execute(
            "SET standard_conforming_strings = on; SET client_min_messages = warning; SET lock_timeout = '10s'",
        )?;
        for (name, value) in SETTINGS {
            session.execute(&format!("SET {name} = {value}"))?;
        }
        session.execute(DURABLE)?;
        if session.value(HAS_SCHEMA, &[])?.is_none() {
            session.execute(SCHEMA)?;
        }
        Ok(session)
    }

    /// Forget what is not committed.
    fn forget(&mut self) {
        self.session = None;
        (self.open, self.inside, self.bytes, self.parks) = (false, false, 0, false);
        (self.batch, self.refused, self.given_up) = (Batch::default(), None, None);
        (self.last, self.stored_at, self.durable) = (self.stored.clone(), None, Reached::default());
    }

    /// Run statements; how many rows each affected.
    fn counted(&mut self, sql: &str) -> Result<Vec<u64>, Undone> {
        let session = self
            .session
            .as_mut()
            .ok_or_else(|| Undone::Lost("what it has not committed comes once more".into()))?;
        let mut counts = Vec::new();
        let done = session.run_counted(sql, &mut counts);
        done.map(|()| counts).map_err(|error| judge(&error))
    }

    /// Run statements, each of which must affect so many rows.
    fn run(&mut self, sql: &str, expected: &[Option<u64>]) -> Result<(), Undone> {
        let counts = self.counted(sql)?;
        for (wanted, got) in expected.iter().zip(&counts) {
            if let Some(wanted) = wanted.filter(|wanted| wanted != got) {
                let what = if wanted > *got {
                    NOT_THERE
                } else {
                    "more than one row is that row"
                };
                return Err(Undone::Unwanted(what.into()));
            }
        }
        Ok(())
    }

    /// The table of the target that an event is about.
    fn table(&self, told: &Told<'_>) -> String {
        let table = first_table(told.event).map(|table| self.mapping.table(table));
        table.unwrap_or_default()
    }

    fn about(&self, told: &Told<'_>, reason: &str) -> Refused {
        Refused {
            id: told.id.to_owned(),
            subject: self.table(told),
            body: Vec::new(),
            reason: reason.to_owned(),
        }
    }

    fn begin_target(&mut self) -> Result<(), Trouble> {
        if !self.open {
            // Tables may refer to each other: what can wait for the end of the transaction waits.
            self.run("BEGIN; SET CONSTRAINTS ALL DEFERRED", &[])
                .map_err(|undone| self.start_over(undone))?;
            (self.open, self.bytes) = (true, 0);
        }
        Ok(())
    }

    /// Nothing of the open transaction holds. If the target did not want something, it is looked for with care.
    fn start_over(&mut self, undone: Undone) -> Trouble {
        let reason = match undone {
            Undone::Lost(reason) => reason,
            Undone::Unwanted(reason) => {
                self.careful = Some((self.last.lsn, self.last.csn));
                reason
            }
        };
        self.forget();
        Trouble::Again(format!("the target: {reason}"))
    }

    fn send(&mut self) -> Result<(), Trouble> {
        self.batch.end_insert();
        let batch = std::mem::take(&mut self.batch);
        if batch.sql.is_empty() {
            return Ok(());
        }
        self.begin_target()?;
        self.bytes += batch.sql.len();
        let done = self.run(&batch.sql, &batch.expected);
        done.map(drop).map_err(|undone| match self.parks {
            true => self.commit_failed(undone),
            false => self.start_over(undone),
        })
    }

    fn send_if_much(&mut self) -> Result<(), Trouble> {
        if self.batch.sql.len() >= BATCH_BYTES {
            self.send()
        } else {
            Ok(())
        }
    }

    /// One statement by itself: what the target does not want is known, and undone alone.
    fn take_with_care(&mut self, told: &Told<'_>, statement: Statement) -> Result<(), Trouble> {
        if self.given_up.as_deref() == Some(told.id) {
            return Ok(());
        }
        self.begin_target()?;
        let mut alone = Batch::default();
        alone.add(statement);
        alone.end_insert();
        let run = self
            .run("SAVEPOINT synod_stream", &[])
            .and_then(|()| self.run(&alone.sql, &alone.expected));
        match run {
            Ok(()) => self
                .run("RELEASE SAVEPOINT synod_stream", &[])
                .map_err(|undone| self.start_over(undone)),
            Err(Undone::Lost(reason)) => Err(self.start_over(Undone::Lost(reason))),
            Err(Undone::Unwanted(reason)) => {
                self.run("ROLLBACK TO SAVEPOINT synod_stream", &[])
                    .map_err(|undone| self.start_over(undone))?;
                self.refused = Some((self.about(told, &reason), alone));
                Err(Trouble::Refused(reason))
            }
        }
    }
}

/// Whether a statement would have a better chance another time.
fn judge(error: &PqError) -> Undone {
    let said = match &error.detail {
        Some(detail) => format!("{} ({})", error.message, detail.trim_end_matches('.')),
        None => error.message.clone(),
    };
    match error.sqlstate.as_deref() {
        None => Undone::Lost(said),
        Some(code) if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => Undone::Lost(said),
        Some("40001" | "40P01" | "55P03" | "57014" | "25006") => Undone::Lost(said),
        Some(_) => Undone::Unwanted(said),
    }
}

impl Sink for Postgres {
    fn name(&self) -> String {
        "the target database".into()
    }

    fn open(&mut self, opening: &Opening) -> Result<Option<Resume>, Trouble> {
        self.forget();
        self.of = opening.of.clone();
        let mut session = self.connect().map_err(|failure| later(&failure))?;
        if opening.follows {
            self.be_alone(&mut session)?;
        }
        let position = self.position(&mut session).map_err(|failure| later(&failure))?;
        self.session = Some(session);
        self.stored = position.clone().unwrap_or_default();
        self.last = self.stored.clone();
        Ok(position)
    }

    fn begin(&mut self, transaction: &Transaction<'_>, _: bool) -> Result<(), Trouble> {
        self.inside = true;
        self.last.lsn = transaction.commit_lsn.unwrap_or_default();
        self.csn = transaction.csn.map(|(_, csn)| csn);
        self.last.csn = self.csn.unwrap_or(self.last.csn);
        if self.careful.is_some_and(|last| (self.last.lsn, self.last.csn) > last) {
            self.careful = None;
        }
        self.parks = self
            .whole
            .as_ref()
            .is_some_and(|whole| whole.given_up && whole.is(self.last.lsn, self.csn));
        Ok(())
    }

    fn take(&mut self, told: &Told<'_>) -> Result<(), Trouble> {
        let Event::Row(_, change) = told.event else {
            return Ok(());
        };
        let statement = match statement::of(change, &self.mapping) {
            statement if self.parks => return self.park_with_whole(told, statement),
            Ok(statement) => statement,
            Err(_) if self.given_up.as_deref() == Some(told.id) => return Ok(()),
            Err(reason) => {
                self.send()?;
                self.begin_target()?;
                self.refused = Some((self.about(told, &reason), Batch::default()));
                return Err(Trouble::Refused(reason));
            }
        };
        if self.careful.is_some() {
            return self.take_with_care(told, statement);
        }
        self.batch.add(statement);
        self.send_if_much()
    }

    fn commit(&mut self, transaction: &Transaction<'_>, lsn: u64) -> Result<(), Trouble> {
        self.inside = false;
        self.last.start_lsn = Some(lsn);
        // Of the snapshot: everything before it, and nothing at it.
        if transaction.commit_lsn.is_none() {
            self.last.lsn = lsn.saturating_sub(1);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let much = self.bytes + self.batch.sql.len() >= TRANSACTION_BYTES || self.careful.is_some();
        !self.inside && much && (self.open || !self.batch.sql.is_empty())
    }

    fn flush(&mut self, reached: Reached) -> Result<Reached, Trouble> {
        self.send()?;
        let lately = self.stored_at.is_some_and(|at| at.elapsed() < IDLE_EVERY);
        let idle = !self.open && reached.csn <= self.durable.csn && (reached.lsn <= self.durable.lsn || lately);
        if self.inside || idle {
            return Ok(self.durable);
        }
        self.begin_target()?;
        // One of another node of the group is none here.
        let stored = self
            .stored
            .start_lsn
            .filter(|_| self.stored.of.as_ref() == Some(&self.of));
        self.last.start_lsn = Some(reached.lsn.max(stored.unwrap_or_default()));
        self.last.csn = self.last.csn.max(reached.csn);
        self.last.of = Some(self.of.clone());
        let position = self.last.clone();
        self.store(&position).map_err(|undone| self.commit_failed(undone))?;
        self.run("COMMIT", &[]).map_err(|undone| self.commit_failed(undone))?;
        (self.open, self.bytes, self.given_up) = (false, 0, None);
        (self.stored, self.stored_at, self.durable) = (position, Some(Instant::now()), reached);
        if std::mem::take(&mut self.parks) {
            self.whole = None;
        }
        Ok(self.durable)
    }

    fn give_up(&mut self, reason: &str) -> Result<Option<GivenUp>, Trouble> {
        let Some((refused, statement)) = self.refused.take() else {
            return Ok(self.give_up_whole());
        };
        let (head, tuple) = self.keep(&Parked {
            id: &refused.id,
            transaction: None,
            table: &refused.subject,
            statement: &statement,
            reason,
        });
        self.run(&(head + &tuple), &[Some(1)])
            .map_err(|undone| self.start_over(undone))?;
        self.given_up = Some(refused.id.clone());
        Ok(Some(GivenUp { refused, kept: true }))
    }

    fn parked(&mut self) -> Result<Vec<Refused>, Trouble> {
        self.all_parked()
    }

    fn replay(&mut self, refused: &Refused) -> Result<(), Trouble> {
        self.run_parked(refused)
    }

    fn advice(&self, reason: &str) -> &'static str {
        if reason == NOT_THERE {
            "A foreign key of the target with ON DELETE CASCADE or ON UPDATE CASCADE, or a trigger there, may have done the change before: \
             what it does is in the stream as well. options=-csession_replication_role%3Dreplica in the target's URL keeps both still. "
        } else {
            ""
        }
    }

    fn takes_tables_together(&self) -> bool {
        true
    }

    fn remembers(&self) -> bool {
        true
    }

    fn rolls_back(&self) -> bool {
        true
    }
}

/// A target that cannot be reached may be later; one that does not let us in will not.
fn later(failure: &Failure) -> Trouble {
    if crate::stream::source::passes(failure) {
        return Trouble::Down {
            reason: format!("{}: {}", failure.message, sentence(&failure.detail)),
            retry_after: None,
        };
    }
    Trouble::Fatal(failure.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored is a position of the node that was read then.
    #[test]
    fn a_node_hears_of_no_position_of_another_one_before_rows_are_committed() {
        let dsn = "host=/nowhere dbname=target";
        let mut sink = Postgres::new(dsn, Mapping::default(), "group g", "slot", Duration::from_secs(1)).unwrap();
        sink.stored.start_lsn = Some(9_000);
        let transaction = Transaction {
            commit_lsn: Some(90),
            csn: Some(("g", 7)),
            ..Transaction::default()
        };
        assert!(sink.begin(&transaction, false).is_ok());
        let nothing = Reached::default();
        assert!(matches!(sink.flush(Reached { lsn: 100, csn: 0 }), Ok(kept) if kept == nothing));
    }

    #[test]
    fn a_snapshot_of_a_group_stands_at_its_csn() {
        let dsn = "host=/nowhere dbname=target";
        let mut sink = Postgres::new(dsn, Mapping::default(), "group g", "slot", Duration::from_secs(1)).unwrap();
        let snapshot = Transaction {
            csn: Some(("g", 7)),
            ..Transaction::default()
        };
        assert!(sink.begin(&snapshot, true).is_ok() && sink.commit(&snapshot, 100).is_ok());
        assert_eq!((sink.last.lsn, sink.last.csn, sink.last.start_lsn), (99, 7, Some(100)));
    }
}
