//! Histories of concurrent clients under faults, judged by checkers that know nothing of how the group works (issue 2,
//! item 8; I1, I2, I3, I6).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use postgres::{Client, Error, NoTls, Transaction};
use synod_testkit::history::counter::{self, Operation};
use synod_testkit::history::list_append::{self, End, Step};
use synod_testkit::{Cluster, Options, Rng, StopMode, Stopper, assert_converged, let_pass, sqlstate};

/// How long clients run at least in one test.
const DURATION: Duration = Duration::from_secs(12);

/// Seconds of each round of the long form; `SYNOD_SOAK_ROUNDS` is their number.
const SOAK_ROUND: Duration = Duration::from_secs(60);
const KEYS: u64 = 6;
const CLIENTS_PER_NODE: usize = 2;

/// Before a client knocks again at a server that is down.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A client that connects anew when it has lost its connection.
struct Connection {
    dsn: String,
    client: Option<Client>,
}

impl Connection {
    fn new(cluster: &Cluster, node: usize) -> Self {
        Self {
            dsn: cluster.server(node).client_dsn("postgres"),
            client: None,
        }
    }

    fn get(&mut self) -> Result<&mut Client, Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let mut client = Client::connect(&self.dsn, NoTls).inspect_err(|_| std::thread::sleep(RECONNECT_PAUSE))?;
            client.batch_execute("SET synod.commit_timeout = '3s'; SET synod.read_timeout = '3s'")?;
            self.client = Some(client);
        }
        Ok(self.client.as_mut().expect("just connected"))
    }
}

/// An answer that proves the rollback, as opposed to silence and 08007.
fn rolled_back(error: &Error) -> bool {
    sqlstate(error).is_some_and(|code| matches!(code, "40001" | "40P01" | "57P03" | "55000" | "57014"))
}

/// Runs `client(node, number)` on threads while `nemesis` has the cluster, then ends them.
fn run(
    cluster: &mut Cluster,
    client: impl Fn(Connection, usize, &AtomicBool) + Sync,
    nemesis: impl FnOnce(&mut Cluster),
) {
    let connections: Vec<(usize, Connection)> = (0..CLIENTS_PER_NODE * cluster.len())
        .map(|number| (number, Connection::new(cluster, number % cluster.len())))
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (number, connection) in connections {
            let (client, stop) = (&client, &stop);
            scope.spawn(move || client(connection, number, stop));
        }
        let _stopper = Stopper(&stop);
        let start = Instant::now();
        nemesis(cluster);
        let_pass(DURATION.saturating_sub(start.elapsed()));
    });
}

/// Kills and freezes one node after the other.
fn kill_and_freeze(cluster: &mut Cluster) {
    let second = Duration::from_secs(1);
    let_pass(second);
    let leader = cluster.leader();
    cluster.server_mut(leader).kill9();
    let_pass(2 * second);
    cluster.server_mut(leader).start();
    let_pass(second);
    let frozen = (leader + 1) % 3;
    cluster.server(frozen).pause();
    let_pass(2 * second);
    cluster.server(frozen).resume();
    let_pass(second);
    cluster.server_mut((leader + 2) % 3).kill9();
    cluster.server_mut((leader + 2) % 3).start();
}

/// Freezes what a lease may outlive: the leader, its log worker, and sessions on it that have just looked at the lease.
fn freeze_leaders(cluster: &mut Cluster) {
    let second = Duration::from_secs(1);
    let mut rng = Rng::new(6);
    for round in 0..4 {
        let_pass(second);
        let leader = cluster.leader();
        let server = cluster.server(leader);
        if round % 2 == 0 {
            server.pause();
        } else {
            let sessions = server.processes_titled("127.0.0.1");
            let session = sessions[usize::try_from(rng.below(sessions.len() as u64)).expect("few sessions")];
            let workers = server.processes_titled("synod log worker");
            workers
                .iter()
                .chain([&session])
                .for_each(|pid| server.pause_process(*pid));
        }
        let_pass(2 * second);
        server.resume();
    }
    let leader = cluster.leader();
    cluster.server_mut(leader).kill9();
    cluster.server_mut(leader).start();
}

/// Cuts links, both ways and one way.
fn cut_links(cluster: &mut Cluster) {
    let second = Duration::from_secs(1);
    for round in 0..3 {
        let_pass(second);
        if round == 1 {
            cluster.network().cut_one_way(1, 2)
        } else {
            cluster.network().isolate(round)
        }
        let_pass(2 * second);
        cluster.network().heal();
    }
}

