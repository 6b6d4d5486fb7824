//! A very large transaction (`make soak`; `SYNOD_LARGE_MB`): the memory of everyone it passes through is bounded, every node
//! gets it whole, and a node that joins afterwards does, too.

use std::collections::BTreeMap;
use std::time::Duration;

use synod_testkit::{Cluster, Options, assert_converged, wait_until};

/// What a process may need for itself, however large the transaction: 2 MB of fragments in each of a few hands, messages on
/// their way, the events of capture, keys, and what a process has anyway.
const BOUND_KB: u64 = 160 * 1024;

const ROW: usize = 1000;

fn megabytes() -> usize {
    std::env::var("SYNOD_LARGE_MB")
        .ok()
        .and_then(|megabytes| megabytes.parse().ok())
        .unwrap_or(200)
}

#[test]
#[ignore = "the long form: make soak"]
fn soak_a_very_large_transaction() {
    let mut cluster = Cluster::start_with(&Options {
        settings: &[
            ("synod.max_transaction_size", "4GB"),
            ("synod.commit_timeout", "10min"),
            ("synod.read_timeout", "10min"),
            ("max_wal_size", "2GB"),
        ],
        ..Options::DEFAULT
    });
    cluster.create_table("large", "CREATE TABLE large (id int PRIMARY KEY, filler text)");
    let rows = megabytes() * 1_000_000 / ROW;
    let mut client = cluster.client(1);
    client.batch_execute("SET statement_timeout = 0").unwrap();
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let mut watched = vec![(1, "backend", backend)];
    for node in 0..3 {
        for title in ["synod log worker", "synod apply worker"] {
            watched.push((node, title, cluster.server(node).pid_of(title)));
        }
    }
    for (node, _, pid) in &watched {
        cluster.server(*node).forget_memory_peak(*pid);
    }
    let start = std::time::Instant::now();
    client
        .batch_execute(&format!(
            "INSERT INTO large SELECT i, repeat(md5(i::text), {}) FROM generate_series(1, {rows}) i",
            ROW / 32
        ))
        .unwrap();
    println!("{} MB committed after {:?}", megabytes(), start.elapsed());
    let target: i64 = client.query_one("SELECT synod.last_csn()", &[]).unwrap().get(0);
    for node in 0..3 {
        let mut observer = cluster.client(node);
        wait_until(Duration::from_secs(900), "the transaction on every node", || {
            let row = observer.query_one("SELECT synod.applied_csn()", &[]).ok()?;
            (row.get::<_, i64>(0) >= target).then_some(())
        });
    }
    println!("applied everywhere after {:?}", start.elapsed());
    let peaks: BTreeMap<String, u64> = watched
        .iter()
        .map(|(node, title, pid)| {
            let peak = cluster.server(*node).private_memory_peak(*pid);
            (format!("n{} {title}", node + 1), peak)
        })
        .collect();
    println!("private memory at most, kB: {peaks:?}");
    assert_converged(
        &cluster,
        &["(SELECT count(*), sum(id), sum(length(filler)), min(filler), max(filler) FROM large)"],
    );
    let present: i64 = cluster
        .client(2)
        .query_one("SELECT count(*) FROM large", &[])
        .unwrap()
        .get(0);
    assert_eq!(usize::try_from(present).unwrap(), rows);
    for (who, peak) in &peaks {
        assert!(*peak < BOUND_KB, "{who} needed {peak} kB");
    }
    for node in 0..3 {
        assert_eq!(cluster.server(node).spill_files(), [""; 0], "on n{}", node + 1);
    }
    // A crash, after which the log has to give it all again, and a joiner.
    cluster.server_mut(1).kill9();
    cluster.server_mut(1).start();
    let newcomer = cluster.add_server();
    let (via, dsn) = (cluster.server(0).dsn(), cluster.server(newcomer).dsn());
    cluster
        .client(newcomer)
        .batch_execute(
            "CREATE EXTENSION synod; CREATE TABLE large (id int PRIMARY KEY, filler text); SET statement_timeout = 0",
        )
        .unwrap();
    let mut client = cluster.client(newcomer);
    client.batch_execute("SET statement_timeout = 0").unwrap();
    client
        .execute("SELECT synod.join_group($1, 'n4', $2)", &[&via, &dsn])
        .unwrap();
    assert_converged(
        &cluster,
        &["(SELECT count(*), sum(id), sum(length(filler)), min(filler), max(filler) FROM large)"],
    );
    println!("joined and equal after {:?}", start.elapsed());
}
