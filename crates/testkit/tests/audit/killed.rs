//! The audit worker is killed in every way that there is, while clients write: what they committed is audited once, in order,
//! and the worker follows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::Client;
use synod_testkit::{Server, StopMode, try_wait_until, wait_until};

use super::PATIENCE;

const CLIENTS: i32 = 4;

/// How often the worker dies in a round, and by what.
struct Round {
    terminated: u32,
    killed: u32,
}

fn server() -> Server {
    let mut server = Server::new("killed", &[("wal_level", "logical"), ("restart_after_crash", "on")]);
    server.start();
    let mut client = server.client();
    client
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE counter (id int PRIMARY KEY, n int)")
        .unwrap();
    client
        .batch_execute(&format!(
            "INSERT INTO counter SELECT g, 0 FROM generate_series(0, {CLIENTS}) AS g"
        ))
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('counter')").unwrap();
    server
}

/// Counts up its own row and one that all have in common, over and over, whatever becomes of the server.
fn count_up(server: &Server, client: i32, end: &AtomicBool) {
    let sql = format!(
        "BEGIN; UPDATE counter SET n = n + 1 WHERE id = {client}; UPDATE counter SET n = n + 1 WHERE id = 0; COMMIT"
    );
    let mut connection: Option<Client> = None;
    while !end.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = try_wait_until(Duration::from_millis(100), || server.try_client("postgres").ok());
        }
        if connection.as_mut().is_some_and(|it| it.batch_execute(&sql).is_err()) {
            connection = None;
        }
    }
}

/// A worker that has not been killed yet.
fn worker(server: &Server, before: i32) -> i32 {
    wait_until(PATIENCE, "the next audit worker", || {
        let pids = server.processes_titled("synod audit worker");
        pids.into_iter().find(|pid| *pid != before)
    })
}

fn kill(server: &Server, round: &Round) {
    let mut before = 0;
    for _ in 0..round.terminated {
        before = worker(server, before);
        let sql = format!("SELECT pg_terminate_backend({before})");
        server.client().batch_execute(&sql).unwrap();
    }
    for _ in 0..round.killed {
        before = worker(server, before);
        server.kill9_process(before);
        wait_until(PATIENCE, "the server to be back", || {
            let mut client = server.try_client("postgres").ok()?;
            client.batch_execute("SELECT 1").ok()
        });
    }
}

/// Every count of every row is there, once, in the order of the commits.
fn assert_audited(server: &Server) {
    let mut client = server.client();
    let counts = "SELECT id, n FROM counter ORDER BY id";
    let ended: i64 = client.query_one("SELECT sum(n) FROM counter", &[]).unwrap().get(0);
    let there = try_wait_until(PATIENCE, || {
        let audited = client.query_one("SELECT count(*) FROM synod.audit", &[]).ok()?;
        (audited.get::<_, i64>(0) >= ended).then_some(())
    });
    let state = client
        .query("SELECT state, reason, lag_bytes FROM synod.stat_audit", &[])
        .unwrap();
    let audited: i64 = client
        .query_one("SELECT count(*) FROM synod.audit", &[])
        .unwrap()
        .get(0);
    assert!(
        there.is_some() && audited == ended,
        "{audited} of {ended} changes: {state:?}\n{}",
        server.log_tail(40)
    );
    for row in client.query(counts, &[]).unwrap() {
        let (id, n): (i32, i32) = (row.get(0), row.get(1));
        let sql = format!(
            "SELECT array_agg((new_row->>'n')::int ORDER BY commit_lsn) = ARRAY(SELECT generate_series(1, {n}))
               FROM synod.audit WHERE key->>'id' = '{id}'"
        );
        assert!(client.query_one(&sql, &[]).unwrap().get::<_, bool>(0), "row {id}");
    }
}

fn run(rounds: u32, round: &Round) {
    let mut server = server();
    for _ in 0..rounds {
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 1..=CLIENTS {
                let (server, end) = (&server, &end);
                scope.spawn(move || count_up(server, client, end));
            }
            kill(&server, round);
            end.store(true, Ordering::Relaxed);
        });
        server.restart(StopMode::Immediate);
        assert_audited(&server);
    }
}

#[test]
fn the_worker_may_die_at_any_time() {
    run(
        1,
        &Round {
            terminated: 3,
            killed: 1,
        },
    );
}

#[test]
#[ignore = "soak: the same for longer"]
fn the_worker_may_die_again_and_again() {
    run(
        3,
        &Round {
            terminated: 20,
            killed: 3,
        },
    );
}
