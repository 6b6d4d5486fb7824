//! The load on all nodes, the kill, the return: told second by second.

use std::time::{Duration, Instant};

use synod_testkit::pgbench::{Load, Pgbench, Report, Script};
use synod_testkit::probe::{Diary, Probe};
use synod_testkit::{Cluster, Server};

use crate::screen;

/// Clients on each node.
const CLIENTS: u32 = 4;

/// Whole length of the load, and when the kill and the return come.
const LENGTH_S: u32 = 48;
const KILL_S: u32 = 14;
const RETURN_S: u32 = 26;

/// A pause that began this long after the kill is not its doing.
const AFTERMATH: Duration = Duration::from_secs(8);

/// How often the cluster is looked at between two lines.
const LOOK: Duration = Duration::from_millis(100);

/// The tail of the log moves while one looks: this few positions behind it count as caught up.
const CAUGHT_UP: i64 = 500;

/// What happened.
pub struct Story {
    /// What each node's clients did, over all of its runs.
    pub reports: Vec<Report>,
    /// What the probe saw.
    pub diary: Diary,
    /// Which node was killed.
    pub victim: usize,
    /// Where the probe wrote.
    pub witness: usize,
    /// Clients that were at work on it: each may have had one commit under way.
    pub in_flight: u64,
    /// Longest time without a write on a survivor, around the kill.
    pub pause: Duration,
    /// The same, before the kill.
    pub usual_pause: Duration,
    /// From the return of the killed node's server to its having caught up.
    pub catch_up: Option<Duration>,
}

/// One node's clients.
#[derive(Default)]
struct Seat {
    bench: Option<Pgbench>,
    report: Report,
}

impl Seat {
    fn begin(&mut self, server: &Server, seconds: u32) {
        self.bench = Some(Pgbench::start(
            server,
            &Load {
                script: Script::TpcB,
                clients: CLIENTS,
                seconds,
                prepared: false,
                latencies: false,
            },
        ));
    }

    fn end(&mut self) {
        let Some(bench) = self.bench.take() else { return };
        let last = bench.finish();
        self.report.committed += last.committed;
        self.report.failed += last.failed;
        self.report.retried += last.retried;
        self.report.retries += last.retries;
        self.report.complaints.extend(last.complaints);
    }

    fn rate(&self) -> String {
        let bench = self.bench.as_ref();
        bench.map_or_else(|| "-".to_owned(), |bench| format!("{:.0}", bench.progress().tps))
    }
}

/// Where the killed node is on its way.
enum Way {
    Up,
    Killed,
    Recovering { since: Instant },
    Back { after: Duration },
}

/// The load at one moment.
struct Scene<'a> {
    cluster: &'a mut Cluster,
    names: &'a [String],
    seats: Vec<Seat>,
    probe: Probe,
    victim: usize,
    witness: usize,
    start: Instant,
    killed_at: Instant,
    way: Way,
    /// Whether the survivors' new leader has been told.
    succession_told: bool,
}

/// Runs the load with its one incident.
pub fn run(cluster: &mut Cluster, names: &[String]) -> Story {
    let victim = cluster.leader();
    let witness = (victim + 1) % cluster.len();
    screen::title(&format!(
        "pgbench TPC-B, {CLIENTS} clients on each node for {LENGTH_S} s, while a probe writes on {}",
        names[witness]
    ));
    screen::header("transactions a second", names, "probe paused");

    let probe = Probe::start(cluster.server(witness), 1);
    let seats = (0..cluster.len()).map(|_| Seat::default()).collect();
    let start = Instant::now();
    let mut scene = Scene {
        cluster,
        names,
        seats,
        probe,
        victim,
        witness,
        start,
        killed_at: start,
        way: Way::Up,
        succession_told: false,
    };
    for number in 0..names.len() {
        scene.seats[number].begin(scene.cluster.server(number), LENGTH_S);
    }
    for second in 1..=LENGTH_S {
        scene.pass_second(second);
        scene.show(second);
        match second {
            KILL_S => scene.kill(),
            RETURN_S => scene.start_again(),
            _ => {}
        }
    }
    scene.end()
}

