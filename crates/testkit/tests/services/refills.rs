//! Ranges that are used up all the time: nobody pays for it with a statement that fails.

use std::time::Duration;

use postgres::{Client, Error};
use synod_testkit::{Cluster, assert_converged, failed, sqlstate, wait_until};

use crate::CLUSTER;

const PATIENCE: Duration = Duration::from_secs(30);

/// Sessions of each node.
const SESSIONS: usize = 5;

/// The failures of many sessions on all nodes that insert one row after the other, by what they say.
fn failures(cluster: &Cluster, insert: &str, setup: &str) -> Vec<String> {
    let each: usize = std::env::var("SYNOD_TEST_ROUNDS").map_or(40, |rounds| rounds.parse().unwrap());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3 * SESSIONS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = cluster.client(number % 3);
                    client.batch_execute(setup).unwrap();
                    let failed = (0..each).filter_map(|_| client.execute(insert, &[]).err());
                    failed.map(|error| format!("node {}: {error:?}", number % 3)).collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| -> Vec<String> { thread.join().unwrap() })
            .collect()
    })
}

/// Values were given out behind the end of a range, because other sessions drew between the look and the draw.
#[test]
fn inserts_never_fail_for_a_range_that_is_used_up() {
    let cluster = CLUSTER.lease();
    // A range has at most a 64th of the values.
    for (name, values) in [
        ("few_values", 64 * 2),
        ("many_values", 64 * 60),
        ("all_values", i64::MAX),
    ] {
        cluster.create_table(
            name,
            &format!(
                "CREATE TABLE {name} (v int, own bigserial PRIMARY KEY,
                                      id bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE {values} CYCLE))"
            ),
        );
        let insert = format!("INSERT INTO {name} (v) VALUES (1)");
        let failed = failures(&cluster, &insert, "SET synod.sequence_range = 1");
        assert!(failed.is_empty(), "{name}: {failed:#?}");
        assert_converged(&cluster, &[name]);
    }
}

/// Each row takes a page, so that everybody waits for the table to be extended, the apply worker behind those who do it. They had to
/// give way to it.
#[test]
fn inserts_never_fail_for_a_table_that_grows() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "growing",
        "CREATE TABLE growing (id bigserial, v text); ALTER TABLE growing ALTER v SET STORAGE PLAIN",
    );
    let insert = "INSERT INTO growing (v) VALUES (repeat('x', 7000))";
    let failed = failures(&cluster, insert, "SET synod.sequence_range = 1000");
    assert!(failed.is_empty(), "{failed:#?}");
    assert_converged(&cluster, &["growing"]);
}

/// What a function draws nobody expects. Who inserts such a value fails if it is another node's, though another session may have moved
/// the sequence on since; it was given out twice then.
#[test]
fn values_behind_the_end_of_a_range_are_noticed_after_the_sequence_has_moved_on() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "passed",
        "CREATE TABLE passed (id bigserial, v int);
         CREATE FUNCTION draw_many() RETURNS bigint LANGUAGE plpgsql AS
         'DECLARE drawn bigint; BEGIN FOR n IN 1..40 LOOP drawn := nextval(''passed_id_seq''); END LOOP; RETURN drawn; END'",
    );
    let (mut first, mut second, mut other) = (small(&cluster, 0), small(&cluster, 0), small(&cluster, 1));
    let insert = "INSERT INTO passed (v) VALUES (1)";
    first.batch_execute(insert).unwrap();
    // The next values are another node's.
    other
        .batch_execute(&format!(
            "{insert}; INSERT INTO passed (v) SELECT generate_series(1, 200)"
        ))
        .unwrap();
    // Its own draw is in the range; that of the function is not, and neither is what it inserts.
    first
        .batch_execute(&format!("BEGIN; {insert}; INSERT INTO passed VALUES (draw_many(), 2)"))
        .unwrap();
    second.batch_execute(insert).unwrap();
    second.batch_execute(insert).unwrap();
    let error = first.batch_execute("COMMIT").expect_err("the value is another node's");
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    let message = error.as_db_error().map(|error| error.message().to_owned());
    assert_eq!(
        message.as_deref(),
        Some("other nodes have used the same values of sequence public.passed_id_seq")
    );
    first.batch_execute(insert).unwrap();
    none_twice(&cluster, "passed");
}

