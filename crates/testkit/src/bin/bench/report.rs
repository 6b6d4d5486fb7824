//! `docs/benchmarks.md` and the figures behind it.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::breakdown::Breakdown;
use crate::incident::Incidents;
use crate::slice::{Case, Column, Measured, Workload};
use synod_testkit::machine;
use synod_testkit::spread::spread;

/// Writes both files; the path of the readable one.
pub fn write(
    options: &Options,
    measured: &[Measured],
    breakdowns: &[Breakdown],
    incidents: &Incidents,
) -> io::Result<PathBuf> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let raw = format!("raw-{seconds}.json");
    std::fs::create_dir_all(options.out.join("benchmarks"))?;
    std::fs::write(options.out.join("benchmarks").join(&raw), json(measured, incidents))?;
    let path = options.out.join("benchmarks.md");
    std::fs::write(&path, markdown(options, measured, breakdowns, incidents, &raw))?;
    Ok(path)
}

fn markdown(
    options: &Options,
    measured: &[Measured],
    breakdowns: &[Breakdown],
    incidents: &Incidents,
    raw: &str,
) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    let _ = writeln!(
        page,
        "Made by `make bench`; do not edit. {} rounds of {} s slices, every case once in each round in random order, \
         `pgbench -M prepared`, scale {}. Figures are medians over the rounds, ratios are taken within each round first. \
         All servers and clients share the machine below, so three servers divide what one plain server has for itself. \
         The figures of every slice: [{raw}](benchmarks/{raw}).\n",
        options.rounds, options.slice_s, options.scale
    );
    let foreign = spread(measured.iter().map(|slice| slice.foreign_cores).collect());
    let sync = spread(measured.iter().map(|slice| slice.fdatasync_us).collect());
    let _ = writeln!(page, "| machine | |\n|---|---|");
    for (label, value) in machine::description() {
        let _ = writeln!(page, "| {label} | {value} |");
    }
    let _ = writeln!(
        page,
        "| 8 kB write and fdatasync | {:.0} µs ({:.0} to {:.0}) |\n\
         | cores used by others meanwhile | {:.2} ({:.2} to {:.2}) |\n",
        sync.median, sync.low, sync.high, foreign.median, foreign.low, foreign.high
    );
    page.push_str(
        "- **plain**: one server, no replication.\n\
         - **quorum**: PostgreSQL's own streaming replication, `synchronous_standby_names = 'ANY 1 (s1, s2)'`; all \
         clients on the primary, the only node that takes writes.\n\
         - **synod, 1 node**: three nodes, all clients on one of them (another in each round).\n\
         - **synod, 3 nodes**: the same three, the clients spread over them.\n\n",
    );
    for workload in Workload::ALL {
        cases(&mut page, workload, measured);
    }
    for breakdown in breakdowns {
        costs(&mut page, breakdown);
    }
    deaths(&mut page, incidents);
    page
}

fn costs(page: &mut String, breakdown: &Breakdown) {
    let _ = writeln!(
        page,
        "## What one {} costs, {} client{} on the leader, {} reads\n\n{:.0} transactions a second. For one of them:\n\n\
         | | CPU µs | wake-ups |\n|---|--:|--:|",
        breakdown.scene.workload.name(),
        breakdown.scene.clients,
        if breakdown.scene.clients == 1 { "" } else { "s" },
        breakdown.scene.reads,
        breakdown.tps
    );
    for (kind, spent) in &breakdown.rows {
        let _ = writeln!(page, "| {kind} | {:.0} | {:.2} |", spent.cpu_us, spent.wake_ups);
    }
    let total: f64 = breakdown.rows.iter().map(|(_, spent)| spent.cpu_us).sum();
    let wake_ups: f64 = breakdown.rows.iter().map(|(_, spent)| spent.wake_ups).sum();
    let _ = writeln!(page, "| **together** | **{total:.0}** | **{wake_ups:.2}** |\n");
}

fn cases(page: &mut String, workload: Workload, measured: &[Measured]) {
    let columns: Vec<Column> = Column::ALL
        .into_iter()
        .filter(|column| measured.iter().any(|slice| slice.case.column == *column))
        .collect();
    let _ = writeln!(
        page,
        "## {}\n\n| clients | | tps | p50 ms | p99 ms | CPU ms | retries | to plain | to quorum |\n\
         |--:|---|--:|--:|--:|--:|--:|--:|--:|",
        workload.name()
    );
    for clients in Case::CLIENTS {
        for column in &columns {
            let case = Case {
                column: *column,
                workload,
                clients,
            };
            let slices = good(measured, &case);
            let bad = measured.iter().filter(|slice| slice.case == case).count() - slices.len();
            let median = |value: fn(&Measured) -> f64| spread(slices.iter().map(|slice| value(slice)).collect()).median;
            let _ = writeln!(
                page,
                "| {clients} | {}{} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} |",
                column.name(),
                if bad > 0 {
                    format!(" ({bad} slices failed)")
                } else {
                    String::new()
                },
                median(|slice| slice.tps),
                median(|slice| slice.p50_ms),
                median(|slice| slice.p99_ms),
                median(|slice| slice.cpu_ms_per_transaction),
                median(|slice| slice.retries_per_transaction),
                ratio(measured, &case, Column::Plain),
                ratio(measured, &case, Column::Quorum),
            );
        }
    }
    page.push_str(
        "\nCPU ms: processor time of all servers and clients for one committed transaction. Retries: repetitions after \
         40001 for one committed transaction. Ratios: median (lowest to highest round).\n\n",
    );
}

