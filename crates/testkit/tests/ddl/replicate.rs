//! Tables that become the group's.

use synod_testkit::{Cluster, assert_converged, failed, wait_until};

use crate::{CLUSTER, DEADLINE, apply_state, same_definition};

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

/// Sessions of a node that wait for a lock on the table.
fn waiting(cluster: &Cluster, node: usize, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass");
    cluster.client(node).query_one(&query, &[]).unwrap().get(0)
}

/// Until a node knew of it, a table was an ordinary one there, and what was written to it was nobody else's: apply stopped over it.
#[test]
fn nobody_writes_past_the_group_while_a_table_is_replicated() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE expected (id int PRIMARY KEY, v int)");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO expected VALUES (1, 1)").unwrap();
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('expected')")
        .unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = [1, 2]
            .map(|node| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(node);
                    client.batch_execute(&format!("INSERT INTO expected VALUES (1{node}, {node})"))
                })
            })
            .into();
        wait_until(DEADLINE, "the writers to wait", || {
            (waiting(&cluster, 1, "expected") > 0 && waiting(&cluster, 2, "expected") > 0).then_some(())
        });
        client.batch_execute("COMMIT").unwrap();
        for writer in writers {
            writer.join().unwrap().unwrap_or_else(|error| panic!("{error:?}"));
        }
    });
    assert_converged(&cluster, &["expected"]);
    // Who has replicated a table is told so when the others have it.
    for round in 0..5 {
        let table = format!("at_once_{round}");
        client
            .batch_execute(&format!(
                "SET synod.ddl = local; CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1); RESET synod.ddl"
            ))
            .unwrap();
        client
            .batch_execute(&format!("SELECT synod.replicate_table('{table}')"))
            .unwrap();
        for node in 1..3 {
            let query = format!("SELECT count(*) FROM {table}");
            assert_eq!(cluster.client(node).query_one(&query, &[]).unwrap().get::<_, i64>(0), 1);
        }
    }
    // One that is rolled back leaves an ordinary table behind, which can be written.
    cluster.on_all("CREATE TABLE expected_in_vain (id int)");
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('expected_in_vain'); ROLLBACK")
        .unwrap();
    cluster
        .client(1)
        .batch_execute("SET lock_timeout = '20s'; INSERT INTO expected_in_vain VALUES (1)")
        .unwrap();
}

/// Who waited for the group's DDL lock asked for the table by the name that it had before.
#[test]
fn a_table_that_gets_another_name_meanwhile_is_written_nowhere_either() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE named_before (id int PRIMARY KEY)");
    let (mut renaming, mut client) = (cluster.client(0), cluster.client(0));
    renaming
        .batch_execute("BEGIN; ALTER TABLE named_before RENAME TO named_after")
        .unwrap();
    std::thread::scope(|scope| {
        let replicating = scope.spawn(|| client.batch_execute("BEGIN; SELECT synod.replicate_table('named_before')"));
        wait_until(DEADLINE, "the lock to be waited for", || {
            let query =
                "SELECT FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT synod.replicate_table(''named_before'')'
                         AND state = 'active' AND wait_event_type = 'Extension'";
            (cluster.client(0).query(query, &[]).unwrap().len() == 1).then_some(())
        });
        renaming.batch_execute("COMMIT").unwrap();
        replicating.join().unwrap().unwrap_or_else(|error| panic!("{error:?}"));
    });
    let error = cluster
        .client(1)
        .batch_execute("SET lock_timeout = '1s'; INSERT INTO named_after VALUES (1)")
        .unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error:?}");
    client.batch_execute("COMMIT").unwrap();
    cluster
        .client(1)
        .batch_execute("INSERT INTO named_after VALUES (1)")
        .unwrap();
    assert_converged(&cluster, &["named_after"]);
}

/// On a node that has heard of it but has yet to follow, a read waits for the rows that others see already.
#[test]
fn a_table_that_is_about_to_be_replicated_is_read_strongly() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE read_early (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO read_early VALUES (1)").unwrap();
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('read_early')")
        .unwrap();
    let mut holder = cluster.client(2);
    holder.batch_execute("BEGIN; SELECT synod._hold(20000)").unwrap();
    let seen: i64 = std::thread::scope(|scope| {
        let commit = scope.spawn(|| client.batch_execute("COMMIT"));
        wait_until(DEADLINE, "the commit on the node that is not held", || {
            let query = "SELECT count(*) FROM read_early";
            (cluster.client(1).query_one(query, &[]).ok()?.get::<_, i64>(0) == 1).then_some(())
        });
        let reader = scope.spawn(|| {
            let query = "SELECT count(*) FROM read_early";
            cluster.client(2).query_one(query, &[]).map(|row| row.get(0))
        });
        wait_until(DEADLINE, "the reader to wait", || {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT count(*) FROM read_early%' AND state = 'active'
                         AND wait_event_type IS NOT NULL AND wait_event_type <> 'Client'";
            let waits = || {
                cluster
                    .client(2)
                    .query_one(query, &[])
                    .ok()
                    .map(|row| row.get::<_, i64>(0))
            };
            (reader.is_finished() || waits()? == 1).then_some(())
        });
        holder.batch_execute("ROLLBACK").unwrap();
        commit.join().unwrap().unwrap();
        reader.join().unwrap().unwrap()
    });
    assert_eq!(seen, 1, "the read missed a row that had been told");
}

