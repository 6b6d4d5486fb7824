//! Named logs, sequences and gapless numbers of a group.

use std::time::{Duration, Instant};

use postgres::Client;
use synod_testkit::{Options, SharedCluster, sqlstate};

mod logs;
mod refills;
mod sequences;

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

fn append(client: &mut Client, log: &str, value: &str) -> i64 {
    client
        .query_one("SELECT synod.append($1, $2::text)", &[&log, &value])
        .unwrap_or_else(|error| panic!("append to {log}: {error:?}"))
        .get(0)
}

#[track_caller]
fn refused_sql(client: &mut Client, sql: &str, code: &str) {
    let error = client.batch_execute(sql).expect_err(sql);
    assert_eq!(sqlstate(&error), Some(code), "{sql}: {error}");
}

fn values(client: &mut Client, log: &str) -> Vec<(i64, String)> {
    client
        .query("SELECT round, value FROM synod.log($1)", &[&log])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

/// What the services cost here: `cargo test --test services -- --ignored --nocapture rates`.
#[test]
#[ignore = "prints rates, asserts nothing"]
fn rates() {
    let cluster = CLUSTER.lease();
    cluster.create_table("rated", "CREATE TABLE rated (id bigserial PRIMARY KEY, v int)");
    cluster.create_table("plain_ids", "CREATE TABLE plain_ids (id bigint PRIMARY KEY, v int)");
    cluster.client(0).batch_execute("CREATE SEQUENCE aside").unwrap();
    let rate = |what: &str, sessions: usize, sql: &str| {
        const SPAN: Duration = Duration::from_secs(3);
        let count = std::sync::atomic::AtomicU64::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..sessions {
                scope.spawn(|| {
                    let mut client = cluster.client(0);
                    let prepared = client.prepare(sql).unwrap();
                    while start.elapsed() < SPAN {
                        client.execute(&prepared, &[]).unwrap();
                        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        let rate = count.into_inner() as f64 / start.elapsed().as_secs_f64();
        println!("{what}, {sessions} session(s): {rate:.0}/s");
    };
    for sessions in [1, 8] {
        rate("append", sessions, "SELECT synod.append('rated', 'x')");
        rate(
            "INSERT with an id of a sequence",
            sessions,
            "INSERT INTO rated (v) VALUES (1)",
        );
        rate(
            "INSERT with an id that is not the group's",
            sessions,
            "INSERT INTO plain_ids VALUES (nextval('aside'), 1)",
        );
        rate("nextval of the group's", sessions, "SELECT nextval('rated_id_seq')");
        rate("nextval of another", sessions, "SELECT nextval('aside')");
        rate("next_gapless", sessions, "SELECT synod.next_gapless('rated')");
    }
}
