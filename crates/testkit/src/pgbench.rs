//! Runs `pgbench` against one server and reads what it says, while it runs and at its end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::run::Run;
use crate::server::Server;

/// The tables that `pgbench` works on.
pub const TABLES: [&str; 4] = [
    "pgbench_branches",
    "pgbench_tellers",
    "pgbench_accounts",
    "pgbench_history",
];

/// Tellers and accounts of one branch, as `pgbench` has it.
const TELLERS: i64 = 10;
const ACCOUNTS: i64 = 100_000;

/// What the clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// The built-in one: three updates, a select, an insert.
    TpcB,
    /// A file.
    File(PathBuf),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Load {
    /// What each client does, over and over.
    pub script: Script,
    /// Number of clients.
    pub clients: u32,
    /// For how long.
    pub seconds: u32,
    /// Whether statements are prepared once rather than parsed every time.
    pub prepared: bool,
    /// Whether the latency of every transaction is wanted.
    pub latencies: bool,
}

/// The last second, as `pgbench` saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Seconds since the start.
    pub at_s: f64,
    /// Transactions a second.
    pub tps: f64,
    /// Mean latency, milliseconds.
    pub latency_ms: f64,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Transactions whose COMMIT was acknowledged.
    pub committed: u64,
    /// Transactions given up because of an error that is retried.
    pub failed: u64,
    /// Transactions that were repeated at least once.
    pub retried: u64,
    /// Repetitions.
    pub retries: u64,
    /// Transactions a second, without the time to connect.
    pub tps: f64,
    /// Microseconds of each transaction, in no order, when asked for.
    pub latencies_us: Vec<u64>,
    /// Errors and notices that clients met.
    pub complaints: Vec<String>,
    /// Whether all clients worked to the end.
    pub complete: bool,
}

/// A `pgbench` at work. Dropping it ends it.
#[derive(Debug)]
pub struct Pgbench {
    child: Option<Child>,
    progress: Arc<Mutex<Progress>>,
    reader: Option<JoinHandle<Vec<String>>>,
    logs: Option<PathBuf>,
}

impl Pgbench {
    /// Starts `load` against the database `postgres` of `server`.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    pub fn start(server: &Server, load: &Load) -> Self {
        let run = Run::current();
        let mut command = Command::new(run.install().program("pgbench"));
        command
            // Without -n it would truncate pgbench_history. Without a bound on tries, a rollback for serialisation
            // is repeated until it commits, as an application has to do.
            .args(["-n", "-P", "1", "--max-tries=0"])
            .args(["-T", &load.seconds.to_string()])
            .args(["-c", &load.clients.to_string()])
            .args(["-j", &load.clients.min(2).to_string()])
            .args(["-M", if load.prepared { "prepared" } else { "simple" }]);
        match &load.script {
            Script::TpcB => command.args(["-b", "tpcb-like"]),
            Script::File(path) => command.arg("-f").arg(path),
        };
        let logs = load.latencies.then(|| run.new_directory("pgbench"));
        if let Some(directory) = &logs {
            command
                .arg("-l")
                .arg(format!("--log-prefix={}", directory.join("log").display()));
        }
        let mut child = command
            .arg(server.client_dsn("postgres"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pgbench starts");
        let errors = child.stderr.take().expect("its standard error is piped");
        let progress = Arc::new(Mutex::new(Progress::default()));
        let latest = Arc::clone(&progress);
        let reader = std::thread::spawn(move || {
            let mut complaints = Vec::new();
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                match parse_progress(&line) {
                    Some(seen) => *latest.lock().unwrap_or_else(PoisonError::into_inner) = seen,
                    None if line.starts_with("pgbench (") => {}
                    None => complaints.push(line),
                }
            }
            complaints
        });
        Self {
            child: Some(child),
            progress,
            reader: Some(reader),
            logs,
        }
    }

