//! Definitions that PostgreSQL 18 brought: the same on every node, by statements and by `replicate_table`.

use synod_testkit::{PgInstall, assert_converged, wait_until};

use crate::sessions::assert_same_definitions;
use crate::{CLUSTER, DEADLINE};

const STATEMENTS: &[&str] = &[
    "CREATE TABLE newer (id int CONSTRAINT id_is_there NOT NULL PRIMARY KEY, a int); SELECT synod.replicate_table('newer');
     INSERT INTO newer VALUES (1, 1), (2, NULL)",
    "ALTER TABLE newer ADD COLUMN twice int GENERATED ALWAYS AS (a * 2) VIRTUAL; UPDATE newer SET a = 2 WHERE id = 1",
    "ALTER TABLE newer ADD CONSTRAINT a_is_there NOT NULL a NOT VALID",
    "UPDATE newer SET a = 9; ALTER TABLE newer VALIDATE CONSTRAINT a_is_there",
    "ALTER TABLE newer ALTER COLUMN twice SET EXPRESSION AS (a * 20); INSERT INTO newer VALUES (3, 3);
         ALTER TABLE newer ADD CONSTRAINT small CHECK (a < 5) NOT ENFORCED",
    "ALTER TABLE newer RENAME CONSTRAINT id_is_there TO id_is_not_null; ALTER TABLE newer ALTER CONSTRAINT a_is_there NO INHERIT",
    "CREATE TABLE periods (room int, during int4range, CONSTRAINT whole UNIQUE (room, during WITHOUT OVERLAPS)); SELECT synod.replicate_table('periods')",
    "INSERT INTO periods VALUES (1, '[1,5)'); ALTER TABLE newer ADD COLUMN during int4range DEFAULT '[1,2)', ADD COLUMN room int DEFAULT 1,
         ADD CONSTRAINT covered FOREIGN KEY (room, PERIOD during) REFERENCES periods (room, PERIOD during)",
    "ALTER TABLE newer ADD CONSTRAINT of_itself FOREIGN KEY (a) REFERENCES newer NOT ENFORCED",
    "ALTER TABLE newer DROP CONSTRAINT a_is_there, DROP COLUMN twice; INSERT INTO newer VALUES (4, NULL)",
];

/// Made on one node, and on the others from the catalog.
const MADE: &str = "
    SET synod.ddl = local;
    CREATE TABLE made (id int CONSTRAINT given NOT NULL, k int NOT NULL NO INHERIT, a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL,
        during int4range CONSTRAINT has_period NOT NULL, PRIMARY KEY (id, during WITHOUT OVERLAPS), CHECK (a > 0) NOT ENFORCED);
    ALTER TABLE made ADD CONSTRAINT later NOT NULL a NOT VALID;
    CREATE TABLE made_parts (id int CONSTRAINT own_name NOT NULL, v int, twice int GENERATED ALWAYS AS (v * 2) VIRTUAL,
        n bigint GENERATED ALWAYS AS IDENTITY) PARTITION BY LIST (id);
    CREATE TABLE made_one PARTITION OF made_parts (CONSTRAINT v_in_one NOT NULL v) FOR VALUES IN (1);
    RESET synod.ddl";

#[test]
fn definitions_of_newer_servers_are_the_same_everywhere() {
    if PgInstall::from_environment().major() < 18 {
        return;
    }
    let cluster = CLUSTER.lease();
    for node in 0..3 {
        cluster
            .client(node)
            .batch_execute("SET synod.ddl = local; CREATE EXTENSION IF NOT EXISTS btree_gist; CREATE SCHEMA since_18")
            .unwrap();
    }
    let client = |node: usize| {
        let mut client = cluster.client(node);
        client.batch_execute("SET search_path = since_18, public").unwrap();
        client
    };
    for (number, sql) in STATEMENTS.iter().enumerate() {
        let told = client(number % 3).batch_execute(sql);
        told.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for sql in [
        MADE,
        "SELECT synod.replicate_table('made'), synod.replicate_table('made_parts')",
    ] {
        let told = client(1).batch_execute(sql);
        told.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let dump = assert_same_definitions(&cluster, &["since_18"]);
    for part in [
        "CONSTRAINT own_name NOT NULL",
        "id_is_not_null",
        "GENERATED ALWAYS AS ((a + 1))",
        "WITHOUT OVERLAPS",
        "NOT ENFORCED",
    ] {
        assert!(dump.contains(part), "{part} is missing:\n{dump}");
    }
    for (node, sql) in [
        (
            0,
            "INSERT INTO made (id, k, a, during) VALUES (1, 1, 1, '[1,2)'), (1, 1, 1, '[2,3)')",
        ),
        (
            1,
            "UPDATE made SET a = 5 WHERE during @> 2; INSERT INTO made_parts (id, v) VALUES (1, 1)",
        ),
        (
            2,
            "DELETE FROM made WHERE b = 2; UPDATE made_parts SET v = 4 RETURNING old.twice, new.twice",
        ),
    ] {
        let told = client(node).batch_execute(sql);
        told.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let tables = ["newer", "periods", "made", "made_one"].map(|table| format!("since_18.{table}"));
    assert_converged(&cluster, &tables.each_ref().map(String::as_str));
    for node in 0..3 {
        let read = client(node).query_one("SELECT b, (SELECT twice FROM made_parts) FROM made", &[]);
        let row = read.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (6, 8), "node {node}");
    }
}

/// What is applied takes as long as it takes: an apply worker that ends over it would begin anew for ever.
#[test]
fn apply_outlasts_transaction_timeout() {
    if PgInstall::from_environment().major() < 17 {
        return;
    }
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE FUNCTION slow(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.2); RETURN v; END';
         CREATE TABLE slowly (id int PRIMARY KEY, v int); CREATE INDEX ON slowly (slow(v))",
    );
    cluster.replicate("slowly");
    let mut hurried = cluster.client(2);
    let mut set = |value: &str| {
        hurried
            .batch_execute(&format!("ALTER SYSTEM SET transaction_timeout = '{value}'"))
            .unwrap();
        hurried.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_until(DEADLINE, "the setting", || {
            let shown: String = hurried.query_one("SHOW transaction_timeout", &[]).unwrap().get(0);
            (shown == value).then_some(())
        });
    };
    set("300ms");
    // From its start on, as after a restart of the server.
    let worker = cluster.server(2).pid_of("synod apply worker");
    cluster
        .client(2)
        .execute("SELECT pg_terminate_backend($1)", &[&worker])
        .unwrap();
    cluster
        .client(0)
        .batch_execute("INSERT INTO slowly SELECT i, i FROM generate_series(1, 4) i")
        .unwrap();
    assert_converged(&cluster, &["slowly"]);
    set("0");
}
