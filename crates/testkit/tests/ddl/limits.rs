//! What is refused, and what a statement may not do.

use postgres::Client;
use synod_testkit::{Cluster, StopMode, assert_converged, failed, sqlstate, wait_until};

use crate::{CLUSTER, DEADLINE, Load, apply_state, same_definition};

/// With a statement travels what it needs to be run elsewhere, for each index that it names.
#[test]
fn a_statement_may_name_many_indexes() {
    let cluster = CLUSTER.lease();
    cluster.create_table("indexed", "CREATE TABLE indexed (id int PRIMARY KEY, v int)");
    let mut client = cluster.client(0);
    let made: String = (0..300)
        .map(|number| format!("CREATE INDEX indexed_{number} ON indexed (v);"))
        .collect();
    client.batch_execute(&format!("BEGIN; {made} COMMIT")).unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("indexed_{number}")).collect();
    client
        .batch_execute(&format!("DROP INDEX {}", names.join(", ")))
        .unwrap();
    client.batch_execute("INSERT INTO indexed VALUES (1, 1)").unwrap();
    assert_converged(&cluster, &["indexed"]);
    same_definition(&cluster, "indexed");
}

/// What would come out differently from node to node, and what would be half of something.
#[test]
fn refusals_say_what_to_do_instead() {
    let cluster = CLUSTER.lease();
    cluster.create_table("refusing", "CREATE TABLE refusing (id int PRIMARY KEY, v int)");
    cluster.create_table("fed", "CREATE TABLE fed (first text, id bigserial, v bigint)");
    cluster.create_table(
        "typed",
        "CREATE TYPE refused_shade AS ENUM ('dark'); CREATE DOMAIN weight AS int; CREATE TYPE pairing AS (s refused_shade, w weight);
         CREATE TABLE typed (id int PRIMARY KEY, pairs pairing[])",
    );
    let mut client = cluster.client(0);
    client
        .batch_execute("INSERT INTO refusing VALUES (1, 1); CREATE TABLE IF NOT EXISTS ordinary (id int)")
        .unwrap();
    let before = same_definition(&cluster, "refusing");
    client
        .batch_execute(
            "CREATE FUNCTION steady() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
             CREATE TYPE chance AS (x float); CREATE FUNCTION by_chance(int) RETURNS chance LANGUAGE sql AS 'SELECT ROW(random())::chance';
             CREATE CAST (int AS chance) WITH FUNCTION by_chance(int) AS ASSIGNMENT;
             CREATE FUNCTION adds(int, int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1 + $2';
             CREATE OPERATOR ## (FUNCTION = adds, LEFTARG = int, RIGHTARG = int);
             CREATE FUNCTION making() RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT made()'; RETURN 1; END $$;
             CREATE FUNCTION made() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE inner_table (id int); RETURN 1; END $$",
        )
        .unwrap();
    for sql in [
        "ALTER TABLE ordinary ADD COLUMN c int DEFAULT making()",
        "ALTER TABLE refusing ADD COLUMN r float DEFAULT random()",
        "ALTER TABLE refusing ADD COLUMN s serial",
        "ALTER SEQUENCE fed_id_seq OWNED BY fed.v",
        "ALTER TABLE refusing ADD COLUMN t int DEFAULT steady()",
        "ALTER TABLE refusing ADD COLUMN t text DEFAULT session_user",
        "ALTER TABLE refusing ALTER COLUMN v TYPE int USING v + steady()",
        "ALTER TABLE refusing ALTER COLUMN v TYPE float USING v * random()",
        "ALTER TABLE refusing ALTER COLUMN v TYPE chance",
        "ALTER TABLE refusing ALTER COLUMN v TYPE chance USING (v + 1)::chance",
        "ALTER TABLE refusing ALTER COLUMN v TYPE int USING v ## 1",
        "ALTER TABLE refusing ALTER COLUMN v TYPE text USING tableoid::text || xmin::text",
        "ALTER TABLE refusing ALTER COLUMN v TYPE text USING 'refusing'::regclass::oid::text",
        "ALTER TABLE refusing ADD COLUMN t int GENERATED ALWAYS AS (v + tableoid::int) STORED",
        "CREATE UNIQUE INDEX CONCURRENTLY ON refusing (v)",
        "ALTER TABLE refusing SET UNLOGGED",
        "ALTER TABLE refusing DISABLE TRIGGER ALL",
        "BEGIN; ALTER TABLE refusing ADD COLUMN c int; INSERT INTO ordinary VALUES (1); COMMIT",
        "BEGIN; TRUNCATE refusing; ALTER TABLE refusing ADD COLUMN c int; COMMIT",
        "SET synod.ddl = local; ALTER TABLE refusing ADD COLUMN c int",
        "SET synod.ddl = local; DROP TABLE refusing",
        "SET synod.ddl = local; ALTER TABLE refusing RENAME TO other",
        "SET synod.ddl = local; ALTER INDEX refusing_pkey RENAME TO other",
        "SET synod.ddl = local; ALTER TYPE refused_shade ADD VALUE 'light'",
        "SET synod.ddl = local; ALTER TYPE refused_shade RENAME VALUE 'dark' TO 'light'",
        "SET synod.ddl = local; ALTER TYPE pairing ADD ATTRIBUTE more int",
        "SET synod.ddl = local; ALTER TYPE pairing RENAME ATTRIBUTE w TO more",
        "SET synod.ddl = local; ALTER TYPE pairing SET SCHEMA pg_catalog",
        "SET synod.ddl = local; ALTER DOMAIN weight ADD CHECK (VALUE > 0)",
        "SET synod.ddl = local; ALTER DOMAIN weight RENAME TO mass",
    ] {
        let error = failed(sql, client.batch_execute(sql), &["0A000"]);
        assert!(error.hint().is_some(), "{sql}: {error:?}");
        client.batch_execute("ROLLBACK; RESET synod.ddl").unwrap();
    }
    // On an empty table a volatile default is evaluated for nobody.
    client
        .batch_execute("DELETE FROM refusing; ALTER TABLE refusing ADD COLUMN s serial")
        .unwrap();
    assert_ne!(same_definition(&cluster, "refusing"), before);
    // A session's own business stays its own.
    client
        .batch_execute("SET synod.ddl = local; CREATE TABLE mine (id int); CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .unwrap();
    client
        .batch_execute("RESET synod.ddl; CREATE TEMPORARY TABLE scratch (id int); ALTER TABLE scratch ADD v int")
        .unwrap();
    // What the others do not have does not stop them.
    client
        .batch_execute("DROP TABLE mine; DROP FUNCTION mine(); CREATE TABLE marker (id int)")
        .unwrap();
    same_definition(&cluster, "marker");
    assert_converged(&cluster, &["refusing"]);
}

/// Rows that refer to a row which the other nodes do not have would be there without it.
#[test]
fn a_foreign_key_does_not_leave_the_group() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "referring_row",
        "CREATE TABLE referring_row (id int PRIMARY KEY, o int)",
    );
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);
             CREATE TABLE child (id int, part int) PARTITION BY LIST (part);
             CREATE TABLE child_with_rows (id int, part int); INSERT INTO child_with_rows VALUES (1, 1)",
        )
        .unwrap();
    client.batch_execute("INSERT INTO referring_row VALUES (1, 1)").unwrap();
    client
        .batch_execute("ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES referring_row")
        .unwrap();
    let before = same_definition(&cluster, "referring_row");
    let lies_between = |sql: &str, other: &str, client: &mut Client| {
        let error = failed(sql, client.batch_execute(sql), &["0A000"]);
        let told = format!("a foreign key lies between table public.referring_row, which is replicated, and {other}");
        assert!(error.message().starts_with(&told), "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").unwrap();
    };
    for (sql, other) in [
        ("ALTER TABLE referring_row ADD FOREIGN KEY (o) REFERENCES parent", "public.parent"),
        (
            "ALTER TABLE referring_row ADD FOREIGN KEY (o) REFERENCES parent NOT VALID",
            "public.parent",
        ),
        ("ALTER TABLE referring_row ADD COLUMN z int REFERENCES parent", "public.parent"),
        (
            "BEGIN; SAVEPOINT s; ALTER TABLE referring_row ADD COLUMN z int; ALTER TABLE referring_row ADD FOREIGN KEY (z) REFERENCES parent;
             RELEASE s; INSERT INTO referring_row VALUES (2, 2, NULL); COMMIT",
            "public.parent",
        ),
        (
            "ALTER TABLE child ATTACH PARTITION child_with_rows FOR VALUES IN (1)",
            "public.child",
        ),
    ] {
        lies_between(sql, other, &mut client);
    }
    assert_eq!(same_definition(&cluster, "referring_row"), before);
    // The rows of a table come behind the statements of the transaction that begins to replicate it.
    let sql = "BEGIN; SELECT synod.replicate_table('parent'); ALTER TABLE referring_row ADD FOREIGN KEY (o) REFERENCES parent; COMMIT";
    let error = failed(sql, client.batch_execute(sql), &["0A000"]);
    assert_eq!(error.hint(), Some("Commit first."), "{error:?}");
    for sql in [
        "ROLLBACK",
        "SELECT synod.replicate_table('parent')",
        "ALTER TABLE referring_row ADD FOREIGN KEY (o) REFERENCES parent",
    ] {
        client.batch_execute(sql).unwrap();
    }
    assert_ne!(same_definition(&cluster, "referring_row"), before);
    assert_converged(&cluster, &["referring_row", "parent"]);
}