/// What a transaction has drawn behind the end it remembers, though its own next statement moves the sequence on.
#[test]
fn values_behind_the_end_of_a_range_are_noticed_after_the_transaction_itself_has_moved_on() {
    let cluster = CLUSTER.lease();
    cluster.create_table("moved_on", "CREATE TABLE moved_on (id bigserial, v int)");
    let (mut first, mut other) = (small(&cluster, 0), small(&cluster, 1));
    let insert = "INSERT INTO moved_on (v) VALUES (1)";
    first.batch_execute(insert).unwrap();
    // The next values are another node's.
    let sql = format!("{insert}; INSERT INTO moved_on (v) SELECT generate_series(1, 200)");
    other.batch_execute(&sql).unwrap();
    first.batch_execute("BEGIN").unwrap();
    let drawn = draw(&mut first, "moved_on_id_seq");
    let sql = format!("INSERT INTO moved_on VALUES ({drawn}, 2); COMMIT");
    failed(&sql, first.batch_execute(&sql), &["40001"]);
    first.batch_execute(&format!("ROLLBACK; {insert}")).unwrap();
    none_twice(&cluster, "moved_on");
}

/// At the end of all values, too, where the node has no range any more.
#[test]
fn values_behind_the_end_of_a_range_are_noticed_after_the_last_value_was_granted() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "used_up",
        "CREATE TABLE used_up (id bigint GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 640), v int)",
    );
    let (mut first, mut second, mut other) = (small(&cluster, 0), small(&cluster, 0), small(&cluster, 1));
    let insert = "INSERT INTO used_up (v) VALUES (1)";
    first.batch_execute(insert).unwrap();
    let sql = format!("{insert}; INSERT INTO used_up (v) SELECT generate_series(1, 600)");
    other.batch_execute(&sql).unwrap();
    wait_until(PATIENCE, "the last value to be granted", || {
        other.batch_execute(insert).err()
    });
    first.batch_execute("BEGIN").unwrap();
    let drawn = draw(&mut first, "used_up_id_seq");
    failed(insert, second.batch_execute(insert), &["2200H"]);
    let sql = format!("INSERT INTO used_up VALUES ({drawn}, 2); COMMIT");
    failed(&sql, first.batch_execute(&sql), &["40001"]);
    first
        .batch_execute("ROLLBACK; INSERT INTO used_up VALUES (1000, 1)")
        .expect("a value of its own needs none of the sequence");
    failed(insert, first.batch_execute(insert), &["2200H"]);
    none_twice(&cluster, "used_up");
}

/// What a client was only told, or gave to another table, was given to two nodes: nobody looked at it, as nothing of it was the log's.
#[test]
fn values_that_are_in_no_row_are_given_to_one_node_too() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE aside_told (id bigint)");
    for (table, sql) in [
        ("told", "SELECT draw_many('told', 40)"),
        (
            "told_aside",
            "INSERT INTO aside_told VALUES (draw_many('told_aside', 40))",
        ),
        (
            "told_beside",
            "INSERT INTO told_beside VALUES (-1); SELECT draw_many('told_beside', 40)",
        ),
    ] {
        let (mut first, mut other) = (drawing(&cluster, table, "1"), small(&cluster, 1));
        let insert = format!("INSERT INTO {table} (v) VALUES (1)");
        first.batch_execute(&insert).unwrap();
        // The next values are another node's.
        other
            .batch_execute(&format!(
                "{insert}; INSERT INTO {table} (v) SELECT generate_series(1, 200)"
            ))
            .unwrap();
        failed(sql, first.batch_execute(sql), &["40001"]);
        // As many as there are values for.
        first.batch_execute("SET synod.sequence_range = 1000").unwrap();
        wait_until(PATIENCE, sql, || {
            first.batch_execute(&insert).unwrap();
            first.batch_execute(sql).ok()
        });
        none_twice(&cluster, table);
    }
}

/// Which sequence a function calls `nextval` of is not known before it does. Who drew from one that is not the group's failed for what had
/// become of the group's, or waited at COMMIT for whoever had one of these locked.
#[test]
fn who_draws_from_an_ordinary_sequence_has_nothing_to_do_with_the_groups() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE SEQUENCE IF NOT EXISTS ordinary");
    let (mut first, mut other) = (drawing(&cluster, "bystander", "1"), small(&cluster, 1));
    let mut plain = cluster.client(0);
    let insert = "INSERT INTO bystander (v) VALUES (1)";
    let draw = "DO 'DECLARE drawn bigint; BEGIN drawn := nextval(''ordinary''); END'";
    first.batch_execute(insert).unwrap();
    // The next values are another node's.
    let many = "INSERT INTO bystander (v) SELECT generate_series(1, 200)";
    other.batch_execute(&format!("{insert}; {many}")).unwrap();
    first
        .batch_execute("BEGIN; SELECT draw_many('bystander', 40); ROLLBACK")
        .unwrap();
    plain.batch_execute(draw).unwrap();

    plain
        .batch_execute(&format!("SET lock_timeout = '1s'; BEGIN; {draw}"))
        .unwrap();
    first
        .batch_execute("BEGIN; TRUNCATE bystander RESTART IDENTITY")
        .unwrap();
    plain.batch_execute("COMMIT").unwrap();
    first.batch_execute("ROLLBACK").unwrap();
    none_twice(&cluster, "bystander");
}

