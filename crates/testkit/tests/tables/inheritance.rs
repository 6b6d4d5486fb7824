//! Hierarchies by inheritance: replicated as a whole, kept whole by statements on any node.

use synod_testkit::{Cluster, assert_converged, failed, refused, wait_until};

use crate::{CLUSTER, race, sqlstate};
use std::time::Duration;

const MAKE: &str = "CREATE TABLE vehicle (id serial PRIMARY KEY, name text);
                    CREATE TABLE owned (owner text);
                    CREATE TABLE car (doors int, PRIMARY KEY (id)) INHERITS (vehicle);
                    CREATE TABLE van (load int) INHERITS (car, owned)";

/// What a hierarchy is, on every node.
const SHAPE: &str = "SELECT coalesce(string_agg(concat_ws(' ', attrelid::regclass, attname, attislocal, attinhcount,
        (SELECT string_agg(inhparent::regclass::text, '+' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = attrelid)), ','
        ORDER BY attrelid::regclass::text, attnum), '')
    FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid::regclass::text = ANY (string_to_array($1, ','))";

fn assert_alike(cluster: &Cluster, tables: &[&str]) {
    assert_converged(cluster, tables);
    let shape = |node: usize| -> String {
        let mut client = cluster.client(node);
        client.query_one(SHAPE, &[&tables.join(",")]).unwrap().get(0)
    };
    for node in 1..cluster.len() {
        assert_eq!(shape(node), shape(0), "node {node}");
    }
}

