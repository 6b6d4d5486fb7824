//! Reading a slot through SQL, each event as a line that must be the same on every node.

use std::fmt::Write as _;

use postgres::Client;
use synod_change::stream::binary::Reader;
use synod_change::stream::{Change, Event, EventId, Table, Transaction};
use synod_change::{DecodeError, Row, Value};

/// A column's value, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    Null,
    Same,
    Text(String),
}

/// What happened to a table.
#[derive(Clone, Debug)]
pub enum What {
    Insert(Vec<Cell>),
    Update(Option<Vec<Cell>>, Vec<Cell>),
    Delete(Option<Vec<Cell>>),
    Truncate,
}

/// A change of a table that the group replicates.
#[derive(Clone, Debug)]
pub struct Told {
    pub csn: u64,
    pub ordinal: u64,
    pub table: String,
    pub what: What,
}

/// What one reading of a slot gave.
#[derive(Debug, Default)]
pub struct Reading {
    /// Everything that concerns the group, but for local numbers.
    pub lines: Vec<(u64, String)>,
    /// Its changes of rows.
    pub told: Vec<Told>,
    /// Records: CSN, and the one before as their ends name it.
    pub records: Vec<(u64, Option<u64>)>,
    /// Everything else.
    pub local: Vec<String>,
    /// The record that is being read.
    csn: u64,
}

/// Make a slot of ours.
pub fn make_slot(client: &mut Client, slot: &str) {
    client
        .execute("SELECT pg_create_logical_replication_slot($1, 'synod')", &[&slot])
        .unwrap_or_else(|error| panic!("slot {slot}: {error:?}"));
}

/// Take what a slot has.
pub fn read(client: &mut Client, slot: &str) -> Result<Reading, postgres::Error> {
    read_with(client, slot, "")
}

/// With more options, each `, 'name', 'value'`.
pub fn read_with(client: &mut Client, slot: &str, options: &str) -> Result<Reading, postgres::Error> {
    // Commits of the group are not flushed at once, and only what was flushed is decoded; the commit of this message is.
    client.execute("SELECT pg_logical_emit_message(true, 'flushed', '')", &[])?;
    let query =
        format!("SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'format', 'binary'{options})");
    let rows = client.query(&query, &[&slot])?;
    let (mut reader, mut reading) = (Reader::new(), Reading::default());
    for row in rows {
        let bytes: Vec<u8> = row.get(0);
        reader
            .read(&bytes, |event| {
                reading.note(event);
                Ok::<(), DecodeError>(())
            })
            .expect("the stream can be read");
    }
    Ok(reading)
}

impl Reading {
    fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::Begin(transaction) => match transaction.csn {
                Some((group, csn)) => {
                    self.csn = csn;
                    self.push(format!("begin {group} {csn} {}", time(transaction)));
                }
                None => self.csn = 0,
            },
            Event::Commit(transaction) => {
                if let Some((group, csn)) = transaction.csn {
                    self.records.push((csn, transaction.previous_csn));
                    self.push(format!("commit {group} {csn} {}", time(transaction)));
                }
            }
            Event::Row(place, change) => self.row(&place.id, change),
            Event::Ddl(place, ddl) => {
                let shapes: Vec<String> = ddl.tables.iter().map(|table| shape(table)).collect();
                let line = format!("{} {}", String::from_utf8_lossy(ddl.sql), shapes.join("; "));
                self.line(&place.id, &line);
            }
            Event::Context(context) => self.push(String::from_utf8_lossy(context).into_owned()),
            Event::Message(_, message) if message.prefix == b"flushed" => {}
            other => self.local.push(format!("{other:?}")),
        }
    }

    fn push(&mut self, line: String) {
        self.lines.push((self.csn, line));
    }

    fn line(&mut self, id: &EventId<'_>, line: &str) {
        match id {
            EventId::Group { group, csn, ordinal } => self.push(format!("{group}/{csn}/{ordinal} {line}")),
            _ => self.local.push(line.to_owned()),
        }
    }

    fn row(&mut self, id: &EventId<'_>, change: &Change<'_>) {
        self.line(id, &describe(change));
        let EventId::Group { csn, ordinal, .. } = id else {
            return;
        };
        let changes: Vec<(&Table, What, u64)> = match change {
            Change::Insert { table, new } => vec![(*table, What::Insert(cells(*new)), 0)],
            Change::Update { table, old, new } => vec![(*table, What::Update(old.map(cells), cells(*new)), 0)],
            Change::Delete { table, old } => vec![(*table, What::Delete(old.map(cells)), 0)],
            Change::Truncate { tables, .. } => tables
                .iter()
                .map(|emptied| (emptied.table, What::Truncate, emptied.later))
                .collect(),
        };
        for (table, what, later) in changes {
            self.told.push(Told {
                csn: *csn,
                ordinal: ordinal + later,
                table: String::from_utf8_lossy(&table.name).into_owned(),
                what,
            });
        }
    }

    /// What another reading of the same slot gave. After a crash it may begin with what was read already.
    pub fn append(&mut self, mut other: Self) {
        let last = self.records.last().map_or(0, |(csn, _)| *csn);
        other.lines.retain(|(csn, _)| *csn > last);
        other.told.retain(|told| told.csn > last);
        other.records.retain(|(csn, _)| *csn > last);
        self.lines.append(&mut other.lines);
        self.told.append(&mut other.told);
        self.records.append(&mut other.records);
        self.local.append(&mut other.local);
    }
}

fn time(transaction: &Transaction<'_>) -> String {
    transaction
        .commit_time_us
        .map_or("never".into(), |time| time.to_string())
}

fn shape(table: &Table) -> String {
    let mut out = String::from_utf8_lossy(&table.name).into_owned();
    for column in &table.columns {
        let _ = write!(
            out,
            " {} {}",
            String::from_utf8_lossy(&column.name),
            String::from_utf8_lossy(&column.full_type_name)
        );
    }
    out
}

fn describe(change: &Change<'_>) -> String {
    match change {
        Change::Insert { table, new } => format!("insert {} {:?}", shape(table), cells(*new)),
        Change::Update { table, old, new } => {
            format!("update {} {:?} {:?}", shape(table), old.map(cells), cells(*new))
        }
        Change::Delete { table, old } => format!("delete {} {:?}", shape(table), old.map(cells)),
        Change::Truncate {
            tables,
            restart_identity,
            ..
        } => {
            let tables: Vec<String> = tables.iter().map(|emptied| shape(emptied.table)).collect();
            format!("truncate {} {restart_identity}", tables.join(", "))
        }
    }
}

fn cells(row: Row<'_>) -> Vec<Cell> {
    row.iter()
        .map(|value| match value {
            Value::Null => Cell::Null,
            Value::Same => Cell::Same,
            Value::Text(bytes) | Value::Binary(bytes) => Cell::Text(String::from_utf8_lossy(bytes).into_owned()),
        })
        .collect()
}
