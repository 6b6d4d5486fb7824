//! DDL through the log (T12): the same definitions everywhere, whole or not at all, while all nodes write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use synod_testkit::{
    Cluster, Options, Outcome, Session, SharedCluster, assert_converged, failed, try_wait_until, wait_until,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// What the nodes must agree on about a table.
const DEFINITION: &str = "
    SELECT jsonb_build_object(
        'columns', (SELECT jsonb_agg(jsonb_build_array(attname, format_type(atttypid, atttypmod), attnotnull,
                                     pg_get_expr(adbin, adrelid)) ORDER BY attnum)
                    FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
                    WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped),
        'indexes', (SELECT jsonb_agg(pg_get_indexdef(indexrelid) ORDER BY pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = t.oid),
        'constraints', (SELECT jsonb_agg(conname || pg_get_constraintdef(oid) ORDER BY conname) FROM pg_constraint
                        WHERE conrelid = t.oid),
        'triggers', (SELECT jsonb_agg(pg_get_triggerdef(oid) ORDER BY tgname) FROM pg_trigger
                     WHERE tgrelid = t.oid AND NOT tgisinternal),
        'owner', relowner::regrole::text, 'acl', relacl::text)::text
    FROM pg_class t WHERE oid = to_regclass($1)";

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// Waits until every running node has the definition that node 0 has, and returns it.
#[track_caller]
fn same_definition(cluster: &Cluster, table: &str) -> String {
    let of = |node: usize| -> Option<String> {
        let mut client = cluster.client(node);
        client.batch_execute("SET synod.read_consistency = local").ok()?;
        client.query_opt(DEFINITION, &[&table]).ok()?.map(|row| row.get(0))
    };
    let nodes: Vec<usize> = (0..cluster.len())
        .filter(|node| cluster.server(*node).is_running())
        .collect();
    let mut last = Vec::new();
    let same = try_wait_until(DEADLINE, || {
        last = nodes.iter().map(|node| of(*node)).collect();
        let same = last.iter().all(|definition| *definition == last[0]);
        same.then(|| last[0].clone().unwrap_or_default())
    });
    same.unwrap_or_else(|| {
        let states: Vec<String> = nodes.iter().map(|node| apply_state(cluster, *node)).collect();
        panic!("{table} differs: {last:#?}; {states:#?}")
    })
}

fn apply_state(cluster: &Cluster, node: usize) -> String {
    let row = cluster
        .client(node)
        .query_one("SELECT s::text FROM synod.stat_apply s", &[]);
    row.map_or_else(|error| error.to_string(), |row| row.get(0))
}

/// Sessions on every node that write `table (id bigint, v int)` until told to stop.
struct Load {
    stop: AtomicBool,
    written: AtomicU64,
    next: AtomicU64,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            next: AtomicU64::new(1),
        }
    }

    /// Runs `work` while two sessions of each node write.
    fn during<T>(&self, cluster: &Cluster, table: &str, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..cluster.len() * 2)
                .map(|writer| scope.spawn(move || self.write(cluster, writer % cluster.len(), table)))
                .collect();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.wait_for_more(20);
                let result = work();
                self.wait_for_more(20);
                result
            }));
            self.stop.store(true, Ordering::SeqCst);
            for writer in writers {
                writer.join().unwrap();
            }
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn wait_for_more(&self, transactions: u64) {
        let before = self.written.load(Ordering::SeqCst);
        wait_until(DEADLINE, "writes", || {
            (self.written.load(Ordering::SeqCst) >= before + transactions).then_some(())
        });
    }

    fn write(&self, cluster: &Cluster, node: usize, table: &str) {
        let mut session = Session::new(cluster.server(node));
        while !self.stop.load(Ordering::SeqCst) {
            let id = self.next.fetch_add(1, Ordering::SeqCst) as i64;
            let outcome = session.transact("", |transaction| {
                transaction.execute(&format!("INSERT INTO {table} (id, v) VALUES ({id}, 1)"), &[])?;
                transaction.execute(&format!("UPDATE {table} SET v = v + 1 WHERE id = {}", id / 2), &[])
            });
            match outcome {
                Outcome::Committed(_) | Outcome::Unknown { .. } => {
                    self.written.fetch_add(1, Ordering::SeqCst);
                }
                Outcome::RolledBack(failure) => panic!("{table} on node {node}: {failure:?}"),
            }
        }
    }
}

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
    "ALTER TABLE busy ADD COLUMN doubled bigint; UPDATE busy SET doubled = 2 * v WHERE id < 40; ALTER TABLE busy ALTER COLUMN v DROP DEFAULT",
    "UPDATE busy SET v = v + 1 WHERE id < 40; ALTER TABLE busy ALTER COLUMN doubled TYPE numeric;
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
    assert_converged(&cluster, &["busy"]);
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

