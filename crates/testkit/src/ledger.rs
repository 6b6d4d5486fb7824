//! Inserts of unique ids by clients on several nodes, and what each client was told: the measure of "nothing lost,
//! nothing double, nothing undead".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::converge::assert_converged;
use crate::session::{Session, sqlstate};
use crate::stopper::Stopper;
use crate::wait::try_wait_until;
use postgres::{Client, Error, NoTls};

/// A group that lost a node elects and goes on well within this.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(45);

/// Outcomes become known as soon as a node has caught up.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(20);

/// Before a client knocks again at a server that is down.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Ids of one binary go up through all its tests, which may share the table.
static NEXT_ID: AtomicI32 = AtomicI32::new(1);

/// What clients were told of their inserts into the table `ledger (id int PRIMARY KEY, node int)`.
#[derive(Default)]
pub struct Ledger {
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    committed: BTreeSet<i32>,
    rolled_back: BTreeSet<i32>,
    in_doubt: BTreeMap<i32, String>,
    last: Option<Instant>,
    longest_pause: Duration,
    last_error: String,
}

impl Ledger {
    /// Creates the table if this cluster has none.
    #[track_caller]
    pub fn on(cluster: &Cluster) -> Self {
        let exists: bool = cluster
            .client(0)
            .query_one("SELECT to_regclass('ledger') IS NOT NULL", &[])
            .unwrap()
            .get(0);
        if !exists {
            cluster.create_table("ledger", "CREATE TABLE ledger (id int PRIMARY KEY, node int)");
        }
        Self::default()
    }

    /// One client per node in `nodes` inserts until `count` more inserts are acknowledged.
    #[track_caller]
    pub fn write_until(&self, cluster: &Cluster, nodes: &[usize], count: usize) {
        self.run(&dsns(cluster, nodes), nodes, count, || {});
    }

    /// Clients insert while `fault` strikes, and until `count` more inserts than then are acknowledged after it. The
    /// longest time between two acknowledgements.
    #[track_caller]
    pub fn while_writing(
        &self,
        cluster: &mut Cluster,
        nodes: &[usize],
        count: usize,
        fault: impl FnOnce(&mut Cluster),
    ) -> Duration {
        self.run(&dsns(cluster, nodes), nodes, count, || fault(cluster))
    }

    #[track_caller]
    fn run(&self, dsns: &[(i32, String)], nodes: &[usize], count: usize, fault: impl FnOnce()) -> Duration {
        let stop = AtomicBool::new(false);
        {
            let mut told = self.told.lock().expect("no writer panics");
            told.last = None;
            told.longest_pause = Duration::ZERO;
        }
        let reached = std::thread::scope(|scope| {
            for (node, dsn) in dsns {
                let stop = &stop;
                scope.spawn(move || self.write(*node, dsn, stop));
            }
            let stopper = Stopper(&stop);
            fault();
            let goal = self.told.lock().expect("no writer panics").committed.len() + count;
            let reached = try_wait_until(PROGRESS_DEADLINE, || {
                (self.told.lock().expect("no writer panics").committed.len() >= goal).then_some(())
            });
            drop(stopper);
            reached.is_some()
        });
        let told = self.told.lock().expect("no writer panics");
        assert!(
            reached,
            "clients on nodes {nodes:?} (from 0) do not get {count} writes through; the last error was: {}",
            told.last_error
        );
        told.longest_pause
    }

    fn write(&self, node: i32, dsn: &str, stop: &AtomicBool) {
        let mut client: Option<Client> = None;
        while !stop.load(Ordering::SeqCst) {
            let id = NEXT_ID.fetch_add(1, Ordering::SeqCst);
            let attempt = insert(&mut client, dsn, id, node);
            self.told.lock().expect("no writer panics").note(id, attempt);
            if client.as_ref().is_none_or(Client::is_closed) {
                client = None;
                std::thread::sleep(RECONNECT_PAUSE);
            }
        }
    }

    /// Every node has the same rows; every acknowledged insert is among them, none that was rolled back is, and each
    /// node tells the truth of those in doubt.
    #[track_caller]
    pub fn assert_kept(&self, cluster: &Cluster) {
        let present = self.assert_rows_kept(cluster);
        self.with_outcomes(cluster, RESOLVE_DEADLINE, |id, status, whose| {
            assert_eq!(status, Some(present.contains(&id)), "row {id}, {whose}");
        });
    }