/// Each node computes index entries for itself, when it writes a row: what they are computed from stays. Generated columns travel.
#[test]
fn functions_of_index_entries_do_not_change() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    for function in ["of_column", "of_index", "of_predicate", "of_nothing"] {
        let sql = format!("CREATE FUNCTION {function}(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'");
        client.batch_execute(&sql).unwrap();
    }
    let body =
        "FUNCTION of_body(a int, b int DEFAULT 1) RETURNS int IMMUTABLE RETURN CASE WHEN a > b THEN a ELSE b + 1 END";
    client.batch_execute(&format!("CREATE {body}")).unwrap();
    client
        .batch_execute(
            "CREATE TABLE stores (id int PRIMARY KEY, o int, w int GENERATED ALWAYS AS (of_column(o)) STORED,
                                  d int DEFAULT of_nothing(1), CHECK (of_nothing(o) > -1000));
             CREATE UNIQUE INDEX stores_by_result ON stores (of_index(o));
             CREATE INDEX stores_partly ON stores (id) WHERE of_predicate(o) > 0;
             CREATE INDEX stores_by_body ON stores (of_body(o));
             CREATE TABLE ordinary_stores (id int, w int GENERATED ALWAYS AS (of_nothing(id)) STORED)",
        )
        .unwrap();
    client.batch_execute("SELECT synod.replicate_table('stores')").unwrap();
    client
        .batch_execute("INSERT INTO stores SELECT i, i FROM generate_series(1, 3) i")
        .unwrap();
    // The same once more is no change, wherever in a script it stands.
    let again = "SELECT 'something longer than before'; CREATE OR REPLACE";
    client.batch_execute(&format!("{again} {body}")).unwrap();
    let other = format!("CREATE OR REPLACE {body}").replace("b + 1", "b + 2");
    failed(&other, client.batch_execute(&other), &["0A000"]);
    for (function, index) in [("of_index", "stores_by_result"), ("of_predicate", "stores_partly")] {
        let head = format!("CREATE OR REPLACE FUNCTION {function}(int) RETURNS int");
        client
            .batch_execute(&format!("{head} LANGUAGE sql IMMUTABLE AS $$SELECT $1$$"))
            .unwrap();
        let replace = format!("{head} IMMUTABLE LANGUAGE sql AS 'SELECT -$1'");
        for sql in [
            replace.clone(),
            format!("SET synod.ddl = local; {replace}"),
            format!("DO $do$ BEGIN {replace}; END $do$"),
            format!("{head} STRICT IMMUTABLE LANGUAGE sql AS 'SELECT $1'"),
        ] {
            let error = failed(&sql, client.batch_execute(&sql), &["0A000"]);
            let detail = format!("Index \"{index}\" has entries that it gave before on each node.");
            assert_eq!(error.detail(), Some(&*detail), "{sql}: {error:?}");
            assert!(
                error
                    .hint()
                    .is_some_and(|hint| hint.starts_with("Drop the index first"))
            );
            client.batch_execute("ROLLBACK; RESET synod.ddl").unwrap();
        }
        // As the hint says.
        client.batch_execute(&format!("DROP INDEX {index}; {replace}")).unwrap();
    }
    client
        .batch_execute(
            "CREATE OR REPLACE FUNCTION of_nothing(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
             CREATE OR REPLACE FUNCTION of_column(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1';
             CREATE UNIQUE INDEX stores_by_result ON stores (of_index(o))",
        )
        .unwrap();
    cluster
        .client(1)
        .batch_execute("UPDATE stores SET o = o + 10 WHERE id = 1")
        .unwrap();
    same_definition(&cluster, "stores");
    assert_converged(&cluster, &["stores"]);
}

