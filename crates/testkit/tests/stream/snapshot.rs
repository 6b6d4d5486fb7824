//! The initial snapshot while somebody changes the tables.

use super::*;

/// Others that wait for the end of this client's transaction, as `pg_locks` shows them.
fn wait_for_waiter(observer: &mut Client, kind: &str) {
    wait_until(DEADLINE, "it to wait for the transaction", || {
        let query = "SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                      WHERE NOT l.granted AND l.locktype = $1 AND a.application_name LIKE 'synod stream%'";
        (observer.query(query, &[&kind]).unwrap().len() == 1).then_some(())
    });
}

/// A table that was rewritten after the snapshot was taken came out of it empty; swapped columns came under each other's names.
#[test]
fn tables_that_are_changed_while_the_snapshot_is_taken_come_whole() {
    const TABLES: &str =
        "CREATE TABLE a (id int PRIMARY KEY, p text, q text); CREATE TABLE b (id int PRIMARY KEY, v int)";
    let server = server();
    let mut source = database(&server, "changed_from", TABLES);
    let mut target = database(&server, "changed_to", TABLES);
    source
        .batch_execute("INSERT INTO a VALUES (1, 'p', 'q'); INSERT INTO b SELECT i, i FROM generate_series(1, 5) i")
        .unwrap();
    let dsn = server.dsn_of("changed_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/changed_to", server.port());
    // Making a slot waits for the transactions of its time, twice over; the last one comes too late for that.
    let mut others: Vec<Client> = (0..3).map(|_| server.client_to("changed_from")).collect();
    others[0].batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
    let following = Following::start(&dsn, &["--create", "--initial-snapshot", "--to", &to]);
    for index in 0..2 {
        wait_for_waiter(&mut source, "transactionid");
        let begin = match index {
            1 => "BEGIN; LOCK TABLE a, b",
            _ => "BEGIN; SELECT pg_current_xact_id()",
        };
        others[index + 1].batch_execute(begin).unwrap();
        let xid: String = others[index + 1]
            .query_one("SELECT pg_current_xact_id()::text", &[])
            .unwrap()
            .get(0);
        others[index].batch_execute("COMMIT").unwrap();
        if index == 0 {
            wait_until(DEADLINE, "it to wait for the next one", || {
                let query = "SELECT FROM pg_locks WHERE NOT granted AND transactionid::text = $1";
                (source.query(query, &[&xid]).unwrap().len() == 1).then_some(())
            });
        }
    }
    wait_for_waiter(&mut source, "relation");
    others[2]
        .batch_execute(
            "ALTER TABLE b ALTER v TYPE bigint; ALTER TABLE a RENAME p TO x; ALTER TABLE a RENAME q TO p;
             ALTER TABLE a RENAME x TO q",
        )
        .unwrap_or_else(|error| panic!("{error:?}"));
    // And what comes later waits for the snapshot.
    target.batch_execute("BEGIN; LOCK TABLE a IN EXCLUSIVE MODE").unwrap();
    others[2].batch_execute("COMMIT").unwrap();
    wait_until(DEADLINE, "the target to be waited for", || {
        let query =
            "SELECT FROM pg_stat_activity WHERE application_name = 'synod stream target' AND wait_event_type = 'Lock'";
        (source.query(query, &[]).unwrap().len() == 1).then_some(())
    });
    let late = source.batch_execute("SET lock_timeout = '10ms'; TRUNCATE b");
    let late = late.expect_err("the table is locked");
    assert_eq!(late.code().map(postgres::error::SqlState::code), Some("55P03"));
    target.batch_execute("COMMIT").unwrap();
    wait_until(DEADLINE, "the rows", || {
        (checksum(&mut target, "SELECT id FROM b").0 == 5).then_some(())
    });
    for query in ["SELECT id, p, q FROM a", "SELECT id, v FROM b"] {
        assert_eq!(checksum(&mut source, query), checksum(&mut target, query), "{query}");
    }
    assert!(following.said().contains("begins anew"), "{}", following.said());
    assert_eq!(following.terminate(), 0);
    streamed(&dsn, &["--drop-slot"]);
}

/// With `quote_all_identifiers` a date was no date: types are known by their names, which came in quotes.
#[test]
fn a_setting_of_the_server_changes_no_value() {
    let server = server();
    let mut client = database(
        &server,
        "quoted",
        "CREATE TABLE t (id oid PRIMARY KEY, b bytea, j jsonb, d date, m money[]);
         INSERT INTO t VALUES (1, '\\xdeadbeef', '{}', '2000-01-02', '{1.5}'); ALTER DATABASE quoted SET quote_all_identifiers = on",
    );
    let dsn = server.dsn_of("quoted");
    for (envelope, row, expected) in [
        ("native", "columns", "\"deadbeef\""),
        ("debezium", "after", "\"d\":10958"),
    ] {
        let told = |text: &str| -> Vec<String> { objects(text).iter().map(|event| event[row].to_string()).collect() };
        let more = ["--until-caught-up", "--envelope", envelope];
        let snapshot = told(&streamed(&dsn, &[&more[..], &["--create", "--initial-snapshot"]].concat()).out);
        client
            .batch_execute("BEGIN; CREATE TEMP TABLE aside AS TABLE t; DELETE FROM t; INSERT INTO t TABLE aside; DROP TABLE aside; COMMIT")
            .unwrap();
        let streamed_rows = told(&streamed(&dsn, &[&more[..], &["--option", "operations=insert"]].concat()).out);
        assert_eq!(snapshot, streamed_rows);
        assert!(snapshot[0].contains(expected), "{snapshot:?}");
        streamed(&dsn, &["--drop-slot"]);
    }
}
