//! `docs/benchmarks-stream.md` and the figures behind it.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use synod_testkit::machine;
use synod_testkit::spread::{middle_half, spread};

use crate::{Measured, Options, memory, rate, writers};

/// Writes both files; the path of the readable one.
pub fn write(options: &Options, measured: &[Measured]) -> io::Result<PathBuf> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let raw = format!("raw-stream-{seconds}.json");
    std::fs::create_dir_all(options.out.join("benchmarks"))?;
    std::fs::write(options.out.join("benchmarks").join(&raw), json(measured))?;
    let path = options.out.join("benchmarks-stream.md");
    std::fs::write(&path, page(options, measured, &raw))?;
    Ok(path)
}

fn page(options: &Options, measured: &[Measured], raw: &str) -> String {
    let mut page = String::from("# Benchmarks of the change stream\n\n");
    let _ = writeln!(
        page,
        "Made by `make bench-stream`; do not edit. {} rounds, everyone once in each in random order, all through `pg_recvlogical` to \
         `/dev/null`. Figures are medians over the rounds, ratios are taken within each round first. The figures of every \
         measurement: [{raw}](benchmarks/{raw}).\n\n| machine | |\n|---|---|",
        options.rounds
    );
    for (label, value) in machine::description() {
        let _ = writeln!(page, "| {label} | {value} |");
    }
    let foreign = spread(measured.iter().map(|one| one.foreign_cores).collect());
    let _ = writeln!(
        page,
        "| cores used by others meanwhile | {:.2} ({:.2} to {:.2}) |\n",
        foreign.median, foreign.low, foreign.high
    );
    let _ = writeln!(
        page,
        "## Reading\n\n\"(nothing told)\" filters every row out: what the server takes to decode them, before anything is written or \
         sent.\n\nOne transaction that inserts {} rows of five columns.\n",
        options.rows
    );
    table(&mut page, measured, rate::LARGE, "rows a second", &PEERS);
    table(
        &mut page,
        measured,
        rate::LARGE_CPU,
        "ns of CPU a row, server and client",
        &PEERS,
    );
    let _ = writeln!(
        page,
        "{} transactions that update one row each.\n",
        options.transactions
    );
    table(&mut page, measured, rate::SMALL, "transactions a second", &PEERS);
    table(
        &mut page,
        measured,
        rate::SMALL_CPU,
        "ns of CPU a transaction, server and client",
        &PEERS,
    );
    let _ = writeln!(
        page,
        "## Writing while somebody reads\n\n`pgbench`'s TPC-B, {} rounds, slices of {} s, with one reader that follows, on the same cores. In \
         parentheses the middle half of the ratios.\n",
        options.writer_rounds, options.slice_s
    );
    table(
        &mut page,
        measured,
        writers::CASE,
        "transactions a second",
        &["no reader", "pgoutput"],
    );
    let _ = writeln!(
        page,
        "## Memory\n\nThe most that the process which reads a transaction of {} MB had of its own (`logical_decoding_work_mem` is the \
         64 MB that PostgreSQL sets: what is beyond goes to disk, whoever reads).\n",
        options.large_mb
    );
    table(&mut page, measured, memory::CASE, "MB", &[]);
    page
}

/// Who was there before.
const PEERS: [&str; 3] = ["test_decoding", "wal2json", "pgoutput"];

fn table(page: &mut String, measured: &[Measured], case: &str, unit: &str, beside: &[&str]) {
    let heads: String = beside.iter().map(|name| format!(" to {name} |")).collect();
    let _ = writeln!(page, "| | {unit} |{heads}\n|---|--:|{}", "--:|".repeat(beside.len()));
    let of: Vec<&Measured> = measured.iter().filter(|one| one.case == case).collect();
    let mut names: Vec<&str> = of.iter().map(|one| one.contestant).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let own: Vec<&&Measured> = of.iter().filter(|one| one.contestant == name).collect();
        let median = spread(own.iter().map(|one| one.value).collect()).median;
        let ratios: String = beside
            .iter()
            .map(|other| format!(" {} |", ratio(&of, &own, name, other)))
            .collect();
        let _ = writeln!(page, "| {name} | {median:.0} |{ratios}");
    }
    page.push('\n');
}

fn ratio(of: &[&Measured], own: &[&&Measured], name: &str, other: &str) -> String {
    if name == other {
        return "1".into();
    }
    let ratios: Vec<f64> = own
        .iter()
        .filter_map(|one| {
            let beside = of
                .iter()
                .find(|two| two.contestant == other && two.round == one.round)?;
            (beside.value > 0.0).then(|| one.value / beside.value)
        })
        .collect();
    let spread = if of.iter().all(|one| one.case == writers::CASE) {
        middle_half(ratios)
    } else {
        spread(ratios)
    };
    format!("**{:.2}** ({:.2} to {:.2})", spread.median, spread.low, spread.high)
}

/// Names need no escaping.
fn json(measured: &[Measured]) -> String {
    let line = |one: &Measured| {
        format!(
            "{{\"case\": \"{}\", \"contestant\": \"{}\", \"round\": {}, \"value\": {:.1}, \"foreign_cores\": {:.2}}}",
            one.case, one.contestant, one.round, one.value, one.foreign_cores
        )
    };
    let lines: Vec<String> = measured.iter().map(line).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