/// What a role's functions do while its statement runs on the other nodes, they do as that role, and nothing is left for later.
#[test]
fn replayed_statements_have_no_more_rights_than_their_role() {
    let cluster = CLUSTER.lease();
    for node in 0..cluster.len() {
        cluster.client(node).batch_execute("CREATE ROLE mallory").unwrap();
    }
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE SCHEMA lair AUTHORIZATION mallory; SET ROLE mallory; SET search_path = lair;
             CREATE TABLE trap (a int); CREATE TABLE victim (a int);
             CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN insufficient_privilege THEN NULL; END; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER later AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();
             ALTER TABLE trap ENABLE ALWAYS TRIGGER later;
             CREATE FUNCTION spring() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM set_config('synod.ddl', 'local', false); INSERT INTO lair.trap VALUES (1); RETURN 1; END $$;
             CREATE FUNCTION calm() RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN lair.spring(); END $$",
        )
        .unwrap();
    client
        .batch_execute("ALTER TABLE victim ADD COLUMN b int DEFAULT calm()")
        .unwrap();
    client
        .batch_execute("RESET ALL; RESET ROLE; CREATE TABLE after_the_trap (id int)")
        .unwrap();
    assert_ne!(same_definition(&cluster, "after_the_trap"), "");
    for node in 0..cluster.len() {
        let row = cluster
            .client(node)
            .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'", &[])
            .unwrap();
        assert!(!row.get::<_, bool>(0), "node {node}");
    }
}