    /// What it told last.
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Report {
        let Some(mut child) = self.child.take() else {
            return Report::default();
        };
        let mut text = String::new();
        if let Some(mut output) = child.stdout.take() {
            let _ = output.read_to_string(&mut text);
        }
        let complete = child.wait().is_ok_and(|status| status.success());
        let mut report = parse_report(&text);
        report.complete = complete;
        if let Some(reader) = self.reader.take() {
            report.complaints = reader.join().unwrap_or_default();
        }
        if let Some(directory) = self.logs.take() {
            report.latencies_us = read_latencies(&directory);
            let _ = std::fs::remove_dir_all(&directory);
        }
        report
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Creates the four tables with their primary keys, empty, on this server alone.
///
/// # Panics
/// When `pgbench` says no.
#[track_caller]
pub fn create_tables(server: &Server) {
    let dsn = server
        .client_dsn("postgres")
        .replace("options='", "options='-c synod.ddl=local ");
    if let Err(reason) = Run::current().program("pgbench", &["-i", "-q", "-I", "dtp", &dsn]) {
        panic!("pgbench -i: {reason}");
    }
}

/// The statements that fill the tables for `scale`, in transactions of at most `rows` rows. `pgbench -i` would do it in
/// a single one, and truncate before.
pub fn fill_statements(scale: u32, rows: i64) -> Vec<String> {
    let scale = i64::from(scale);
    let mut statements = vec![
        format!("INSERT INTO pgbench_branches (bid, bbalance) SELECT b, 0 FROM generate_series(1, {scale}) b"),
        format!(
            "INSERT INTO pgbench_tellers (tid, bid, tbalance) \
             SELECT t, (t - 1) / {TELLERS} + 1, 0 FROM generate_series(1, {}) t",
            scale * TELLERS
        ),
    ];
    let mut first = 1;
    while first <= scale * ACCOUNTS {
        let last = (first + rows - 1).min(scale * ACCOUNTS);
        statements.push(format!(
            "INSERT INTO pgbench_accounts (aid, bid, abalance, filler) \
             SELECT a, (a - 1) / {ACCOUNTS} + 1, 0, '' FROM generate_series({first}, {last}) a"
        ));
        first = last + 1;
    }
    statements
}

/// `progress: 3.0 s, 512.3 tps, lat 1.951 ms stddev 0.5, 0 failed, ...`; no latency when nothing committed.
fn parse_progress(line: &str) -> Option<Progress> {
    let mut parts = line.strip_prefix("progress: ")?.split(", ");
    let at_s = parts.next()?.strip_suffix(" s")?.parse().ok()?;
    let tps = parts.next()?.strip_suffix(" tps")?.parse().ok()?;
    let latency_ms = parts
        .next()
        .and_then(|part| part.strip_prefix("lat ")?.split(' ').next()?.parse().ok())
        .filter(|latency: &f64| latency.is_finite())
        .unwrap_or(0.0);
    Some(Progress { at_s, tps, latency_ms })
}

fn parse_report(text: &str) -> Report {
    let number = |label: &str| {
        let rest = text
            .lines()
            .find_map(|line| line.strip_prefix(label)?.strip_prefix([':', '=']))?;
        rest.trim().split([' ', '/']).next()?.parse::<f64>().ok()
    };
    let count = |label: &str| number(label).map_or(0, |value| value as u64);
    Report {
        committed: count("number of transactions actually processed"),
        failed: count("number of failed transactions"),
        retried: count("number of transactions retried"),
        retries: count("total number of retries"),
        tps: number("tps ").unwrap_or(0.0),
        ..Report::default()
    }
}

/// Third column of `pgbench --log`; transactions that failed have a word there.
fn read_latencies(directory: &Path) -> Vec<u64> {
    let mut latencies = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        latencies.extend(
            text.lines()
                .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()),
        );
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_15_and_of_an_idle_second() {
        let line = "progress: 3.0 s, 512.3 tps, lat 1.951 ms stddev 0.500, 0 failed, 3 retried, 4 retries";
        let seen = Progress {
            at_s: 3.0,
            tps: 512.3,
            latency_ms: 1.951,
        };
        assert_eq!(parse_progress(line), Some(seen));
        let idle = parse_progress("progress: 4.0 s, 0.0 tps, lat -nan ms stddev -nan, 0 failed").expect("progress");
        assert_eq!((idle.tps, idle.latency_ms), (0.0, 0.0));
        assert_eq!(parse_progress("pgbench: error: client 0 aborted"), None);
    }

    #[test]
    fn report_with_retries() {
        let text = "transaction type: <builtin: TPC-B (sort of)>\n\
                    number of transactions actually processed: 4321\n\
                    number of failed transactions: 2 (0.046%)\n\
                    number of transactions retried: 17 (0.393%)\n\
                    total number of retries: 21\n\
                    latency average = 1.8 ms\n\
                    tps = 432.100000 (without initial connection time)\n";
        let report = parse_report(text);
        assert_eq!((report.committed, report.failed), (4321, 2));
        assert_eq!((report.retried, report.retries), (17, 21));
        assert!((report.tps - 432.1).abs() < 1e-9);
    }

    #[test]
    fn filling_covers_every_account_once() {
        let statements = fill_statements(1, 30_000);
        assert_eq!(statements.len(), 2 + 4);
        assert!(statements[5].contains("generate_series(90001, 100000)"));
    }
}
