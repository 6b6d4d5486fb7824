//! Names that are not the same thing on every node: temporary objects, relations that only one node has, types and schemas of somebody else.

use synod_testkit::{Cluster, assert_converged, failed, try_wait_until};

use crate::{CLUSTER, DEADLINE, apply_state, same_definition};

/// What a session says of its temporary objects changed the permanent ones of that name on the other nodes.
#[test]
fn statements_about_temporary_objects_stay_in_the_session() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    let mut run = |sql: &str| {
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    };
    run("CREATE TABLE hid (id int PRIMARY KEY, v text); SELECT synod.replicate_table('hid');
         CREATE TYPE hid_mood AS ENUM ('a'); CREATE DOMAIN hid_domain AS int; CREATE SEQUENCE hid_seq; CREATE VIEW hid_view AS SELECT 1 AS a");
    run("CREATE TEMP TABLE hid (id int PRIMARY KEY, v text); CREATE TYPE pg_temp.hid_mood AS ENUM ('a');
         CREATE DOMAIN pg_temp.hid_domain AS int; CREATE TEMP SEQUENCE hid_seq; CREATE TEMP VIEW hid_view AS SELECT 2 AS a");
    for sql in [
        "COMMENT ON COLUMN hid.v IS 'temporary'",
        "COMMENT ON CONSTRAINT hid_pkey ON hid IS 'temporary'",
        "COMMENT ON VIEW hid_view IS 'temporary'",
        "COMMENT ON TYPE hid_mood IS 'temporary'",
        "CREATE STATISTICS hid_statistics ON id, v FROM hid",
        "GRANT USAGE ON SEQUENCE hid_seq TO PUBLIC",
        "GRANT SELECT ON hid_view TO PUBLIC",
        "ALTER TYPE hid_mood ADD VALUE 'temporary'",
        "ALTER TYPE hid_mood RENAME VALUE 'a' TO 'b'",
        "ALTER DOMAIN hid_domain SET DEFAULT 1",
        "ALTER DOMAIN hid_domain ADD CONSTRAINT positive CHECK (VALUE > 0)",
        "COMMENT ON CONSTRAINT positive ON DOMAIN hid_domain IS 'temporary'",
        "ALTER DOMAIN hid_domain OWNER TO pg_monitor",
        "DROP TYPE hid_mood",
        "DROP DOMAIN hid_domain",
    ] {
        run(sql);
    }
    let error = failed(
        "one of each",
        client.batch_execute("CREATE TYPE pg_temp.hid_mood AS ENUM ('a'); DROP TYPE hid_mood, public.hid_mood"),
        &["0A000"],
    );
    assert!(error.hint().is_some(), "{error:?}");
    client.batch_execute("CREATE TABLE hid_last (id int)").unwrap();
    same_definition(&cluster, "hid_last");
    for node in 0..cluster.len() {
        let row = cluster
            .client(node)
            .query_one(
                "SELECT concat_ws(' ', col_description('public.hid'::regclass, 2), obj_description('hid_pkey'::regclass),
                        (SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'hid_pkey'
                         AND conrelid = 'public.hid'::regclass),
                        obj_description('public.hid_view'::regclass), obj_description('public.hid_mood'::regtype),
                        (SELECT relacl FROM pg_class WHERE oid = 'public.hid_view'::regclass),
                        (SELECT relacl FROM pg_class WHERE oid = 'public.hid_seq'::regclass),
                        (SELECT string_agg(stxname, ' ') FROM pg_statistic_ext WHERE stxrelid = 'public.hid'::regclass),
                        (SELECT typdefault FROM pg_type WHERE oid = 'public.hid_domain'::regtype),
                        enum_range(NULL::public.hid_mood))",
                &[],
            )
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "{a}", "node {node}");
    }
}

#[track_caller]
fn stops(cluster: &Cluster, node: usize, reason: &str) {
    let stopped = try_wait_until(DEADLINE, || apply_state(cluster, node).contains(reason).then_some(()));
    assert!(stopped.is_some(), "{reason}: {}", apply_state(cluster, node));
}

