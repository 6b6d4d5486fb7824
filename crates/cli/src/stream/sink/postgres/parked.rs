//! What the target has refused, in a table there (`synod_stream.parked`).

use super::batch::Batch;
use super::whole::SUBJECT;
use super::{Postgres, Undone};
use crate::stream::sink::{Refused, Trouble};
use crate::stream::source::literal;

/// Events by themselves, and transactions as wholes, in the order of the stream. $1 source, $2 slot, $3 what stands for the table of a whole.
const ALL: &str = "\
SELECT coalesce(transaction, event_id), CASE WHEN transaction IS NULL THEN min(table_name) ELSE $3 END, min(reason)
  FROM synod_stream.parked WHERE source = $1 AND slot = $2
 GROUP BY transaction, coalesce(transaction, event_id) ORDER BY min(number)";

/// Those of one event or one transaction: $3.
const STATEMENTS: &str = "\
SELECT statement, rows FROM synod_stream.parked
 WHERE source = $1 AND slot = $2 AND coalesce(transaction, event_id) = $3 ORDER BY number";

/// An event as it is parked.
pub struct Parked<'a> {
    /// The event.
    pub id: &'a str,
    /// The transaction that is parked as a whole, with this event.
    pub transaction: Option<&'a str>,
    /// The table of the target.
    pub table: &'a str,
    /// What was to be run; nothing, if there is no statement for it.
    pub statement: &'a Batch,
    /// Why it was refused.
    pub reason: &'a str,
}

impl Postgres {
    /// Keep one, in the transaction that is open: the head of an INSERT, and a tuple.
    pub(super) fn keep(&self, parked: &Parked<'_>) -> (String, String) {
        let text = |word: &str| literal(word);
        let rows = match parked.statement.expected[..] {
            [Some(rows)] => rows.to_string(),
            _ => "NULL".into(),
        };
        let values = [
            text(&self.source),
            text(&self.slot),
            text(parked.id),
            parked.transaction.map_or_else(|| "NULL".into(), text),
            text(parked.table),
            text(&parked.statement.sql),
            rows,
            text(parked.reason),
        ];
        let head = "INSERT INTO synod_stream.parked (source, slot, event_id, transaction, table_name, statement, rows, reason) VALUES ";
        (head.into(), format!("({})", values.join(", ")))
    }

    /// All of this stream.
    pub(super) fn all_parked(&mut self) -> Result<Vec<Refused>, Trouble> {
        let (source, slot) = (self.source.clone(), self.slot.clone());
        let session = self
            .session
            .as_mut()
            .ok_or_else(|| Trouble::Again("the connection was lost".into()))?;
        let rows = session
            .rows(ALL, &[Some(&source), Some(&slot), Some(SUBJECT)])
            .map_err(Trouble::Fatal)?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
                Refused {
                    id: field(0),
                    subject: field(1),
                    body: Vec::new(),
                    reason: field(2),
                }
            })
            .collect())
    }

    /// Run one event, or one transaction, once more; what was done is no longer parked.
    pub(super) fn run_parked(&mut self, refused: &Refused) -> Result<(), Trouble> {
        let parameters = [&self.source, &self.slot, &refused.id].map(|word| Some(word.as_str()));
        let session = self
            .session
            .as_mut()
            .ok_or_else(|| Trouble::Again("the connection was lost".into()))?;
        let statements: Vec<(String, Option<u64>)> = session
            .rows(STATEMENTS, &parameters)
            .map_err(Trouble::Fatal)?
            .into_iter()
            .map(|row| {
                let field = |index: usize| row.get(index).cloned().flatten();
                (
                    field(0).unwrap_or_default(),
                    field(1).and_then(|rows| rows.parse().ok()),
                )
            })
            .collect();
        // Of an event that cannot be a statement there is none.
        if statements.is_empty() || statements.iter().any(|(statement, _)| statement.is_empty()) {
            return Err(Trouble::Refused(refused.reason.clone()));
        }
        match self.run_together(&statements, refused) {
            Ok(()) => Ok(()),
            Err(Undone::Lost(reason)) => Err(self.start_over(Undone::Lost(reason))),
            Err(Undone::Unwanted(reason)) => match self.run("ROLLBACK", &[]) {
                Ok(()) => Err(Trouble::Refused(reason)),
                Err(undone) => Err(self.start_over(undone)),
            },
        }
    }

    fn run_together(&mut self, statements: &[(String, Option<u64>)], refused: &Refused) -> Result<(), Undone> {
        self.run("BEGIN; SET CONSTRAINTS ALL DEFERRED", &[])?;
        for (statement, rows) in statements {
            self.run(statement, &[*rows])?;
        }
        let [source, slot, id] = [&self.source, &self.slot, &refused.id].map(|word| literal(word));
        let sql = format!(
            "DELETE FROM synod_stream.parked \
              WHERE source = {source} AND slot = {slot} AND coalesce(transaction, event_id) = {id}"
        );
        self.run(&sql, &[Some(statements.len() as u64)])?;
        self.run("COMMIT", &[])
    }
}
