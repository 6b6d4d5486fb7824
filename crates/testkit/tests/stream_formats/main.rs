//! The formats of the change stream against real servers: every type, every encoding, wal2json's own scripts, replay of `sql`, `binary` read
//! in Rust.

mod encodings;
mod found;
mod ids;
mod interface;
mod reading;
mod replay;
mod types;
mod wal2json;

use std::sync::OnceLock;

use postgres::Client;
use synod_testkit::{PgInstall, Server};

/// No `max_prepared_transactions` but what two-phase needs; nothing is preloaded.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", ""),
    ("wal_level", "logical"),
    ("max_replication_slots", "60"),
    ("max_wal_senders", "20"),
    ("max_prepared_transactions", "20"),
    ("autovacuum", "off"),
    ("fsync", "off"),
];

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        PgInstall::from_environment().require_extension();
        let mut server = Server::new("formats", SETTINGS);
        server.start();
        server
    })
}

/// A database of its own for a test, with a slot of the same name.
struct Source {
    name: String,
    client: Client,
}

impl Source {
    /// Run `setup`, then make the slot.
    #[track_caller]
    fn new(name: &str, encoding: &str, setup: &str) -> Self {
        let mut client = database(name, encoding);
        client.batch_execute(setup).unwrap();
        client
            .batch_execute(&format!(
                "SELECT pg_create_logical_replication_slot('{name}', 'synod', false, true)"
            ))
            .unwrap();
        Self {
            name: name.into(),
            client,
        }
    }

    /// Each in a transaction of its own, unless it begins one.
    #[track_caller]
    fn run(&mut self, statements: &[&str]) {
        for statement in statements {
            self.client
                .batch_execute(statement)
                .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    /// The messages of a format of text. Stays: all of them can be had again.
    #[track_caller]
    fn peek(&mut self, format: &str, options: &[(&str, &str)]) -> Vec<String> {
        let sql = format!("SELECT data FROM {}", self.function("peek", format, options));
        let rows = self
            .client
            .query(&sql, &[])
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The messages of `binary`.
    #[track_caller]
    fn peek_binary(&mut self, options: &[(&str, &str)]) -> Vec<Vec<u8>> {
        let sql = format!("SELECT data FROM {}", self.function("peek_binary", "binary", options));
        let rows = self
            .client
            .query(&sql, &[])
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn function(&self, how: &str, format: &str, options: &[(&str, &str)]) -> String {
        let mut call = format!(
            "pg_logical_slot_{how}_changes('{}', NULL, NULL, 'format', '{format}'",
            self.name
        );
        for (name, value) in options {
            call += &format!(", '{name}', '{}'", value.replace('\'', "''"));
        }
        call + ")"
    }
}

/// A new database; in an encoding that the locale would not suit, too.
fn database(name: &str, encoding: &str) -> Client {
    server()
        .client()
        .batch_execute(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ))
        .unwrap();
    server().client_to(name)
}

/// Run a script of `format=sql`, ending at the first error.
#[track_caller]
fn replay(database: &str, messages: &[String]) {
    let script = messages.join("\n") + "\n";
    let said = server().psql(database, &["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"], &script);
    assert_eq!(said, "", "{}", messages.join("\n"));
}

/// Every row of a table, as text that differs where values do.
fn rows(client: &mut Client, table: &str) -> Vec<String> {
    let sql = format!(
        "SET extra_float_digits = 3; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; \
         SELECT t::text FROM {table} t ORDER BY t::text COLLATE \"C\""
    );
    let messages = client
        .simple_query(&sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    rows.collect()
}
