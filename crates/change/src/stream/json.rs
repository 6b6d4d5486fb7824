//! `json`: an object per change, in the shape that format-version 2 of wal2json made common, one line each.
//!
//! What wal2json knows is told as it does, name for name and in its order, so that its readers' parsers go on. What it lacks has an
//! option or an `action` of its own. It is always JSON: see [`text`].

mod options;
mod prepared;
pub(super) mod row;
pub(super) mod text;

use prepared::{Prepared, put_column, put_properties, put_table};

use self::options::Options;
use self::text::{put_json, put_string};
use super::digits::{put_hex, put_id, put_lsn, put_number};
use super::per_table::PerTable;
use super::{Ddl, Encoding, Environment, Event, Format, Message, OptionError, Place, Transaction};

/// The format, with its options.
pub struct Json {
    environment: Environment,
    options: Options,
    tables: PerTable<Prepared>,
    /// Xid, time and origin, as every object of the current transaction has them.
    stamp: Vec<u8>,
    /// A block of a transaction in progress is open.
    streaming: bool,
}

impl Json {
    /// With the options that wal2json begins with.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            options: Options::default(),
            tables: PerTable::default(),
            stamp: Vec::new(),
            streaming: false,
        }
    }

    fn enter(&mut self, transaction: &Transaction<'_>) {
        let mut stamp = std::mem::take(&mut self.stamp);
        stamp.clear();
        if self.options.include_xids || self.streaming {
            stamp.extend_from_slice(b",\"xid\":");
            put_number(&mut stamp, transaction.xid.into());
        }
        if self.options.include_timestamp {
            stamp.extend_from_slice(b",\"timestamp\":");
            match transaction.commit_time_us {
                Some(time) => {
                    stamp.push(b'"');
                    (self.environment.time)(time, &mut stamp);
                    stamp.push(b'"');
                }
                None => stamp.extend_from_slice(b"null"),
            }
        }
        if self.options.include_origin {
            stamp.extend_from_slice(b",\"origin\":");
            put_number(&mut stamp, transaction.origin_id.into());
            if let Some(origin) = transaction.origin {
                stamp.extend_from_slice(b",\"origin_name\":");
                put_string(&mut stamp, origin, self.environment.encoding);
            }
        }
        self.stamp = stamp;
    }

    /// The object that begins or ends a transaction, or says what became of it; `more` is what only this one has.
    fn boundary(&mut self, action: &str, of: &Transaction<'_>, more: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        self.enter(of);
        if !self.options.include_transaction {
            return;
        }
        out.extend_from_slice(b"{\"action\":\"");
        out.extend_from_slice(action.as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.stamp);
        if self.options.include_lsn {
            for (name, lsn) in [(",\"lsn\":", of.commit_lsn), (",\"nextlsn\":", of.end_lsn)] {
                if let Some(lsn) = lsn {
                    out.extend_from_slice(name.as_bytes());
                    put_quoted_lsn(out, lsn);
                }
            }
        }
        if let (true, Some((group, csn))) = (self.options.include_csn, of.csn) {
            out.extend_from_slice(b",\"group\":\"");
            out.extend_from_slice(group.as_bytes());
            out.extend_from_slice(b"\",\"csn\":");
            put_number(out, csn);
            if let Some(previous) = of.previous_csn {
                out.extend_from_slice(b",\"previous_csn\":");
                put_number(out, previous);
            }
        }
        if let Some(gid) = of.gid {
            out.extend_from_slice(b",\"gid\":");
            put_string(out, gid, self.environment.encoding);
        }
        if let Some(context) = of.context {
            out.extend_from_slice(b",\"context\":");
            put_json(out, context, self.environment.encoding);
        }
        more(out);
        out.push(b'}');
    }

    /// What every object within a transaction has before what it is about.
    fn begin_object(&self, action: &str, place: &Place<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"action\":\"");
        out.extend_from_slice(action.as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.stamp);
        if self.streaming {
            out.extend_from_slice(b",\"subxid\":");
            put_number(out, place.xid.into());
        }
        self.put_place(place, out);
    }

    fn put_place(&self, place: &Place<'_>, out: &mut Vec<u8>) {
        if self.options.include_lsn {
            out.extend_from_slice(b",\"lsn\":");
            put_quoted_lsn(out, place.lsn);
        }
        if self.options.include_ids {
            out.extend_from_slice(b",\"id\":\"");
            put_id(out, &place.id);
            out.push(b'"');
        }
    }

    fn message(&self, place: &Place<'_>, message: &Message<'_>, out: &mut Vec<u8>) {
        if !self.options.wants_message(message.prefix) {
            return;
        }
        if message.transactional {
            self.begin_object("M", place, out);
        } else {
            out.extend_from_slice(b"{\"action\":\"M\"");
            let asked = [
                (self.options.include_xids, &b",\"xid\":null"[..]),
                (self.options.include_timestamp, b",\"timestamp\":null"),
                (self.options.include_origin, b",\"origin\":null"),
            ];
            for (_, nothing) in asked.iter().filter(|(asked, _)| *asked) {
                out.extend_from_slice(nothing);
            }
            self.put_place(place, out);
        }
        let transactional: &[u8] = if message.transactional { b"true" } else { b"false" };
        out.extend_from_slice(b",\"transactional\":");
        out.extend_from_slice(transactional);
        out.extend_from_slice(b",\"prefix\":");
        put_string(out, message.prefix, self.environment.encoding);
        out.extend_from_slice(b",\"content\":");
        // Any bytes, in any database: text only if they are.
        if std::str::from_utf8(message.content).is_ok() {
            put_string(out, message.content, self.environment.encoding);
        } else {
            put_hex_string(out, message.content);
            out.extend_from_slice(b",\"encoding\":\"hex\"");
        }
        out.push(b'}');
    }

    fn ddl(&self, place: &Place<'_>, ddl: &Ddl<'_>, out: &mut Vec<u8>) {
        let encoding = self.environment.encoding;
        self.begin_object("DDL", place, out);
        let texts = [
            (",\"tag\":", ddl.tag),
            (",\"object_type\":", ddl.object_type),
            (",\"object\":", ddl.object),
            (",\"search_path\":", ddl.search_path),
            (",\"sql\":", ddl.sql),
        ];
        for (name, text) in texts {
            out.extend_from_slice(name.as_bytes());
            put_string(out, text, encoding);
        }
        out.extend_from_slice(b",\"tables\":[");
        for (number, table) in ddl.tables.iter().enumerate() {
            out.extend_from_slice(if number > 0 { b",{" } else { b"{" });
            let from = out.len();
            put_table(out, table, &self.options, encoding);
            // Without the comma that it begins with.
            out.remove(from);
            out.extend_from_slice(b",\"columns\":[");
            for (number, column) in table.columns.iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                put_column(out, column, &self.options, encoding);
                put_properties(out, column, &self.options, encoding);
                out.push(b'}');
            }
            out.extend_from_slice(b"]}");
        }
        out.extend_from_slice(b"]}");
    }
}