/// The server gave a new unique index another name there, or made none, and what the next statement or row met was something else.
#[test]
fn a_name_that_only_one_node_has_is_not_taken_for_the_new_one() {
    let cluster = CLUSTER.lease();
    cluster.create_table("chosen", "CREATE TABLE chosen (id int PRIMARY KEY, v int, w int)");
    let mut other = cluster.client(1);
    let mut client = cluster.client(0);
    for (mine, sql, drop) in [
        (
            "CREATE INDEX CONCURRENTLY ON chosen (v)",
            "CREATE UNIQUE INDEX ON chosen (v)",
            "DROP INDEX public.chosen_v_idx",
        ),
        (
            "CREATE INDEX CONCURRENTLY chosen_w ON chosen (w)",
            "CREATE UNIQUE INDEX IF NOT EXISTS chosen_w ON chosen (w)",
            "DROP INDEX public.chosen_w",
        ),
    ] {
        other.batch_execute(mine).unwrap();
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        stops(&cluster, 1, &format!("SET synod.ddl = local; {drop};"));
        other
            .batch_execute(&format!("SET synod.ddl = local; {drop}; RESET synod.ddl"))
            .unwrap();
        same_definition(&cluster, "chosen");
    }
    client.batch_execute("INSERT INTO chosen VALUES (1, 1, 1)").unwrap();
    // The same index is the one that is wanted, and one that is made anew has its own name.
    other
        .batch_execute("CREATE INDEX CONCURRENTLY chosen_same ON chosen (w) WITH (fillfactor = 70)")
        .unwrap();
    client
        .batch_execute(
            "CREATE INDEX IF NOT EXISTS chosen_same ON chosen (w); ALTER TABLE chosen ALTER COLUMN w TYPE bigint",
        )
        .unwrap();
    assert_converged(&cluster, &["chosen"]);
    // Where it makes nothing it must not make something elsewhere.
    client
        .batch_execute("CREATE INDEX CONCURRENTLY chosen_here ON chosen (v)")
        .unwrap();
    client
        .batch_execute(
            "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); SELECT synod.replicate_table('parted')",
        )
        .unwrap_or_else(|error| panic!("{error:?}"));
    client
        .batch_execute("SET synod.ddl = local; CREATE TABLE parted_here (id int); RESET synod.ddl")
        .unwrap();
    for sql in [
        "CREATE UNIQUE INDEX IF NOT EXISTS chosen_here ON chosen (v)",
        "CREATE TABLE IF NOT EXISTS parted_here PARTITION OF parted FOR VALUES FROM (1) TO (10)",
    ] {
        let error = failed(sql, client.batch_execute(sql), &["42P07"]);
        assert!(error.hint().is_some(), "{error:?}");
    }
    for _ in 0..2 {
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS parted_all PARTITION OF parted FOR VALUES FROM (1) TO (10);
                 CREATE UNIQUE INDEX IF NOT EXISTS chosen_all ON chosen (id, v)",
            )
            .unwrap_or_else(|error| panic!("{error:?}"));
    }
    client.batch_execute("INSERT INTO parted VALUES (1)").unwrap();
    assert_converged(&cluster, &["parted", "chosen"]);
}

/// A type and its functions depend on each other: the functions may go first, and what was read of the table then named them.
#[test]
fn an_extension_goes_with_the_columns_of_its_types() {
    let cluster = CLUSTER.lease();
    cluster.create_table("extended", "CREATE TABLE extended (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    for sql in [
        "CREATE EXTENSION citext",
        "ALTER TABLE extended ADD COLUMN a citext",
        "ALTER TABLE extended ADD COLUMN b citext DEFAULT 'b', ADD COLUMN c citext[]",
        "CREATE UNIQUE INDEX extended_b ON extended (id, b)",
        "INSERT INTO extended VALUES (1, 'a', 'b')",
        "DROP EXTENSION citext CASCADE",
        "INSERT INTO extended VALUES (2)",
    ] {
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    same_definition(&cluster, "extended");
    assert_converged(&cluster, &["extended"]);
}

/// Left out where it could not be done, the next statement or row met a table, a type or a schema of another name.
#[test]
fn names_of_what_is_replicated_are_not_left_out() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE ROLE namer; GRANT ALL ON SCHEMA public TO namer; GRANT namer TO CURRENT_USER");
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE SCHEMA before AUTHORIZATION namer; SET ROLE namer; CREATE TYPE before.label AS ENUM ('a');
             CREATE TYPE before.pair AS (x int); CREATE TABLE before.named (id int PRIMARY KEY, l before.label, p before.pair);
             RESET ROLE; SELECT synod.replicate_table('before.named')",
        )
        .unwrap_or_else(|error| panic!("{error:?}"));
    let mut other = cluster.client(1);
    other
        .batch_execute("SET synod.ddl = local; CREATE SCHEMA after")
        .unwrap();
    client.batch_execute("ALTER SCHEMA before RENAME TO after").unwrap();
    stops(&cluster, 1, "already exists");
    other.batch_execute("ALTER SCHEMA after RENAME TO others").unwrap();
    same_definition(&cluster, "after.named");
    let owner = "SET synod.ddl = local; ALTER TYPE after.label OWNER TO";
    other.batch_execute(&format!("{owner} CURRENT_USER")).unwrap();
    client
        .batch_execute(
            "SET ROLE namer; ALTER TYPE after.label RENAME TO tag; ALTER TYPE after.tag RENAME TO label; RESET ROLE",
        )
        .unwrap();
    stops(&cluster, 1, "must be owner of type");
    other.batch_execute(&format!("{owner} namer")).unwrap();
    client
        .batch_execute("SET ROLE namer; ALTER TYPE after.label ADD VALUE 'b'; RESET ROLE")
        .unwrap();
    same_definition(&cluster, "after.named");
    client
        .batch_execute("INSERT INTO after.named VALUES (1, 'b', ROW(1))")
        .unwrap();
    client
        .batch_execute("SET synod.ddl = local; CREATE ROLE only_here; RESET synod.ddl")
        .unwrap();
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA after TO only_here";
    let error = failed(grant, client.batch_execute(grant), &["42704"]);
    assert!(error.hint().is_some(), "{error:?}");
    client.batch_execute("DROP ROLE only_here").unwrap();
    assert_converged(&cluster, &["after.named"]);
}
