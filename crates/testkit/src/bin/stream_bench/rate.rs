//! How fast a reader gets what has been written: one large transaction, and many small ones.

use std::time::Instant;

use synod_testkit::machine::CpuSpan;
use synod_testkit::{Rng, Server};

use crate::contestant::{ALL, copy_slot, drop_slot, end_of_wal, reader, run as execute};
use crate::{Measured, Options, shuffled, told};

/// Names of the cases; rows a second are told.
pub const LARGE: &str = "one large transaction";
/// Transactions a second.
pub const SMALL: &str = "small transactions";
/// Processor time of server and client for a row, nanoseconds: hardly disturbed by others on the machine.
pub const LARGE_CPU: &str = "CPU, one large transaction";
/// For a transaction.
pub const SMALL_CPU: &str = "CPU, small transactions";

/// A row as `pgbench`'s accounts have it, with a time and a sum as most tables have.
const DEFINITION: &str = "CREATE TABLE readings (id bigint PRIMARY KEY, branch integer NOT NULL, balance numeric(12,2), filler text, at timestamptz);
    CREATE PUBLICATION everything FOR ALL TABLES";

/// All rounds.
pub fn run(server: &Server, options: &Options) -> Vec<Measured> {
    let mut client = server.client();
    execute(&mut client, DEFINITION);
    let rows = format!(
        "INSERT INTO readings SELECT i, i % 10, i / 7.0, 'row number ' || i || repeat('.', 60), now() FROM generate_series(1, {}) i",
        options.rows
    );
    let small = format!(
        "DO $$BEGIN SET LOCAL synchronous_commit = off; FOR i IN 1..{} LOOP
            UPDATE readings SET balance = balance + 1, at = clock_timestamp() WHERE id = i; COMMIT; END LOOP; END$$",
        options.transactions
    );
    execute(&mut client, "SET synchronous_commit = off");
    let cases = [
        (LARGE, LARGE_CPU, rows, options.rows),
        (SMALL, SMALL_CPU, small, options.transactions),
    ];
    let mut measured = Vec::new();
    for (case, cpu_case, statement, count) in cases {
        execute(
            &mut client,
            "SELECT pg_create_logical_replication_slot('base', 'test_decoding')",
        );
        execute(&mut client, &statement);
        let end = end_of_wal(&mut client);
        let mut random = Rng::new(u64::from(std::process::id()));
        for round in 1..=options.rounds {
            for contestant in shuffled(&mut random, &ALL.each_ref()) {
                let slot = copy_slot(&mut client, "base", contestant);
                let (span, started) = (CpuSpan::begin(), Instant::now());
                let ended = reader(server, contestant, slot, Some(&end)).wait();
                let took_s = started.elapsed().as_secs_f64();
                assert!(
                    ended.is_ok_and(|status| status.success()),
                    "{}: {}",
                    contestant.name,
                    server.log_tail(5)
                );
                drop_slot(&mut client, slot);
                let cpu = span.end();
                let of = |case, value| Measured {
                    case,
                    contestant: contestant.name,
                    round,
                    value,
                    foreign_cores: cpu.foreign_cores,
                };
                measured.push(told(of(case, f64::from(count) / took_s), "a second"));
                measured.push(told(of(cpu_case, cpu.own_s * 1e9 / f64::from(count)), "ns of CPU each"));
            }
        }
        drop_slot(&mut client, "base");
    }
    measured
}