/// Temporary objects stay in the session, also those that `search_path` makes so; and who may not change a table does not lock it.
#[test]
fn what_travels_is_neither_temporary_nor_forbidden() {
    let cluster = CLUSTER.lease();
    cluster.create_table("guarded", "CREATE TABLE guarded (id int PRIMARY KEY, v int)");
    for node in 0..cluster.len() {
        cluster.client(node).batch_execute("CREATE ROLE nobody").unwrap();
    }
    let mut client = cluster.client(1);
    client
        .batch_execute(
            "CREATE TABLE shadowed (id int); SET search_path = pg_temp, public; CREATE TABLE shadowed (a int, b int);
             CREATE TYPE passing_mood AS ENUM ('short'); ALTER TABLE shadowed ADD COLUMN c int; RESET search_path",
        )
        .unwrap();
    for sql in [
        "DROP TABLE shadowed, guarded",
        "CREATE TABLE likewise (LIKE shadowed)",
        "CREATE VIEW over_temporary AS SELECT * FROM shadowed",
    ] {
        failed(sql, client.batch_execute(sql), &["0A000"]);
    }
    client
        .batch_execute("DROP TABLE shadowed; CREATE TABLE after_temporary (id int)")
        .unwrap();
    same_definition(&cluster, "after_temporary");
    assert!(same_definition(&cluster, "public.shadowed").contains("\"id\""));
    // The lock is somebody's: who would ask for it would wait.
    let mut holder = cluster.client(0);
    holder
        .batch_execute("BEGIN; ALTER TABLE guarded ADD COLUMN held int")
        .unwrap();
    client
        .batch_execute("SET ROLE nobody; SET lock_timeout = '5s'")
        .unwrap();
    for sql in [
        "ALTER TABLE guarded ADD COLUMN c int",
        "DROP TABLE guarded CASCADE",
        "CREATE INDEX ON guarded (v)",
        "ALTER TABLE guarded RENAME TO mine",
        "DROP OWNED BY nobody",
    ] {
        failed(sql, client.batch_execute(sql), &["42501"]);
    }
    holder.batch_execute("COMMIT").unwrap();
    same_definition(&cluster, "guarded");
}

