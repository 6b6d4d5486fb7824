//! Migrations: the same everywhere, whole or not at all, with and without rows, while all nodes write.

use std::time::Duration;

use synod_testkit::{assert_converged, failed, try_wait_until, wait_until};

use crate::{CLUSTER, DEADLINE, Load, same_definition};

/// Statements of a migration, each a transaction; `busy` is written by all nodes meanwhile.
const MIGRATIONS: &[&str] = &[
    "ALTER TABLE busy ADD COLUMN note text",
    "ALTER TABLE busy ADD COLUMN made timestamptz NOT NULL DEFAULT now()",
    "CREATE TYPE mood AS ENUM ('good', 'bad'); ALTER TABLE busy ADD COLUMN mood mood DEFAULT 'good'",
    "ALTER TYPE mood ADD VALUE 'fair'",
    "ALTER TYPE mood RENAME VALUE 'good' TO 'merry'",
    "ALTER TABLE busy ALTER COLUMN v TYPE bigint USING v * 2",
    "ALTER TABLE busy ALTER COLUMN v SET DEFAULT 7, ALTER COLUMN note SET DEFAULT 'none'",
    "CREATE INDEX busy_note ON busy (note)",
    "CREATE UNIQUE INDEX busy_id_v ON busy (id, mood)",
    "ALTER TABLE busy RENAME COLUMN note TO remark",
    "ALTER TABLE busy ADD CONSTRAINT positive CHECK (v >= 0) NOT VALID",
    "ALTER TABLE busy VALIDATE CONSTRAINT positive",
    "CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.remark := 'touched'; RETURN new; END $$;
     CREATE TRIGGER touched BEFORE UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION touched()",
    "ALTER TABLE busy ADD COLUMN half bigint GENERATED ALWAYS AS (v / 2) STORED",
    "CREATE VIEW busy_view AS SELECT id, remark FROM busy",
    "GRANT SELECT ON busy TO pg_monitor; COMMENT ON TABLE busy IS 'written by all'",
    "ALTER TABLE busy ENABLE ROW LEVEL SECURITY; CREATE POLICY everybody ON busy USING (true)",
    "DROP INDEX busy_id_v; ALTER TABLE busy DROP COLUMN made",
    "CREATE TABLE parent_of_busy (id bigint PRIMARY KEY); SELECT 1",
    "SELECT synod.replicate_table('parent_of_busy'); INSERT INTO parent_of_busy VALUES (1)",
    "ALTER TABLE busy ADD COLUMN parent bigint DEFAULT 1 REFERENCES parent_of_busy,
         ADD CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parent_of_busy NOT VALID; ALTER TABLE busy VALIDATE CONSTRAINT of_parent",
    "ALTER TABLE busy ADD COLUMN doubled bigint; UPDATE busy SET doubled = 2 * v WHERE id < 10; ALTER TABLE busy ALTER COLUMN v DROP DEFAULT",
    // The rows before the first definition are ones that nobody writes any more: for them it could lose as anybody.
    "UPDATE busy SET v = v + 1 WHERE id < 10; ALTER TABLE busy ALTER COLUMN doubled TYPE numeric;
     UPDATE busy SET doubled = doubled + 1 WHERE id < 40; UPDATE busy SET v = v + 1 WHERE id < 20;
     ALTER TABLE busy ADD COLUMN last int; DELETE FROM busy WHERE id = 39; INSERT INTO busy (id, v, last) VALUES (39, 1, 1)",
    "CREATE SCHEMA moved; ALTER TABLE busy SET SCHEMA moved; ALTER TABLE moved.busy SET SCHEMA public",
    "ALTER TABLE busy RENAME TO busier; ALTER TABLE busier RENAME TO busy",
];

