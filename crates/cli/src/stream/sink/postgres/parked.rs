//! What the target has refused, in a table there (`synod_stream.parked`).

use super::{Postgres, Undone};
use crate::stream::sink::{Refused, Trouble};
use crate::stream::source::literal;

impl Postgres {
    /// Keep one, in the transaction that is open.
    pub(super) fn park(&mut self, refused: &Refused, reason: &str) -> Result<(), Trouble> {
        let body = String::from_utf8_lossy(&refused.body);
        let words = [&self.source, &self.slot, &refused.id, &refused.subject, &*body, reason];
        let values: Vec<String> = words.iter().map(|word| literal(word)).collect();
        let sql = format!(
            "INSERT INTO synod_stream.parked (source, slot, event_id, table_name, statement, reason) VALUES ({})",
            values.join(", ")
        );
        self.run(&sql, &[Some(1)]).map_err(|undone| self.start_over(undone))?;
        Ok(())
    }

    /// All of this stream.
    pub(super) fn all_parked(&mut self) -> Result<Vec<Refused>, Trouble> {
        let (source, slot) = (self.source.clone(), self.slot.clone());
        let session = self
            .session
            .as_mut()
            .ok_or_else(|| Trouble::Again("the connection was lost".into()))?;
        let rows = session
            .rows(
                "SELECT event_id, table_name, statement, reason FROM synod_stream.parked WHERE source = $1 AND slot = $2 \
                 ORDER BY parked_at, event_id",
                &[Some(&source), Some(&slot)],
            )
            .map_err(Trouble::Fatal)?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
                Refused {
                    id: field(0),
                    subject: field(1),
                    body: field(2).into_bytes(),
                    reason: field(3),
                }
            })
            .collect())
    }

    /// Run one once more; what was done is no longer parked.
    pub(super) fn run_parked(&mut self, refused: &Refused) -> Result<(), Trouble> {
        let statement = String::from_utf8_lossy(&refused.body)
            .trim_end()
            .trim_end_matches(';')
            .to_owned();
        if statement.is_empty() {
            return Err(Trouble::Refused(refused.reason.clone()));
        }
        let keys = [&self.source, &self.slot, &refused.id].map(|word| literal(word));
        let any = statement.starts_with("TRUNCATE") || statement.contains(";\n");
        let expected = (!any).then_some(1);
        let run = self
            .run("BEGIN", &[])
            .and_then(|()| self.run(&statement, &[expected]))
            .and_then(|()| {
                let [source, slot, id] = &keys;
                let sql = format!(
                    "DELETE FROM synod_stream.parked WHERE source = {source} AND slot = {slot} AND event_id = {id}"
                );
                self.run(&sql, &[Some(1)])
            })
            .and_then(|()| self.run("COMMIT", &[]));
        run.map_err(|undone| match undone {
            Undone::Lost(reason) => self.start_over(Undone::Lost(reason)),
            Undone::Unwanted(reason) => match self.run("ROLLBACK", &[]) {
                Ok(()) => Trouble::Refused(reason),
                Err(undone) => self.start_over(undone),
            },
        })
    }
}
