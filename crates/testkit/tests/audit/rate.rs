//! How fast auditing is, beside what decoding alone takes:
//! `cargo test --test audit -- --ignored --nocapture rows_a_second`, with the release build installed.

use std::time::{Duration, Instant};

use synod_testkit::{Server, wait_until};

const ROWS: i64 = 100_000;

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
        let began = Instant::now();
        client
            .batch_execute("SELECT count(*) FROM pg_logical_slot_get_changes('beside', NULL, NULL, 'format', 'json', 'include-ids', 'on', 'include-pk', 'on')")
            .unwrap();
        let decoded = began.elapsed();
        super::drop_slot(&mut client, "beside");
        let began = Instant::now();
        worker.iter().for_each(|pid| server.resume_process(*pid));
        wait_until(Duration::from_secs(300), "the audit", || {
            let row = client.query_one("SELECT count(*) FROM synod.audit", &[]).ok()?;
            (row.get::<_, i64>(0) >= before + ROWS).then_some(())
        });
        let rate = |took: Duration| ROWS as f64 / took.as_secs_f64();
        let (decoded, audited) = (rate(decoded), rate(began.elapsed()));
        println!(
            "{what}: decoded {decoded:.0} rows/s, audited {audited:.0} rows/s: {:.3}",
            audited / decoded
        );
    }
}
