//! What only one node has, and what is in the way of a statement that passed on another: apply stopped over it, and the node with it.

use postgres::Client;
use synod_testkit::{Cluster, StopMode, assert_converged, failed, sqlstate, wait_until};

use crate::{CLUSTER, DEADLINE, same_definition};

/// How often a node has stopped applying, by its log.
fn stops(cluster: &Cluster, node: usize) -> usize {
    let log = cluster.server(node).log();
    log.matches("synod stops applying changes of the group").count()
}

/// What the session is told that gives way.
#[track_caller]
fn is_ended(session: &mut Client, what: &str) {
    let told = wait_until(DEADLINE, "the session to end", || {
        session.batch_execute("SELECT 1").err()
    });
    match told.as_db_error() {
        Some(told) => {
            assert_eq!(told.code().code(), "40001", "{what}: {told:?}");
            let detail = told.detail().unwrap_or_default();
            assert!(detail.contains("temporary object"), "{what}: {told:?}");
        }
        None => assert!(session.is_closed(), "{what}: {told:?}"),
    }
}

/// A temporary view of somebody on another node stopped apply there until he went home.
#[test]
fn a_session_ends_whose_temporary_object_is_in_the_way() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table(
        "shown",
        "CREATE TABLE shown (id int PRIMARY KEY, v int, w int, x int, y int, s serial)",
    );
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE TYPE tint AS ENUM ('a'); CREATE DOMAIN span AS int; CREATE TABLE plain_shown (id int, v int);
             ALTER TABLE shown ADD COLUMN d span",
        )
        .unwrap();
    same_definition(&cluster, "plain_shown");
    same_definition(&cluster, "shown");
    let before = stops(&cluster, 1);
    let mut bystander = cluster.client(1);
    bystander
        .batch_execute("CREATE TEMPORARY VIEW aside AS SELECT id FROM shown")
        .unwrap();
    for (make, sql) in [
        (
            "CREATE TEMPORARY VIEW mine AS SELECT v FROM shown",
            "ALTER TABLE shown DROP COLUMN v",
        ),
        (
            "CREATE TEMPORARY VIEW mine AS SELECT w FROM shown",
            "ALTER TABLE shown ALTER COLUMN w TYPE bigint",
        ),
        (
            "CREATE TEMPORARY TABLE mine (r shown)",
            "ALTER TABLE shown ALTER COLUMN x TYPE bigint",
        ),
        (
            "CREATE FUNCTION pg_temp.mine(tint) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "DROP TYPE tint",
        ),
        (
            "CREATE TEMPORARY VIEW mine AS SELECT v FROM plain_shown",
            "ALTER TABLE plain_shown DROP COLUMN v",
        ),
        (
            "CREATE TEMPORARY TABLE mine (id int DEFAULT nextval('shown_s_seq'))",
            "ALTER TABLE shown DROP COLUMN s",
        ),
        (
            "CREATE TEMPORARY TABLE mine (d span); INSERT INTO mine VALUES (1)",
            "ALTER DOMAIN span ADD CHECK (VALUE > 0)",
        ),
    ] {
        let mut session = cluster.client(1);
        session
            .batch_execute(make)
            .unwrap_or_else(|error| panic!("{make}: {error:?}"));
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        is_ended(&mut session, sql);
        client
            .batch_execute("INSERT INTO shown (id) SELECT count(*) FROM shown")
            .unwrap();
        same_definition(&cluster, "shown");
        same_definition(&cluster, "plain_shown");
    }
    bystander
        .batch_execute("SELECT * FROM aside")
        .expect("it is in nobody's way");
    assert_converged(&cluster, &["shown"]);
    assert_eq!(stops(&cluster, 1), before, "{}", cluster.server(1).log_tail(30));
    // Nor is one that a crash has left behind, which is nobody's any more.
    let mut session = cluster.client(1);
    session
        .batch_execute("CREATE TEMPORARY VIEW mine AS SELECT y FROM shown")
        .unwrap();
    cluster.server_mut(1).restart(StopMode::Immediate);
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'mine'";
    assert_eq!(cluster.client(1).query_one(left, &[]).unwrap().get::<_, i64>(0), 1);
    client.batch_execute("ALTER TABLE shown DROP COLUMN y").unwrap();
    same_definition(&cluster, "shown");
    assert_converged(&cluster, &["shown"]);
}

