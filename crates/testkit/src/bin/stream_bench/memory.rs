//! What a large transaction takes of the memory of the process that reads it.

use std::time::Duration;

use synod_testkit::machine::CpuSpan;
use synod_testkit::{Rng, Server};

use crate::contestant::{ALL, Contestant, copy_slot, drop_slot, end_of_wal, reader, run as execute};
use crate::{Measured, Options, shuffled, told};

/// Megabytes of a walsender's own.
pub const CASE: &str = "memory of a reader";

/// How often the process is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Once for each.
pub fn run(server: &Server, options: &Options) -> Vec<Measured> {
    let mut client = server.client();
    execute(
        &mut client,
        "CREATE TABLE large (id bigint PRIMARY KEY, filler text); SET synchronous_commit = off",
    );
    execute(
        &mut client,
        "SELECT pg_create_logical_replication_slot('base', 'test_decoding')",
    );
    execute(
        &mut client,
        &format!(
            "INSERT INTO large SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, {} * 1024) i",
            options.large_mb
        ),
    );
    let end = end_of_wal(&mut client);
    let everyone: [&'static Contestant; 6] = [&ALL[0], &ALL[1], &ALL[2], &ALL[3], &ALL[4], &ALL[6]];
    let mut measured = Vec::new();
    for contestant in shuffled(&mut Rng::new(u64::from(std::process::id())), &everyone) {
        let slot = copy_slot(&mut client, "base", contestant);
        let span = CpuSpan::begin();
        let mut child = reader(server, contestant, slot, Some(&end));
        let mut most_kb = 0;
        while matches!(child.try_wait(), Ok(None)) {
            let pid = client.query_opt(
                "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'reading'",
                &[],
            );
            if let Ok(Some(row)) = pid
                && let Some(pid) = row.get::<_, Option<i32>>(0)
            {
                most_kb = most_kb.max(own_kb(pid));
            }
            std::thread::sleep(EVERY);
        }
        drop_slot(&mut client, slot);
        measured.push(told(
            Measured {
                case: CASE,
                contestant: contestant.name,
                round: 1,
                value: most_kb as f64 / 1024.0,
                foreign_cores: span.end().foreign_cores,
            },
            "MB",
        ));
    }
    drop_slot(&mut client, "base");
    measured
}

/// Resident memory of a process, less what it shares with others.
fn own_kb(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
