//! Whatever interrupts a commit, its client is told the truth: committed, rolled back, or unknown with the means to find
//! out (T5).

use std::time::{Duration, Instant};

use postgres::NoTls;
use synod_testkit::{Cluster, Options, Session, SharedCluster, assert_converged, checksum, sqlstate, wait_until};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

const RESOLVE_DEADLINE: Duration = Duration::from_secs(20);

/// Interruptions are spread over this: from before COMMIT arrives to after its answer.
const SWEEP: Duration = Duration::from_micros(4000);
const STEPS: u32 = 60;

/// What the client of an interrupted transaction was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    RolledBack,
    Unknown,
}

/// Busy for `duration`: the scheduler's granularity is coarser than the steps of the sweep.
fn spin(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// Inserts `id` on node 1 while `interrupt` strikes `delay` after COMMIT is sent; the transaction's id and what came back.
fn interrupted_insert(cluster: &Cluster, id: i32, delay: Duration, interrupt: impl Fn(i32) + Send) -> (String, Told) {
    let mut client = cluster.client(1);
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    client
        .batch_execute(&format!("BEGIN; INSERT INTO swept VALUES ({id})"))
        .unwrap();
    let transaction: String = client
        .query_one("SELECT synod.current_transaction_id()::text", &[])
        .unwrap()
        .get(0);
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            spin(delay);
            interrupt(pid);
        });
        client.batch_execute("COMMIT")
    });
    let told = match &result {
        Ok(()) => Told::Committed,
        Err(error) => match sqlstate(error) {
            // A lost connection without an answer, or the honest answer.
            // The farewell of a terminated session may follow the answer to a COMMIT that is done.
            None | Some("08007" | "57P01") => Told::Unknown,
            Some("57014" | "40001") => Told::RolledBack,
            other => panic!("COMMIT answered {other:?}: {error:?}"),
        },
    };
    (transaction, told)
}

/// Every node agrees with what the client was told, and unknown outcomes become known.
#[track_caller]
fn judge(cluster: &Cluster, outcomes: &[(i32, String, Told)]) {
    assert_converged(cluster, &["swept"]);
    for (id, transaction, told) in outcomes {
        let present = checksum(
            &mut cluster.client(2),
            &format!("(SELECT * FROM swept WHERE id = {id})"),
        )
        .unwrap()
        .0;
        match told {
            Told::Committed => assert_eq!(present, 1, "{transaction} committed"),
            Told::RolledBack => assert_eq!(present, 0, "{transaction} was rolled back"),
            Told::Unknown => known_everywhere(cluster, transaction, present == 1),
        }
    }
}

/// The node of the transaction knows for certain. The others know what the log says: of one that never got there, only that
/// they have not seen it.
#[track_caller]
fn known_everywhere(cluster: &Cluster, transaction: &str, committed: bool) {
    let own = &cluster.nodes()[1];
    let known = Session::new(&own.server).resolve(transaction, RESOLVE_DEADLINE);
    assert_eq!(
        known,
        Some(committed),
        "what became of {transaction} as its own node tells it"
    );
    for node in cluster.nodes() {
        let status: String = node
            .server
            .client()
            .query_one(&format!("SELECT synod.transaction_status('{transaction}')::text"), &[])
            .unwrap()
            .get(0);
        let agrees = if committed {
            ["committed"; 2]
        } else {
            ["aborted", "in progress"]
        };
        assert!(
            agrees.contains(&status.as_str()),
            "{} calls {transaction} {status}, committed: {committed}",
            node.name
        );
    }
}

fn make_table(cluster: &Cluster) {
    let exists: bool = cluster
        .client(0)
        .query_one("SELECT to_regclass('swept') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if !exists {
        cluster.create_table("swept", "CREATE TABLE swept (id int PRIMARY KEY)");
    }
}

#[test]
fn a_cancel_at_any_moment_of_a_commit() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let mut outcomes = Vec::new();
    for step in 0..STEPS {
        let id = i32::try_from(step).unwrap();
        let cancel = |pid| {
            let _ = cluster.client(1).execute("SELECT pg_cancel_backend($1)", &[&pid]);
        };
        let (transaction, told) = interrupted_insert(&cluster, id, SWEEP / STEPS * step, cancel);
        outcomes.push((id, transaction, told));
    }
    judge(&cluster, &outcomes);
}

#[test]
fn a_cancel_request_of_the_client() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let mut outcomes = Vec::new();
    for step in 0..STEPS {
        let id = 1000 + i32::try_from(step).unwrap();
        let mut client = cluster.client(1);
        client
            .batch_execute(&format!("BEGIN; INSERT INTO swept VALUES ({id})"))
            .unwrap();
        let transaction: String = client
            .query_one("SELECT synod.current_transaction_id()::text", &[])
            .unwrap()
            .get(0);
        let token = client.cancel_token();
        let result = std::thread::scope(|scope| {
            scope.spawn(move || {
                spin(SWEEP / STEPS * step);
                let _ = token.cancel_query(NoTls);
            });
            client.batch_execute("COMMIT")
        });
        let told = match result.as_ref().map_err(|error| sqlstate(error)) {
            Ok(()) => Told::Committed,
            Err(Some("08007")) => Told::Unknown,
            Err(Some("57014")) => Told::RolledBack,
            Err(other) => panic!("COMMIT answered {other:?}: {result:?}"),
        };
        outcomes.push((id, transaction, told));
    }
    judge(&cluster, &outcomes);
}