#[test]
fn migrations_of_many_kinds_under_writers() {
    let cluster = CLUSTER.lease();
    cluster.create_table("busy", "CREATE TABLE busy (id bigint PRIMARY KEY, v int)");
    let load = Load::new();
    load.during(&cluster, "busy", || {
        for (number, migration) in MIGRATIONS.iter().enumerate() {
            let node = number % cluster.len();
            if let Err(error) = cluster.client(node).batch_execute(migration) {
                panic!("{migration} on node {node}: {error:?}");
            }
            load.wait_for_more(3);
        }
    });
    same_definition(&cluster, "busy");
    same_definition(&cluster, "busy_view");
    same_definition(&cluster, "parent_of_busy");
    assert_converged(&cluster, &["busy", "parent_of_busy"]);
}

/// The lock was taken for the table that had the name before, and the other nodes wrote the one that was changed.
#[test]
fn a_name_that_changes_hands_while_the_lock_is_waited_for_is_looked_up_again() {
    let cluster = CLUSTER.lease();
    for table in ["hand_one", "hand_two"] {
        cluster.create_table(table, &format!("CREATE TABLE {table} (id bigint PRIMARY KEY, v int)"));
    }
    let (mut first, mut second) = (cluster.client(0), cluster.client(0));
    // The session knows the name.
    second.batch_execute("TABLE hand_one").unwrap();
    first
        .batch_execute("BEGIN; ALTER TABLE hand_one RENAME TO hand_none; ALTER TABLE hand_two RENAME TO hand_one")
        .unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.batch_execute("BEGIN; ALTER TABLE hand_one ADD COLUMN w int"));
        wait_until(DEADLINE, "the lock to be waited for", || {
            let query = "SELECT FROM pg_stat_activity WHERE query LIKE 'BEGIN; ALTER TABLE hand_one ADD%'
                         AND state = 'active' AND wait_event_type = 'Extension'";
            (cluster.client(0).query(query, &[]).unwrap().len() == 1).then_some(())
        });
        first.batch_execute("COMMIT").unwrap();
        waiting.join().unwrap().unwrap_or_else(|error| panic!("{error:?}"));
    });
    let error = cluster
        .client(1)
        .batch_execute("SET lock_timeout = '1s'; INSERT INTO hand_one VALUES (1, 1)")
        .unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error:?}");
    second.batch_execute("COMMIT").unwrap();
    same_definition(&cluster, "hand_one");
    assert_converged(&cluster, &["hand_one", "hand_none"]);
}

/// What a migration has written before its first definition is a write like any other; from there on it cannot lose.
#[test]
fn rows_before_the_first_definition_may_lose_and_none_behind_it() {
    let cluster = CLUSTER.lease();
    cluster.create_table("early", "CREATE TABLE early (id int PRIMARY KEY, v int)");
    let (mut here, mut there) = (cluster.client(0), cluster.client(1));
    here.batch_execute("INSERT INTO early VALUES (1, 0), (2, 0)").unwrap();
    there.batch_execute("TABLE early").unwrap();
    // The row's lock keeps what the other node has committed from being applied, so the definition would wait for itself.
    here.batch_execute("BEGIN; UPDATE early SET v = 1 WHERE id = 1")
        .unwrap();
    there.batch_execute("UPDATE early SET v = 2 WHERE id = 1").unwrap();
    let sql = "ALTER TABLE early ADD COLUMN w int";
    failed(sql, here.batch_execute(sql), &["40001"]);
    here.batch_execute("ROLLBACK").unwrap();
    // The other way round the other node's write waits, and loses nothing.
    here.batch_execute(&format!("BEGIN; {sql}; UPDATE early SET v = 3 WHERE id = 1"))
        .unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| there.batch_execute("UPDATE early SET v = v + 1 WHERE id = 1"));
        wait_until(DEADLINE, "the writer to wait", || {
            let query = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'early'::regclass";
            (!cluster.client(1).query(query, &[]).ok()?.is_empty()).then_some(())
        });
        here.batch_execute("UPDATE early SET w = 1; COMMIT").unwrap();
        waiting.join().unwrap().unwrap_or_else(|error| panic!("{error:?}"));
    });
    let row = cluster
        .client(2)
        .query_one("SELECT v, w FROM early WHERE id = 1", &[])
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (4, 1));
    assert_converged(&cluster, &["early"]);
}

