//! Where a commit's time goes: processor time and wake-ups of each kind of process, for one transaction.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use synod_testkit::Cluster;
use synod_testkit::pgbench::{Load, Pgbench};

use crate::slice::Workload;

/// Connecting and preparing are over by then.
const SETTLE: Duration = Duration::from_millis(1500);

/// What is observed.
const WINDOW: Duration = Duration::from_secs(4);

/// What one kind of process spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Microseconds on a processor.
    pub cpu_us: f64,
    /// How often it slept and was woken.
    pub wake_ups: f64,
}

/// What is observed.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What clients do.
    pub workload: Workload,
    /// Clients, all on the leader.
    pub clients: u32,
    /// `synod.read_consistency`.
    pub reads: &'static str,
}

impl Scene {
    /// One commit alone, commits together, and statements that read, without and with a barrier before each.
    pub const ALL: [Self; 4] = [
        Self {
            workload: Workload::Insert,
            clients: 1,
            reads: "strong",
        },
        Self {
            workload: Workload::Insert,
            clients: 32,
            reads: "strong",
        },
        Self {
            workload: Workload::TpcB,
            clients: 8,
            reads: "session",
        },
        Self {
            workload: Workload::TpcB,
            clients: 8,
            reads: "strong",
        },
    ];
}

/// For one transaction, by kind of process.
#[derive(Clone, Debug)]
pub struct Breakdown {
    /// What was observed.
    pub scene: Scene,
    /// Transactions a second.
    pub tps: f64,
    /// Kinds in order, each with its place: the leader, which has the clients, or both followers together.
    pub rows: Vec<(String, Spent)>,
}

/// Observes clients on the leader.
pub fn run(cluster: &Cluster, scene: Scene) -> Breakdown {
    let leader = cluster.leader();
    let reads = format!("ALTER DATABASE postgres SET synod.read_consistency = {}", scene.reads);
    if let Err(error) = cluster.client(leader).batch_execute(&reads) {
        panic!("{reads}: {error:?}");
    }
    let load = Load {
        script: scene.workload.script(),
        clients: scene.clients,
        seconds: (SETTLE + WINDOW).as_secs() as u32 + 2,
        prepared: true,
        latencies: false,
    };
    let directories: Vec<PathBuf> = cluster.nodes().iter().map(|node| node.server.data()).collect();
    let bench = Pgbench::start(cluster.server(leader), &load);
    std::thread::sleep(SETTLE);
    let before = snapshot(&directories, leader);
    let began = Instant::now();
    std::thread::sleep(WINDOW);
    let after = snapshot(&directories, leader);
    let seconds = began.elapsed().as_secs_f64();
    let tps = bench.finish().tps;

    let transactions = (tps * seconds).max(1.0);
    let mut rows: BTreeMap<String, Spent> = BTreeMap::new();
    for (thread, spent) in after {
        let earlier = before.get(&thread).copied().unwrap_or_default();
        let row = rows.entry(thread.kind).or_default();
        row.cpu_us += (spent.cpu_us - earlier.cpu_us).max(0.0) / transactions;
        row.wake_ups += (spent.wake_ups - earlier.wake_ups).max(0.0) / transactions;
    }
    Breakdown {
        scene,
        tps,
        rows: rows.into_iter().filter(|(_, spent)| spent.cpu_us >= 0.5).collect(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    kind: String,
    id: u32,
}

/// All threads of the nodes' processes, and of the clients.
fn snapshot(directories: &[PathBuf], leader: usize) -> BTreeMap<Thread, Spent> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let Some(kind) = kind_of(&process, directories, leader) else {
            continue;
        };
        let is_log_worker = kind.ends_with("log worker");
        for task in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let thread = if is_log_worker && task.file_name() != entry.file_name() {
                let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                format!("{kind}, thread {}", name.trim())
            } else {
                kind.clone()
            };
            seen.insert(Thread { kind: thread, id }, spent_by(&task.path()));
        }
    }
    seen
}

/// `clients`, or the place and the kind of a server process.
fn kind_of(process: &Path, directories: &[PathBuf], leader: usize) -> Option<String> {
    let title = fs::read_to_string(process.join("cmdline")).ok()?;
    if title.split('\0').next()?.ends_with("/pgbench") {
        return Some("clients".into());
    }
    let directory = fs::read_link(process.join("cwd")).ok()?;
    let node = directories.iter().position(|data| *data == directory)?;
    let kind = if title.contains("synod log worker") {
        "log worker"
    } else if title.contains("synod apply worker") {
        "apply worker"
    } else if title.contains("[local]") {
        "backends of clients"
    } else if title.contains("127.0.0.1(") {
        "backends of links"
    } else {
        "the rest"
    };
    let place = if node == leader { "leader" } else { "followers" };
    Some(format!("{place}: {kind}"))
}

fn spent_by(task: &Path) -> Spent {
    let nanoseconds: f64 = fs::read_to_string(task.join("schedstat"))
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0.0);
    let wake_ups = fs::read_to_string(task.join("status"))
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse().ok()
        })
        .unwrap_or(0.0);
    Spent {
        cpu_us: nanoseconds / 1000.0,
        wake_ups,
    }
}
