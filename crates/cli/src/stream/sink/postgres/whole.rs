//! A transaction that the target refuses at its end, by a constraint that is checked only there: no event of it is known to be the
//! one, so it is refused as a whole.
//!
//! It is rolled back there, and comes again. If it has been given up meanwhile, none of its statements is run then: all of them are
//! parked, with the position, in the place of the rows. Nothing of it is kept here, however large it is.

use super::batch::Batch;
use super::parked::Parked;
use super::statement::Statement;
use super::{Postgres, Undone};
use crate::failure::{Failure, sentence};
use crate::stream::lsn;
use crate::stream::sink::{GivenUp, Refused, Told, Trouble};

/// What stands for the table of a parked event, for all of a transaction.
pub const SUBJECT: &str = "the whole transaction";

/// Such a transaction.
#[derive(Debug)]
pub struct Whole {
    lsn: u64,
    /// Its own: not every transaction of a member has one.
    csn: Option<u64>,
    reason: String,
    /// It is to be parked.
    pub given_up: bool,
}

impl Whole {
    /// The same transaction; a CSN means the same on every node.
    pub fn is(&self, lsn: u64, csn: Option<u64>) -> bool {
        self.csn == csn && (csn.is_some() || self.lsn == lsn)
    }

    /// What it is called: what the ids of its events begin with, as far as that is known here.
    fn name(&self) -> String {
        match self.csn {
            None => lsn::text(self.lsn),
            Some(csn) => format!("CSN {csn}"),
        }
    }
}

impl Postgres {
    /// With care, the target's transaction is one of the source, and that one is refused; without, it is looked for.
    pub(super) fn commit_failed(&mut self, undone: Undone) -> Trouble {
        let reason = match undone {
            Undone::Unwanted(reason) if self.careful.is_some() => reason,
            undone => return self.start_over(undone),
        };
        let whole = Whole {
            lsn: self.last.lsn,
            csn: self.csn,
            reason: reason.clone(),
            given_up: false,
        };
        let parks = self.parks;
        self.forget();
        if parks {
            return Trouble::Fatal(Failure::new(
                format!("the target database cannot park transaction {}", whole.name()),
                sentence(&reason),
                "The user there must be able to write to the tables in the schema synod_stream.",
            ));
        }
        self.whole = Some(whole);
        Trouble::Refused(reason)
    }

    /// It is parked when it comes again.
    pub(super) fn give_up_whole(&mut self) -> Option<GivenUp> {
        let whole = self.whole.as_mut().filter(|whole| !whole.given_up)?;
        whole.given_up = true;
        let refused = Refused {
            id: whole.name(),
            subject: SUBJECT.into(),
            body: Vec::new(),
            reason: whole.reason.clone(),
        };
        Some(GivenUp { refused, kept: true })
    }

    /// An event of it; a statement that there is not, for this reason, makes that it cannot be sent again.
    pub(super) fn park_with_whole(
        &mut self,
        told: &Told<'_>,
        statement: Result<Statement, String>,
    ) -> Result<(), Trouble> {
        let Some(whole) = &self.whole else { return Ok(()) };
        let mut alone = Batch::default();
        let mut reason = &whole.reason;
        match statement {
            Ok(Statement::Nothing) => return Ok(()),
            Ok(statement) => alone.add(statement),
            Err(ref why) => reason = why,
        }
        alone.end_insert();
        let (head, tuple) = self.keep(&Parked {
            id: told.id,
            transaction: Some(&whole.name()),
            table: &self.table(told),
            statement: &alone,
            reason,
        });
        self.batch.add(Statement::Insert { head, tuple });
        self.send_if_much()
    }
}
