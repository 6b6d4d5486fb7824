//! What consumers of Debezium's PostgreSQL connector expect, as with `schemas.enable=false` and `decimal.handling.mode=string`. How
//! values are told: `synod_sinks::debezium`.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use synod_change::stream::{Change, Column, Event, Table};
use synod_change::{Row, Value};
use synod_sinks::debezium::Kind;

use super::{MOST_VERSIONS, Origin, json};
use crate::stream::lsn;
use crate::stream::reader::now_us;
use crate::stream::sink::Told;
use crate::stream::template::first_table;

/// What stands for a value that did not change and is not told.
const SAME: &str = "__debezium_unavailable_value";
/// Milliseconds from 1970 to 2000.
const EPOCH_MS: i64 = 946_684_800_000;

/// Writes them.
#[derive(Default)]
pub struct Debezium {
    /// How the values of each column are told, by `Table::version`.
    kinds: HashMap<u64, Vec<Kind>>,
}

impl Debezium {
    /// Append the event.
    pub fn write(&mut self, told: &Told<'_>, origin: &Origin, out: &mut Vec<u8>) {
        out.push(b'{');
        match told.event {
            Event::Row(_, change) => {
                let (operation, table, before, after) = match change {
                    Change::Insert { table, new, .. } if told.snapshot => ("r", Some(*table), None, Some(*new)),
                    Change::Insert { table, new, .. } => ("c", Some(*table), None, Some(*new)),
                    Change::Update { table, old, new, .. } => ("u", Some(*table), *old, Some(*new)),
                    Change::Delete { table, old, .. } => ("d", Some(*table), *old, None),
                    Change::Truncate { .. } => ("t", None, None, None),
                };
                for (name, image) in [("before", before), ("after", after)] {
                    json::member(out, name);
                    match (table, image) {
                        (Some(table), Some(image)) => self.row(out, table, image),
                        _ => out.extend_from_slice(b"null"),
                    }
                }
                json::text(out, "op", operation.as_bytes());
            }
            Event::Message(_, message) => {
                json::text(out, "op", b"m");
                json::member(out, "message");
                out.push(b'{');
                json::text(out, "prefix", message.prefix);
                json::text(out, "content", STANDARD.encode(message.content).as_bytes());
                out.push(b'}');
            }
            Event::Ddl(_, ddl) => {
                json::text(out, "op", b"ddl");
                json::text(out, "ddl", ddl.sql);
            }
            _ => {}
        }
        source(told, origin, out);
        json::number(out, "ts_ms", now_us() / 1_000 + EPOCH_MS);
        out.extend_from_slice(b",\"transaction\":null}");
    }

    fn row(&mut self, out: &mut Vec<u8>, table: &Table, row: Row<'_>) {
        // Nobody says which versions are gone.
        if self.kinds.len() >= MOST_VERSIONS && !self.kinds.contains_key(&table.version) {
            self.kinds.clear();
        }
        let kinds = self.kinds.entry(table.version);
        let kinds = kinds.or_insert_with(|| table.columns.iter().map(kind).collect());
        out.push(b'{');
        for ((column, kind), value) in table.columns.iter().zip(kinds).zip(row.iter()) {
            json::member(out, &String::from_utf8_lossy(&column.name));
            match value {
                Value::Null => out.extend_from_slice(b"null"),
                Value::Same => json::string(out, SAME.as_bytes()),
                Value::Text(text) | Value::Binary(text) => kind.write(text, out),
            }
        }
        out.push(b'}');
    }
}

fn kind(column: &Column) -> Kind {
    if column.masked {
        return Kind::Text;
    }
    Kind::of(&String::from_utf8_lossy(&column.full_base_type_name))
}

fn source(told: &Told<'_>, origin: &Origin, out: &mut Vec<u8>) {
    json::member(out, "source");
    out.push(b'{');
    json::text(out, "version", env!("CARGO_PKG_VERSION").as_bytes());
    json::text(out, "connector", b"postgresql");
    json::text(out, "name", origin.name.as_bytes());
    if let Some(us) = told.transaction.commit_time_us {
        json::number(out, "ts_ms", us.div_euclid(1_000) + EPOCH_MS);
    }
    json::text(out, "snapshot", if told.snapshot { b"true" } else { b"false" });
    json::text(out, "db", origin.database.as_bytes());
    if let Some(table) = first_table(told.event) {
        json::text(out, "schema", &table.schema);
        json::text(out, "table", &table.name);
    }
    json::number(out, "txId", told.transaction.xid);
    json::number(out, "lsn", told.lsn);
    json::text(out, "commit_lsn", lsn::text(told.lsn).as_bytes());
    json::text(out, "event_id", told.id.as_bytes());
    if let Some((_, csn)) = told.transaction.csn {
        json::number(out, "csn", csn);
    }
    out.push(b'}');
}
