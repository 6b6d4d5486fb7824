//! What was told during the day, and what must hold at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use postgres::Error;
use synod_testkit::{Cluster, assert_converged, sqlstate};

use crate::workload::BANK_SUM;

/// What clients, migrations and faults saw: counts by who and SQLSTATE, and whatever should never have been seen.
#[derive(Default)]
pub struct Notes {
    seen: Mutex<BTreeMap<String, Seen>>,
    bad: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Seen {
    count: u64,
    last: String,
}

impl Notes {
    /// `who` was told this.
    pub fn error(&self, who: &str, error: &Error) {
        let code = sqlstate(error).unwrap_or("no answer");
        let text = error.as_db_error().map_or_else(
            || error.to_string(),
            |error| format!("{} | {}", error.message(), error.detail().unwrap_or_default()),
        );
        // Internal errors and corruption are never the answer to a fault.
        if code.starts_with("XX") {
            self.bad(format!("{who}: {code}: {text}"));
        }
        self.note(format!("{who}, {code}"), text);
    }

    /// `what` was done.
    pub fn done(&self, what: &str) {
        self.note(format!("{what}, done"), String::new());
    }

    /// What nobody should ever see.
    pub fn bad(&self, what: String) {
        self.bad.lock().expect("no client panics").push(what);
    }

    fn note(&self, what: String, last: String) {
        let mut seen = self.seen.lock().expect("no client panics");
        let entry = seen.entry(what).or_default();
        entry.count += 1;
        entry.last = last;
    }

    /// Nobody saw what nobody should ever see.
    pub fn assert_none_bad(&self) {
        let bad = self.bad.lock().expect("no client panics");
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, seen) in self.seen.lock().expect("no client panics").iter() {
            writeln!(formatter, "{:6} {what}: {}", seen.count, seen.last)?;
        }
        Ok(())
    }
}

/// What holds of every state of the group, and what counts those that break it.
const NEVER: [(&str, &str); 3] = [
    (
        "lines without their order",
        "SELECT count(*) FROM lines l WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = l.order_id)",
    ),
    (
        "leaves without their parent",
        "SELECT count(*) FROM tree l WHERE parent IS NOT NULL AND NOT EXISTS (SELECT FROM tree o WHERE o.id = l.parent)",
    ),
    (
        "orders whose value their sequence gives once more",
        "SELECT count(*) FROM orders WHERE id IN (SELECT nextval('orders_id_seq') FROM generate_series(1, 40))",
    ),
];

/// All nodes hold the same rows of every replicated table, and these make sense.
#[track_caller]
pub fn assert_one_state(cluster: &Cluster) {
    let tables = replicated(cluster, 0);
    for node in 1..cluster.len() {
        assert_eq!(replicated(cluster, node), tables, "tables of n{}", node + 1);
    }
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    println!("compared on all nodes: {}", names.join(", "));
    assert_converged(cluster, &names);
    for node in 0..cluster.len() {
        let mut client = cluster.client(node);
        for (what, query) in NEVER {
            let found: i64 = client.query_one(query, &[]).unwrap().get(0);
            assert_eq!(found, 0, "{what} on n{}", node + 1);
        }
        let sum: i64 = client
            .query_one("SELECT sum(amount)::bigint FROM bank", &[])
            .unwrap()
            .get(0);
        assert_eq!(sum, BANK_SUM, "in the bank of n{}", node + 1);
    }
}

/// Names of the replicated tables that have rows of their own, the extension's left out.
fn replicated(cluster: &Cluster, node: usize) -> Vec<String> {
    cluster
        .client(node)
        .query(
            "SELECT table_name::text FROM synod.tables t JOIN pg_class c ON c.oid = t.table_name::regclass
              WHERE relkind = 'r' AND table_name::text NOT LIKE 'synod.%' ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}
