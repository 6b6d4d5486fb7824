//! What a slot costs the writers of strong tables: TPC-B with and without a slot on every node, in slices that alternate. Told, not
//! judged: the machine may be busy.

use std::time::Instant;

use postgres::Client;
use synod_testkit::pgbench::{self, Load, Pgbench, Script};
use synod_testkit::{Cluster, Options};

use super::{drop_slots, make_slots};

const ROUNDS: usize = 7;
const SECONDS: u32 = 3;

/// One slice: transactions a second, and WAL bytes of the writer's node for each.
fn slice(cluster: &Cluster, clients: u32) -> (f64, f64) {
    let mut client = cluster.client(0);
    let (before, began) = (wal(&mut client), Instant::now());
    let load = Load {
        script: Script::TpcB,
        clients,
        seconds: SECONDS,
        prepared: true,
        latencies: false,
    };
    let report = Pgbench::start(cluster.server(0), &load).finish();
    let committed = report.committed.max(1) as f64;
    let bytes = (wal(&mut client) - before) as f64;
    (committed / began.elapsed().as_secs_f64(), bytes / committed)
}

fn wal(client: &mut Client) -> i64 {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    client.query_one(query, &[]).unwrap().get(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "measures, for a minute or two"]
fn what_a_slot_costs() {
    let cluster = Cluster::start_with(&Options {
        settings: &[
            ("wal_level", "logical"),
            ("shared_buffers", "256MB"),
            ("max_wal_size", "8GB"),
            ("checkpoint_timeout", "1h"),
        ],
        ..Options::DEFAULT
    });
    pgbench::create_tables(cluster.server(0));
    pgbench::TABLES.into_iter().for_each(|table| cluster.replicate(table));
    for statement in pgbench::fill_statements(10, 50_000) {
        cluster.client(0).execute(&statement, &[]).unwrap();
    }
    cluster.on_all("VACUUM ANALYZE");
    cluster.on_all("CHECKPOINT");
    for clients in [1, 8] {
        // Full pages are written in the first slice.
        slice(&cluster, clients);
        let (mut ratios, mut tps, mut bytes) = (Vec::new(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..ROUNDS {
            let mut of_round = [0.0; 2];
            for half in 0..2 {
                let with = usize::from((round + half) % 2 == 0);
                if with == 1 {
                    make_slots(&cluster, "cost");
                }
                let (rate, each) = slice(&cluster, clients);
                if with == 1 {
                    drop_slots(&cluster, "cost");
                }
                of_round[with] = rate;
                tps[with].push(rate);
                bytes[with].push(each);
            }
            ratios.push(of_round[1] / of_round[0]);
        }
        let [without, with] = tps.map(median);
        let [bytes_without, bytes_with] = bytes.map(median);
        println!(
            "{clients} clients: {without:.0} tps without a slot, {with:.0} with one on every node, median ratio {:.3} of {ratios:.3?}; \
             WAL {bytes_without:.0} and {bytes_with:.0} bytes a transaction",
            median(ratios.clone())
        );
    }
}