/// One random fault after the other, each undone before the next.
fn any_faults(cluster: &mut Cluster, seed: u64) {
    let mut rng = Rng::new(seed);
    let start = Instant::now();
    while start.elapsed() < SOAK_ROUND {
        let_pass(Duration::from_millis(200 + rng.below(2000)));
        let node = usize::try_from(rng.below(3)).expect("few nodes");
        let other = (node + 1 + usize::try_from(rng.below(2)).expect("few nodes")) % 3;
        let length = Duration::from_millis(100 + rng.below(4000));
        match rng.below(7) {
            0 => {
                cluster.server_mut(node).kill9();
                let_pass(length);
            }
            1 => {
                cluster.server(node).pause();
                let_pass(length);
                cluster.server(node).resume();
            }
            2 => {
                cluster.network().isolate(node);
                let_pass(length);
            }
            3 => {
                cluster.network().cut_one_way(node, other);
                let_pass(length);
            }
            4 => (0..3).for_each(|node| cluster.server_mut(node).kill9()),
            5 => cluster.server_mut(node).restart(StopMode::Fast),
            _ => {
                cluster.server_mut(node).kill9();
                cluster.network().isolate(other);
                let_pass(length);
            }
        }
        cluster.network().heal();
        cluster.start_all();
    }
}

fn soak_rounds() -> u64 {
    std::env::var("SYNOD_SOAK_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(5)
}

fn random_steps(rng: &mut Rng, next: &AtomicI32) -> Vec<Step> {
    (0..=rng.below(4))
        .map(|_| {
            let key = i32::try_from(rng.below(KEYS)).expect("few keys");
            if rng.chance(50) {
                Step::Append {
                    key,
                    value: next.fetch_add(1, Ordering::SeqCst),
                }
            } else {
                Step::Read { key, result: None }
            }
        })
        .collect()
}

fn execute(transaction: &mut Transaction<'_>, steps: &mut [Step]) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::Append { key, value } => {
                transaction.execute(
                    "INSERT INTO lists VALUES ($1, ARRAY[$2::int]) ON CONFLICT (k) DO UPDATE SET v = lists.v || $2::int",
                    &[key, value],
                )?;
            }
            Step::Read { key, result } => {
                let row = transaction.query_opt("SELECT v FROM lists WHERE k = $1", &[key])?;
                *result = Some(row.map_or_else(Vec::new, |row| row.get(0)));
            }
        }
    }
    Ok(())
}

/// One transaction, and how it ended.
fn attempt(connection: &mut Connection, steps: &mut [Step]) -> End {
    let Ok(client) = connection.get() else {
        return End::RolledBack;
    };
    let Ok(mut transaction) = client
        .build_transaction()
        .isolation_level(postgres::IsolationLevel::RepeatableRead)
        .start()
    else {
        return End::RolledBack;
    };
    if execute(&mut transaction, steps).is_err() {
        // COMMIT was never sent.
        return End::RolledBack;
    }
    match transaction.commit() {
        Ok(()) => End::Committed,
        Err(error) if rolled_back(&error) => End::RolledBack,
        Err(_) => End::Unknown,
    }
}