/// A DROP ... CASCADE kept all writers of the group waiting, whatever it was about.
#[test]
fn a_drop_cascade_holds_up_only_what_it_reaches() {
    let cluster = CLUSTER.lease();
    cluster.create_table("aside", "CREATE TABLE aside (id int PRIMARY KEY, v int)");
    let mut client = cluster.client(1);
    client
        .batch_execute(
            "CREATE TYPE hue AS ENUM ('red'); CREATE DOMAIN length AS int; CREATE TYPE pair AS (a int, b int);
             CREATE FUNCTION of_hue(hue) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; CREATE SCHEMA corner;
             CREATE TABLE target (id int PRIMARY KEY, v hue); CREATE TABLE referring (id int PRIMARY KEY REFERENCES target, p pair);
             CREATE TABLE viewed (id int PRIMARY KEY, l length); CREATE VIEW seen AS SELECT id FROM target WHERE of_hue(v) > 0;
             CREATE TABLE corner.stone (id int PRIMARY KEY);
             SELECT synod.replicate_table('target'), synod.replicate_table('referring'), synod.replicate_table('viewed'),
                    synod.replicate_table('corner.stone')",
        )
        .unwrap();
    // What each reaches of these, written on another node meanwhile.
    let tables = ["aside", "target", "referring", "viewed", "corner.stone"];
    for (sql, reached) in [
        ("DROP TYPE hue CASCADE", &["target"][..]),
        // An old snapshot is no reason to reach for all.
        (
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1; DROP TYPE hue CASCADE",
            &["target"],
        ),
        ("DROP DOMAIN length CASCADE", &["viewed"]),
        ("DROP FUNCTION of_hue(hue) CASCADE", &[]),
        ("ALTER TYPE pair ALTER ATTRIBUTE a TYPE bigint CASCADE", &["referring"]),
        ("DROP SCHEMA corner CASCADE", &["corner.stone"]),
        (
            "ALTER TABLE target DROP CONSTRAINT target_pkey CASCADE",
            &["target", "referring"],
        ),
        ("DROP TABLE target CASCADE", &["target", "referring"]),
    ] {
        let begun = client.batch_execute(&format!("BEGIN; {sql}"));
        // The server itself does not alter a type that a table uses.
        if begun.is_err() {
            failed(sql, begun, &["0A000"]);
        }
        for table in tables {
            let mut writer = cluster.client(2);
            let lock = format!("SET lock_timeout = 300; BEGIN; LOCK TABLE {table} IN ROW EXCLUSIVE MODE; ROLLBACK");
            let written = writer.batch_execute(&lock);
            if !reached.contains(&table) {
                written.unwrap_or_else(|error| panic!("{sql} keeps writers off {table}: {error:?}"));
            } else if !sql.starts_with("ALTER TYPE") {
                failed(&format!("{sql}: {table}"), written, &["55P03"]);
            }
        }
        client.batch_execute("ROLLBACK").unwrap();
    }
    // Another's objects nobody can drop, nor ask for the lock in order to.
    for node in 0..3 {
        cluster.client(node).batch_execute("CREATE ROLE dropper").unwrap();
    }
    let mut holder = cluster.client(0);
    holder
        .batch_execute("BEGIN; ALTER TABLE target ADD COLUMN held int")
        .unwrap();
    client
        .batch_execute("SET ROLE dropper; SET lock_timeout = '5s'")
        .unwrap();
    for sql in [
        "DROP TYPE hue CASCADE",
        "DROP SCHEMA corner CASCADE",
        "DROP FUNCTION of_hue(hue) CASCADE",
        "DROP DOMAIN length CASCADE",
    ] {
        failed(sql, client.batch_execute(sql), &["42501"]);
    }
    holder.batch_execute("COMMIT").unwrap();
    client.batch_execute("RESET ROLE; DROP TYPE hue CASCADE").unwrap();
    same_definition(&cluster, "target");
    assert_converged(&cluster, &["target", "referring"]);
}

