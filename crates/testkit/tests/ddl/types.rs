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
