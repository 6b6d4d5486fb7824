//! DDL through the log (T12): the same definitions everywhere, whole or not at all, while all nodes write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use synod_testkit::{Cluster, Options, Outcome, Session, SharedCluster, try_wait_until, wait_until};

mod confirmed;
mod dependents;
mod indexes;
mod limits;
mod migrations;
mod names;
mod prepared;
mod replicate;
mod sessions;
mod since_18;
mod types;

const DEADLINE: Duration = Duration::from_secs(30);

/// What the nodes must agree on about a table.
const DEFINITION: &str = "
    SELECT jsonb_build_object(
        'columns', (SELECT jsonb_agg(jsonb_build_array(attname, format_type(atttypid, atttypmod), attnotnull,
                                     pg_get_expr(adbin, adrelid)) ORDER BY attnum)
                    FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
                    WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped),
        'indexes', (SELECT jsonb_agg(pg_get_indexdef(indexrelid) ORDER BY pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = t.oid),
        'constraints', (SELECT jsonb_agg(conname || pg_get_constraintdef(oid) ORDER BY conname) FROM pg_constraint
                        WHERE conrelid = t.oid),
        'triggers', (SELECT jsonb_agg(pg_get_triggerdef(oid) ORDER BY tgname) FROM pg_trigger
                     WHERE tgrelid = t.oid AND NOT tgisinternal),
        'owner', relowner::regrole::text, 'acl', relacl::text)::text
    FROM pg_class t WHERE oid = to_regclass($1)";

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// Waits until every running node has the definition that node 0 has, and returns it.
#[track_caller]
fn same_definition(cluster: &Cluster, table: &str) -> String {
    let of = |node: usize| -> Option<String> {
        let mut client = cluster.client(node);
        client.batch_execute("SET synod.read_consistency = local").ok()?;
        client.query_opt(DEFINITION, &[&table]).ok()?.map(|row| row.get(0))
    };
    let nodes: Vec<usize> = (0..cluster.len())
        .filter(|node| cluster.server(*node).is_running())
        .collect();
    let mut last = Vec::new();
    let same = try_wait_until(DEADLINE, || {
        last = nodes.iter().map(|node| of(*node)).collect();
        let same = last.iter().all(|definition| *definition == last[0]);
        same.then(|| last[0].clone().unwrap_or_default())
    });
    same.unwrap_or_else(|| {
        let states: Vec<String> = nodes.iter().map(|node| apply_state(cluster, *node)).collect();
        panic!("{table} differs: {last:#?}; {states:#?}")
    })
}

fn apply_state(cluster: &Cluster, node: usize) -> String {
    let row = cluster
        .client(node)
        .query_one("SELECT s::text FROM synod.stat_apply s", &[]);
    row.map_or_else(|error| error.to_string(), |row| row.get(0))
}

/// Sessions on every node that write `table (id bigint, v int)` until told to stop.
struct Load {
    stop: AtomicBool,
    written: AtomicU64,
    next: AtomicU64,
    /// Between two transactions of a session.
    pause: Duration,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            next: AtomicU64::new(1),
            pause: Duration::ZERO,
        }
    }

    /// One that leaves the processors time for what must be done before apply, which is in its way, loses patience.
    fn gentle() -> Self {
        Self {
            pause: Duration::from_millis(50),
            ..Self::new()
        }
    }

    /// Runs `work` while two sessions of each node write.
    fn during<T>(&self, cluster: &Cluster, table: &str, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..cluster.len() * 2)
                .map(|writer| scope.spawn(move || self.write(cluster, writer % cluster.len(), table)))
                .collect();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.wait_for_more(20);
                let result = work();
                self.wait_for_more(20);
                result
            }));
            self.stop.store(true, Ordering::SeqCst);
            for writer in writers {
                writer.join().unwrap();
            }
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn wait_for_more(&self, transactions: u64) {
        let before = self.written.load(Ordering::SeqCst);
        wait_until(DEADLINE, "writes", || {
            (self.written.load(Ordering::SeqCst) >= before + transactions).then_some(())
        });
    }

    fn write(&self, cluster: &Cluster, node: usize, table: &str) {
        let mut session = Session::new(cluster.server(node));
        while !self.stop.load(Ordering::SeqCst) {
            let id = self.next.fetch_add(1, Ordering::SeqCst) as i64;
            let outcome = session.transact("", |transaction| {
                transaction.execute(&format!("INSERT INTO {table} (id, v) VALUES ({id}, 1)"), &[])?;
                transaction.execute(&format!("UPDATE {table} SET v = v + 1 WHERE id = {}", id / 2), &[])
            });
            match outcome {
                Outcome::Committed(_) | Outcome::Unknown { .. } => {
                    self.written.fetch_add(1, Ordering::SeqCst);
                }
                Outcome::RolledBack(failure) => panic!("{table} on node {node}: {failure:?}"),
            }
            std::thread::sleep(self.pause);
        }
    }
}