/// Whoever sets a sequence, as a restore does, skips values that other nodes have been granted. They were taken for given out here: the next
/// one who asked for a value failed.
#[test]
fn values_that_were_skipped_by_setval_are_nobodys() {
    let cluster = CLUSTER.lease();
    let (mut first, mut other) = (drawing(&cluster, "skipped", "1"), small(&cluster, 1));
    let insert = "INSERT INTO skipped (v) VALUES (1)";
    first.batch_execute(insert).unwrap();
    other.batch_execute(insert).unwrap();
    first.batch_execute("SELECT setval('skipped_id_seq', 100000)").unwrap();
    first.batch_execute("SELECT nextval('skipped_id_seq')").unwrap();
    first.batch_execute("SELECT setval('skipped_id_seq', 200000)").unwrap();
    first.batch_execute("SELECT draw_many('skipped', 1)").unwrap();
    first.batch_execute(insert).unwrap();
    other.batch_execute(insert).unwrap();
    none_twice(&cluster, "skipped");
}

/// What a session has in store (CACHE) it gives to later transactions, which did not see that it became another node's.
#[test]
fn values_in_store_are_given_to_one_node_too() {
    let cluster = CLUSTER.lease();
    let (mut first, mut second, mut other) = (
        drawing(&cluster, "stored", "30"),
        small(&cluster, 0),
        small(&cluster, 1),
    );
    let insert = "INSERT INTO stored (v) VALUES (1)";
    first.batch_execute("BEGIN; SELECT draw_many('stored', 1)").unwrap();
    // The next values are another node's.
    other
        .batch_execute(&format!(
            "{insert}; INSERT INTO stored (v) SELECT generate_series(1, 400)"
        ))
        .unwrap();
    // Some of what it takes from behind the end stays with the session.
    first
        .batch_execute("SELECT draw_many('stored', 100); ROLLBACK")
        .unwrap();
    second.batch_execute(insert).unwrap();
    let refused: Vec<Error> = (0..40).filter_map(|_| first.batch_execute(insert).err()).collect();
    assert_eq!(
        refused.len(),
        1,
        "it gives up at once what it has in store: {refused:?}"
    );
    assert_eq!(sqlstate(&refused[0]), Some("40001"), "{refused:?}");
    none_twice(&cluster, "stored");
}

/// A table, and a session on node 0 with a function that draws so many of its values, the last of which it returns.
fn drawing(cluster: &Cluster, table: &str, cache: &str) -> Client {
    cluster.create_table(
        table,
        &format!(
            "CREATE TABLE {table} (id bigserial, v int); ALTER SEQUENCE {table}_id_seq CACHE {cache};
             CREATE OR REPLACE FUNCTION draw_many(text, count int) RETURNS bigint LANGUAGE plpgsql AS
             'DECLARE drawn bigint; BEGIN FOR n IN 1..count LOOP drawn := nextval($1 || ''_id_seq''); END LOOP; RETURN drawn; END'"
        ),
    );
    small(cluster, 0)
}

/// A session that asks for few values at once.
fn small(cluster: &Cluster, node: usize) -> Client {
    let mut client = cluster.client(node);
    client.batch_execute("SET synod.sequence_range = 10").unwrap();
    client
}

/// The last of 40 values, which nobody expects of a statement.
fn draw(client: &mut Client, sequence: &str) -> i64 {
    let sql =
        format!("DO 'DECLARE drawn bigint; BEGIN FOR n IN 1..40 LOOP drawn := nextval(''{sequence}''); END LOOP; END'");
    client.batch_execute(&sql).unwrap();
    client.query_one("SELECT lastval()", &[]).unwrap().get(0)
}

#[track_caller]
fn none_twice(cluster: &Cluster, table: &str) {
    assert_converged(cluster, &[table]);
    let sql = format!("SELECT count(*), count(DISTINCT id) FROM {table}");
    let row = cluster.client(2).query_one(&sql, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1), "some were given out twice");
}
