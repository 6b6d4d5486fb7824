//! Who did it.

use postgres::Client;

use super::{Alone, CLUSTER, drop_slot, make_slot, told, words};
use synod_testkit::{refused, sqlstate, wait_until};

const CONTEXT: &str = ", 'include-context', 'on'";

#[test]
fn a_transaction_says_who_makes_it_once_before_its_first_change() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "context_who");
    let mut client = alone.client();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE u (a int); CREATE ROLE teller LOGIN; GRANT ALL ON t TO teller")
        .unwrap();
    make_slot(&mut client, "who");
    client
        .batch_execute("SET synod.stream_context = on; SET application_name = 'till \"3\"'")
        .unwrap();
    client
        .batch_execute("BEGIN; SELECT 1; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); UPDATE t SET a = a + 10; COMMIT")
        .unwrap();
    client
        .batch_execute("SET ROLE teller; DELETE FROM t WHERE a = 11; RESET ROLE; COPY u FROM PROGRAM 'echo 1'; TRUNCATE u; SELECT 1 AS x INTO v")
        .unwrap();
    let all = told(&mut client, "who", CONTEXT);
    assert_eq!(
        words(&all),
        [
            "X null", "I t", "I t", "U t", "U t", "X null", "D t", "I u", "T u", "I v"
        ]
    );
    let me: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let (first, second) = (&all[0]["context"], &all[5]["context"]);
    assert_eq!(first["session_user"], "postgres");
    assert_eq!(
        (&first["application_name"], &first["pid"]),
        (&"till \"3\"".into(), &me.into())
    );
    assert!(first["client_addr"].is_null(), "over a Unix socket");
    assert_eq!(
        (&second["session_user"], &second["current_user"]),
        (&"postgres".into(), &"teller".into())
    );

    // Who does not ask is not told; a transaction that only reads, or writes what goes with the session, gets no number.
    client.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(words(&told(&mut client, "who", "")), ["I t"]);
    let number = "SELECT pg_current_xact_id_if_assigned()::text";
    client.batch_execute("BEGIN; CREATE TEMP TABLE w (a int)").unwrap();
    client
        .batch_execute("COMMIT; BEGIN; SELECT * FROM t; EXPLAIN INSERT INTO t VALUES (4)")
        .unwrap();
    assert_eq!(client.query_one(number, &[]).unwrap().get::<_, Option<String>>(0), None);
    client.batch_execute("COMMIT").unwrap();

    // Over TCP, the address.
    let dsn = cluster.server(0).dsn_of(alone.name);
    let mut remote = Client::connect(&dsn, postgres::NoTls).unwrap();
    remote
        .batch_execute("SET synod.stream_context = on; INSERT INTO t VALUES (5)")
        .unwrap();
    let all = told(&mut client, "who", CONTEXT);
    let of_rows = all.iter().find(|object| object["action"] == "X").expect("a context");
    assert_eq!(of_rows["context"]["client_addr"], "127.0.0.1");
    drop(remote);
    client.batch_execute("DROP OWNED BY teller; DROP ROLE teller").unwrap();
}

#[test]
fn what_the_application_says_holds_as_long_as_its_savepoint() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "context_values");
    let mut client = alone.client();
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    make_slot(&mut client, "says");
    // Nothing is said: nothing is written.
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    client
        .batch_execute(
            "BEGIN; SELECT synod.set_context('{\"request\": 1, \"n\": 1.50}'); INSERT INTO t VALUES (2);
             SAVEPOINT s; SELECT synod.set_context('{\"reason\": \"refund\"}'); INSERT INTO t VALUES (3); INSERT INTO t VALUES (4);
             ROLLBACK TO s; INSERT INTO t VALUES (5); SELECT synod.set_context(NULL); INSERT INTO t VALUES (6); COMMIT",
        )
        .unwrap();
    // A message that goes with its savepoint is written again.
    client
        .batch_execute(
            "BEGIN; SELECT synod.set_context('{\"request\": 2}'); SAVEPOINT s; INSERT INTO t VALUES (7); ROLLBACK TO s;
             INSERT INTO t VALUES (8); SAVEPOINT s2; INSERT INTO t VALUES (9); RELEASE s2; INSERT INTO t VALUES (10); COMMIT",
        )
        .unwrap();
    client.batch_execute("INSERT INTO t VALUES (11)").unwrap();
    client
        .batch_execute(
            "DO $$BEGIN PERFORM synod.set_context('{\"in\": \"block\"}');
               BEGIN INSERT INTO t VALUES (12); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END;
               INSERT INTO t VALUES (13); END$$",
        )
        .unwrap();
    // For the session; set_context adds.
    client
        .batch_execute(
            "SET synod.context = '{\"service\": \"billing\"}'; INSERT INTO t VALUES (14);
             BEGIN; SELECT synod.set_context('{\"request\": 3}'); INSERT INTO t VALUES (15); COMMIT; RESET synod.context",
        )
        .unwrap();
    assert_eq!(
        words(&told(&mut client, "says", CONTEXT)),
        [
            "I t",
            "X {\"n\":1.5,\"request\":1}",
            "I t",
            "I t",
            "X null",
            "I t",
            "X {\"request\":2}",
            "I t",
            "I t",
            "I t",
            "I t",
            "X {\"in\":\"block\"}",
            "I t",
            "X {\"service\":\"billing\"}",
            "I t",
            "X {\"request\":3,\"service\":\"billing\"}",
            "I t",
        ]
    );

    for (sql, code) in [
        ("SELECT synod.set_context('[1]')", "22023"),
        ("SELECT synod.set_context('4711')", "22023"),
        ("SET synod.context = 'me'", "22023"),
        (
            "SELECT synod.set_context(json_build_object('x', repeat('x', 9000))::jsonb)",
            "22023",
        ),
    ] {
        let error = client.batch_execute(sql).expect_err(sql);
        assert_eq!(sqlstate(&error), Some(code), "{sql}: {error:?}");
    }
    refused(
        "an array",
        client.batch_execute("SELECT synod.set_context('[1]')"),
        &["22023"],
    );
}