fn list_append_under(cluster: &mut Cluster, seed: u64, nemesis: impl FnOnce(&mut Cluster)) {
    cluster.create_table("lists", "CREATE TABLE lists (k int PRIMARY KEY, v int[] NOT NULL)");
    let history = list_append::History::default();
    let next = AtomicI32::new(1);
    let client = |mut connection: Connection, number: usize, stop: &AtomicBool| {
        let mut rng = Rng::new(seed * 1000 + number as u64);
        let mut process = history.new_process();
        while !stop.load(Ordering::SeqCst) {
            let mut steps = random_steps(&mut rng, &next);
            history.begin(process, &steps);
            let end = attempt(&mut connection, &mut steps);
            history.end(process, end, &steps);
            if end == End::Unknown {
                process = history.new_process();
            }
        }
    };
    run(cluster, client, nemesis);
    assert_converged(cluster, &["lists"]);
    let lists: BTreeMap<i32, Vec<i32>> = cluster
        .client(0)
        .query("SELECT k, v FROM lists", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let committed = history.count(End::Committed);
    assert!(
        committed > 100,
        "only {committed} transactions committed: the history says little"
    );
    let verdict = history
        .check_final(&lists)
        .and_then(|()| history.check_model("strong-snapshot-isolation"));
    if let Err(reason) = verdict {
        let file = std::env::temp_dir().join(format!("synod-history-{}.jsonl", std::process::id()));
        std::fs::write(&file, history.to_json()).unwrap();
        panic!("seed {seed}: {reason}\nthe history is in {}", file.display());
    }
}

#[test]
fn snapshot_isolation_in_real_time_while_nodes_die_and_freeze() {
    let mut cluster = Cluster::start(3);
    list_append_under(&mut cluster, 1, kill_and_freeze);
}

#[test]
fn snapshot_isolation_in_real_time_while_links_are_cut() {
    if !Cluster::partitions_possible("snapshot_isolation_in_real_time_while_links_are_cut") {
        return;
    }
    let mut cluster = Cluster::start_with(&Options {
        partitions: true,
        ..Options::DEFAULT
    });
    list_append_under(&mut cluster, 2, cut_links);
}

/// A read or an increment of one counter, recorded with its times.
fn count(connection: &mut Connection, history: &counter::History, key: i32, write: bool) {
    let start = Instant::now();
    let Ok(client) = connection.get() else { return };
    let sql = if write {
        "UPDATE counters SET v = v + 1 WHERE k = $1 RETURNING v"
    } else {
        "SELECT v FROM counters WHERE k = $1"
    };
    match client.query_one(sql, &[&key]) {
        Ok(row) => history.record(Operation {
            key,
            value: row.get(0),
            write,
            start,
            end: Instant::now(),
        }),
        Err(error) if write && !rolled_back(&error) => history.write_in_doubt(key, start),
        Err(_) => {}
    }
}

fn counters_under(cluster: &mut Cluster, seed: u64, nemesis: impl FnOnce(&mut Cluster)) {
    cluster.create_table(
        "counters",
        "CREATE TABLE counters (k int PRIMARY KEY, v bigint NOT NULL)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO counters SELECT i, 0 FROM generate_series(0, 5) i")
        .unwrap();
    let history = counter::History::default();
    let client = |mut connection: Connection, number: usize, stop: &AtomicBool| {
        let mut rng = Rng::new(seed * 1000 + number as u64);
        while !stop.load(Ordering::SeqCst) {
            let key = i32::try_from(rng.below(KEYS)).expect("few keys");
            // A node that cannot write goes on to read: one client of each only does that.
            count(&mut connection, &history, key, number >= 3 && rng.chance(60));
        }
    };
    run(cluster, client, nemesis);
    assert_converged(cluster, &["counters"]);
    assert!(
        history.len() > 300,
        "only {} operations: the history says little",
        history.len()
    );
    if let Err(reason) = history.check() {
        panic!("seed {seed}: {reason}");
    }
}

#[test]
fn strong_reads_are_never_stale_while_nodes_die_and_freeze() {
    let mut cluster = Cluster::start(3);
    counters_under(&mut cluster, 3, kill_and_freeze);
}

const LEASE: &[(&str, &str)] = &[("synod.leader_lease", "on")];

#[test]
fn strong_reads_are_never_stale_under_a_lease() {
    let mut cluster = Cluster::start_with(&Options {
        settings: LEASE,
        ..Options::DEFAULT
    });
    counters_under(&mut cluster, 5, freeze_leaders);
}

#[test]
fn strong_reads_are_never_stale_under_a_lease_while_links_are_cut() {
    if !Cluster::partitions_possible("strong_reads_are_never_stale_under_a_lease_while_links_are_cut") {
        return;
    }
    let mut cluster = Cluster::start_with(&Options {
        settings: LEASE,
        partitions: true,
        ..Options::DEFAULT
    });
    counters_under(&mut cluster, 6, cut_links);
}

#[test]
fn strong_reads_are_never_stale_while_links_are_cut() {
    if !Cluster::partitions_possible("strong_reads_are_never_stale_while_links_are_cut") {
        return;
    }
    let mut cluster = Cluster::start_with(&Options {
        partitions: true,
        ..Options::DEFAULT
    });
    counters_under(&mut cluster, 4, cut_links);
}

#[test]
#[ignore = "the long form: make soak"]
fn soak_histories_under_any_faults() {
    assert!(
        Cluster::partitions_possible("soak_histories_under_any_faults"),
        "the long form needs root"
    );
    for round in 0..soak_rounds() {
        let seed = std::env::var("SYNOD_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(100)
            + round;
        println!("round {round}, SYNOD_TEST_SEED={seed}");
        let with_links = Options {
            partitions: true,
            ..Options::DEFAULT
        };
        list_append_under(&mut Cluster::start_with(&with_links), seed, |cluster| {
            any_faults(cluster, seed)
        });
        counters_under(&mut Cluster::start_with(&with_links), seed, |cluster| {
            any_faults(cluster, seed)
        });
    }
}
