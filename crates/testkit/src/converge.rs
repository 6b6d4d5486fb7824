//! Whether all nodes hold the same rows.

use std::time::{Duration, Instant};

use postgres::{Client, Error};

use crate::cluster::Cluster;
use crate::{try_wait_until, wait_until};

/// A returning node catches up within this.
const CONVERGE_DEADLINE: Duration = Duration::from_secs(60);

/// Number of rows and a digest of all of them, whatever their order in the table.
///
/// # Errors
/// Those of the query.
pub fn checksum(client: &mut Client, table: &str) -> Result<(i64, String), Error> {
    let row = client.query_one(
        &format!("SELECT count(*), coalesce(md5(string_agg(r, '' ORDER BY r)), '') FROM (SELECT md5(t::text) COLLATE \"C\" AS r FROM {table} t) s"),
        &[],
    )?;
    Ok((row.get(0), row.get(1)))
}

/// Waits until every node has applied the same position, then compares `tables` as each node has them by itself (the
/// read barrier is off: it would hide a node that does not follow).
///
/// # Panics
/// When nodes do not get to one position, or differ at one.
#[track_caller]
pub fn assert_converged(cluster: &Cluster, tables: &[&str]) {
    let mut clients: Vec<Client> = (0..cluster.len())
        .map(|node| {
            let mut client = cluster.client(node);
            client
                .batch_execute("SET synod.read_consistency = 'local'")
                .expect("a setting can be set");
            client
        })
        .collect();
    let mut last = Vec::new();
    let checksums = try_wait_until(CONVERGE_DEADLINE, || {
        last = positions(&mut clients);
        if last.iter().any(|position| *position != last[0] || position.is_none()) {
            return None;
        }
        let seen: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                tables
                    .iter()
                    .map(|table| checksum(client, table))
                    .collect::<Result<Vec<_>, _>>()
            })
            .collect::<Result<_, _>>()
            .ok()?;
        (positions(&mut clients) == last).then_some(seen)
    });
    let Some(checksums) = checksums else {
        let reasons: Vec<String> = clients.iter_mut().map(apply_state).collect();
        panic!("nodes do not meet: applied {last:?}\n{}", reasons.join("\n"));
    };
    for (number, table) in tables.iter().enumerate() {
        for (node, sums) in checksums.iter().enumerate() {
            assert_eq!(
                sums[number],
                checksums[0][number],
                "{table} on n{} differs from n1 at position {:?}",
                node + 1,
                last[0]
            );
        }
    }
}

fn positions(clients: &mut [Client]) -> Vec<Option<String>> {
    clients
        .iter_mut()
        .map(|client| {
            client
                .query_one("SELECT applied_csn::text FROM synod.stat_apply", &[])
                .ok()?
                .get(0)
        })
        .collect()
}

fn apply_state(client: &mut Client) -> String {
    match client.query_one("SELECT to_json(s)::text FROM synod.stat_apply s", &[]) {
        Ok(row) => row.get(0),
        Err(error) => format!("{error:?}"),
    }
}

/// Runs `write` on node 2 and waits until node 1 has applied it, whatever stands in its way there; how long that took.
/// Watches the applied position, so that locks which also block a read do not hold the observer.
///
/// # Panics
/// When the write fails, or is not applied within fifteen seconds.
#[track_caller]
pub fn apply_past(cluster: &Cluster, write: &str) -> Duration {
    let position = |client: &mut Client| -> i64 {
        client
            .query_one("SELECT applied_csn::text::bigint FROM synod.stat_apply", &[])
            .expect("a view can be read")
            .get(0)
    };
    let (mut writer, mut observer) = (cluster.client(1), cluster.client(0));
    writer
        .batch_execute(write)
        .unwrap_or_else(|error| panic!("{write}: {error:?}"));
    let start = Instant::now();
    let target = position(&mut writer);
    wait_until(Duration::from_secs(15), "the write to be applied past the lock", || {
        (position(&mut observer) >= target).then_some(())
    });
    start.elapsed()
}

/// The structure of tables, their partitions and indexes is sound on every node: each row is in each index. Where the server comes with what
/// looks at it.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_sound(cluster: &Cluster, tables: &[&str]) {
    for node in 0..cluster.len() {
        let mut client = cluster.client(node);
        let available = "SELECT FROM pg_available_extensions WHERE name = 'amcheck'";
        if client
            .query_opt(available, &[])
            .expect("the catalogue answers")
            .is_none()
        {
            return;
        }
        client
            .batch_execute(
                "SET synod.ddl = local; SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS amcheck",
            )
            .expect("an extension that is available can be created");
        for table in tables {
            let stored = format!(
                "WITH stored AS (SELECT oid FROM pg_class WHERE relkind = 'r' AND (oid = '{table}'::regclass
                                     OR oid IN (SELECT relid FROM pg_partition_tree('{table}'))))"
            );
            let indexes = format!(
                "{stored} SELECT bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
                 JOIN pg_am a ON a.oid = relam WHERE indrelid IN (SELECT oid FROM stored) AND amname = 'btree'"
            );
            let rows = format!("{stored} SELECT string_agg(msg, ', ') FROM stored, verify_heapam(oid)");
            if let Err(error) = client.batch_execute(&indexes) {
                panic!("{table} on node {node}: {error:?}");
            }
            let wrong: Option<String> = client.query_one(&rows, &[]).expect("the table can be read").get(0);
            assert_eq!(wrong, None, "{table} on node {node}");
        }
    }
}
