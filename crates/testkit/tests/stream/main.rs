//! `synod stream` against real servers: what arrives where, whatever dies meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postgres::Client;
use serde_json::Value;
use synod_testkit::command::{Ran, synod, synod_command};
use synod_testkit::{PgInstall, Run, Server, wait_until};

mod brokers;
mod command;
mod debezium;
mod endpoint;
mod exact_rows;
mod files;
mod gaps;
mod hooks;
mod nats_order;
mod nodes;
mod page;
mod rows;
mod signals;
mod snapshot;
mod torture;

const DEADLINE: Duration = Duration::from_secs(30);

/// One server for all tests; each has databases of its own.
static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// What a server needs, and those that know the setting want to be told which output plugins are allowed.
fn new_server(label: &str) -> Server {
    PgInstall::from_environment().require_extension();
    let settings = [
        ("wal_level", "logical"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("wal_writer_delay", "20ms"),
        ("fsync", "off"),
    ];
    let mut server = Server::new(label, &settings);
    server.start();
    allow_plugin(&server);
    server
}

fn allow_plugin(server: &Server) {
    let mut client = server.client();
    let known = client
        .query_opt("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'", &[])
        .unwrap();
    if known.is_some() {
        client
            .batch_execute("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding', 'synod'")
            .unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_until(DEADLINE, "the setting to be read", || {
            let mut client = server.client();
            let value: String = client.query_one("SHOW output_plugin_libraries", &[]).ok()?.get(0);
            value.contains("synod").then_some(())
        });
    }
}

/// The server, for this test alone.
#[track_caller]
fn server() -> Lease {
    let mut slot = SERVER.lock().unwrap_or_else(|poisoned| {
        let mut slot = PoisonError::into_inner(poisoned);
        *slot = None;
        SERVER.clear_poison();
        slot
    });
    slot.get_or_insert_with(|| new_server("source"));
    Lease(slot)
}

struct Lease(MutexGuard<'static, Option<Server>>);

impl std::ops::Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.0.as_ref().expect("a lease holds a server")
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Server {
        self.0.as_mut().expect("a lease holds a server")
    }
}

/// A database of its own, and a client there.
#[track_caller]
fn database(server: &Server, name: &str, definitions: &str) -> Client {
    server
        .client()
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut client = server.client_to(name);
    client
        .batch_execute(definitions)
        .unwrap_or_else(|error| panic!("{definitions}: {error:?}"));
    client
}

/// `synod stream --dsn ... --slot s`, and more.
fn arguments<'a>(dsn: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["stream", "--dsn", dsn, "--slot", "s"];
    all.extend(more);
    all
}

/// Runs it to its end.
#[track_caller]
fn stream(dsn: &str, more: &[&str]) -> Ran {
    synod(&arguments(dsn, more))
}

/// Runs it to its end, which must be a good one.
#[track_caller]
fn streamed(dsn: &str, more: &[&str]) -> Ran {
    let ran = stream(dsn, more);
    assert_eq!(ran.code, 0, "{more:?}: {}", ran.err);
    ran
}

/// A run that goes on.
struct Following(Child, PathBuf);

impl Following {
    /// Starts it.
    #[track_caller]
    fn start(dsn: &str, more: &[&str]) -> Self {
        let log = Run::current().new_directory("stream").join("log");
        let file = std::fs::File::create(&log).unwrap();
        let child = synod_command(&arguments(dsn, more))
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self(child, log)
    }

    /// What it has said.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.1).unwrap_or_default()
    }

    /// SIGKILL.
    fn kill9(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, and its exit status.
    #[track_caller]
    fn terminate(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let code = wait_until(DEADLINE, "the end of synod stream", || self.0.try_wait().unwrap());
        code.code().unwrap_or(-1)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- synod stream said:\n{}", self.said());
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A place for files that the command may write.
fn directory(label: &str) -> PathBuf {
    Run::current().new_directory(label)
}

fn path_text(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// Every line is an object.
#[track_caller]
fn objects(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// A table's content as one number.
#[track_caller]
fn checksum(client: &mut Client, query: &str) -> (i64, String) {
    let sql =
        format!("SELECT count(*), coalesce(md5(string_agg(q::text, ',' ORDER BY q::text)), '') FROM ({query}) AS q");
    let row = client
        .query_one(&sql, &[])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"));
    (row.get(0), row.get(1))
}

/// Nobody reads the slot any more.
fn wait_for_slot(client: &mut Client) {
    wait_until(DEADLINE, "the slot to be free", || {
        let active: bool = client
            .query_one("SELECT active FROM pg_replication_slots WHERE slot_name = 's'", &[])
            .unwrap()
            .get(0);
        (!active).then_some(())
    });
}