/// Rows and definitions in one transaction, in the order in which they were changed, savepoints included.
#[test]
fn rows_and_definitions_in_one_transaction() {
    let cluster = CLUSTER.lease();
    cluster.create_table("mixed", "CREATE TABLE mixed (id int PRIMARY KEY, v int)");
    let mut client = cluster.client(1);
    client
        .batch_execute("INSERT INTO mixed SELECT i, i FROM generate_series(1, 20) i")
        .unwrap();
    for sql in [
        // A rewrite makes every version the transaction's own.
        "ALTER TABLE mixed ALTER COLUMN v TYPE bigint; UPDATE mixed SET v = -v WHERE id < 5; DELETE FROM mixed WHERE id = 5",
        "UPDATE mixed SET v = v - 1 WHERE id < 9; INSERT INTO mixed VALUES (30, 30);
         ALTER TABLE mixed ALTER COLUMN v TYPE numeric;
         UPDATE mixed SET v = v - 1 WHERE id IN (2, 30); DELETE FROM mixed WHERE id = 3",
        "INSERT INTO mixed VALUES (40, 40); CREATE INDEX ON mixed (v); UPDATE mixed SET v = 41 WHERE id = 40;
         ALTER TABLE mixed ADD COLUMN w text DEFAULT 'w'; UPDATE mixed SET w = 'u' WHERE id = 40",
        "BEGIN; UPDATE mixed SET v = 100 WHERE id = 7; SAVEPOINT a; UPDATE mixed SET v = 200 WHERE id = 8;
         ALTER TABLE mixed DROP COLUMN w; UPDATE mixed SET v = 300 WHERE id = 7; ROLLBACK TO a;
         UPDATE mixed SET w = 'still', v = v + 1 WHERE id = 7; ALTER TABLE mixed ADD COLUMN x int; COMMIT",
        "BEGIN; SAVEPOINT a; ALTER TABLE mixed DROP COLUMN x; UPDATE mixed SET v = 5; ROLLBACK TO a; COMMIT",
        "DO $$ BEGIN
             ALTER TABLE mixed ADD COLUMN y int;
             BEGIN ALTER TABLE mixed ADD COLUMN z int; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END;
             EXECUTE 'UPDATE mixed SET y = id';
         END $$",
        "BEGIN; INSERT INTO mixed (id, v) VALUES (50, 1); ALTER TABLE mixed RENAME COLUMN v TO amount;
         UPDATE mixed SET amount = 2 WHERE id = 50; ALTER TABLE mixed RENAME COLUMN amount TO v; COMMIT",
        "BEGIN; DELETE FROM mixed WHERE id = 50; ALTER TABLE mixed DROP CONSTRAINT mixed_pkey, ADD PRIMARY KEY (id, v);
         INSERT INTO mixed (id, v) VALUES (50, 1); COMMIT",
    ] {
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        same_definition(&cluster, "mixed");
        assert_converged(&cluster, &["mixed"]);
    }
    let row = client
        .query_one("SELECT v::int, w FROM mixed WHERE id = 7", &[])
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (101, "still"));
}

