//! Types whose values another node may be unable to read.

use synod_testkit::{assert_converged, failed};

use crate::CLUSTER;

/// One value of them would stop the others for good: no column gets there, whichever way.
#[test]
fn values_that_other_nodes_cannot_read_are_refused_where_they_would_come_to_be() {
    let cluster = CLUSTER.lease();
    cluster.create_table("readable", "CREATE TABLE readable (id int PRIMARY KEY, v text)");
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE TYPE named AS (a int, name regrole); CREATE TYPE plain AS (a int); CREATE DOMAIN relation_name AS regclass;
             CREATE DOMAIN relation_names AS relation_name[]; ALTER TABLE readable ADD COLUMN p plain, ADD COLUMN o oid, ADD COLUMN os oid[]",
        )
        .unwrap();
    for kind in [
        "regclass",
        "regproc",
        "regprocedure",
        "regoper",
        "regoperator",
        "regtype",
        "regrole",
        "regnamespace",
        "regconfig",
        "regdictionary",
        "regcollation",
        "aclitem",
        "pg_node_tree",
        "regclass[]",
        "relation_name",
        "relation_names",
        "named",
        "named[]",
    ] {
        for sql in [
            format!(
                "CREATE TABLE unreadable (id int PRIMARY KEY, c {kind}); SELECT synod.replicate_table('unreadable')"
            ),
            format!("ALTER TABLE readable ADD COLUMN c {kind}"),
        ] {
            let error = failed(&sql, client.batch_execute(&sql), &["0A000"]);
            assert!(error.message().contains("column \"c\""), "{sql}: {error:?}");
        }
    }
    for sql in [
        "ALTER TABLE readable ALTER COLUMN v TYPE regtype USING NULL",
        "ALTER TYPE plain ADD ATTRIBUTE name regclass",
    ] {
        let error = failed(sql, client.batch_execute(sql), &["0A000"]);
        assert!(error.message().contains("table public.readable"), "{sql}: {error:?}");
    }
    client
        .batch_execute("INSERT INTO readable (id, v, o) VALUES (1, 'pg_temp.x', 'readable'::regclass)")
        .unwrap();
    assert_converged(&cluster, &["readable"]);
}

/// The row type of a table may be the type of another one's column: it does not change behind the back of those that have its values.
#[test]
fn a_row_type_of_a_table_that_is_in_use_is_the_same_on_every_node() {
    let cluster = CLUSTER.lease();
    for (kind, make, changes) in [
        (
            "place",
            "CREATE TABLE place (a int, b text)",
            &[
                "ALTER TABLE place ADD COLUMN c int",
                "ALTER TABLE place DROP COLUMN b",
                "ALTER TABLE place ADD COLUMN d text, ADD COLUMN e int",
            ][..],
        ),
        (
            "outlook",
            "CREATE VIEW outlook AS SELECT 1 AS a",
            &["CREATE OR REPLACE VIEW outlook AS SELECT 1 AS a, 'b' AS b"],
        ),
    ] {
        let lives = format!("lives_{kind}");
        cluster.on_all(&format!("SET synod.ddl = local; {make}"));
        cluster.create_table(
            &lives,
            &format!("CREATE TABLE {lives} (id int PRIMARY KEY, at {kind}, past {kind}[])"),
        );
        let mut client = cluster.client(0);
        for (number, change) in changes.iter().enumerate() {
            let local = client.batch_execute(&format!("SET synod.ddl = local; {change}"));
            failed(change, local, &["0A000"]);
            client.batch_execute("RESET synod.ddl").unwrap();
            let insert =
                format!("INSERT INTO {lives} SELECT {number}, p, ARRAY[p] FROM (SELECT NULL::{kind} AS p) AS s");
            cluster.client(1).batch_execute(&insert).unwrap();
            // A row with the values as they are is on its way.
            let mut writer = cluster.client(0);
            writer
                .batch_execute(&format!("BEGIN; UPDATE {lives} SET id = id WHERE id = {number}"))
                .unwrap();
            let early = client.batch_execute(&format!("SET lock_timeout = '300ms'; {change}"));
            failed(change, early, &["55P03"]);
            writer.batch_execute("COMMIT").unwrap();
            client.batch_execute("RESET lock_timeout").unwrap();
            client.batch_execute(change).unwrap();
            client
                .batch_execute(&format!(
                    "UPDATE {lives} SET at = jsonb_populate_record(NULL::{kind}, '{{\"a\": 1, \"b\": \"x\", \"c\": 2, \"e\": 7}}')"
                ))
                .unwrap();
            assert_converged(&cluster, &[&lives]);
        }
    }
}
