//! What the nodes hold in the end: counted and compared on each node by itself.

use postgres::Client;
use synod_testkit::{Cluster, assert_converged, pgbench, probe};

use crate::load::Story;
use crate::screen::{self, grouped, seconds};

/// Sums that TPC-B keeps equal.
const SUMS: [(&str, &str); 4] = [
    ("sum of branches", "SELECT sum(bbalance)::text FROM pgbench_branches"),
    ("sum of tellers", "SELECT sum(tbalance)::text FROM pgbench_tellers"),
    ("sum of accounts", "SELECT sum(abalance)::text FROM pgbench_accounts"),
    ("sum of history", "SELECT sum(delta)::text FROM pgbench_history"),
];

/// Shows what each node holds; whether all of it is as promised.
pub fn audit(cluster: &Cluster, names: &[String], story: &Story) -> bool {
    // The nodes first agree on the position that they compare themselves at.
    assert_converged(cluster, &["pgbench_branches", "pgbench_tellers"]);
    let mut clients: Vec<Client> = (0..cluster.len()).map(|node| local_client(cluster, node)).collect();
    let mut ask = |sql: &str| -> Vec<String> { clients.iter_mut().map(|client| answer(client, sql)).collect() };

    screen::title("What each node holds, by itself");
    screen::header("", names, "");
    let per_node = |value: fn(&pgbench::Report) -> u64| story.reports.iter().map(value).collect::<Vec<u64>>();
    let committed = per_node(|report| report.committed);
    let row = |label: &str, values: &[u64]| {
        screen::row(label, &values.iter().map(grouped).collect::<Vec<_>>());
    };
    row("committed by its clients", &committed);
    row("  of these, retried", &per_node(|report| report.retried));
    row("  retries in all", &per_node(|report| report.retries));
    row("given up", &per_node(|report| report.failed));

    let mut sums = Vec::new();
    for (label, sql) in SUMS {
        let values = ask(sql);
        screen::row(label, &values.iter().map(grouped).collect::<Vec<_>>());
        sums.extend(values);
    }
    let histories = ask("SELECT count(*)::text FROM pgbench_history");
    screen::row("rows of history", &histories.iter().map(grouped).collect::<Vec<_>>());
    let mut same_checksums = true;
    for table in pgbench::TABLES.into_iter().chain([probe::TABLE]) {
        let sums = ask(&checksum(table));
        screen::row(&format!("checksum {}", table.trim_start_matches("pgbench_")), &sums);
        same_checksums &= all_equal(&sums);
    }
    let probed = ask(&format!(
        "SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM {}",
        probe::TABLE
    ));
    println!();

    let mut verdict = true;
    let mut check = |holds: bool, text: &str| {
        screen::check(holds, text);
        verdict &= holds;
    };
    check(
        all_equal(&sums),
        "branches, tellers, accounts and history add up to the same, on every node",
    );
    check(same_checksums, "the checksum of every table is the same on every node");
    check_history(&mut check, &histories, committed.iter().sum(), story, names);
    check(
        probe_is_right(story, &probed),
        &format!(
            "each of the probe's {} acknowledged rows is there once",
            grouped(story.diary.acknowledged.len())
        ),
    );
    check(
        story.catch_up.is_some(),
        &match story.catch_up {
            Some(after) => format!("{} caught up {} after its start", names[story.victim], seconds(after)),
            None => format!("{} did not catch up while the load lasted", names[story.victim]),
        },
    );
    report_pause(story, names);
    verdict
}

/// Acknowledged transactions, and those whose clients died with the server before an answer: each is there or not.
fn check_history(
    check: &mut impl FnMut(bool, &str),
    histories: &[String],
    committed: u64,
    story: &Story,
    names: &[String],
) {
    let rows = histories.first().and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
    let holds = all_equal(histories) && (committed..=committed + story.in_flight).contains(&rows);
    let unanswered = rows.saturating_sub(committed);
    check(
        holds,
        &format!(
            "{} acknowledged transactions, {} rows of history on every node{}",
            grouped(committed),
            grouped(rows),
            match unanswered {
                0 => String::new(),
                _ => format!(
                    "; {unanswered} of the {} under way on {} when it died had committed",
                    story.in_flight, names[story.victim]
                ),
            }
        ),
    );
    for (name, report) in names.iter().zip(&story.reports) {
        let told = report.complaints.iter().take(3);
        for complaint in told.filter(|_| *name != names[story.victim]) {
            screen::check(false, &format!("pgbench on {name}: {complaint}"));
        }
    }
}

fn report_pause(story: &Story, names: &[String]) {
    println!();
    println!(
        "  Writes on {} paused {} when {} was killed (longest pause before: {}).",
        names[story.witness],
        screen::bold(&seconds(story.pause)),
        names[story.victim],
        seconds(story.usual_pause)
    );
    let mut codes: Vec<&str> = story.diary.errors.iter().map(|(_, code)| code.as_str()).collect();
    codes.sort_unstable();
    let total = codes.len();
    codes.dedup();
    if total > 0 {
        println!(
            "  {total} of the probe's writes ended in an error: {}.",
            codes.join(", ")
        );
    }
}

/// Every acknowledged number is there; one that is there without was answered with an error that leaves it open.
fn probe_is_right(story: &Story, probed: &[String]) -> bool {
    let Some(first) = probed.first() else { return false };
    let present: Vec<i64> = first.split(',').filter_map(|number| number.parse().ok()).collect();
    let open = |number: &i64| {
        let error = story.diary.errors.iter().find(|(failed, _)| failed == number);
        error.is_some_and(|(_, code)| code == "08007" || code == "connection lost")
    };
    all_equal(probed)
        && story
            .diary
            .acknowledged
            .iter()
            .all(|number| present.binary_search(number).is_ok())
        && present
            .iter()
            .all(|number| story.diary.acknowledged.binary_search(number).is_ok() || open(number))
}

/// A client that reads what the node has, without the barrier that would make it wait for the others.
fn local_client(cluster: &Cluster, node: usize) -> Client {
    let mut client = cluster.client(node);
    if let Err(error) = client.batch_execute("SET synod.read_consistency = 'local'; SET work_mem = '64MB'") {
        panic!("reading locally: {error:?}");
    }
    client
}

fn answer(client: &mut Client, sql: &str) -> String {
    match client.query_one(sql, &[]) {
        Ok(row) => row.get::<_, Option<String>>(0).unwrap_or_else(|| "-".to_owned()),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// Independent of the order of rows, and needs no sort.
fn checksum(table: &str) -> String {
    format!("SELECT left(md5(count(*) || ':' || sum(hashtextextended(t::text, 0)::numeric)), 12) FROM {table} t")
}

fn all_equal(values: &[String]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}
