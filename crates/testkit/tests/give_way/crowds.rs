//! Many at once, on the same rows.

use synod_testkit::{Cluster, Rng, assert_converged, sqlstate};

use crate::{CLUSTER, make_tables};

#[test]
fn two_nodes_that_fight_for_the_same_rows_both_get_on() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    const EACH: i64 = 60;
    let wins: i64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|node| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(node);
                    let mut wins = 0;
                    for round in 0..EACH {
                        // Opposite orders: local deadlocks, give-way and certification at once.
                        let (one, other) = if (round + node as i64) % 2 == 0 { (1, 2) } else { (2, 1) };
                        let sql = format!(
                            "BEGIN; UPDATE fought SET v = v + 1 WHERE id = {one}; UPDATE fought SET v = v + 1 WHERE id = {other}; COMMIT"
                        );
                        match client.batch_execute(&sql) {
                            Ok(()) => wins += 1,
                            Err(error) => {
                                assert!(matches!(sqlstate(&error), Some("40001" | "40P01")), "{error:?}");
                                client.batch_execute("ROLLBACK").unwrap();
                            }
                        }
                    }
                    wins
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(wins > 0, "nobody got on");
    assert_converged(&cluster, &["fought"]);
    let sum: i64 = cluster
        .client(2)
        .query_one("SELECT sum(v) FROM fought WHERE id <= 2", &[])
        .unwrap()
        .get(0);
    assert_eq!(sum, 2 * wins);
}

/// What the transactions of [`fight`] were told.
#[derive(Default, Debug)]
struct Told {
    committed: u64,
    /// Errors by SQLSTATE.
    errors: std::collections::BTreeMap<String, u64>,
}

/// One client's transactions on four rows that everybody wants, with savepoints, sleeps and voluntary rollbacks.
fn fight(cluster: &Cluster, node: usize, seed: u64, rounds: u64) -> Told {
    let (mut client, mut rng, mut told) = (cluster.client(node), Rng::new(seed), Told::default());
    for _ in 0..rounds {
        let mut statements = vec!["BEGIN".to_owned()];
        for _ in 0..=rng.below(2) {
            if rng.chance(30) {
                statements.push("SAVEPOINT s".to_owned());
            }
            let (id, n) = (1 + rng.below(4), rng.below(8));
            statements.push(match rng.below(8) {
                0 => format!("SELECT pg_sleep(0.00{n}), v FROM fought WHERE id = {id} FOR UPDATE"),
                1 => format!("INSERT INTO fought_child VALUES ({seed} * 1000 + {n}, {id}) ON CONFLICT (id) DO UPDATE SET parent = {id}"),
                2 => format!("UPDATE fought SET v = v + 1 WHERE id = {id} AND pg_sleep(0.00{n}) IS NOT NULL"),
                _ => format!("UPDATE fought SET v = v + 1 WHERE id = {id}"),
            });
        }
        let rolls_back = rng.chance(15);
        let ran = statements.iter().try_for_each(|sql| client.batch_execute(sql));
        let ended = match ran {
            Ok(()) if !rolls_back => client.batch_execute("COMMIT").map(|()| told.committed += 1),
            Ok(()) => {
                client.batch_execute("ROLLBACK").expect("a ROLLBACK succeeds");
                continue;
            }
            Err(error) => {
                client
                    .batch_execute("ROLLBACK")
                    .unwrap_or_else(|refused| panic!("ROLLBACK failed with {refused:?} after {error:?}"));
                client
                    .batch_execute("SELECT 1")
                    .unwrap_or_else(|hit| panic!("{hit:?} hit the next command after {error:?}"));
                Err(error)
            }
        };
        if let Err(error) = ended {
            let code = sqlstate(&error).unwrap_or("connection").to_owned();
            *told.errors.entry(code).or_default() += 1;
        }
    }
    told
}

#[test]
fn under_heavy_conflict_the_losers_are_told_to_try_again() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster);
    let rounds = std::env::var("SYNOD_TEST_ROUNDS").map_or(40, |rounds| rounds.parse().unwrap());
    let told: Vec<Told> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|client| {
                let cluster = &cluster;
                scope.spawn(move || fight(cluster, client % 3, client as u64, rounds))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = Told::default();
    for told in told {
        all.committed += told.committed;
        for (code, times) in told.errors {
            *all.errors.entry(code).or_default() += times;
        }
    }
    println!("{all:?}");
    let others: Vec<_> = all
        .errors
        .keys()
        .filter(|code| !["40001", "40P01"].contains(&code.as_str()))
        .collect();
    assert!(others.is_empty(), "{all:?}");
    assert!(all.committed > 0, "nobody got on");
    assert_converged(&cluster, &["fought", "fought_child"]);
}