fn deaths(page: &mut String, incidents: &Incidents) {
    if !incidents.pauses.is_empty() {
        let pauses = spread(incidents.pauses.iter().map(|pause| pause.as_secs_f64()).collect());
        let _ = writeln!(
            page,
            "## When the leader is killed\n\nSIGKILL to every process of the leader; a client on another node writes row \
             after row. The longest time between two acknowledged writes: median {:.2} s, {:.2} to {:.2} s in {} kills.\n",
            pauses.median,
            pauses.low,
            pauses.high,
            incidents.pauses.len()
        );
    }
    if !incidents.stops.is_empty() {
        let stops = spread(incidents.stops.iter().map(|pause| pause.as_secs_f64()).collect());
        let _ = writeln!(
            page,
            "The same when its server is stopped (`pg_ctl stop -m fast`): median {:.2} s, {:.2} to {:.2} s in {} stops.\n",
            stops.median,
            stops.low,
            stops.high,
            incidents.stops.len()
        );
    }
    if !incidents.catch_ups.is_empty() {
        page.push_str(
            "## When a node comes back\n\nSIGKILL, eight seconds of single-row INSERT elsewhere, start. From the start \
             of its server, crash recovery included, until it has applied all that it missed.\n\n\
             | | returns | transactions missed | seconds | transactions a second |\n|---|--:|--:|--:|--:|\n",
        );
        let mut names: Vec<&str> = incidents.catch_ups.iter().map(|catch_up| catch_up.name).collect();
        names.dedup();
        for name in names {
            let of: Vec<_> = incidents
                .catch_ups
                .iter()
                .filter(|catch_up| catch_up.name == name)
                .collect();
            let median = |values: Vec<f64>| spread(values).median;
            let _ = writeln!(
                page,
                "| {name} | {} | {:.0} | {:.2} | {:.0} |",
                of.len(),
                median(of.iter().map(|catch_up| catch_up.missed as f64).collect()),
                median(of.iter().map(|catch_up| catch_up.took.as_secs_f64()).collect()),
                median(of.iter().map(|catch_up| catch_up.rate()).collect()),
            );
        }
        page.push('\n');
    }
}

/// Slices of a case that ran to their end.
fn good<'a>(measured: &'a [Measured], case: &Case) -> Vec<&'a Measured> {
    measured
        .iter()
        .filter(|slice| slice.case == *case && slice.complaint.is_none())
        .collect()
}

/// The case's throughput beside that of `column`, round by round.
fn ratio(measured: &[Measured], case: &Case, column: Column) -> String {
    if case.column == column {
        return "1".into();
    }
    let others = good(measured, &Case { column, ..*case });
    let ratios: Vec<f64> = good(measured, case)
        .iter()
        .filter_map(|slice| {
            let other = others.iter().find(|other| other.round == slice.round)?;
            (other.tps > 0.0).then(|| slice.tps / other.tps)
        })
        .collect();
    if ratios.is_empty() {
        return "-".into();
    }
    let spread = spread(ratios);
    format!("**{:.2}** ({:.2} to {:.2})", spread.median, spread.low, spread.high)
}

/// Numbers, and names that need no escaping but for complaints.
fn json(measured: &[Measured], incidents: &Incidents) -> String {
    let mut text = String::from("{\n\"machine\": {");
    let machine: Vec<String> = machine::description()
        .iter()
        .map(|(label, value)| format!("{}: {}", quoted(label), quoted(value)))
        .collect();
    let _ = writeln!(text, "{}}},\n\"slices\": [", machine.join(", "));
    let slices: Vec<String> = measured
        .iter()
        .map(|slice| {
            format!(
                "{{\"round\": {}, \"contestant\": {}, \"workload\": {}, \"clients\": {}, \"tps\": {:.1}, \"p50_ms\": {:.3}, \
                 \"p99_ms\": {:.3}, \"retries_per_transaction\": {:.4}, \"cpu_ms_per_transaction\": {:.4}, \
                 \"foreign_cores\": {:.2}, \"fdatasync_us\": {:.0}, \"complaint\": {}}}",
                slice.round,
                quoted(slice.case.column.name()),
                quoted(slice.case.workload.name()),
                slice.case.clients,
                slice.tps,
                slice.p50_ms,
                slice.p99_ms,
                slice.retries_per_transaction,
                slice.cpu_ms_per_transaction,
                slice.foreign_cores,
                slice.fdatasync_us,
                slice.complaint.as_deref().map_or_else(|| "null".into(), quoted),
            )
        })
        .collect();
    let seconds = |pauses: &[Duration]| {
        let pauses: Vec<String> = pauses
            .iter()
            .map(|pause| format!("{:.3}", pause.as_secs_f64()))
            .collect();
        pauses.join(", ")
    };
    let returns: Vec<String> = incidents
        .catch_ups
        .iter()
        .map(|catch_up| {
            format!(
                "{{\"name\": {}, \"missed\": {}, \"seconds\": {:.3}}}",
                quoted(catch_up.name),
                catch_up.missed,
                catch_up.took.as_secs_f64()
            )
        })
        .collect();
    let _ = writeln!(
        text,
        "{}\n],\n\"leader_killed_pause_s\": [{}],\n\"leader_stopped_pause_s\": [{}],\n\"catch_ups\": [{}]\n}}",
        slices.join(",\n"),
        seconds(&incidents.pauses),
        seconds(&incidents.stops),
        returns.join(", ")
    );
    text
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
