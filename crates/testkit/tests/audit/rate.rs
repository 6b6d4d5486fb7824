//! How fast auditing is, beside what decoding alone takes:
//! `cargo test --test audit -- --ignored --nocapture rows_a_second`, with the release build installed.

use std::time::Duration;

use synod_testkit::{Server, wait_until};

const ROWS: i64 = 100_000;

/// Clock ticks of a process in user and system mode: whatever else runs on the machine.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

/// Rows a second of processor time; a tick is a hundredth of it.
fn rate(ticks: u64) -> f64 {
    ROWS as f64 * 100.0 / ticks as f64
}

#[test]
#[ignore = "prints rates, asserts nothing"]
fn rows_a_second() {
    let settings = [
        ("wal_level", "logical"),
        ("fsync", "off"),
        ("synchronous_commit", "off"),
        ("max_wal_size", "8GB"),
    ];
    let mut server = Server::new("rate", &settings);
    server.start();
    let mut client = server.client();
    client.batch_execute("SET statement_timeout = 0").unwrap();
    client
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE t (id int PRIMARY KEY, a text, b numeric, c timestamptz)")
        .unwrap();
    client
        .batch_execute("CREATE PROCEDURE small(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP UPDATE t SET b = b + 1 WHERE id = i; COMMIT; END LOOP; END $$")
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    let insert = format!("INSERT INTO t SELECT g, 'some text of a row', g, now() FROM generate_series(1, {ROWS}) AS g");
    let small = format!("CALL small({ROWS})");
    for (what, sql) in [("one transaction", &insert), ("small transactions", &small)] {
        super::make_slot(&mut client, "beside");
        let worker = server.processes_titled("synod audit worker");
        worker.iter().for_each(|pid| server.pause_process(*pid));
        let before: i64 = client
            .query_one("SELECT count(*) FROM synod.audit", &[])
            .unwrap()
            .get(0);
        client.batch_execute(sql).unwrap();
        let mut backend = server.client();
        let decoder: i32 = backend.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        backend
            .batch_execute("SELECT count(*) FROM pg_logical_slot_get_changes('beside', NULL, NULL, 'format', 'json', 'include-ids', 'on', 'include-pk', 'on')")
            .unwrap();
        let decoded = rate(ticks(decoder));
        super::drop_slot(&mut client, "beside");
        let worker = worker[0];
        let began = ticks(worker);
        server.resume_process(worker);
        wait_until(Duration::from_secs(300), "the audit", || {
            let row = client.query_one("SELECT count(*) FROM synod.audit", &[]).ok()?;
            (row.get::<_, i64>(0) >= before + ROWS).then_some(())
        });
        let audited = rate(ticks(worker) - began);
        println!(
            "{what}: decoded {decoded:.0} rows/s, audited {audited:.0} rows/s: {:.3}",
            audited / decoded
        );
    }
}