impl Scene<'_> {
    /// Waits for the end of a second of the load, and looks after the incident meanwhile.
    fn pass_second(&mut self, second: u32) {
        let end = self.start + Duration::from_secs(second.into());
        while Instant::now() < end {
            std::thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
            self.tell_succession();
            self.welcome(LENGTH_S - second);
        }
    }

    fn show(&mut self, second: u32) {
        let now = Instant::now();
        let mut cells = Vec::new();
        for number in 0..self.seats.len() {
            let cell = match &self.way {
                Way::Killed if number == self.victim => "down".to_owned(),
                Way::Recovering { .. } if number == self.victim => self.distance().map_or_else(
                    || "starting".to_owned(),
                    |records| format!("{} behind", screen::grouped(records)),
                ),
                _ => self.seats[number].rate(),
            };
            cells.push(cell);
        }
        cells.push(screen::seconds(self.probe.pause_since(now - Duration::from_secs(1))));
        screen::row(&format!("{second:>4} s"), &cells);
    }

    fn kill(&mut self) {
        let name = &self.names[self.victim];
        screen::event(&format!("SIGKILL to every process of {name}, which leads the log"));
        self.killed_at = Instant::now();
        self.cluster.server_mut(self.victim).kill9();
        self.seats[self.victim].end();
        self.way = Way::Killed;
    }

    fn tell_succession(&mut self) {
        if self.succession_told || !matches!(self.way, Way::Killed) {
            return;
        }
        let leader = self.query(self.witness, "SELECT name FROM synod.nodes WHERE is_leader");
        if let Some(leader) = leader.filter(|leader| *leader != self.names[self.victim]) {
            screen::event(&format!(
                "{leader} leads after {}",
                screen::seconds(self.killed_at.elapsed())
            ));
            self.succession_told = true;
        }
    }

    fn start_again(&mut self) {
        screen::event(&format!("{} is started again", self.names[self.victim]));
        self.cluster.server_mut(self.victim).launch();
        self.way = Way::Recovering { since: Instant::now() };
    }

    /// Gives the returned node its clients back, once it has nothing left to catch up with.
    fn welcome(&mut self, seconds_left: u32) {
        let Way::Recovering { since } = self.way else { return };
        if self.distance().is_none_or(|records| records > CAUGHT_UP) {
            return;
        }
        let after = since.elapsed();
        self.way = Way::Back { after };
        screen::event(&format!(
            "{} has caught up after {}: its clients go on",
            self.names[self.victim],
            screen::seconds(after)
        ));
        if seconds_left > 1 {
            self.seats[self.victim].begin(self.cluster.server(self.victim), seconds_left);
        }
    }

    /// How many positions of the log the killed node has yet to apply; nothing while it takes no connections.
    fn distance(&self) -> Option<i64> {
        const APPLIED: &str = "SELECT applied_csn::text FROM synod.stat_apply";
        let there: i64 = self.query(self.victim, APPLIED)?.parse().ok()?;
        let here: i64 = self.query(self.witness, APPLIED)?.parse().ok()?;
        Some((here - there).max(0))
    }

    /// The first column of the first row, as text.
    fn query(&self, node: usize, sql: &str) -> Option<String> {
        let mut client = self.cluster.server(node).try_client("postgres").ok()?;
        client.query_opt(sql, &[]).ok()??.get(0)
    }

    fn end(mut self) -> Story {
        for seat in &mut self.seats {
            seat.end();
        }
        if let Err(reason) = self.cluster.server_mut(self.victim).wait_ready() {
            let log = self.cluster.server(self.victim).log_tail(30);
            panic!("{} did not come back: {reason}\n{log}", self.names[self.victim]);
        }
        let diary = self.probe.finish();
        Story {
            pause: diary.longest_gap(self.killed_at, self.killed_at + AFTERMATH),
            usual_pause: diary.longest_gap(self.start, self.killed_at - Duration::from_secs(1)),
            diary,
            reports: self.seats.into_iter().map(|seat| seat.report).collect(),
            victim: self.victim,
            witness: self.witness,
            in_flight: CLIENTS.into(),
            catch_up: match self.way {
                Way::Back { after } => Some(after),
                Way::Up | Way::Killed | Way::Recovering { .. } => None,
            },
        }
    }
}