    /// The same of a group whose log no longer reaches back to all inserts: an outcome may be forgotten, but none is
    /// told wrong.
    #[track_caller]
    pub fn assert_kept_beyond_the_log(&self, cluster: &Cluster) {
        let present = self.assert_rows_kept(cluster);
        self.with_outcomes(cluster, Duration::ZERO, |id, status, whose| {
            assert_ne!(status, Some(!present.contains(&id)), "row {id}, {whose}");
        });
    }

    /// How many inserts were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.told.lock().expect("no writer panics").committed.len()
    }

    #[track_caller]
    fn assert_rows_kept(&self, cluster: &Cluster) -> BTreeSet<i32> {
        assert_converged(cluster, &["ledger"]);
        let mut client = cluster.client(0);
        let present: BTreeSet<i32> = client
            .query("SELECT id FROM ledger", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let told = self.told.lock().expect("no writer panics");
        let lost: Vec<_> = told.committed.difference(&present).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let undead: Vec<_> = told.rolled_back.intersection(&present).collect();
        assert!(undead.is_empty(), "rolled back and there: {undead:?}");
        present
    }

    /// What each node says of the inserts in doubt, to `judge(id, status, whose)`.
    fn with_outcomes(&self, cluster: &Cluster, deadline: Duration, judge: impl Fn(i32, Option<bool>, &str)) {
        let told = self.told.lock().expect("no writer panics");
        for node in cluster.nodes() {
            let mut session = Session::new(&node.server);
            for (id, transaction) in &told.in_doubt {
                let status = session.resolve(transaction, deadline);
                judge(*id, status, &format!("{transaction}, as {} tells it", node.name));
            }
        }
    }
}

/// How one insert ended.
enum Attempt {
    Committed,
    RolledBack(Error),
    InDoubt(String, Error),
}

impl Told {
    fn note(&mut self, id: i32, attempt: Attempt) {
        match attempt {
            Attempt::Committed => {
                self.committed.insert(id);
                let now = Instant::now();
                if let Some(last) = self.last.replace(now) {
                    self.longest_pause = self.longest_pause.max(now - last);
                }
            }
            Attempt::RolledBack(error) => {
                self.rolled_back.insert(id);
                self.last_error = format!("{error:?}");
            }
            Attempt::InDoubt(transaction, error) => {
                self.in_doubt.insert(id, transaction);
                self.last_error = format!("{error:?}");
            }
        }
    }
}

fn insert(client: &mut Option<Client>, dsn: &str, id: i32, node: i32) -> Attempt {
    let opened = match client {
        Some(client) => client,
        None => match Client::connect(dsn, NoTls) {
            Ok(fresh) => client.insert(fresh),
            Err(error) => return Attempt::RolledBack(error),
        },
    };
    let transaction = match begin(opened, id, node) {
        Ok(transaction) => transaction,
        Err(error) => {
            let _ = opened.batch_execute("ROLLBACK");
            return Attempt::RolledBack(error);
        }
    };
    match opened.batch_execute("COMMIT") {
        Ok(()) => Attempt::Committed,
        Err(error) => match sqlstate(&error) {
            Some("40001" | "57P03" | "57014" | "40P01" | "55000") => Attempt::RolledBack(error),
            _ => Attempt::InDoubt(transaction, error),
        },
    }
}

fn begin(client: &mut Client, id: i32, node: i32) -> Result<String, Error> {
    client.batch_execute("BEGIN")?;
    client.execute("INSERT INTO ledger VALUES ($1, $2)", &[&id, &node])?;
    Ok(client
        .query_one("SELECT synod.current_transaction_id()::text", &[])?
        .get(0))
}

fn dsns(cluster: &Cluster, nodes: &[usize]) -> Vec<(i32, String)> {
    nodes
        .iter()
        .map(|node| {
            (
                i32::try_from(*node).expect("few nodes"),
                cluster.server(*node).client_dsn("postgres"),
            )
        })
        .collect()
}