/// What would come out differently from node to node, and what would be half of something.
#[test]
fn refusals_say_what_to_do_instead() {
    let cluster = CLUSTER.lease();
    cluster.create_table("refusing", "CREATE TABLE refusing (id int PRIMARY KEY, v int)");
    cluster.create_table("fed", "CREATE TABLE fed (first text, id bigserial, v bigint)");
    let mut client = cluster.client(0);
    client
        .batch_execute("INSERT INTO refusing VALUES (1, 1); CREATE TABLE ordinary (id int)")
        .unwrap();
    let before = same_definition(&cluster, "refusing");
    client
        .batch_execute(
            "CREATE FUNCTION steady() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION making() RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT made()'; RETURN 1; END $$;
             CREATE FUNCTION made() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE inner_table (id int); RETURN 1; END $$",
        )
        .unwrap();
    for sql in [
        "ALTER TABLE ordinary ADD COLUMN c int DEFAULT making()",
        "ALTER TABLE refusing ADD COLUMN r float DEFAULT random()",
        "ALTER TABLE refusing ADD COLUMN s serial",
        "ALTER TABLE fed DROP COLUMN first",
        "ALTER SEQUENCE fed_id_seq OWNED BY fed.v",
        "ALTER TABLE refusing ADD COLUMN t int DEFAULT steady()",
        "ALTER TABLE refusing ADD COLUMN t text DEFAULT session_user",
        "ALTER TABLE refusing ALTER COLUMN v TYPE int USING v + steady()",
        "ALTER TABLE refusing ALTER COLUMN v TYPE float USING v * random()",
        "CREATE UNIQUE INDEX CONCURRENTLY ON refusing (v)",
        "ALTER TABLE refusing SET UNLOGGED",
        "ALTER TABLE refusing DISABLE TRIGGER ALL",
        "BEGIN; ALTER TABLE refusing ADD COLUMN c int; INSERT INTO ordinary VALUES (1); COMMIT",
        "BEGIN; TRUNCATE refusing; ALTER TABLE refusing ADD COLUMN c int; COMMIT",
        "SET synod.ddl = local; ALTER TABLE refusing ADD COLUMN c int",
        "SET synod.ddl = local; DROP TABLE refusing",
        "SET synod.ddl = local; ALTER TABLE refusing RENAME TO other",
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

/// `replicate_table` makes the table where it is missing, with all that belongs to it.
#[test]
fn a_missing_table_is_created_on_the_other_nodes() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(2);
    client
        .batch_execute(
            "CREATE TYPE shade AS ENUM ('light', 'dark');
             CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
        )
        .unwrap();
    client
        .batch_execute(
            "SET synod.ddl = local;
             CREATE SCHEMA \"My app\";
             CREATE TABLE \"My app\".owners (id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT BY 3) PRIMARY KEY, name text COLLATE \"C\" UNIQUE);
             CREATE TABLE \"My app\".\"Things\" (id serial PRIMARY KEY, owner bigint REFERENCES \"My app\".owners ON DELETE CASCADE,
                 shade shade DEFAULT 'dark', n numeric(8,2) NOT NULL CHECK (n > 0), twice numeric GENERATED ALWAYS AS (n * 2) STORED,
                 tags text[] DEFAULT '{}'::text[], during int4range, EXCLUDE USING gist (during WITH &&)) WITH (fillfactor = 70);
             CREATE INDEX ON \"My app\".\"Things\" (lower(owner::text)) WHERE n > 1;
             CREATE UNIQUE INDEX things_u ON \"My app\".\"Things\" (shade, n DESC);
             CREATE UNIQUE INDEX things_n ON \"My app\".\"Things\" (n);
             ALTER TABLE \"My app\".\"Things\" REPLICA IDENTITY USING INDEX things_n;
             CREATE TRIGGER stamped BEFORE INSERT ON \"My app\".\"Things\" FOR EACH ROW EXECUTE FUNCTION stamped();
             GRANT SELECT, UPDATE ON \"My app\".\"Things\" TO pg_monitor; GRANT SELECT (id) ON \"My app\".owners TO PUBLIC;
             ALTER TABLE \"My app\".owners ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON \"My app\".owners FOR SELECT TO pg_monitor USING (id > 0);
             COMMENT ON COLUMN \"My app\".owners.name IS 'it''s a name';
             INSERT INTO \"My app\".owners (name) VALUES ('a'), ('b');
             INSERT INTO \"My app\".\"Things\" (owner, n) VALUES (1, 1), (4, 2);",
        )
        .unwrap();
    client
        .batch_execute(
            "RESET synod.ddl;
             SELECT synod.replicate_table('\"My app\".owners'), synod.replicate_table('\"My app\".\"Things\"')",
        )
        .unwrap();
    let tables = ["\"My app\".owners", "\"My app\".\"Things\""];
    for table in tables {
        same_definition(&cluster, table);
    }
    assert_converged(&cluster, &tables);
    let identity = "SELECT FROM pg_index WHERE indisreplident AND indexrelid = '\"My app\".things_n'::regclass";
    assert_eq!(cluster.client(0).query(identity, &[]).unwrap().len(), 1);
    cluster
        .client(0)
        .batch_execute("INSERT INTO \"My app\".\"Things\" (id, owner, n) VALUES (9, 4, 3)")
        .unwrap();
    // One that was made in the same transaction, too.
    client
        .batch_execute("BEGIN; CREATE TABLE fresh (id int PRIMARY KEY, s text); SELECT synod.replicate_table('fresh'); INSERT INTO fresh VALUES (1, 'x'); COMMIT")
        .unwrap();
    same_definition(&cluster, "fresh");
    assert_converged(&cluster, &[tables[0], tables[1], "fresh"]);
    client
        .batch_execute("DROP TABLE fresh, \"My app\".\"Things\", \"My app\".owners; DROP SCHEMA \"My app\"")
        .unwrap();
    wait_until(DEADLINE, "the tables to go", || {
        let count = |node| -> Option<i64> {
            let query = "SELECT count(*) FROM synod.tables WHERE table_name::text ~ 'My app|fresh'";
            Some(cluster.client(node).query_one(query, &[]).ok()?.get(0))
        };
        (0..3).all(|node| count(node) == Some(0)).then_some(())
    });
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
        "SELECT synod.replicate_table('passing'); INSERT INTO passing VALUES (1)",
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

/// A partition that comes meets no row that another node puts into the default partition meanwhile.
#[test]
fn attaching_a_partition_keeps_writers_off_the_default() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "parts",
        "CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE parts_rest PARTITION OF parts DEFAULT",
    );
    let mut client = cluster.client(0);
    client
        .batch_execute("CREATE TABLE parts_1 (id int PRIMARY KEY, v int)")
        .unwrap();
    same_definition(&cluster, "parts_1");
    client
        .batch_execute("BEGIN; ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (100)")
        .unwrap();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| cluster.client(1).batch_execute("INSERT INTO parts VALUES (5, 5)"));
        wait_until(DEADLINE, "the writer to wait", || {
            let query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IN ('parts'::regclass, 'parts_rest'::regclass)";
            let waits: i64 = cluster.client(1).query_one(query, &[]).ok()?.get(0);
            (waits > 0).then_some(())
        });
        client.batch_execute("COMMIT").unwrap();
        writer.join().unwrap()
    });
    // A row that waited goes where it belongs, or its transaction is tried again.
    if written.is_err() {
        failed("the row", written, &["40001"]);
    }
    assert_converged(&cluster, &["parts", "parts_1", "parts_rest"]);
    let query = "SELECT count(*) FROM parts_rest";
    assert_eq!(client.query_one(query, &[]).unwrap().get::<_, i64>(0), 0);
}
