//! Definitions that change under the clients: columns, types, indexes, tables, triggers, rewrites; some given up halfway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use synod_testkit::{Rng, let_pass};

use crate::verdict::Notes;
use crate::workload::connect;

/// The longest pause between two, in milliseconds.
const PAUSE_MS: u64 = 1500;

/// Long enough for any, in milliseconds: a server may be down meanwhile.
const TIMEOUT_MS: u64 = 20_000;

/// One migration after the other until the end of the day, each on a node of its own.
pub fn run(dsns: &[String], mut rng: Rng, stop: &AtomicBool, notes: &Notes) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let_pass(Duration::from_millis(rng.below(PAUSE_MS)));
        let node = usize::try_from(rng.below(dsns.len() as u64)).expect("few nodes");
        let Some(mut client) = connect(&dsns[node]) else {
            continue;
        };
        number += 1;
        let (what, sql) = migration(&mut rng, number);
        let timeout = if rng.chance(30) {
            200 + rng.below(500)
        } else {
            TIMEOUT_MS
        };
        let outcome = client
            .batch_execute(&format!("SET statement_timeout = {timeout}"))
            .and_then(|()| client.batch_execute(&sql));
        match outcome {
            Ok(()) => notes.done(&format!("migration: {what}")),
            Err(error) => notes.error(&format!("migration: {what}"), &error),
        }
    }
}

/// What it does, and its statements. Each `number` may make a table, which a later one drops.
fn migration(rng: &mut Rng, number: u64) -> (&'static str, String) {
    let (k, n) = (rng.below(6), rng.below(100));
    match rng.below(17) {
        0 => (
            "add a column",
            format!("ALTER TABLE account ADD COLUMN IF NOT EXISTS c{k} int DEFAULT {n}"),
        ),
        1 => (
            "drop a column",
            format!("ALTER TABLE account DROP COLUMN IF EXISTS c{k}"),
        ),
        2 => (
            "widen an array",
            "ALTER TABLE doc ALTER COLUMN list TYPE bigint[]".into(),
        ),
        3 => ("narrow an array", "ALTER TABLE doc ALTER COLUMN list TYPE int[]".into()),
        4 => ("widen a column", "ALTER TABLE moved ALTER COLUMN a TYPE bigint".into()),
        5 => ("narrow a column", "ALTER TABLE moved ALTER COLUMN a TYPE int".into()),
        6 => (
            "create an index",
            format!("CREATE INDEX IF NOT EXISTS i{k} ON orders (n, what)"),
        ),
        7 => ("drop an index", format!("DROP INDEX IF EXISTS i{k}")),
        8 => ("create a table", create_table(number)),
        9 => (
            "change rows and columns in one transaction",
            format!(
                "BEGIN; INSERT INTO moved (id, a) VALUES ({n}, 1) ON CONFLICT DO NOTHING;
                 ALTER TABLE moved ADD COLUMN IF NOT EXISTS d{k} text DEFAULT 'd{n}';
                 UPDATE moved SET d{k} = 'u' WHERE id % 3 = 0; COMMIT"
            ),
        ),
        10 => (
            "drop a column that may be in use",
            format!("ALTER TABLE moved DROP COLUMN IF EXISTS d{k}"),
        ),
        11 => (
            "roll a column back to a savepoint",
            format!(
                "BEGIN; SAVEPOINT a; ALTER TABLE moved ADD COLUMN e{k} int; UPDATE moved SET e{k} = {n};
                 ROLLBACK TO a; UPDATE moved SET b = 'after' WHERE id = {n}; COMMIT"
            ),
        ),
        12 => ("truncate", "TRUNCATE moved".into()),
        13 => (
            "drop a table",
            format!("DROP TABLE IF EXISTS t{}", number.saturating_sub(3)),
        ),
        14 => ("replace a trigger's function", TRIGGER.into()),
        15 => ("VACUUM FULL", "VACUUM FULL bank".into()),
        _ => ("CLUSTER", "CLUSTER orders USING orders_pkey".into()),
    }
}

/// A table with a sequence and a reference, replicated and filled in one transaction.
fn create_table(number: u64) -> String {
    format!(
        "CREATE TABLE t{number} (id serial PRIMARY KEY, v int REFERENCES bank);
         SELECT synod.replicate_table('t{number}');
         INSERT INTO t{number} (v) SELECT i % 20 FROM generate_series(1, 50) i"
    )
}

/// The function of `random_transactions`, without its last part.
const TRIGGER: &str = "CREATE OR REPLACE FUNCTION account_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() > 2 THEN RETURN NULL; END IF;
        INSERT INTO audit VALUES (new.id, tg_op, new.amount);
        IF new.amount % 3 = 0 THEN UPDATE account SET amount = amount + 1 WHERE id = new.id; END IF;
        RETURN NULL;
    END $$";
