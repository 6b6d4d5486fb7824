//! Random transactions whose rows exchange the keys of all kinds of unique and exclusion indexes, enter and leave partial ones, and move
//! between partitions and back.

use postgres::{Client, Error};
use synod_testkit::random_transactions::{Mix, refused_by_the_data, try_random_transaction};
use synod_testkit::{Cluster, Rng, assert_converged, assert_sound, sqlstate};

use super::CLUSTER;

const TABLES: &[&str] = &["swap", "swap_whole", "swap_heir", "swap_part"];

const SCHEMA: &str = "
    CREATE TABLE swap (id int PRIMARY KEY, code int, name text, span int4range, big text, n int NOT NULL DEFAULT 0,
        twice int GENERATED ALWAYS AS (code * 2) STORED, UNIQUE NULLS NOT DISTINCT (code) DEFERRABLE, UNIQUE (twice) DEFERRABLE,
        EXCLUDE USING gist (span WITH &&) DEFERRABLE);
    CREATE UNIQUE INDEX ON swap (lower(name)) WHERE n % 2 = 0;
    CREATE UNIQUE INDEX ON swap (md5(big));
    CREATE INDEX ON swap USING brin (n);
    CREATE INDEX ON swap USING hash (name);
    CREATE TABLE swap_whole (id int, code int UNIQUE DEFERRABLE, name text, span int4range, big text, n int,
        EXCLUDE USING gist (span WITH &&) DEFERRABLE);
    CREATE UNIQUE INDEX ON swap_whole (lower(name)) WHERE n % 2 = 0;
    ALTER TABLE swap_whole REPLICA IDENTITY FULL;
    CREATE TABLE swap_heir (id int PRIMARY KEY, head int UNIQUE DEFERRABLE
        REFERENCES swap ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE);
    CREATE TABLE swap_part (id int, part int, code int, name text, PRIMARY KEY (id, part), UNIQUE (code, part) DEFERRABLE)
        PARTITION BY LIST (part);
    CREATE TABLE swap_part_0 PARTITION OF swap_part FOR VALUES IN (0);
    CREATE TABLE swap_part_1 PARTITION OF swap_part FOR VALUES IN (1);
    CREATE TABLE swap_part_2 (name text, gone int, code int, part int NOT NULL, id int NOT NULL);
    ALTER TABLE swap_part_2 DROP gone;
    ALTER TABLE swap_part ATTACH PARTITION swap_part_2 FOR VALUES IN (2);
";

fn statement(rng: &mut Rng) -> String {
    let (a, b, c) = (rng.below(10), rng.below(10), rng.below(10));
    let table = if rng.chance(50) { "swap" } else { "swap_whole" };
    match rng.below(24) {
        0 | 1 => format!(
            "INSERT INTO {table} (id, code, name, span, big, n) VALUES ({a}, {b}, 'N{c}', int4range({b} * 3, {b} * 3 + 3), repeat(md5('{a}'), 300), {c})"
        ),
        2 => format!("INSERT INTO {table} (id, n) VALUES ({a}, {b})"),
        3 => format!(
            "INSERT INTO swap (id, code) VALUES ({a}, {b}) ON CONFLICT (id) DO UPDATE SET id = {c}, code = swap.code + 1, n = swap.n + 1"
        ),
        4 => format!("UPDATE {table} SET code = {a} + {b} - code WHERE code IN ({a}, {b})"),
        5 => format!("UPDATE {table} SET code = (code + 1) % 10"),
        6 => format!(
            "UPDATE swap SET id = id + 20 WHERE id IN ({a}, {b}); UPDATE swap SET id = {a} + {b} + 20 - id WHERE id >= 20"
        ),
        7 => format!(
            "UPDATE swap SET id = -1 WHERE id = {a}; UPDATE swap SET id = {a} WHERE id = {b}; UPDATE swap SET id = {b} WHERE id = {c}; UPDATE swap SET id = {c} WHERE id = -1"
        ),
        8 => format!("UPDATE {table} SET span = int4range(30 - upper(span), 30 - lower(span))"),
        9 => format!("UPDATE {table} SET span = int4range(lower(span) + {a} - 5, upper(span) + {a} - 5)"),
        10 => format!("UPDATE {table} SET n = n + 1 WHERE code > {a}"),
        11 => format!("UPDATE {table} SET name = 'n{a}', n = n + {b} WHERE id = {c}"),
        12 => format!("DELETE FROM {table} WHERE id = {a}; UPDATE {table} SET id = {a}, code = {b} WHERE id = {c}"),
        13 => format!("DELETE FROM {table} WHERE code = {a} OR id = {b}"),
        14 => format!(
            "UPDATE {table} SET code = CASE code WHEN {a} THEN NULL ELSE {a} END WHERE code = {a} OR code IS NULL"
        ),
        15 => format!("UPDATE {table} SET big = repeat(md5('{b}'), 300) WHERE id = {a}"),
        16 => format!(
            "INSERT INTO swap_heir VALUES ({a}, (SELECT min(id) FROM swap WHERE id > {b})) ON CONFLICT (id) DO UPDATE SET id = {c}"
        ),
        17 => format!("UPDATE swap_heir SET head = (SELECT max(id) FROM swap WHERE id < {a}) WHERE id = {b}"),
        18 => format!("INSERT INTO swap_part VALUES ({a}, {b} % 3, {c}, 'p')"),
        19 | 20 => format!("UPDATE swap_part SET part = (part + 1) % 3 WHERE id IN ({a}, {b})"),
        21 => format!("UPDATE swap_part SET part = (part + {a}) % 3, code = 9 - code, name = name || '.'"),
        22 => format!(
            "UPDATE swap_part SET code = {a} + {b} - code WHERE code IN ({a}, {b}); UPDATE swap_part SET id = {c} WHERE id = {a}"
        ),
        _ => format!("DELETE FROM swap_part WHERE id = {a}"),
    }
}

/// May lose to another node's, and to a constraint that is checked at last.
fn transaction(client: &mut Client, rng: &mut Rng) {
    let survives = |error: &Error| refused_by_the_data(error) || sqlstate(error) == Some("21000");
    let begin = if rng.chance(70) {
        "BEGIN; SET CONSTRAINTS ALL DEFERRED"
    } else {
        "BEGIN"
    };
    let mix = Mix {
        begin,
        statement: &statement,
        survives: &survives,
    };
    if let Err(error) = try_random_transaction(client, rng, &mix) {
        assert!(survives(&error) || sqlstate(&error) == Some("40001"), "{error:?}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

fn alone(cluster: &Cluster, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let mut clients: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();
        for _ in 0..30 {
            transaction(&mut clients[rng.below(3) as usize], &mut rng);
        }
        let result = std::panic::catch_unwind(|| assert_converged(cluster, TABLES));
        assert!(result.is_ok(), "tables differ after seed {seed}");
    }
}

#[test]
fn rows_exchange_keys_at_random() {
    let cluster = CLUSTER.lease();
    cluster.on_all(SCHEMA);
    cluster.replicate_together(TABLES);
    let seeds: u64 = std::env::var("SYNOD_TEST_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3);
    alone(&cluster, 0..seeds);
    std::thread::scope(|scope| {
        for node in 0..3 {
            let cluster = &cluster;
            scope.spawn(move || {
                let (mut rng, mut client) = (Rng::new(100 + node as u64), cluster.client(node));
                for _ in 0..20 * seeds {
                    transaction(&mut client, &mut rng);
                }
            });
        }
    });
    assert_converged(&cluster, TABLES);
    assert_sound(&cluster, TABLES);
}