/// A node that cannot be asked has not confirmed; it is named.
#[test]
fn a_table_is_not_replicated_without_a_member_that_cannot_be_asked() {
    let mut cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE unconfirmed (id int PRIMARY KEY)");
    let victim = cluster.follower();
    let name = cluster.nodes()[victim].name.clone();
    cluster.server_mut(victim).kill9();
    let mut client = cluster.client((victim + 1) % 3);
    let sql = "SELECT synod.replicate_table('unconfirmed')";
    let error = failed(sql, client.batch_execute(sql), &["55000"]);
    assert!(error.detail().unwrap().contains(&format!("node {name}")), "{error:?}");
    client
        .batch_execute("SET synod.replicate_unconfirmed = on; SELECT synod.replicate_table('unconfirmed')")
        .unwrap();
    client.batch_execute("INSERT INTO unconfirmed VALUES (1)").unwrap();
    cluster.start_all();
    assert_converged(&cluster, &["unconfirmed"]);
}

/// What a node lacks to make the table is told before anything is decided: apply stopped there otherwise.
#[test]
fn what_a_node_lacks_to_make_a_table_is_named_beforehand() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(1);
    client
        .batch_execute(
            "SET synod.ddl = local; CREATE ROLE builder; CREATE ROLE tenant; CREATE SCHEMA built; GRANT USAGE ON SCHEMA built TO builder;
             CREATE TYPE kept AS ENUM ('here'); CREATE FUNCTION kept_only(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
             CREATE DOMAIN positive_here AS int CHECK (VALUE > 0);
             CREATE TABLE of_role (id int); ALTER TABLE of_role OWNER TO builder;
             CREATE TABLE built.of_schema (id int); ALTER TABLE built.of_schema OWNER TO builder;
             CREATE TABLE of_type (id kept[]); CREATE TABLE of_domain (id positive_here);
             CREATE TABLE of_function (id int CHECK (kept_only(id) > 0));
             CREATE TABLE of_index (id int); CREATE INDEX ON of_index (kept_only(id));
             CREATE SCHEMA rented AUTHORIZATION tenant; GRANT CREATE, USAGE ON SCHEMA rented TO builder;
             CREATE TABLE rented.house (id int); ALTER TABLE rented.house OWNER TO builder",
        )
        .unwrap();
    client.batch_execute("RESET synod.ddl").unwrap();
    let lacks = |client: &mut postgres::Client, table: &str, code: &str, words: &[&str]| {
        let sql = format!("SELECT synod.replicate_table('{table}')");
        let error = failed(&sql, client.batch_execute(&sql), &[code]);
        let detail = error.detail().unwrap();
        for word in words.iter().chain(&["node n1", "node n3"]) {
            assert!(detail.contains(word), "{table}: {error:?}");
        }
    };
    lacks(&mut client, "of_role", "42704", &["role \"builder\""]);
    lacks(&mut client, "rented.house", "42704", &["role \"builder\""]);
    for node in [0, 2] {
        cluster
            .client(node)
            .batch_execute("SET synod.ddl = local; CREATE ROLE builder; CREATE SCHEMA built; GRANT USAGE ON SCHEMA built TO builder")
            .unwrap();
    }
    lacks(
        &mut client,
        "rented.house",
        "42704",
        &["role \"tenant\"", "schema \"rented\""],
    );
    lacks(
        &mut client,
        "built.of_schema",
        "42501",
        &["role \"builder\"", "schema \"built\""],
    );
    lacks(&mut client, "of_type", "42704", &["kept"]);
    lacks(&mut client, "of_domain", "42704", &["positive_here"]);
    lacks(&mut client, "of_function", "42883", &["kept_only"]);
    lacks(&mut client, "of_index", "42883", &["kept_only"]);
    // With what was lacking it goes on; a schema that is missing is made with its owner and the rights that this takes.
    for node in [0, 2] {
        cluster
            .client(node)
            .batch_execute("SET synod.ddl = local; CREATE ROLE tenant; GRANT CREATE ON SCHEMA built TO builder; GRANT CREATE ON SCHEMA public TO builder")
            .unwrap();
    }
    for table in ["of_role", "built.of_schema", "rented.house"] {
        let sql = format!("SELECT synod.replicate_table('{table}')");
        client
            .batch_execute(&sql)
            .unwrap_or_else(|error| panic!("{table}: {error:?}"));
        same_definition(&cluster, table);
    }
    let owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'rented'";
    for node in 0..3 {
        assert_eq!(
            cluster.client(node).query_one(owner, &[]).unwrap().get::<_, String>(0),
            "tenant"
        );
        assert!(apply_state(&cluster, node).contains("running"));
    }
    // What this transaction makes need not be there yet.
    client
        .batch_execute(
            "BEGIN; CREATE TYPE brought AS ENUM ('along'); CREATE TABLE of_own (id brought); SELECT synod.replicate_table('of_own'); COMMIT",
        )
        .unwrap();
    same_definition(&cluster, "of_own");
}
