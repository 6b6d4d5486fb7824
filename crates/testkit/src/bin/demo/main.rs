//! `make demo`: three servers, one group, `pgbench` on all of them at once, one killed and brought back; then every sum
//! and every checksum is compared. Ends with a non-zero status when anything is unequal.
//!
//! `KEEP=1` leaves the servers running and says how to connect.

#![forbid(unsafe_code)]

mod audit;
mod keep;
mod load;
mod screen;

use std::process::ExitCode;
use std::time::Instant;

use synod_testkit::{Cluster, Options, PgInstall, pgbench, probe};

use crate::screen::{grouped, seconds};

/// `pgbench`'s scale: a branch has 100 000 accounts.
const SCALE: u32 = 10;

/// Rows of one loading transaction.
const LOAD_ROWS: i64 = 25_000;

/// Large enough for the tables; the rest as PostgreSQL has it, fsync included.
const SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
];

fn main() -> ExitCode {
    let install = PgInstall::from_environment();
    screen::title(&format!(
        "Synod: three PostgreSQL {} servers that all take writes",
        install.major()
    ));

    let started = Instant::now();
    let mut cluster = Cluster::start_with(&Options {
        settings: &SETTINGS,
        ..Options::default()
    });
    let names: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
    screen::step(&format!(
        "{} started on loopback and formed a group in {}",
        names.join(", "),
        seconds(started.elapsed())
    ));
    fill(&cluster);

    let story = load::run(&mut cluster, &names);
    let verdict = audit::audit(&cluster, &names, &story);

    show_status(&cluster);
    if std::env::var("KEEP").is_ok_and(|value| !value.is_empty() && value != "0") {
        keep::keep(cluster, &names);
    }
    if verdict {
        screen::success("Every committed transaction is on every node, once. All sums and checksums are equal.");
        ExitCode::SUCCESS
    } else {
        screen::failure("Something is unequal: see the lines marked above.");
        ExitCode::FAILURE
    }
}

/// The group as the command `synod` shows it; what it says is not part of the verdict.
fn show_status(cluster: &Cluster) {
    let dsn = cluster.server(0).dsn();
    let ran = synod_testkit::command::synod(&["status", "--dsn", &dsn]);
    println!("\n    $ synod status --dsn '{dsn}'\n");
    for line in ran.out.lines().chain(ran.err.lines()) {
        println!("    {line}");
    }
    println!();
}

/// Creates the tables everywhere, replicates them, and fills them through one node.
fn fill(cluster: &Cluster) {
    for node in cluster.nodes() {
        pgbench::create_tables(&node.server);
    }
    for table in pgbench::TABLES {
        cluster.replicate(table);
    }
    cluster.create_table(probe::TABLE, probe::DEFINITION);
    screen::step("pgbench's four tables created on each node and replicated");

    let started = Instant::now();
    let statements = pgbench::fill_statements(SCALE, LOAD_ROWS);
    let mut client = cluster.client(0);
    let mut rows = 0;
    for (number, statement) in statements.iter().enumerate() {
        match client.execute(statement, &[]) {
            Ok(inserted) => rows += inserted,
            Err(error) => panic!("loading: {statement}: {error:?}\n{}", cluster.server(0).log_tail(10)),
        }
        screen::bar("loading through the log", number + 1, statements.len());
    }
    let written = started.elapsed();
    wait_for_all(cluster);
    cluster.on_all("ANALYZE");
    screen::step(&format!(
        "{} rows (scale {SCALE}) written on {} in {}, applied on all nodes after {}",
        grouped(rows),
        cluster.nodes()[0].name,
        seconds(written),
        seconds(started.elapsed())
    ));
}

/// Waits until every node has applied what any has.
fn wait_for_all(cluster: &Cluster) {
    // Small tables only: the large ones are compared once, at the end.
    synod_testkit::assert_converged(cluster, &["pgbench_branches"]);
}