/// Migrations of all nodes at once take turns; each is whole.
#[test]
fn migrations_of_several_nodes_take_turns() {
    let cluster = CLUSTER.lease();
    cluster.create_table("shared", "CREATE TABLE shared (id bigint PRIMARY KEY, v int)");
    Load::new().during(&cluster, "shared", || {
        std::thread::scope(|scope| {
            for node in 0..cluster.len() {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(node);
                    for number in 0..4 {
                        let sql = format!(
                            "BEGIN; ALTER TABLE shared ADD COLUMN c{node}_{number} int;
                             CREATE TABLE made_{node}_{number} (id int); COMMENT ON TABLE shared IS 'by {node}, {number}'; COMMIT"
                        );
                        client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                    }
                });
            }
        });
    });
    let definition = same_definition(&cluster, "shared");
    assert_eq!(definition.matches("[\"c").count(), 12, "{definition}");
    assert_converged(&cluster, &["shared"]);
    // Who waits too long is told so.
    let mut holder = cluster.client(0);
    holder
        .batch_execute("BEGIN; ALTER TABLE shared ADD COLUMN held int")
        .unwrap();
    let mut other = cluster.client(1);
    let sql = "SET lock_timeout = '200ms'; ALTER TABLE shared ADD COLUMN other int";
    failed(sql, other.batch_execute(sql), &["55P03"]);
    // Writers of other nodes wait for the end of the DDL, and go on.
    let waiting = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            cluster
                .client(2)
                .batch_execute("INSERT INTO shared (id, v) VALUES (-1, 0)")
        });
        wait_until(DEADLINE, "the writer to wait", || {
            let query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'shared'::regclass";
            let waits: i64 = cluster.client(2).query_one(query, &[]).ok()?.get(0);
            (waits > 0).then_some(())
        });
        holder.batch_execute("COMMIT").unwrap();
        writer.join().unwrap()
    });
    waiting.unwrap();
    assert_converged(&cluster, &["shared"]);
}

/// A node that was away goes through all versions of the definition, with the rows in between.
#[test]
fn a_node_that_was_down_follows() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("versions", "CREATE TABLE versions (id int PRIMARY KEY, a int)");
    let down = cluster.follower();
    let up = (down + 1) % 3;
    cluster.server_mut(down).kill9();
    let mut client = cluster.client(up);
    for sql in [
        "INSERT INTO versions VALUES (1, 1)",
        "ALTER TABLE versions ADD COLUMN b text DEFAULT 'b'; INSERT INTO versions VALUES (2, 2, 'two')",
        "UPDATE versions SET b = 'one' WHERE id = 1",
        "ALTER TABLE versions RENAME TO renamed; INSERT INTO renamed VALUES (3, 3, 'three')",
        "ALTER TABLE renamed DROP COLUMN a; ALTER TABLE renamed ADD COLUMN c int UNIQUE",
        "INSERT INTO renamed VALUES (4, 'four', 4); CREATE TABLE passing (id int PRIMARY KEY)",
        "SET synod.replicate_unconfirmed = on; SELECT synod.replicate_table('passing'); INSERT INTO passing VALUES (1)",
        "DROP TABLE passing",
        "ALTER TABLE renamed RENAME TO versions",
    ] {
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    cluster.start_all();
    same_definition(&cluster, "versions");
    assert_converged(&cluster, &["versions"]);
}

/// Wherever the node of a migration dies, the migration is on all nodes or on none, and the others are not held up for good.
#[test]
fn a_migration_is_whole_or_not_at_all() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("whole", "CREATE TABLE whole (id bigint PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO whole SELECT i, i FROM generate_series(1, 100) i")
        .unwrap();
    // An error between the verdict and the commit: the outcome is unknown to the client, and the same everywhere.
    let sql = "SET synod.failpoint = 'after-turn'; ALTER TABLE whole ADD COLUMN decided int";
    let mut client = cluster.client(0);
    client.batch_execute("SET synod.failpoint = 'after-turn'").unwrap();
    failed(
        sql,
        client.batch_execute("ALTER TABLE whole ADD COLUMN decided int"),
        &["08007"],
    );
    wait_until(DEADLINE, "the column to come", || {
        same_definition(&cluster, "whole").contains("decided").then_some(())
    });
    // Killed while it holds the lock: the others go on without it.
    let victim = cluster.follower();
    let other = (victim + 1) % 3;
    let mut client = cluster.client(victim);
    client
        .batch_execute("BEGIN; ALTER TABLE whole ADD COLUMN never int; UPDATE whole SET never = 1")
        .unwrap();
    cluster.server_mut(victim).kill9();
    cluster
        .client(other)
        .batch_execute("ALTER TABLE whole ADD COLUMN later int; INSERT INTO whole (id, later) VALUES (-1, 1)")
        .unwrap();
    cluster.start_all();
    let definition = same_definition(&cluster, "whole");
    assert!(
        definition.contains("later") && !definition.contains("never"),
        "{definition}"
    );
    assert_converged(&cluster, &["whole"]);
    // Killed at any moment of it.
    for (attempt, pause) in [10, 40].into_iter().enumerate() {
        let victim = cluster.follower();
        let mut client = cluster.client(victim);
        let sql = format!(
            "ALTER TABLE whole ADD COLUMN k{attempt} int; CREATE TABLE with_k{attempt} (id int); UPDATE whole SET k{attempt} = id"
        );
        let migration = std::thread::spawn(move || client.batch_execute(&sql).is_ok());
        try_wait_until::<()>(Duration::from_millis(pause), || None);
        cluster.server_mut(victim).kill9();
        let acknowledged = migration.join().unwrap();
        cluster.start_all();
        let column = same_definition(&cluster, "whole").contains(&format!("\"k{attempt}\""));
        let table = !same_definition(&cluster, &format!("with_k{attempt}")).is_empty();
        assert_eq!(column, table, "half a migration");
        assert!(column || !acknowledged, "an acknowledged migration is gone");
        assert_converged(&cluster, &["whole"]);
    }
}

