//! What it costs writers that somebody reads: `pgbench`'s TPC-B with one reader that follows, and with none.

use synod_testkit::machine::CpuSpan;
use synod_testkit::pgbench::{self, Load, Pgbench, Script};
use synod_testkit::{Rng, Server};

use crate::contestant::{ALL, Contestant, drop_slot, reader, run as execute};
use crate::{Measured, Options, shuffled, told};

/// Transactions a second.
pub const CASE: &str = "TPC-B with a reader";

/// Nobody reads.
pub static NOBODY: Contestant = Contestant {
    name: "no reader",
    plugin: "",
    options: &[],
};

const SCALE: u32 = 10;
const CLIENTS: u32 = 4;

/// All rounds.
pub fn run(server: &Server, options: &Options) -> Vec<Measured> {
    let mut client = server.client();
    pgbench::create_tables(server);
    for statement in pgbench::fill_statements(SCALE, 50_000) {
        execute(&mut client, &statement);
    }
    execute(&mut client, "VACUUM ANALYZE");
    let everyone: Vec<&'static Contestant> = ALL_AND_NOBODY.to_vec();
    let mut random = Rng::new(u64::from(std::process::id()) + 1);
    let mut measured = Vec::new();
    for round in 1..=options.writer_rounds {
        for contestant in shuffled(&mut random, &everyone) {
            let mut follows = (!contestant.plugin.is_empty()).then(|| {
                let create = format!(
                    "SELECT pg_create_logical_replication_slot('reading', '{}')",
                    contestant.plugin
                );
                execute(&mut client, &create);
                reader(server, contestant, "reading", None)
            });
            let span = CpuSpan::begin();
            let load = Load {
                script: Script::TpcB,
                clients: CLIENTS,
                seconds: options.slice_s,
                prepared: true,
                latencies: false,
            };
            let report = Pgbench::start(server, &load).finish();
            let foreign_cores = span.end().foreign_cores;
            if let Some(child) = &mut follows {
                // It ends with its connection.
                let _ = child.kill();
                let _ = child.wait();
                drop_slot(&mut client, "reading");
            }
            assert!(report.complete, "{:?}", report.complaints);
            measured.push(told(
                Measured {
                    case: CASE,
                    contestant: contestant.name,
                    round,
                    value: report.tps,
                    foreign_cores,
                },
                "transactions a second",
            ));
        }
    }
    measured
}

static ALL_AND_NOBODY: [&Contestant; 8] = [&NOBODY, &ALL[0], &ALL[1], &ALL[2], &ALL[3], &ALL[4], &ALL[6], &ALL[8]];
