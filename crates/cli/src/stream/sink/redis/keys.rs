//! Which keys an event is about.

use serde_json::json;
use synod_change::stream::{Change, Event};

use crate::stream::envelope::Render;
use crate::stream::sink::Told;
use crate::stream::template::Template;

/// The keys of an event, as JSON: an array of keys, or an object whose `match` is a pattern that all keys of a table match.
pub struct Keys(pub Template);

impl Render for Keys {
    fn render(&mut self, told: &Told<'_>, out: &mut Vec<u8>) -> Option<String> {
        let Event::Row(_, change) = told.event else { return None };
        let (table, rows) = match change {
            Change::Insert { table, new, .. } => (table, [None, Some(*new)]),
            Change::Update { table, old, new, .. } => (table, [*old, Some(*new)]),
            Change::Delete { table, old, .. } => (table, [*old, None]),
            Change::Truncate { tables, .. } => {
                let globs: Vec<String> = tables.iter().map(|table| self.0.glob(table)).collect();
                out.extend_from_slice(json!({ "match": globs }).to_string().as_bytes());
                return Some("truncate".into());
            }
        };
        let fill = |row| self.0.fill_row(told.event, table, row);
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