/// They are gathered again at the end of the transaction.
#[test]
fn rows_before_a_statement_that_fails_while_they_are_gathered_still_travel() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE FUNCTION doubtful(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
               IF current_setting('my.doubt', true) = 'on' THEN RAISE 'doubt'; END IF; RETURN $1; END $$;
             CREATE TABLE gathered (id int PRIMARY KEY, v int); CREATE UNIQUE INDEX ON gathered (doubtful(v));
             SELECT synod.replicate_table('gathered')",
        )
        .unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO gathered VALUES (1, 1); SAVEPOINT s; SET LOCAL my.doubt = on")
        .unwrap();
    let error = client
        .batch_execute("ALTER TABLE gathered ADD COLUMN w int")
        .expect_err("the index cannot be evaluated");
    assert_eq!(error.as_db_error().unwrap().message(), "doubt");
    client.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
    let there = cluster.client(1).query_one("SELECT count(*) FROM gathered", &[]);
    assert_eq!(there.unwrap().get::<_, i64>(0), 1);
    assert_converged(&cluster, &["gathered"]);
}

/// A statement means elsewhere what it means here: names go by the search path of its session.
#[test]
fn statements_are_replayed_under_the_search_path_of_their_session() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(2);
    client
        .batch_execute(
            "CREATE SCHEMA inner_path; CREATE SCHEMA \"Other, path\";
             CREATE TABLE twin (id int PRIMARY KEY); CREATE TYPE tone AS ENUM ('public');
             SET search_path = inner_path, \"Other, path\", public;
             CREATE TABLE twin (id int PRIMARY KEY); CREATE TYPE tone AS ENUM ('inner');
             SELECT synod.replicate_table('twin'), synod.replicate_table('public.twin')",
        )
        .unwrap();
    client
        .batch_execute(
            "ALTER TABLE twin ADD COLUMN tone tone DEFAULT 'inner'; CREATE INDEX twin_tone ON twin (tone);
             INSERT INTO twin VALUES (1); ALTER TABLE twin RENAME COLUMN tone TO sound; SET search_path = public, inner_path;
             ALTER TABLE twin ADD COLUMN tone tone DEFAULT 'public'; INSERT INTO twin VALUES (2);
             DO $$ BEGIN SET LOCAL search_path = \"Other, path\"; CREATE TABLE only_there (id int); END $$",
        )
        .unwrap();
    for table in ["public.twin", "inner_path.twin", "\"Other, path\".only_there"] {
        assert!(!same_definition(&cluster, table).is_empty(), "{table}");
    }
    assert!(same_definition(&cluster, "inner_path.twin").contains("\"sound\", \"inner_path.tone\""));
    assert_converged(&cluster, &["public.twin", "inner_path.twin"]);
}