/// Upkeep is each node's own, while all write.
#[test]
fn upkeep_stays_on_its_node() {
    let cluster = CLUSTER.lease();
    cluster.create_table("kept_up", "CREATE TABLE kept_up (id bigint PRIMARY KEY, v int)");
    let before = same_definition(&cluster, "kept_up");
    // Under a full load the rewrite of a table that grows may not find a moment that is long enough.
    Load::gentle().during(&cluster, "kept_up", || {
        let mut client = cluster.client(1);
        for sql in [
            "CREATE INDEX CONCURRENTLY here_only ON kept_up (v)",
            "REINDEX TABLE CONCURRENTLY kept_up",
            "REINDEX TABLE kept_up",
            "VACUUM (FULL, ANALYZE) kept_up",
            "CLUSTER kept_up USING kept_up_pkey",
            "DROP INDEX CONCURRENTLY here_only",
        ] {
            // What needs the table for itself may stand in the way of what the group has decided.
            let done = wait_until(DEADLINE, sql, || match client.batch_execute(sql) {
                Err(error) if sqlstate(&error) == Some("40001") => None,
                done => Some(done),
            });
            done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    });
    client_refuses(&cluster);
    assert_eq!(same_definition(&cluster, "kept_up"), before);
    assert_converged(&cluster, &["kept_up"]);
}

fn client_refuses(cluster: &Cluster) {
    let mut client = cluster.client(2);
    client
        .batch_execute(
            "CREATE TABLE halves (id int) PARTITION BY RANGE (id); CREATE TABLE half PARTITION OF halves FOR VALUES FROM (0) TO (9);
             SELECT synod.replicate_table('halves')",
        )
        .unwrap();
    client
        .batch_execute(
            "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
             CREATE FOREIGN TABLE far (id int) SERVER nowhere",
        )
        .unwrap();
    for (sql, code) in [
        ("ALTER TABLE halves DETACH PARTITION half CONCURRENTLY", "0A000"),
        ("SELECT synod.replicate_table('far')", "0A000"),
    ] {
        failed(sql, client.batch_execute(sql), &[code]);
    }
}

/// Roles are each server's own: one that a node lacks, which could not be asked, stops it there, with its name, until it is made.
#[test]
fn a_role_that_a_node_lacks_stops_it_until_it_is_there() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("handed_over", "CREATE TABLE handed_over (id int PRIMARY KEY)");
    for node in [0, 1] {
        cluster.client(node).batch_execute("CREATE ROLE late_heir").unwrap();
    }
    let mut client = cluster.client(0);
    cluster.server_mut(2).stop(StopMode::Fast);
    client
        .batch_execute("ALTER TABLE handed_over OWNER TO late_heir; INSERT INTO handed_over VALUES (1)")
        .unwrap();
    cluster.server_mut(2).start();
    wait_until(DEADLINE, "the node to say what it lacks", || {
        let state = apply_state(&cluster, 2);
        (state.contains("stopped") && state.contains("late_heir")).then_some(())
    });
    cluster.client(2).batch_execute("CREATE ROLE late_heir").unwrap();
    same_definition(&cluster, "handed_over");
    assert_converged(&cluster, &["handed_over"]);
}
