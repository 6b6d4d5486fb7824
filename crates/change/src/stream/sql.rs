//! `sql`: statements that do to any PostgreSQL with the same tables what was done here.
//!
//! What is written is safe to run as it is: every name and literal means the same whatever the settings there, a statement about a row
//! touches no other row, and nothing that a table, a value or a message contains can end a literal or a comment.
//! Where nothing says which row was changed, there is a statement that fails and says so: a stream that is replayed loses nothing
//! silently.
//!
//! Each session of reading begins with the settings that its literals are to be read with.

mod alone;
mod prepared;
mod quote;
mod row;

use prepared::Prepared;
use quote::{put_comment, put_literal, put_name};

use super::digits::{put_hex, put_lsn, put_number};
use super::literal::SETTINGS;
use super::option::{boolean, without_identity, word};
use super::per_table::PerTable;
use super::{Ddl, Environment, Event, Format, Message, OptionError, Table, Transaction};

/// The format, with its options.
pub struct Sql {
    environment: Environment,
    /// Changes of which nothing says which row they are of become comments.
    skip_without_identity: bool,
    /// A statement about a row fails on replay unless it hits exactly one.
    check_rows: bool,
    /// Messages are emitted again; otherwise they become comments.
    emit_messages: bool,
    /// Replayed as replication is: no triggers, no checks of foreign keys.
    replica_role: bool,
    include_header: bool,
    include_xids: bool,
    include_timestamp: bool,
    include_lsn: bool,
    begun: bool,
    money_told: bool,
    tables: PerTable<Prepared>,
}

const OPTIONS: &[&str] = &[
    "without-identity",
    "check-rows",
    "messages",
    "replica-role",
    "include-header",
    "include-xids",
    "include-timestamp",
    "include-lsn",
];

impl Sql {
    /// With its defaults.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            skip_without_identity: false,
            check_rows: false,
            emit_messages: false,
            replica_role: false,
            include_header: true,
            include_xids: false,
            include_timestamp: false,
            include_lsn: false,
            begun: false,
            money_told: false,
            tables: PerTable::default(),
        }
    }

    /// The settings that texts depend on. Values are printed in ISO dates and whole floats, whatever the session's
    /// settings ([`Format::wants_exact_text`]).
    fn header(&self, out: &mut Vec<u8>) {
        put_set(out, "client_encoding", self.environment.text_encoding.as_bytes());
        for (name, value) in SETTINGS {
            put_set(out, name, value.as_bytes());
        }
        put_set(out, "TimeZone", &(self.environment.setting)("TimeZone"));
        // A function may have been made before what it names.
        put_set(out, "check_function_bodies", b"off");
        if self.replica_role {
            put_set(out, "session_replication_role", b"replica");
        }
    }

    /// Money is printed, and read, by the rules of a country.
    fn settings_for(&mut self, table: &Table, out: &mut Vec<u8>) {
        let has_money = self.tables.get(table.version, || Prepared::new(table)).has_money;
        if has_money && !self.money_told && self.include_header {
            self.money_told = true;
            put_set(out, "lc_monetary", &(self.environment.setting)("lc_monetary"));
        }
    }

    fn boundary(&self, statement: &str, of: &Transaction<'_>, ends: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(statement.as_bytes());
        if let (true, Some(gid)) = (statement.ends_with(' '), of.gid) {
            put_literal(out, gid);
        }
        out.push(b';');
        if ends {
            let start = out.len();
            if self.include_xids {
                out.extend_from_slice(b" xid ");
                put_number(out, of.xid.into());
            }
            if let (true, Some(time)) = (self.include_timestamp, of.commit_time_us) {
                out.extend_from_slice(b" at ");
                (self.environment.time)(time, out);
            }
            if let (true, Some(lsn)) = (self.include_lsn, of.commit_lsn) {
                out.extend_from_slice(b" lsn ");
                put_lsn(out, lsn);
            }
            if out.len() > start {
                out.splice(start..start, *b" --");
            }
        }
        out.push(b'\n');
    }

    fn message(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        if self.emit_messages {
            let transactional: &[u8] = if message.transactional { b"true" } else { b"false" };
            out.extend_from_slice(b"SELECT pg_catalog.pg_logical_emit_message(");
            out.extend_from_slice(transactional);
            out.extend_from_slice(b", ");
            put_literal(out, message.prefix);
            out.extend_from_slice(b", pg_catalog.decode('");
            put_hex(out, message.content);
            out.extend_from_slice(b"', 'hex'));\n");
        } else {
            let text = [b"message ", message.prefix, b": ", message.content].concat();
            // What is no text in the database's encoding must not come into what is.
            let text: Vec<u8> = text
                .iter()
                .map(|byte| if byte.is_ascii() { *byte } else { b'?' })
                .collect();
            put_comment(out, &text);
        }
    }

    /// The statement runs with the search path that it ran with here.
    fn ddl(&self, ddl: &Ddl<'_>, out: &mut Vec<u8>) {
        if matches!(ddl.tag, b"CREATE TABLE AS" | b"SELECT INTO") {
            return self.made_with_rows(ddl, out);
        }
        if ddl.sql.is_empty() {
            return;
        }
        let alone = alone::runs_alone(ddl.tag, ddl.sql);
        if alone {
            // It committed by itself here as well.
            out.extend_from_slice(b"COMMIT;\n");
        }
        put_search_path(out, ddl.search_path, !alone);
        out.extend_from_slice(ddl.sql);
        // On a line of its own: the statement may end in a comment.
        out.extend_from_slice(b"\n;\n");
        if alone {
            out.extend_from_slice(b"RESET search_path;\nBEGIN;\n");
        }
    }

    /// A statement that makes a table and fills it. Its rows are told like any others, so that here the table is made alone, of the columns
    /// that are told; the statement itself would have other rows there, or the same ones twice.
    fn made_with_rows(&self, ddl: &Ddl<'_>, out: &mut Vec<u8>) {
        let Some(table) = ddl.tables.first() else {
            let what = [ddl.tag, b" ", ddl.object, b" is left out: its table is not told"].concat();
            return put_comment(out, &what);
        };
        // Types are named as they are seen from here.
        put_search_path(out, &(self.environment.setting)("search_path"), true);
        out.extend_from_slice(b"CREATE TABLE ");
        out.extend_from_slice(&Prepared::new(table).name);
        out.extend_from_slice(b" (");
        for (number, column) in table.columns.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(b", ");
            }
            put_name(out, &column.name);
            out.push(b' ');
            out.extend_from_slice(&column.full_type_name);
        }
        out.extend_from_slice(b");\n");
    }

    /// Nothing says which row: a statement that fails, or a comment.
    fn unidentified(&mut self, operation: &str, table: &Table, why: &str, out: &mut Vec<u8>) {
        let name = &self.tables.get(table.version, || Prepared::new(table)).name;
        let what: Vec<u8> = [
            operation.as_bytes(),
            b" of a row of ",
            name,
            b" cannot be replayed: ",
            why.as_bytes(),
        ]
        .concat();
        if self.skip_without_identity {
            return put_comment(out, &what);
        }
        let mut body = b"BEGIN RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = ".to_vec();
        put_literal(&mut body, &what);
        body.extend_from_slice(
            b", HINT = 'Give the table a primary key or REPLICA IDENTITY FULL where the stream comes from.'; END",
        );
        out.extend_from_slice(b"DO ");
        put_literal(out, &body);
        out.extend_from_slice(b";\n");
    }
}