#[test]
fn a_termination_at_any_moment_of_a_commit() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let mut outcomes = Vec::new();
    for step in 0..STEPS / 2 {
        let id = 2000 + i32::try_from(step).unwrap();
        let terminate = |pid| {
            let _ = cluster.client(1).execute("SELECT pg_terminate_backend($1)", &[&pid]);
        };
        let (transaction, told) = interrupted_insert(&cluster, id, SWEEP / (STEPS / 2) * step, terminate);
        outcomes.push((id, transaction, told));
    }
    judge(&cluster, &outcomes);
}

#[test]
fn an_error_after_the_verdict_is_not_told_as_a_rollback() {
    let cluster = CLUSTER.lease();
    make_table(&cluster);
    let mut outcomes = Vec::new();
    for id in 5000..5005 {
        let mut client = cluster.client(1);
        client
            .batch_execute(&format!(
                "SET synod.failpoint = 'after-turn'; BEGIN; INSERT INTO swept VALUES ({id})"
            ))
            .unwrap();
        let transaction: String = client
            .query_one("SELECT synod.current_transaction_id()::text", &[])
            .unwrap()
            .get(0);
        let error = client.batch_execute("COMMIT").expect_err("the failpoint strikes");
        assert_eq!(sqlstate(&error), Some("08007"), "{error:?}");
        outcomes.push((id, transaction, Told::Unknown));
    }
    judge(&cluster, &outcomes);
    let present = checksum(
        &mut cluster.client(0),
        "(SELECT * FROM swept WHERE id BETWEEN 5000 AND 5004)",
    )
    .unwrap()
    .0;
    assert_eq!(present, 5, "the log is the truth: what it decided is applied");
}

/// Which start of node 1's log worker this is.
fn incarnation(cluster: &Cluster) -> Option<i64> {
    let mut client = cluster.server(1).try_client("postgres").ok()?;
    let row = client.query_one("SELECT nullif(incarnation, 0) FROM synod.stat_log", &[]);
    row.ok()?.get(0)
}

#[test]
fn a_killed_backend_at_any_moment_of_a_commit() {
    let cluster = Cluster::start(3);
    make_table(&cluster);
    let mut outcomes = Vec::new();
    for step in 0..6 {
        let id = 3000 + i32::try_from(step).unwrap();
        let kill = |pid| cluster.server(1).kill9_process(pid);
        let before = incarnation(&cluster);
        let (transaction, told) = interrupted_insert(&cluster, id, SWEEP / 6 * step, kill);
        // The postmaster restarts every process after a killed backend, once it has noticed.
        wait_until(RESOLVE_DEADLINE, "the server to restart its processes", || {
            (incarnation(&cluster)? != before?).then_some(())
        });
        outcomes.push((id, transaction, told));
    }
    judge(&cluster, &outcomes);
}

#[test]
fn a_commit_without_a_majority_ends_in_time_and_tells_the_truth() {
    let mut cluster = Cluster::start(3);
    make_table(&cluster);
    let node = 1;
    // The first write of a server's life waits for a majority before it begins.
    let first = "INSERT INTO swept VALUES (3999)";
    cluster.client(node).batch_execute(first).unwrap();
    cluster.server(0).pause();
    cluster.server(2).pause();
    let mut client = cluster.client(node);
    client
        .batch_execute("SET synod.commit_timeout = '2s'; SET synod.read_consistency = 'local'")
        .unwrap();
    let mut outcomes = Vec::new();
    for id in 4000..4003 {
        client
            .batch_execute(&format!("BEGIN; INSERT INTO swept VALUES ({id})"))
            .unwrap();
        let transaction: String = client
            .query_one("SELECT synod.current_transaction_id()::text", &[])
            .unwrap()
            .get(0);
        let started = Instant::now();
        let error = client.batch_execute("COMMIT").expect_err("no majority, no commit");
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "COMMIT took {:?}",
            started.elapsed()
        );
        let told = match sqlstate(&error) {
            Some("08007") => Told::Unknown,
            Some("57P03") => Told::RolledBack,
            other => panic!("COMMIT answered {other:?}: {error:?}"),
        };
        outcomes.push((id, transaction, told));
    }
    cluster.server(0).resume();
    cluster.server(2).resume();
    let mut writer = Session::new(cluster.server(node));
    assert!(matches!(
        writer.transact("", |transaction| transaction
            .execute("INSERT INTO swept VALUES (4100)", &[])),
        synod_testkit::Outcome::Committed(1)
    ));
    drop(writer);
    judge(&cluster, &outcomes);
    cluster.stop_all(synod_testkit::StopMode::Immediate);
}
