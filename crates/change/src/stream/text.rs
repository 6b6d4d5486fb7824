//! `text`: byte for byte what PostgreSQL's own `test_decoding` prints.
//!
//! As there, the rows of a transaction in progress are told as having happened, not shown; they may yet be rolled back. What
//! `test_decoding` knows nothing of (event ids, DDL, context) is left out.

use std::collections::HashMap;
use std::io::Write as _;

use super::option::boolean;
use super::{
    Change, Emptied, Environment, Event, EventId, Format, Message, OptionError, Place, Table, Transaction, TypeClass,
};
use crate::{Row, Value};

/// The format, with its options.
pub struct Text {
    environment: Environment,
    include_xids: bool,
    include_timestamp: bool,
    force_binary: bool,
    tables: HashMap<u64, Names>,
    /// The transaction in progress of which a block is open.
    streamed: Option<u32>,
}

/// What precedes each value of a table: ` name[type]:`.
struct Names {
    columns: Vec<Vec<u8>>,
}

impl Text {
    /// With the options that `test_decoding` begins with.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            include_xids: true,
            include_timestamp: false,
            force_binary: false,
            tables: HashMap::new(),
            streamed: None,
        }
    }

    fn row(&mut self, change: &Change<'_>, out: &mut Vec<u8>) {
        if let Some(xid) = self.streamed {
            let what = match change {
                Change::Truncate { .. } => "streaming truncate for",
                _ => "streaming change for",
            };
            return self.streamed_thing(what, xid, out);
        }
        match change {
            Change::Insert { table, new } => {
                begin_row(table, b" INSERT:", out);
                append_row(self.names(table), table, *new, false, out);
            }
            Change::Update { table, old, new } => {
                begin_row(table, b" UPDATE:", out);
                let names = self.names(table);
                if let Some(old) = old {
                    out.extend_from_slice(b" old-key:");
                    append_row(names, table, *old, true, out);
                    out.extend_from_slice(b" new-tuple:");
                }
                append_row(names, table, *new, false, out);
            }
            Change::Delete { table, old } => {
                begin_row(table, b" DELETE:", out);
                match old {
                    Some(old) => append_row(self.names(table), table, *old, true, out),
                    None => out.extend_from_slice(b" (no-tuple-data)"),
                }
            }
            Change::Truncate {
                tables,
                cascade,
                restart_identity,
            } => truncate(tables, *cascade, *restart_identity, out),
        }
    }

    fn names(&mut self, table: &Table) -> &Names {
        self.tables.entry(table.version).or_insert_with(|| {
            let columns = table
                .columns
                .iter()
                .map(|column| {
                    let parts: [&[u8]; 5] = [b" ", &column.quoted_name, b"[", &column.type_name, b"]:"];
                    parts.concat()
                })
                .collect();
            Names { columns }
        })
    }

    fn message(&self, place: &Place<'_>, message: &Message<'_>, out: &mut Vec<u8>) {
        // Not only within an open block: until 17 the first of a transaction did not open one, if empty ones are skipped.
        let streamed = matches!(place.id, EventId::Open { .. });
        if streamed {
            out.extend_from_slice(b"streaming ");
        }
        append(
            out,
            format_args!("message: transactional: {} prefix: ", u8::from(message.transactional)),
        );
        out.extend_from_slice(message.prefix);
        append(out, format_args!(", sz: {}", message.content.len()));
        if !streamed {
            out.extend_from_slice(b" content:");
            out.extend_from_slice(message.content);
        }
    }

    /// `BEGIN 1`, `COMMIT 1 (at ...)`.
    fn boundary(&self, word: &str, transaction: &Transaction<'_>, ends: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(word.as_bytes());
        if self.include_xids {
            append(out, format_args!(" {}", transaction.xid));
        }
        if ends {
            self.timestamp(transaction, out);
        }
    }

    /// `PREPARE TRANSACTION 'name', txid 1`.
    fn prepared(&self, words: &str, transaction: &Transaction<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(words.as_bytes());
        append_quoted_literal(transaction.gid.unwrap_or_default(), out);
        if self.include_xids {
            append(out, format_args!(", txid {}", transaction.xid));
        }
        self.timestamp(transaction, out);
    }

    fn timestamp(&self, transaction: &Transaction<'_>, out: &mut Vec<u8>) {
        if self.include_timestamp {
            out.extend_from_slice(b" (at ");
            (self.environment.time)(transaction.commit_time_us.unwrap_or_default(), out);
            out.push(b')');
        }
    }

    /// `opening a streamed block for transaction TXN 1`; `words` may end in "for".
    fn streamed_thing(&self, words: &str, xid: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(words.as_bytes());
        match (self.include_xids, words.ends_with(" for")) {
            (true, _) => append(out, format_args!(" TXN {xid}")),
            (false, true) => out.extend_from_slice(b" transaction"),
            (false, false) => {}
        }
    }
}