#[test]
fn what_no_jsonb_can_hold_is_refused_before_it_is_in_the_wal() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "context_json");
    let mut client = alone.client();
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    make_slot(&mut client, "json");
    for (values, code) in [("{\"a\": \"\\u0000\"}", "22P05"), ("{\"a\": 1e-99999}", "22003")] {
        let sql = format!("SET synod.context = '{values}'; INSERT INTO t VALUES (1)");
        synod_testkit::failed(values, client.batch_execute(&sql), &[code]);
    }
    client
        .batch_execute("SET synod.context = '{\"a\": \"\\u0001\"}'; INSERT INTO t VALUES (2)")
        .unwrap();
    assert_eq!(told(&mut client, "json", CONTEXT).len(), 2);
    drop_slot(&mut client, "json");
}

#[test]
fn without_a_slot_nothing_is_written() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "context_unread");
    let mut client = alone.client();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1); SET synod.stream_context = on")
        .unwrap();
    let numbered = |client: &mut Client| -> bool {
        client.batch_execute("BEGIN; UPDATE t SET a = 2 WHERE a = 0").unwrap();
        let number: Option<String> = client
            .query_one("SELECT pg_current_xact_id_if_assigned()::text", &[])
            .unwrap()
            .get(0);
        client.batch_execute("COMMIT").unwrap();
        number.is_some()
    };
    assert!(!numbered(&mut client), "a transaction number for nobody");
    // One of another plugin, one of another database, change nothing; one of ours does.
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('other', 'test_decoding')")
        .unwrap();
    make_slot(&mut cluster.client(0), "elsewhere");
    assert!(!numbered(&mut client), "a transaction number for another plugin's slot");
    make_slot(&mut client, "ours");
    assert!(numbered(&mut client), "a slot of ours is not seen");
    client.batch_execute("BEGIN READ ONLY").unwrap();
    client.batch_execute("COMMIT").unwrap();
    drop_slot(&mut cluster.client(0), "elsewhere");
}

#[test]
fn the_other_nodes_of_a_group_tell_the_context_of_the_node_where_it_was_made() {
    let cluster = CLUSTER.lease();
    cluster.create_table("ledger", "CREATE TABLE ledger (a int PRIMARY KEY, b int)");
    let (mut here, mut there) = (cluster.client(0), cluster.client(1));
    make_slot(&mut there, "there");
    here.batch_execute(
        "SET application_name = 'till 7'; BEGIN; SELECT synod.set_context('{\"request\": 9}'); INSERT INTO ledger VALUES (1, 1); COMMIT;
         INSERT INTO ledger VALUES (2, 2)",
    )
    .unwrap();
    there.batch_execute("TABLE ledger").unwrap();
    let mut all = Vec::new();
    wait_until(super::PATIENCE, "the rows in the stream", || {
        all.extend(told(&mut there, "there", CONTEXT));
        (words(&all).iter().filter(|word| *word == "I ledger").count() == 2).then_some(())
    });
    assert_eq!(words(&all), ["X {\"request\":9}", "I ledger", "I ledger"]);
    assert_eq!(all[0]["context"]["application_name"], "till 7");
    let me: i32 = here.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    assert_eq!(all[0]["context"]["pid"], me);
    drop_slot(&mut there, "there");
    here.batch_execute("DROP TABLE ledger").unwrap();
}