/// Runs it on a node that has seen what came before; who meets a change of definitions is told to try again.
fn on(cluster: &Cluster, node: usize, sql: &str) {
    wait_until(Duration::from_secs(30), sql, || {
        let mut client = cluster.client(node);
        client.batch_execute("SELECT FROM vehicle").ok();
        match client.batch_execute(sql) {
            Ok(()) => Some(()),
            Err(error) if sqlstate(&error) == Some("40001") => None,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    });
}

fn strong(cluster: &Cluster, node: usize) -> String {
    let sql = "SELECT coalesce(string_agg(table_name::text, ',' ORDER BY table_name::text), '') FROM synod.tables
               WHERE table_name::text ~ '^(vehicle|car|van|owned|boat|raft|bus|public.vehicle)'";
    cluster.client(node).query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn a_hierarchy_is_one_of_the_group_as_a_whole() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client.batch_execute(MAKE).unwrap();
    for table in ["car", "van"] {
        let sql = format!("SELECT synod.replicate_table('{table}')");
        refused(&sql, client.batch_execute(&sql), &["0A000"]);
    }
    client
        .batch_execute(
            "INSERT INTO van (name, doors, load, owner) SELECT 'van ' || i, 2, i, 'me' FROM generate_series(1, 5) i",
        )
        .unwrap();
    cluster.replicate("vehicle");
    assert_eq!(strong(&cluster, 1), "car,owned,van,vehicle");
    on(
        &cluster,
        1,
        "INSERT INTO vehicle (name) VALUES ('sledge'); UPDATE vehicle SET name = name || '!'; UPDATE owned SET owner = 'you'",
    );
    on(
        &cluster,
        2,
        "INSERT INTO car (name, doors) SELECT 'car', 4 FROM generate_series(1, 30)",
    );
    on(
        &cluster,
        0,
        "INSERT INTO van (name) SELECT 'van' FROM generate_series(1, 30)",
    );
    assert_alike(&cluster, &["vehicle", "car", "van", "owned"]);
    // ONLY is what it says on every node, and without it all below goes.
    on(
        &cluster,
        1,
        "INSERT INTO vehicle (name) VALUES ('one'); TRUNCATE ONLY vehicle",
    );
    assert_alike(&cluster, &["vehicle", "car", "van", "owned"]);
    let left = "SELECT count(*) FROM vehicle";
    let left: i64 = cluster.client(2).query_one(left, &[]).unwrap().get(0);
    assert_eq!(left, 65);
    on(
        &cluster,
        2,
        "BEGIN; TRUNCATE vehicle; ROLLBACK; UPDATE car SET doors = 1",
    );
    assert_alike(&cluster, &["vehicle", "car", "van", "owned"]);
    let twice = "SELECT count(*) - count(DISTINCT id) FROM vehicle";
    let twice: i64 = cluster.client(1).query_one(twice, &[]).unwrap().get(0);
    assert_eq!(
        twice, 0,
        "the sequence of the topmost table feeds all, and no value came twice"
    );

    // Who names a table above touches the rows below.
    let told = race(
        &cluster,
        "UPDATE vehicle SET name = 'a' WHERE id = 1",
        "UPDATE van SET name = 'b' WHERE id = 1",
    );
    assert!(told.contains(&Some("40001".to_owned())), "{told:?}");
    let told = race(
        &cluster,
        "SELECT FROM vehicle WHERE id = 1 FOR UPDATE; INSERT INTO owned VALUES ('x')",
        "UPDATE van SET name = 'c' WHERE id = 1",
    );
    assert!(told.contains(&Some("40001".to_owned())), "{told:?}");
    // The same key in two of the tables is none, as on one server.
    let told = race(
        &cluster,
        "INSERT INTO vehicle VALUES (1000)",
        "INSERT INTO car VALUES (1000)",
    );
    assert_eq!(told, [None, None]);

    for (sql, code) in [
        ("SELECT synod.replicate_table('van')", "0A000"),
        ("SELECT synod.unreplicate_table('van')", "55000"),
        ("SELECT synod.unreplicate_table('car')", "55000"),
    ] {
        refused(sql, client.batch_execute(sql), &[code]);
    }
    client
        .batch_execute("SELECT synod.unreplicate_table('vehicle')")
        .unwrap();
    assert_eq!(strong(&cluster, 0), "");
    client.batch_execute("DROP TABLE vehicle, owned CASCADE").unwrap();
}

#[test]
fn heirs_come_and_go() {
    let cluster = CLUSTER.lease();
    cluster.client(0).batch_execute(MAKE).unwrap();
    cluster.replicate("vehicle");
    on(
        &cluster,
        1,
        "CREATE TABLE boat (sails int DEFAULT 3) INHERITS (vehicle, owned)",
    );
    on(
        &cluster,
        2,
        "INSERT INTO boat (name, owner) VALUES ('Argo', 'Jason'); UPDATE vehicle SET name = upper(name)",
    );
    on(
        &cluster,
        0,
        "BEGIN; CREATE TABLE raft () INHERITS (boat); INSERT INTO raft (name) VALUES ('Kon-Tiki'); UPDATE vehicle SET name = lower(name); COMMIT",
    );
    assert_alike(&cluster, &["vehicle", "car", "van", "owned", "boat", "raft"]);
    assert_eq!(strong(&cluster, 2), "boat,car,owned,raft,van,vehicle");
    // One that is here already, with rows of its own.
    on(&cluster, 1, "CREATE TABLE bus (name text, seats int, id int NOT NULL)");
    on(&cluster, 1, "INSERT INTO bus VALUES ('night', 50, 77)");
    on(&cluster, 1, "ALTER TABLE bus INHERIT vehicle");
    on(&cluster, 2, "UPDATE vehicle SET name = name || '?' WHERE id = 77");
    assert_alike(&cluster, &["vehicle", "bus"]);
    // Columns and constraints come and go above.
    on(
        &cluster,
        0,
        "ALTER TABLE vehicle ADD COLUMN late int DEFAULT 7, ADD CHECK (id <> 13)",
    );
    on(
        &cluster,
        1,
        "UPDATE vehicle SET late = id; ALTER TABLE owned RENAME owner TO keeper",
    );
    on(
        &cluster,
        2,
        "ALTER TABLE vehicle DROP COLUMN name; UPDATE vehicle SET late = late + 1",
    );
    failed(
        "the constraint is everywhere",
        cluster.client(2).batch_execute("INSERT INTO raft (id) VALUES (13)"),
        &["23514"],
    );
    assert_alike(&cluster, &["vehicle", "car", "van", "owned", "boat", "raft", "bus"]);
    // One that goes its own way stays the group's.
    on(&cluster, 0, "ALTER TABLE bus NO INHERIT vehicle");
    on(
        &cluster,
        1,
        "INSERT INTO bus (seats, id) VALUES (1, 78); UPDATE vehicle SET late = 0",
    );
    assert_alike(&cluster, &["vehicle", "bus"]);
    on(
        &cluster,
        2,
        "DROP TABLE boat CASCADE; SELECT synod.unreplicate_table('bus'); DROP TABLE bus",
    );
    assert_alike(&cluster, &["vehicle", "car", "van", "owned"]);
    on(&cluster, 2, "SELECT synod.unreplicate_table('vehicle')");
    on(&cluster, 2, "DROP TABLE vehicle, owned CASCADE");
}

#[test]
fn what_would_part_a_hierarchy_is_refused() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client.batch_execute(MAKE).unwrap();
    client
        .batch_execute("CREATE TABLE other (x int); CREATE TABLE alone (id int NOT NULL, name text); CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE far_one (id int NOT NULL, name text) SERVER far")
        .unwrap();
    // A strong read: the definitions are everywhere.
    cluster.on_all("SELECT FROM synod.log_entry");
    // Another hierarchy on one node.
    let drift = "SET synod.ddl = local; CREATE TABLE drift () INHERITS (van)";
    cluster.client(1).batch_execute(drift).unwrap();
    let sql = "SELECT synod.replicate_table('vehicle')";
    refused(sql, client.batch_execute(sql), &["55000"]);
    cluster
        .client(1)
        .batch_execute("SET synod.ddl = local; DROP TABLE drift")
        .unwrap();
    // It is made on no other node.
    for node in [0, 1] {
        let drift = "SET synod.ddl = local; CREATE TABLE top (a int); CREATE TABLE below (b int) INHERITS (top)";
        cluster.client(node).batch_execute(drift).unwrap();
    }
    let sql = "SELECT synod.replicate_table('top')";
    refused(sql, client.batch_execute(sql), &["55000"]);
    for node in [0, 1] {
        let sql = "SET synod.ddl = local; DROP TABLE top CASCADE";
        cluster.client(node).batch_execute(sql).unwrap();
    }

    cluster.replicate("vehicle");
    cluster.on_all("SET synod.ddl = local; INSERT INTO alone VALUES (1, 'here and there')");
    for (sql, code) in [
        ("CREATE TEMP TABLE t () INHERITS (vehicle)", "0A000"),
        ("CREATE UNLOGGED TABLE t () INHERITS (vehicle)", "0A000"),
        ("CREATE FOREIGN TABLE t () INHERITS (vehicle) SERVER far", "0A000"),
        ("ALTER FOREIGN TABLE far_one INHERIT vehicle", "0A000"),
        ("CREATE TABLE t () INHERITS (vehicle, other)", "0A000"),
        ("CREATE TABLE IF NOT EXISTS other () INHERITS (vehicle)", "42P07"),
        ("ALTER TABLE van INHERIT other", "0A000"),
        ("ALTER TABLE alone INHERIT vehicle", "55000"),
        (
            "SET LOCAL synod.ddl = local; CREATE TABLE t () INHERITS (vehicle)",
            "0A000",
        ),
        (
            "SET LOCAL synod.ddl = local; ALTER TABLE alone INHERIT vehicle",
            "0A000",
        ),
        (
            "SET LOCAL synod.ddl = local; ALTER TABLE car NO INHERIT vehicle",
            "0A000",
        ),
    ] {
        refused(sql, client.batch_execute(sql), &[code]);
    }
    assert_alike(&cluster, &["vehicle", "car", "van", "owned"]);
    client
        .batch_execute("SELECT synod.unreplicate_table('vehicle')")
        .unwrap();
    client
        .batch_execute("DROP TABLE vehicle, owned, other, alone CASCADE; DROP EXTENSION postgres_fdw CASCADE")
        .unwrap();
}
