//! The change stream: the output plugin `synod` on a lone server that does not preload it.

use std::sync::OnceLock;

use postgres::{Client, SimpleQueryMessage};
use synod_testkit::{PgInstall, Server};

mod filters;
mod interface;
mod page;
mod scripts;

/// Decoding alone needs nothing but these.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", ""),
    ("wal_level", "logical"),
    ("max_replication_slots", "60"),
    ("max_wal_senders", "20"),
    ("max_prepared_transactions", "20"),
    ("logical_decoding_work_mem", "64kB"),
    ("autovacuum", "off"),
    ("fsync", "off"),
];

/// A database of its own for a test, on the one server of this binary, with a slot of its name.
struct Stream {
    client: Client,
    slot: &'static str,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        PgInstall::from_environment().require_extension();
        let mut server = Server::new("decoding", SETTINGS);
        server.start();
        server
    })
}

impl Stream {
    /// Run `setup`, then make the slot.
    #[track_caller]
    fn new(name: &'static str, setup: &str) -> Self {
        Self::with_slot(name, setup, "false")
    }

    /// With a slot that decodes prepared transactions.
    #[track_caller]
    fn with_slot(name: &'static str, setup: &str, two_phase: &str) -> Self {
        server()
            .client()
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .unwrap();
        let mut client = server().client_to(name);
        client.batch_execute(setup).unwrap();
        client
            .batch_execute(&format!(
                "SELECT pg_create_logical_replication_slot('{name}', 'synod', false, {two_phase})"
            ))
            .unwrap();
        Self { client, slot: name }
    }

    /// Run statements; in pieces, as several in one string are one transaction.
    #[track_caller]
    fn run(&mut self, statements: &[&str]) {
        for statement in statements {
            self.client
                .batch_execute(statement)
                .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    /// What comes, with these options; consumed.
    #[track_caller]
    fn get(&mut self, options: &[(&str, &str)]) -> Vec<String> {
        self.try_get("get", options)
            .unwrap_or_else(|error| panic!("{options:?}: {error:?}"))
    }

    /// What comes, without BEGIN and COMMIT and transaction numbers.
    #[track_caller]
    fn rows(&mut self, options: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![("include-xids", "0"), ("skip-empty-xacts", "1")];
        all.extend(options);
        let lines = self.get(&all);
        lines
            .into_iter()
            .filter(|line| line != "BEGIN" && line != "COMMIT")
            .collect()
    }

    /// `get` or `peek`.
    fn try_get(&mut self, how: &str, options: &[(&str, &str)]) -> Result<Vec<String>, postgres::Error> {
        let mut sql = format!(
            "SELECT data FROM pg_logical_slot_{how}_changes('{}', NULL, NULL",
            self.slot
        );
        for (name, value) in options {
            sql += &format!(", '{name}', '{}'", value.replace('\'', "''"));
        }
        let messages = self.client.simple_query(&(sql + ")"))?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect())
    }
}