impl Format for Text {
    fn options(&self) -> &'static [&'static str] {
        &["include-xids", "include-timestamp", "force-binary"]
    }

    fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        match option {
            "include-xids" => self.include_xids = boolean(option, value)?,
            "include-timestamp" => self.include_timestamp = boolean(option, value)?,
            // Its name alone changes nothing, in `test_decoding`.
            _ => self.force_binary = value.is_some() && boolean(option, value)?,
        }
        Ok(())
    }

    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Begin(transaction) | Event::BeginPrepare(transaction) => {
                self.boundary("BEGIN", transaction, false, out);
            }
            Event::Row(_, change) => self.row(change, out),
            Event::Commit(transaction) => self.boundary("COMMIT", transaction, true, out),
            Event::Message(place, message) => self.message(place, message, out),
            Event::Prepare(transaction) => self.prepared("PREPARE TRANSACTION ", transaction, out),
            Event::CommitPrepared(transaction) => self.prepared("COMMIT PREPARED ", transaction, out),
            Event::RollbackPrepared(transaction) => self.prepared("ROLLBACK PREPARED ", transaction, out),
            Event::StreamStart(transaction) => {
                self.streamed = Some(transaction.xid);
                self.streamed_thing("opening a streamed block for transaction", transaction.xid, out);
            }
            Event::StreamStop(transaction) => {
                self.streamed = None;
                self.streamed_thing("closing a streamed block for transaction", transaction.xid, out);
            }
            Event::StreamAbort(_, xid) => self.streamed_thing("aborting streamed (sub)transaction", *xid, out),
            Event::StreamPrepare(transaction) => self.prepared_in_stream(transaction, out),
            Event::StreamCommit(transaction) => {
                self.streamed_thing("committing streamed transaction", transaction.xid, out);
                self.timestamp(transaction, out);
            }
            Event::Ddl(..) | Event::Context(_) => {}
        }
    }

    fn forget(&mut self, version: u64) {
        self.tables.remove(&version);
    }

    fn is_binary(&self) -> bool {
        self.force_binary
    }
}

impl Text {
    /// `preparing streamed transaction TXN 'name', txid 1`: with the word TXN, unlike when it is not streamed.
    fn prepared_in_stream(&self, transaction: &Transaction<'_>, out: &mut Vec<u8>) {
        let words = if self.include_xids {
            "preparing streamed transaction TXN "
        } else {
            "preparing streamed transaction "
        };
        self.prepared(words, transaction, out);
    }
}

fn append(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = out.write_fmt(what);
}

fn begin_row(table: &Table, operation: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"table ");
    out.extend_from_slice(&table.quoted_name);
    out.push(b':');
    out.extend_from_slice(operation);
}

fn truncate(tables: &[Emptied<'_>], cascade: bool, restart_identity: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"table ");
    for (at, Emptied { table, .. }) in tables.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(&table.quoted_name);
    }
    out.extend_from_slice(b": TRUNCATE:");
    if restart_identity {
        out.extend_from_slice(b" restart_seqs");
    }
    if cascade {
        out.extend_from_slice(b" cascade");
    }
    if !restart_identity && !cascade {
        out.extend_from_slice(b" (no-flags)");
    }
}

fn append_row(names: &Names, table: &Table, row: Row<'_>, skip_nulls: bool, out: &mut Vec<u8>) {
    for ((name, column), value) in names.columns.iter().zip(&table.columns).zip(row.iter()) {
        if skip_nulls && value == Value::Null {
            continue;
        }
        out.extend_from_slice(name);
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Same => out.extend_from_slice(b"unchanged-toast-datum"),
            Value::Text(text) | Value::Binary(text) => append_literal(column.class, text, out),
        }
    }
}

fn append_literal(class: TypeClass, text: &[u8], out: &mut Vec<u8>) {
    match class {
        TypeClass::Integer | TypeClass::Number => out.extend_from_slice(text),
        TypeClass::Boolean => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
        TypeClass::Bits => {
            out.extend_from_slice(b"B'");
            out.extend_from_slice(text);
            out.push(b'\'');
        }
        TypeClass::Json | TypeClass::Bytes | TypeClass::Text => {
            out.push(b'\'');
            append_doubled(text, out);
            out.push(b'\'');
        }
    }
}

/// Every quote twice.
fn append_doubled(text: &[u8], out: &mut Vec<u8>) {
    let mut from = 0;
    for at in memchr::memchr_iter(b'\'', text) {
        out.extend_from_slice(&text[from..=at]);
        from = at;
    }
    out.extend_from_slice(&text[from..]);
}

/// As `quote_literal`: backslashes are doubled, too, and then an E goes before.
fn append_quoted_literal(text: &[u8], out: &mut Vec<u8>) {
    if text.contains(&b'\\') {
        out.push(b'E');
    }
    out.push(b'\'');
    for byte in text {
        if matches!(byte, b'\'' | b'\\') {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(b'\'');
}