impl Format for Sql {
    fn options(&self) -> &'static [&'static str] {
        OPTIONS
    }

    fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<(), OptionError> {
        let flag = match option {
            "without-identity" => {
                self.skip_without_identity = without_identity(option, value)?;
                return Ok(());
            }
            "messages" => {
                self.emit_messages = word(option, value, &["comment", "emit"])? == 1;
                return Ok(());
            }
            "check-rows" => &mut self.check_rows,
            "replica-role" => &mut self.replica_role,
            "include-header" => &mut self.include_header,
            "include-xids" => &mut self.include_xids,
            "include-timestamp" => &mut self.include_timestamp,
            _ => &mut self.include_lsn,
        };
        *flag = boolean(option, value)?;
        Ok(())
    }

    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            if self.include_header {
                self.header(out);
            }
        }
        match event {
            Event::Row(_, change) => self.change(change, out),
            Event::Begin(of) | Event::BeginPrepare(of) => self.boundary("BEGIN", of, false, out),
            Event::Commit(of) => self.boundary("COMMIT", of, true, out),
            Event::Prepare(of) => self.boundary("PREPARE TRANSACTION ", of, true, out),
            Event::CommitPrepared(of) => self.boundary("COMMIT PREPARED ", of, true, out),
            Event::RollbackPrepared(of) => self.boundary("ROLLBACK PREPARED ", of, true, out),
            Event::Message(_, message) => self.message(message, out),
            Event::Ddl(_, ddl) => self.ddl(ddl, out),
            Event::Context(context) => put_comment(out, &[b"context ", *context].concat()),
            // Not told: `tells_open_transactions`.
            Event::StreamStart(_)
            | Event::StreamStop(_)
            | Event::StreamAbort(..)
            | Event::StreamPrepare(_)
            | Event::StreamCommit(_) => {}
        }
        // A message is a line or some; what transports them puts a line feed between two.
        if out.last() == Some(&b'\n') {
            out.pop();
        }
    }

    fn forget(&mut self, version: u64) {
        self.tables.forget(version);
    }

    fn wants_exact_text(&self) -> bool {
        true
    }

    /// One session replays one transaction after the other.
    fn tells_open_transactions(&self) -> bool {
        false
    }
}

/// For the transaction, or the session.
fn put_search_path(out: &mut Vec<u8>, path: &[u8], of_transaction: bool) {
    out.extend_from_slice(b"SELECT pg_catalog.set_config('search_path', ");
    put_literal(out, path);
    out.extend_from_slice(if of_transaction { b", true);\n" } else { b", false);\n" });
}

fn put_set(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"SET ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b" = ");
    put_literal(out, value);
    out.extend_from_slice(b";\n");
}