/// Anything else is named, with what to do about it; when that is done, apply goes on.
#[test]
fn what_is_in_the_way_is_named_with_the_command_that_mends_it() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "used",
        "CREATE TABLE used (id int PRIMARY KEY, a int, b int, c int, d int); CREATE TABLE elsewhere (id int)",
    );
    cluster.on_all("CREATE TABLE later_on (id int PRIMARY KEY)");
    let (mut client, mut other) = (cluster.client(0), cluster.client(1));
    for (make, sql, command) in [
        (
            "CREATE MATERIALIZED VIEW summed AS SELECT a FROM used",
            "ALTER TABLE used DROP COLUMN a",
            "DROP MATERIALIZED VIEW public.summed;",
        ),
        (
            "CREATE VIEW seen_here AS SELECT b FROM used",
            "ALTER TABLE used ALTER COLUMN b TYPE bigint",
            "DROP VIEW public.seen_here;",
        ),
        (
            "CREATE RULE also AS ON INSERT TO elsewhere DO ALSO SELECT c FROM used",
            "ALTER TABLE used DROP COLUMN c",
            "DROP RULE also ON public.elsewhere;",
        ),
        (
            "CREATE PUBLICATION of_one FOR TABLE used (id, d)",
            "ALTER TABLE used DROP COLUMN d",
            "ALTER PUBLICATION of_one DROP TABLE public.used;",
        ),
        (
            "CREATE INDEX CONCURRENTLY taken ON used (id)",
            "CREATE INDEX taken ON used (id)",
            "DROP INDEX public.taken;",
        ),
    ] {
        other.batch_execute("SET synod.ddl = local").unwrap();
        other
            .batch_execute(make)
            .unwrap_or_else(|error| panic!("{make}: {error:?}"));
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let reason: String = wait_until(DEADLINE, "the node to say what is in the way", || {
            let row = cluster
                .client(1)
                .query_one("SELECT reason FROM synod.stat_apply WHERE state = 'stopped'", &[]);
            row.ok().and_then(|row| row.get(0))
        });
        let (_, advice) = reason
            .split_once("To go on here: ")
            .unwrap_or_else(|| panic!("{sql}: no advice in {reason}"));
        assert!(
            advice.to_lowercase().contains(&command.to_lowercase()),
            "{sql}: {reason}"
        );
        if command.contains("RULE") {
            let call = "SELECT synod.replicate_table('later_on')";
            let error = failed(call, client.batch_execute(call), &["55000"]);
            let hint = error.hint().unwrap_or_default();
            assert!(hint.starts_with("Try again when the node has caught up"), "{error:?}");
        }
        // Apply tries again now and then, and needs the table for that.
        let done = wait_until(DEADLINE, advice, || match other.batch_execute(advice) {
            Err(error) if sqlstate(&error) == Some("40001") => None,
            done => Some(done),
        });
        done.unwrap_or_else(|error| panic!("{advice}: {error:?}"));
        same_definition(&cluster, "used");
    }
    client.batch_execute("INSERT INTO used VALUES (1, 1)").unwrap();
    assert_converged(&cluster, &["used"]);
}

/// CLUSTER ON an index that others lack is left out there.
#[test]
fn a_table_is_clustered_on_an_index_of_one_node() {
    let cluster = CLUSTER.lease();
    cluster.create_table("sorted", "CREATE TABLE sorted (id int PRIMARY KEY, v int)");
    let mut client = cluster.client(0);
    client
        .batch_execute("CREATE INDEX CONCURRENTLY only_here ON sorted (v)")
        .unwrap();
    let sql = "ALTER TABLE sorted CLUSTER ON only_here, ADD COLUMN w int";
    failed(sql, client.batch_execute(sql), &["0A000"]);
    for sql in [
        "ALTER TABLE sorted CLUSTER ON only_here",
        "ALTER TABLE sorted CLUSTER ON sorted_pkey",
        "DROP INDEX only_here",
        "ALTER TABLE sorted ADD COLUMN last int",
    ] {
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    same_definition(&cluster, "sorted");
    let clustered = "SELECT indisclustered FROM pg_index WHERE indexrelid = 'sorted_pkey'::regclass";
    for node in 0..cluster.len() {
        let row = cluster.client(node).query_one(clustered, &[]).unwrap();
        assert!(row.get::<_, bool>(0), "node {node}");
    }
}

/// Roles and tablespaces are each server's own: a statement that names one that a member lacks is refused, and so is one of such a role.
#[test]
fn what_another_server_lacks_is_not_named_by_a_statement_of_the_group() {
    let cluster = CLUSTER.lease();
    cluster.create_table("placed", "CREATE TABLE placed (id int PRIMARY KEY, v int)");
    let run = |client: &mut Client, statements: &[&str]| {
        for sql in statements {
            client
                .batch_execute(sql)
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    };
    for node in 0..cluster.len() {
        run(
            &mut cluster.client(node),
            &[
                "SET allow_in_place_tablespaces = on",
                "CREATE TABLESPACE everywhere LOCATION ''",
                "CREATE ROLE known",
            ],
        );
    }
    let mut client = cluster.client(0);
    run(
        &mut client,
        &[
            "SET allow_in_place_tablespaces = on",
            "CREATE TABLESPACE only_here LOCATION ''",
            "CREATE ROLE only_mine",
        ],
    );
    for sql in [
        "GRANT ALL ON placed TO only_mine",
        "ALTER TABLE placed OWNER TO only_mine",
        "CREATE POLICY p ON placed TO only_mine USING (true)",
        "CREATE INDEX ON placed (v) TABLESPACE only_here",
        "ALTER TABLE placed ADD UNIQUE (v) USING INDEX TABLESPACE only_here",
        "SET default_tablespace = only_here; CREATE INDEX ON placed (v)",
    ] {
        let error = failed(sql, client.batch_execute(sql), &["42704"]);
        let detail = error.detail().unwrap_or_default();
        assert!(detail.ends_with("missing on: n2, n3."), "{sql}: {error:?}");
        client.batch_execute("RESET default_tablespace").unwrap();
    }
    run(
        &mut client,
        &[
            "CREATE INDEX placed_v ON placed (v) TABLESPACE everywhere",
            "GRANT SELECT ON placed TO known",
            "REVOKE SELECT ON placed FROM PUBLIC, CURRENT_USER",
            "ALTER TABLE placed OWNER TO known",
            "INSERT INTO placed VALUES (1, 1)",
        ],
    );
    same_definition(&cluster, "placed");
    // A superuser of one server only.
    client
        .batch_execute("CREATE ROLE boss SUPERUSER; SET ROLE boss")
        .unwrap();
    let sql = "ALTER TABLE placed ADD COLUMN w int";
    failed(sql, client.batch_execute(sql), &["42704"]);
    client.batch_execute("RESET ROLE").unwrap();
    client.batch_execute(sql).unwrap();
    same_definition(&cluster, "placed");
    assert_converged(&cluster, &["placed"]);
}
