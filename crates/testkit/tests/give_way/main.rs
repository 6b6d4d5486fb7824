//! A transaction that the group has committed does not wait for local locks: their holders give way (T7).

use std::time::{Duration, Instant};

use postgres::{Client, Error};
use synod_testkit::{Cluster, Options, SharedCluster, assert_converged, try_wait_until, wait_until};

mod commits;
mod crowds;
mod locks;

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    nodes: 3,
    partitions: false,
    settings: &[("synod.lock_grace", "500ms")],
    ..Options::DEFAULT
});

/// `lock_grace`, plus the 50 ms of the promise, plus what two busy cores add.
const GIVE_WAY: Duration = Duration::from_millis(2500);

fn make_tables(cluster: &Cluster) {
    let exists: bool = cluster
        .client(0)
        .query_one("SELECT to_regclass('fought') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if !exists {
        cluster.on_all("CREATE TABLE fought (id int PRIMARY KEY, v int); CREATE TABLE fought_child (id int PRIMARY KEY, parent int REFERENCES fought); CREATE TABLE aside (id int)");
        cluster.replicate_together(&["fought", "fought_child", "aside"]);
    }
    cluster.client(1).batch_execute("DELETE FROM fought_child; DELETE FROM fought; INSERT INTO fought SELECT i, 0 FROM generate_series(1, 10) i").unwrap();
    assert_converged(cluster, &["fought"]);
}

/// Runs `write` on node 2; node 1 must show `seen` (a query giving true) within the time to give way, without a barrier.
#[track_caller]
fn overtake(cluster: &Cluster, write: &str, seen: &str) -> Duration {
    let mut observer = cluster.client(0);
    observer
        .batch_execute("SET synod.read_consistency = 'local'; SET lock_timeout = '10s'")
        .unwrap();
    cluster
        .client(1)
        .batch_execute(write)
        .unwrap_or_else(|error| panic!("{write}: {error:?}"));
    let start = Instant::now();
    let applied = try_wait_until(Duration::from_secs(15), || {
        observer.query_one(seen, &[]).unwrap().get::<_, bool>(0).then_some(())
    });
    assert!(
        applied.is_some(),
        "{write} is not applied where its rows are locked: {}",
        cluster.server(0).log_tail(10)
    );
    start.elapsed()
}

const UPDATE: &str = "UPDATE fought SET v = v + 100 WHERE id = 1";

const UPDATED: &str = "SELECT v >= 100 FROM fought WHERE id = 1";

/// Starts `sql` on a thread; once the holder is seen in the state to test, the rest goes on.
fn in_background(client: &mut Client, sql: String) -> impl FnOnce() -> (Duration, Result<(), Error>) {
    let start = Instant::now();
    let result = client.batch_execute(&sql);
    let elapsed = start.elapsed();
    move || (elapsed, result)
}

/// Until the process is in `pg_sleep`.
#[track_caller]
fn wait_until_asleep(cluster: &Cluster, pid: i32) {
    let mut observer = cluster.client(0);
    wait_until(Duration::from_secs(10), "the holder to be busy", || {
        let query = "SELECT state = 'active' AND wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1";
        let asleep: Option<bool> = observer.query_one(query, &[&pid]).unwrap().get(0);
        (asleep == Some(true)).then_some(())
    });
}

fn gave_way(client: &mut Client, column: &str) -> i64 {
    client
        .query_one(&format!("SELECT {column} FROM synod.stat_apply"), &[])
        .unwrap()
        .get(0)
}
