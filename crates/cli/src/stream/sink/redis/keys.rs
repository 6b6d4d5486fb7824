//! Which keys an event is about.

use std::collections::HashMap;

use serde_json::json;
use synod_change::stream::{Change, Event, Table};

use crate::failure::Failure;
use crate::stream::envelope::{MOST_VERSIONS, Render};
use crate::stream::sink::Told;
use crate::stream::template::Template;

/// The keys of an event, as JSON: an array of keys, or an object whose `match` has patterns that all keys of its tables match.
pub struct Keys {
    template: Template,
    /// How a table's rows are named, by `Table::version`.
    checked: HashMap<u64, Named>,
}

/// Which keys a change of a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// Those of its row.
    ByKey,
    /// All of the table: nothing says which.
    All,
}

impl Keys {
    /// Of this form.
    pub fn new(template: Template) -> Self {
        Self {
            template,
            checked: HashMap::new(),
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
        if self.checked.contains_key(&table.version) {
            return Ok(());
        }
        // Nobody says which versions are gone.
        if self.checked.len() >= MOST_VERSIONS {
            self.checked.clear();
        }
        let named = match self.template.lacks(table) {
            None => Named::ByKey,
            Some(lack) if self.template.lacks_only_key(table) => {
                let whose = name(table);
                eprintln!(
                    "WARNING:  {lack} So each change of table \"{whose}\" takes all keys of the table, looked for with SCAN"
                );
                Named::All
            }
            Some(lack) => {
                return Err(Failure::new(
                    format!("keys of table \"{}\" cannot be told to Redis", name(table)),
                    lack,
                    "Correct key= in --to, leave the table out with --exclude-table, or give it another REPLICA IDENTITY.",
                ));
            }
        };
        self.checked.insert(table.version, named);
        Ok(())
    }

    fn render(&mut self, told: &Told<'_>, out: &mut Vec<u8>) -> Option<String> {
        let Event::Row(_, change) = told.event else { return None };
        let (table, rows) = match change {
            Change::Insert { table, new, .. } => (table, [None, Some(*new)]),
            Change::Update { table, old, new, .. } => (table, [*old, Some(*new)]),
            Change::Delete { table, old, .. } => (table, [*old, None]),
            Change::Truncate { tables, .. } => {
                let globs: Vec<String> = tables.iter().map(|emptied| self.template.glob(emptied.table)).collect();
                out.extend_from_slice(json!({ "match": globs }).to_string().as_bytes());
                return Some("truncate".into());
            }
        };
        if self.checked.get(&table.version) == Some(&Named::All) {
            out.extend_from_slice(json!({ "match": [self.template.glob(table)] }).to_string().as_bytes());
            return Some(name(table));
        }
        let fill = |row| self.template.fill_row(told.event, table, row);
        let mut keys: Vec<String> = rows.into_iter().flatten().filter_map(fill).collect();
        keys.dedup();
        out.extend_from_slice(json!(keys).to_string().as_bytes());
        Some(name(table))
    }
}

/// For people.
fn name(table: &Table) -> String {
    let text = String::from_utf8_lossy;
    format!("{}.{}", text(&table.schema), text(&table.name))
}
