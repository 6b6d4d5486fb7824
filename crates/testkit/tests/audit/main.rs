//! Who changed what: context and definitions in the change stream, auditing, and what slots keep.
//!
//! One group of two nodes for all; tests of a lone server use databases of their own there, which are in no group.

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, Options, SharedCluster};

mod auditing;
mod context;
mod copies;
mod definitions;
mod killed;
mod rate;
mod recorded;
mod slots;
mod stopped;

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    nodes: 2,
    partitions: false,
    settings: &[
        ("wal_level", "logical"),
        ("max_replication_slots", "20"),
        ("logical_decoding_work_mem", "64kB"),
    ],
    small_disk: None,
});

const PATIENCE: Duration = Duration::from_secs(30);

/// A database that is in no group, with the extension. It goes with the test.
struct Alone<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

impl<'a> Alone<'a> {
    #[track_caller]
    fn new(cluster: &'a Cluster, name: &'static str) -> Self {
        let mut client = cluster.client(0);
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let alone = Self { cluster, name };
        alone.client().batch_execute("CREATE EXTENSION synod").unwrap();
        alone
    }

    #[track_caller]
    fn client(&self) -> Client {
        self.cluster.server(0).client_to(self.name)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut client = self.cluster.client(0);
        let slots = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{}'",
            self.name
        );
        client.batch_execute(&slots).unwrap();
        client
            .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .unwrap();
    }
}

fn make_slot(client: &mut Client, name: &str) {
    let sql = format!("SELECT pg_create_logical_replication_slot('{name}', 'synod')");
    client
        .batch_execute(&sql)
        .unwrap_or_else(|error| panic!("slot {name}: {error:?}"));
}

/// Drops a slot, once nobody has it any more.
fn drop_slot(client: &mut Client, name: &str) {
    client
        .batch_execute(&format!("SELECT pg_drop_replication_slot('{name}')"))
        .unwrap_or_else(|error| panic!("slot {name}: {error:?}"));
}

/// What the slot tells in JSON, without the boundaries of transactions.
#[track_caller]
fn told(client: &mut Client, slot: &str, options: &str) -> Vec<serde_json::Value> {
    let sql = format!(
        "SELECT data FROM pg_logical_slot_get_changes('{slot}', NULL, NULL, 'format', 'json', 'include-transaction', 'off', \
         'include-types', 'off'{options})"
    );
    let rows = client
        .query(&sql, &[])
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter()
        .map(|row| serde_json::from_str(row.get(0)).expect("the format is JSON"))
        .collect()
}

/// One word for each object: the action, and of a row the table, of a context its values, of a statement its tag and object.
fn words(told: &[serde_json::Value]) -> Vec<String> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    told.iter()
        .map(|object| match object["action"].as_str() {
            Some("X") => format!("X {}", object["context"]["values"]),
            Some("DDL") => format!("DDL {}: {}", text(&object["tag"]), text(&object["object"])),
            action => format!("{} {}", action.unwrap_or("?"), text(&object["table"])),
        })
        .collect()
}

/// What telling who makes a transaction costs its writer:
/// `cargo test --test audit -- --ignored --nocapture costs`, with the release build installed.
#[test]
#[ignore = "prints rates, asserts nothing"]
fn costs() {
    use synod_testkit::pgbench::{Load, Pgbench, Script, create_tables, fill_statements};
    let settings = [
        ("wal_level", "logical"),
        ("fsync", "off"),
        ("synchronous_commit", "off"),
    ];
    let mut server = synod_testkit::Server::new("costs", &settings);
    server.start();
    let mut client = server.client();
    client.batch_execute("CREATE EXTENSION synod").unwrap();
    create_tables(&server);
    for statement in fill_statements(10, 100_000) {
        client.batch_execute(&statement).unwrap();
    }
    client.batch_execute("VACUUM ANALYZE").unwrap();
    let load = Load {
        script: Script::TpcB,
        clients: 2,
        seconds: 4,
        prepared: true,
        latencies: false,
    };
    let mut slice = |setting: &str| {
        client.batch_execute(&format!("ALTER ROLE postgres {setting}")).unwrap();
        Pgbench::start(&server, &load).finish().tps
    };
    for slot in [false, true] {
        if slot {
            make_slot(&mut server.client(), "unread");
        }
        let mut ratios: Vec<f64> = (0..7)
            .map(|_| {
                let off = slice("SET synod.stream_context = off");
                let on = slice("SET synod.stream_context = on");
                println!("slot {slot}: off {off:.0}, on {on:.0}: {:.3}", on / off);
                on / off
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("slot {slot}: median {:.3}", ratios[ratios.len() / 2]);
    }
}
