//! A day in fast motion: random transactions, transfers, inserts and migrations on all nodes at once, while servers and single
//! processes die, freeze, restart, are cancelled and terminated. At its end nothing acknowledged is lost, nothing rolled back
//! is there, money is neither made nor gone, no reference dangles, no sequence has given a value twice, and all nodes hold the
//! same (I1, I2, I3).
//!
//! - `workload`: the clients and their tables; `migrations`: who changes those; `faults`: what goes wrong meanwhile;
//! - `verdict`: what must hold in the end.
//!
//! By hand: `make test-servers TEST='--test day -- --ignored --nocapture'`, with `SYNOD_SOAK_DAY_S` and `SYNOD_TEST_SEED`. A seed
//! repeats the choices, not the moments at which they meet.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use synod_testkit::{Cluster, Ledger, Options, Rng, Stopper, random_transactions};

mod faults;
mod migrations;
mod verdict;
mod workload;

/// The log is trimmed many times a day, ranges of sequences are soon used up, deadlocks are found at once.
const SETTINGS: &[(&str, &str)] = &[
    ("max_connections", "60"),
    ("synod.log_retention", "4MB"),
    ("synod.sequence_range", "20"),
    ("deadlock_timeout", "200ms"),
    ("autovacuum_naptime", "1s"),
];

/// Acknowledged inserts that show, after the last fault, that the group goes on.
const PROGRESS: usize = 30;

/// Clients with random transactions, of each node.
const RANDOM_CLIENTS: u64 = 2;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

fn day(seed: u64, length: Duration) {
    let mut cluster = Cluster::start_with(&Options {
        settings: SETTINGS,
        ..Options::DEFAULT
    });
    random_transactions::make_schema(&cluster);
    workload::make_schema(&cluster);
    let ledger = Ledger::on(&cluster);
    let notes = verdict::Notes::default();
    let stop = AtomicBool::new(false);
    let dsns: Vec<String> = (0..cluster.len())
        .map(|node| cluster.server(node).client_dsn("postgres"))
        .collect();
    std::thread::scope(|scope| {
        let _stopper = Stopper(&stop);
        let (stop, notes, dsns) = (&stop, &notes, &dsns);
        for (node, dsn) in (0..).zip(dsns) {
            for client in 0..RANDOM_CLIENTS {
                let rng = Rng::new(seed * 1000 + node * 10 + client);
                scope.spawn(move || workload::random_transactions(dsn, rng, stop, notes));
            }
            scope.spawn(move || workload::transfers(dsn, Rng::new(seed * 1000 + node * 10 + 7), stop, notes));
        }
        scope.spawn(move || migrations::run(dsns, Rng::new(seed * 1000 + 100), stop, notes));
        ledger.while_writing(&mut cluster, &[0, 1, 2], PROGRESS, |cluster| {
            faults::strike(cluster, Rng::new(seed * 1000 + 200), Instant::now() + length, notes);
        });
    });
    println!("{} inserts acknowledged; errors told:\n{notes}", ledger.acknowledged());
    ledger.assert_kept_beyond_the_log(&cluster);
    verdict::assert_one_state(&cluster);
    notes.assert_none_bad();
}

#[test]
#[ignore = "the long form: make soak"]
fn soak_a_day_in_which_everything_goes_wrong() {
    let seed = from_environment("SYNOD_TEST_SEED", 1);
    let seconds = from_environment("SYNOD_SOAK_DAY_S", 150);
    println!("SYNOD_TEST_SEED={seed} SYNOD_SOAK_DAY_S={seconds}");
    day(seed, Duration::from_secs(seconds));
}
