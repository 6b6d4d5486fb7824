//! Who takes part, and how all of them read.

use std::process::{Child, Command, Stdio};

use postgres::Client;
use synod_testkit::{Run, Server};

/// An output plugin with its options.
#[derive(Debug, PartialEq, Eq)]
pub struct Contestant {
    /// In the tables.
    pub name: &'static str,
    /// Its library.
    pub plugin: &'static str,
    /// As for `pg_recvlogical -o`.
    pub options: &'static [&'static str],
}

/// Everyone.
pub const ALL: [Contestant; 11] = [
    Contestant {
        name: "test_decoding",
        plugin: "test_decoding",
        options: &[],
    },
    Contestant {
        name: "wal2json",
        plugin: "wal2json",
        options: &["format-version=2"],
    },
    Contestant {
        name: "pgoutput",
        plugin: "pgoutput",
        options: &["proto_version=1", "publication_names=everything"],
    },
    Contestant {
        name: "synod text",
        plugin: "synod",
        options: &["format=text"],
    },
    Contestant {
        name: "synod json",
        plugin: "synod",
        options: &["format=json"],
    },
    Contestant {
        name: "synod text, joined",
        plugin: "synod",
        options: &["format=text", "join-messages=on"],
    },
    Contestant {
        name: "synod json, joined",
        plugin: "synod",
        options: &["format=json", "join-messages=on"],
    },
    Contestant {
        name: "synod sql",
        plugin: "synod",
        options: &["format=sql"],
    },
    Contestant {
        name: "synod binary",
        plugin: "synod",
        options: &["format=binary"],
    },
    Contestant {
        name: "synod keys",
        plugin: "synod",
        options: &["format=keys"],
    },
    // What the server takes before any plugin has written a byte: nobody can be faster.
    Contestant {
        name: "(nothing told)",
        plugin: "synod",
        options: &["format=json", "exclude-tables=*.*"],
    },
];

/// A server as users run one, ready to be read.
pub fn server() -> Server {
    let mut server = Server::new(
        "stream",
        &[
            ("shared_preload_libraries", ""),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("shared_buffers", "256MB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("max_connections", "150"),
        ],
    );
    server.start();
    let mut client = server.client();
    // Minor releases of 2026 ask for a list of plugins; older ones do not know the setting.
    let allow = "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding', 'synod', 'wal2json'";
    if client.simple_query(allow).is_ok() {
        run(&mut client, "SELECT pg_reload_conf()");
    }
    server
}

/// Run SQL that works.
pub fn run(client: &mut Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql) {
        panic!("{sql}: {error:?}");
    }
}

/// The end of the WAL.
pub fn end_of_wal(client: &mut Client) -> String {
    // What is decoded must have been flushed.
    run(client, "CHECKPOINT");
    match client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]) {
        Ok(row) => row.get(0),
        Err(error) => panic!("{error:?}"),
    }
}

/// A reader at work.
pub fn reader(server: &Server, contestant: &Contestant, slot: &str, end: Option<&str>) -> Child {
    let directory = server.socket();
    let mut command = Command::new(Run::current().install().program("pg_recvlogical"));
    command
        .args([
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-S",
            slot,
            "--start",
            "--no-loop",
            "-f",
            "/dev/null",
            "-s",
            "1",
        ])
        .args(["-p", &server.port().to_string(), "-h"])
        .arg(directory.parent().unwrap_or(&directory))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for option in contestant.options {
        command.args(["-o", option]);
    }
    if let Some(end) = end {
        command.args(["--endpos", end]);
    }
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("pg_recvlogical: {error}"),
    }
}

/// A slot of this contestant at the place of `base`.
pub fn copy_slot(client: &mut Client, base: &str, contestant: &Contestant) -> &'static str {
    const NAME: &str = "reading";
    run(
        client,
        &format!(
            "SELECT pg_copy_logical_replication_slot('{base}', '{NAME}', false, '{}')",
            contestant.plugin
        ),
    );
    NAME
}

/// It is gone, once its reader is.
pub fn drop_slot(client: &mut Client, slot: &str) {
    let deadline = std::time::Duration::from_secs(30);
    synod_testkit::wait_until(deadline, "the slot's reader has gone", || {
        client
            .batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')"))
            .ok()
    });
}
