//! One slice: one case for a few seconds.

use std::path::PathBuf;
use std::sync::OnceLock;

use synod_testkit::pgbench::{Load, Pgbench, Report, Script};
use synod_testkit::{Run, Server};

use crate::contestant::Contestant;
use synod_testkit::machine::{self, CpuSpan};

/// Where single rows go.
pub const INSERT_TABLE: &str = "bench_insert";

/// Its definition: keys that no two nodes make alike, a hundred bytes beside.
pub const INSERT_TABLE_DEFINITION: &str =
    "CREATE TABLE bench_insert (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), filler char(84) NOT NULL)";

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One row, one transaction.
    Insert,
    /// `pgbench`'s built-in.
    TpcB,
}

impl Workload {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Insert, Self::TpcB];

    /// As it is written in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::TpcB => "TPC-B",
        }
    }

    /// What its clients run.
    pub fn script(self) -> Script {
        match self {
            Self::Insert => Script::File(insert_script()),
            Self::TpcB => Script::TpcB,
        }
    }
}

/// A column of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// One plain server.
    Plain,
    /// The primary of three.
    Quorum,
    /// All clients on one node.
    SynodOne,
    /// The clients spread over all nodes; a single one on another node in each round.
    SynodSpread,
}

impl Column {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Quorum, Self::SynodOne, Self::SynodSpread];

    /// As it is written in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Quorum => "quorum",
            Self::SynodOne => "synod, 1 node",
            Self::SynodSpread => "synod, 3 nodes",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who, and from where.
    pub column: Column,
    /// What.
    pub workload: Workload,
    /// By how many.
    pub clients: u32,
}

impl Case {
    /// Numbers of clients.
    pub const CLIENTS: [u32; 3] = [1, 8, 32];
}

/// What came of a slice.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured.
    pub case: Case,
    /// In which round.
    pub round: u32,
    /// Committed transactions a second.
    pub tps: f64,
    /// Median latency, milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// Repetitions after 40001, for each committed transaction.
    pub retries_per_transaction: f64,
    /// Processor time of servers and clients for each committed transaction, milliseconds.
    pub cpu_ms_per_transaction: f64,
    /// Cores that processes of others used meanwhile.
    pub foreign_cores: f64,
    /// An 8 kB write and fdatasync just before, microseconds, median.
    pub fdatasync_us: f64,
    /// Why the slice does not count, if it does not.
    pub complaint: Option<String>,
}

/// Measures one case.
pub fn run(contestant: &Contestant, case: &Case, round: u32, seconds: u32) -> Measured {
    let fdatasync_us = machine::fdatasync_us();
    let before = CpuSpan::begin();
    let benches: Vec<Pgbench> = seats(contestant, case, round)
        .into_iter()
        .map(|(server, clients)| {
            Pgbench::start(
                server,
                &Load {
                    script: case.workload.script(),
                    clients,
                    seconds,
                    prepared: true,
                    latencies: true,
                },
            )
        })
        .collect();
    let reports: Vec<Report> = benches.into_iter().map(Pgbench::finish).collect();
    let cpu = before.end();

    let mut latencies: Vec<u64> = reports
        .iter()
        .flat_map(|report| report.latencies_us.iter().copied())
        .collect();
    latencies.sort_unstable();
    let committed: u64 = reports.iter().map(|report| report.committed).sum();
    let retries: u64 = reports.iter().map(|report| report.retries).sum();
    let complaint = reports
        .iter()
        .find(|report| !report.complete)
        .map(|report| report.complaints.join("; "));
    let each = committed.max(1) as f64;
    Measured {
        case: *case,
        round,
        tps: reports.iter().map(|report| report.tps).sum(),
        p50_ms: percentile(&latencies, 50),
        p99_ms: percentile(&latencies, 99),
        retries_per_transaction: retries as f64 / each,
        cpu_ms_per_transaction: cpu.own_s * 1000.0 / each,
        foreign_cores: cpu.foreign_cores,
        fdatasync_us,
        complaint,
    }
}

/// Which servers get how many clients.
fn seats<'a>(contestant: &'a Contestant, case: &Case, round: u32) -> Vec<(&'a Server, u32)> {
    match contestant {
        Contestant::Plain(server) | Contestant::Quorum(server, _) => vec![(server, case.clients)],
        Contestant::Synod(cluster) => {
            let nodes = cluster.len() as u32;
            // Another node in each round: the leader is not always the one with the clients.
            let first = round % nodes;
            if case.column == Column::SynodOne {
                return vec![(cluster.server(first as usize), case.clients)];
            }
            (0..nodes)
                .map(|number| {
                    let place = (number + first) % nodes;
                    let clients = case.clients / nodes + u32::from(number < case.clients % nodes);
                    (cluster.server(place as usize), clients)
                })
                .filter(|(_, clients)| *clients > 0)
                .collect()
        }
    }
}

/// Milliseconds at a percentile of sorted microseconds.
fn percentile(sorted_us: &[u64], percent: usize) -> f64 {
    let index = (sorted_us.len() * percent / 100).min(sorted_us.len().saturating_sub(1));
    sorted_us.get(index).map_or(0.0, |us| *us as f64 / 1000.0)
}

fn insert_script() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Run::current().new_directory("scripts").join("insert.sql");
        if let Err(error) = std::fs::write(&path, "INSERT INTO bench_insert (filler) VALUES ('a row');\n") {
            panic!("cannot write {}: {error}", path.display());
        }
        path
    })
    .clone()
}
