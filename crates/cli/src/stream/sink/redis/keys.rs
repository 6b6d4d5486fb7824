//! Which keys an event is about.

use std::collections::HashSet;

use serde_json::json;
use synod_change::stream::{Change, Event};

use crate::failure::Failure;
use crate::stream::envelope::Render;
use crate::stream::sink::Told;
use crate::stream::template::Template;

/// The keys of an event, as JSON: an array of keys, or an object whose `match` is a pattern that all keys of a table match.
pub struct Keys {
    template: Template,
    /// Tables that have what it names, by `Table::version`.
    checked: HashSet<u64>,
}

impl Keys {
    /// Of this form.
    pub fn new(template: Template) -> Self {
        Self {
            template,
            checked: HashSet::new(),
        }
    }
}

impl Render for Keys {
    fn begin_anew(&mut self) -> Result<(), Failure> {
        self.checked.clear();
        Ok(())
    }

    /// A row whose key cannot be told would stay in the cache, and nobody would know.
    fn check(&mut self, told: &Told<'_>) -> Result<(), Failure> {
        let Event::Row(_, Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. }) =
            told.event
        else {
            return Ok(());
        };
        if self.checked.contains(&table.version) {
            return Ok(());
        }
        if let Some(lack) = self.template.lacks(table) {
            let text = String::from_utf8_lossy;
            return Err(Failure::new(
                format!(
                    "keys of table \"{}.{}\" cannot be told to Redis",
                    text(&table.schema),
                    text(&table.name)
                ),
                lack,
                "Correct key= in --to, leave the table out with --exclude-table, or give it another REPLICA IDENTITY.",
            ));
        }
        self.checked.insert(table.version);
        Ok(())
    }

    fn render(&mut self, told: &Told<'_>, out: &mut Vec<u8>) -> Option<String> {
        let Event::Row(_, change) = told.event else { return None };
        let (table, rows) = match change {
            Change::Insert { table, new, .. } => (table, [None, Some(*new)]),
            Change::Update { table, old, new, .. } => (table, [*old, Some(*new)]),
            Change::Delete { table, old, .. } => (table, [*old, None]),
            Change::Truncate { tables, .. } => {
                let globs: Vec<String> = tables.iter().map(|table| self.template.glob(table)).collect();
                out.extend_from_slice(json!({ "match": globs }).to_string().as_bytes());
                return Some("truncate".into());
            }
        };
        let fill = |row| self.template.fill_row(told.event, table, row);
        let mut keys: Vec<String> = rows.into_iter().flatten().filter_map(fill).collect();
        keys.dedup();
        out.extend_from_slice(json!(keys).to_string().as_bytes());
        let (schema, name) = (
            String::from_utf8_lossy(&table.schema),
            String::from_utf8_lossy(&table.name),
        );
        Some(format!("{schema}.{name}"))
    }
}
