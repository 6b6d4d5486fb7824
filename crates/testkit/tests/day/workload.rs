//! The clients: transactions of everything that makes replication difficult, and transfers between accounts of a bank whose sum
//! every snapshot must show unchanged. (Inserts whose acknowledgement is kept are the test kit's `Ledger`.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::{Client, Error, NoTls};
use synod_testkit::random_transactions::{self, Mix, refused_by_the_data, try_random_transaction};
use synod_testkit::{Cluster, Rng, let_pass, sqlstate};

use crate::verdict::Notes;

const SCHEMA: &str = "
    CREATE TABLE bank (id int PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE orders (id bigserial PRIMARY KEY, what text, n int);
    CREATE TABLE lines (order_id bigint REFERENCES orders ON DELETE CASCADE, no int, body text, PRIMARY KEY (order_id, no));
    CREATE TABLE moved (id int PRIMARY KEY, a int, b text);
";

const ACCOUNTS: u64 = 20;

/// What all accounts of the bank hold together.
pub const BANK_SUM: i64 = 20_000;

/// Before a client knocks again at a server that is down.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The tables of this file, replicated, and the bank's money in them.
pub fn make_schema(cluster: &Cluster) {
    cluster.on_all(SCHEMA);
    cluster.replicate_together(&["bank", "orders", "lines", "moved"]);
    cluster
        .client(0)
        .batch_execute(&format!(
            "INSERT INTO bank SELECT i, {BANK_SUM} / {ACCOUNTS} FROM generate_series(0, {ACCOUNTS} - 1) i"
        ))
        .unwrap();
}

/// A connection, or nothing after a pause.
pub fn connect(dsn: &str) -> Option<Client> {
    Client::connect(dsn, NoTls)
        .inspect_err(|_| let_pass(RECONNECT_PAUSE))
        .ok()
}

/// Repeats `step` until the end of the day, on a connection that is made anew whenever it is lost. Errors become notes of `who`.
fn repeat(
    who: &str,
    dsn: &str,
    stop: &AtomicBool,
    notes: &Notes,
    mut step: impl FnMut(&mut Client) -> Result<(), Error>,
) {
    let mut connection = None;
    while !stop.load(Ordering::SeqCst) {
        let Some(client) = connection.as_mut() else {
            connection = connect(dsn);
            continue;
        };
        if let Err(error) = step(client) {
            notes.error(who, &error);
            if client.is_closed() || client.batch_execute("ROLLBACK").is_err() {
                connection = None;
            }
        }
    }
}

fn statement(rng: &mut Rng) -> String {
    let (id, n) = (rng.below(12), rng.below(50));
    match rng.below(30) {
        0 => format!(
            "WITH o AS (INSERT INTO orders (what, n) VALUES ('o', {n}) RETURNING id)
             INSERT INTO lines SELECT id, i, repeat(md5(random()::text), 300) FROM o, generate_series(1, 3) i"
        ),
        1 => "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 2)".into(),
        2 => format!(
            "INSERT INTO moved (id, a) SELECT i, {n} FROM generate_series({id} * 10, {id} * 10 + 5) i
             ON CONFLICT (id) DO UPDATE SET a = excluded.a"
        ),
        // A block with a handler is a subtransaction of its own.
        3 => format!(
            "DO $$ BEGIN
                 INSERT INTO orders (what, n) SELECT 'loop', i FROM generate_series(1, {n}) i;
                 IF {n} % 2 = 0 THEN RAISE EXCEPTION 'x'; END IF;
             EXCEPTION WHEN raise_exception THEN INSERT INTO orders (what, n) VALUES ('caught', {n}); END $$"
        ),
        _ => random_transactions::statement(rng),
    }
}

/// Goes on also after a timeout, and when a migration has taken away what the statement names.
fn survives(error: &Error, notes: &Notes) -> bool {
    let constraint = error.as_db_error().and_then(|error| error.constraint());
    if constraint == Some("orders_pkey") {
        notes.bad(format!("a sequence gave a value twice: {error:?}"));
    }
    refused_by_the_data(error)
        || sqlstate(error).is_some_and(|code| code.starts_with("42") || matches!(code, "57014" | "55P03"))
}

/// Random transactions, some in snapshots that last, some with a timeout that ends their statements anywhere.
pub fn random_transactions(dsn: &str, mut rng: Rng, stop: &AtomicBool, notes: &Notes) {
    repeat("random transaction", dsn, stop, notes, |client| {
        let mut begin = String::from("BEGIN");
        if rng.chance(20) {
            begin += " ISOLATION LEVEL REPEATABLE READ";
        }
        if rng.chance(15) {
            begin += &format!("; SET LOCAL statement_timeout = {}", 1 + rng.below(60));
        }
        let mix = Mix {
            begin: &begin,
            statement: &statement,
            survives: &|error| survives(error, notes),
        };
        try_random_transaction(client, &mut rng, &mix)
    });
}

/// Transfers, and looks at the sum: as the group has it, and as this node has it by itself.
pub fn transfers(dsn: &str, mut rng: Rng, stop: &AtomicBool, notes: &Notes) {
    repeat("transfer", dsn, stop, notes, |client| {
        if rng.chance(30) {
            let consistency = if rng.chance(30) { "local" } else { "strong" };
            client.batch_execute(&format!("SET synod.read_consistency = {consistency}"))?;
            let sum: i64 = client.query_one("SELECT sum(amount)::bigint FROM bank", &[])?.get(0);
            if sum != BANK_SUM {
                notes.bad(format!("a {consistency} read at {dsn} saw {sum} in the bank"));
            }
            return client.batch_execute("RESET synod.read_consistency");
        }
        let (from, to, amount) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS), rng.below(100));
        client.batch_execute(&format!(
            "BEGIN;
             SELECT FROM bank WHERE id = {from} FOR UPDATE;
             UPDATE bank SET amount = amount - {amount} WHERE id = {from};
             UPDATE bank SET amount = amount + {amount} WHERE id = {to};
             COMMIT"
        ))
    });
}
