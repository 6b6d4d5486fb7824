//! What a death costs: how long writes pause when the leader is killed, how fast a node that was away catches up.

use std::time::{Duration, Instant};

use synod_testkit::pgbench::{Load, Pgbench};
use synod_testkit::probe::Probe;
use synod_testkit::{Cluster, Server, StopMode, wait_until};

use crate::contestant::Contestant;
use crate::slice::Workload;

/// Writes before the kill, so that there is something to pause.
const WARM_UP_WRITES: usize = 100;

/// Writes must go on for this long after the pause before it counts as over.
const AFTER: Duration = Duration::from_secs(1);

/// Nothing takes longer.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a node misses: this many seconds of single-row INSERT by this many clients.
const AWAY_S: u32 = 8;
const AWAY_CLIENTS: u32 = 8;

/// Each probe writes numbers of its own.
const PROBE_NUMBERS: i64 = 10_000_000;

/// A return after an absence.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// Whose.
    pub name: &'static str,
    /// Transactions missed.
    pub missed: u64,
    /// From the start of its server, crash recovery included, to having applied them all.
    pub took: Duration,
}

impl CatchUp {
    /// Transactions a second.
    pub fn rate(&self) -> f64 {
        self.missed as f64 / self.took.as_secs_f64()
    }
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct Incidents {
    /// Longest time between two acknowledged writes of a client on a survivor.
    pub pauses: Vec<Duration>,
    /// The same when the leader's server is stopped in an orderly way.
    pub stops: Vec<Duration>,
    /// Returns.
    pub catch_ups: Vec<CatchUp>,
}

impl Incidents {
    /// Adds another contestant's.
    pub fn extend(&mut self, other: Self) {
        self.pauses.extend(other.pauses);
        self.stops.extend(other.stops);
        self.catch_ups.extend(other.catch_ups);
    }
}

/// Kills and restarts, `times` the leader and half as often (at least once) a follower.
pub fn run(contestant: &mut Contestant, times: u32) -> Incidents {
    let mut seen = Incidents::default();
    if times == 0 {
        return seen;
    }
    let returns = times.div_ceil(2);
    match contestant {
        Contestant::Plain(_) => {}
        Contestant::Quorum(primary, standbys) => {
            for _ in 0..returns {
                standbys[0].kill9();
                let missed = load(primary);
                let began = Instant::now();
                standbys[0].start();
                let took = until(began, "the standby has replayed everything", || {
                    let end = text(primary, "SELECT pg_current_wal_flush_lsn()::text")?;
                    let query = format!("SELECT (pg_last_wal_replay_lsn() >= '{end}')::text");
                    (text(&standbys[0], &query)? == "true").then_some(())
                });
                seen.add_catch_up("quorum standby", missed, took);
            }
        }
        Contestant::Synod(cluster) => {
            for number in 0..times {
                let first = 2 * i64::from(number) * PROBE_NUMBERS;
                let pause = lose_leader(cluster, Server::kill9, first);
                println!("leader killed: writes paused {pause:.0?}");
                seen.pauses.push(pause);
                let pause = lose_leader(cluster, |server| server.stop(StopMode::Fast), first + PROBE_NUMBERS);
                println!("leader stopped: writes paused {pause:.0?}");
                seen.stops.push(pause);
            }
            for _ in 0..returns {
                let (leader, follower) = (cluster.leader(), cluster.follower());
                cluster.server_mut(follower).kill9();
                let missed = load(cluster.server(leader));
                let began = Instant::now();
                cluster.server_mut(follower).start();
                let took = caught_up(cluster, leader, follower, began);
                seen.add_catch_up("Synod follower", missed, took);
            }
        }
    }
    seen
}

impl Incidents {
    fn add_catch_up(&mut self, name: &'static str, missed: u64, took: Duration) {
        let catch_up = CatchUp { name, missed, took };
        println!(
            "{name}: {missed} transactions in {took:.1?}, {:.0} a second",
            catch_up.rate()
        );
        self.catch_ups.push(catch_up);
    }
}

/// `end` ends the leader's server; then it is started again.
fn lose_leader(cluster: &mut Cluster, end: impl Fn(&mut Server), first: i64) -> Duration {
    let leader = cluster.leader();
    let witness = (leader + 1) % cluster.len();
    let probe = Probe::start(cluster.server(witness), first);
    wait_until(DEADLINE, "the probe's first writes", || {
        (probe.count() >= WARM_UP_WRITES).then_some(())
    });
    let ended = Instant::now();
    end(cluster.server_mut(leader));
    wait_until(DEADLINE, "writes after the leader's end", || {
        let last = probe.last_write()?;
        (last > ended + AFTER && probe.pause_since(last) < AFTER).then_some(())
    });
    let diary = probe.finish();
    let pause = diary.longest_gap(ended, ended + DEADLINE);
    cluster.server_mut(leader).start();
    caught_up(cluster, witness, leader, Instant::now());
    pause
}

fn load(server: &Server) -> u64 {
    let load = Load {
        script: Workload::Insert.script(),
        clients: AWAY_CLIENTS,
        seconds: AWAY_S,
        prepared: true,
        latencies: false,
    };
    Pgbench::start(server, &load).finish().committed
}

/// How long after `began` the node `behind` has applied what `ahead` has now.
fn caught_up(cluster: &Cluster, ahead: usize, behind: usize, began: Instant) -> Duration {
    const APPLIED: &str = "SELECT applied_csn::text FROM synod.stat_apply";
    let goal: i64 = until_some("a position", || text(cluster.server(ahead), APPLIED)?.parse().ok());
    until(began, "a returned node has applied everything", || {
        let applied: i64 = text(cluster.server(behind), APPLIED)?.parse().ok()?;
        (applied >= goal).then_some(())
    })
}

fn until(began: Instant, what: &str, condition: impl FnMut() -> Option<()>) -> Duration {
    until_some(what, condition);
    began.elapsed()
}

#[track_caller]
fn until_some<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_until(DEADLINE, what, condition)
}

fn text(server: &Server, sql: &str) -> Option<String> {
    server.try_client("postgres").ok()?.query_one(sql, &[]).ok()?.get(0)
}