impl Format for Json {
    fn options(&self) -> &'static [&'static str] {
        options::NAMES
    }

    fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        self.options.set(option, value)?;
        // Such rows are for a table in the same database.
        if self.options.row_objects && self.environment.encoding == Encoding::Unknown {
            self.environment.encoding = Encoding::UnknownHere;
        }
        Ok(())
    }

    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Row(place, change) => self.row(place, change, out),
            Event::Begin(of) => self.boundary("B", of, |_| (), out),
            Event::Commit(of) => self.boundary("C", of, |_| (), out),
            Event::BeginPrepare(of) => self.boundary("BP", of, |_| (), out),
            Event::Prepare(of) => self.boundary("P", of, |_| (), out),
            Event::CommitPrepared(of) => self.boundary("CP", of, |_| (), out),
            Event::RollbackPrepared(of) => self.boundary("RP", of, |_| (), out),
            Event::StreamStart(of) => {
                self.streaming = true;
                self.boundary("SB", of, |_| (), out);
            }
            Event::StreamStop(of) => {
                self.boundary("SE", of, |_| (), out);
                self.streaming = false;
            }
            Event::StreamAbort(of, xid) => self.stream_ends("SA", of, *xid, out),
            Event::StreamPrepare(of) => self.stream_ends("SP", of, of.xid, out),
            Event::StreamCommit(of) => self.stream_ends("SC", of, of.xid, out),
            Event::Message(place, message) => self.message(place, message, out),
            Event::Ddl(place, ddl) => self.ddl(place, ddl, out),
            Event::Context(context) => {
                out.extend_from_slice(b"{\"action\":\"X\"");
                out.extend_from_slice(&self.stamp);
                out.extend_from_slice(b",\"context\":");
                put_json(out, context, self.environment.encoding);
                out.push(b'}');
            }
        }
    }

    fn forget(&mut self, version: u64) {
        self.tables.forget(version);
    }

    fn wants_utf8(&self) -> bool {
        true
    }

    fn one_table_at_a_time(&self) -> bool {
        true
    }

    fn wants_defaults(&self) -> bool {
        self.options.include_default
    }
}

impl Json {
    /// Objects about a transaction of which blocks were told name it, whatever the options.
    fn stream_ends(&mut self, action: &str, of: &Transaction<'_>, xid: u32, out: &mut Vec<u8>) {
        let open = std::mem::replace(&mut self.streaming, true);
        let more = |out: &mut Vec<u8>| {
            if xid != of.xid {
                out.extend_from_slice(b",\"subxid\":");
                put_number(out, xid.into());
            }
        };
        self.boundary(action, of, more, out);
        self.streaming = open;
    }
}

fn put_quoted_lsn(out: &mut Vec<u8>, lsn: u64) {
    out.push(b'"');
    put_lsn(out, lsn);
    out.push(b'"');
}

pub(super) fn put_hex_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    put_hex(out, bytes);
    out.push(b'"');
}
