//! Every kind of table: columns of all types, keys and constraints of all kinds, partitions, policies.
//!
//! What can be said in SQL is a script of `tables/`, run on the group and on a plain database; here is what is refused,
//! and what needs nodes that differ.

use std::time::Duration;

use synod_testkit::{
    Cluster, Options, PgInstall, SharedCluster, assert_converged, checksum, refused, run_script, sqlstate, wait_until,
};

#[path = "tables/generated.rs"]
mod generated;
#[path = "tables/inheritance.rs"]
mod inheritance;
#[path = "tables/nested.rs"]
mod nested;
#[path = "tables/rest.rs"]
mod rest;
#[path = "tables/shapes.rs"]
mod shapes;

/// The servers' own fsync does not matter here; without it, DDL is fast.
static CLUSTER: SharedCluster = SharedCluster::new(Options {
    settings: &[("fsync", "off")],
    ..Options::DEFAULT
});

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run_script(&CLUSTER.lease(), stringify!($name), include_str!(concat!("tables/", stringify!($name), ".sql")));
        }
    )*};
}

scripts! { types keys foreign_keys contrib access columns partitions inherited since_18 }

#[test]
fn collations() {
    if PgInstall::from_environment().has_icu() {
        run_script(&CLUSTER.lease(), "collations", include_str!("tables/collations.sql"));
    } else {
        eprintln!("collations: skipped, this PostgreSQL was built without ICU");
    }
}

/// Two transactions on two nodes, both before either commits; returns what each was told.
fn race(cluster: &Cluster, first: &str, second: &str) -> [Option<String>; 2] {
    let mut clients = [cluster.client(0), cluster.client(1)];
    for (client, sql) in clients.iter_mut().zip([first, second]) {
        client
            .batch_execute(&format!("BEGIN; {sql}"))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    clients.map(|mut client| {
        let told = client.batch_execute("COMMIT");
        told.err().map(|error| sqlstate(&error).unwrap_or("closed").to_owned())
    })
}

#[test]
fn partitions_are_certified_as_one_table() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE area (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
         CREATE TABLE area_1 PARTITION OF area FOR VALUES FROM (0) TO (100);
         CREATE TABLE area_2 PARTITION OF area FOR VALUES FROM (100) TO (200);
         CREATE TABLE place (id int PRIMARY KEY, area int REFERENCES area);
         CREATE TABLE spot (id int PRIMARY KEY, area int REFERENCES area_1)",
    );
    cluster.replicate_together(&["area", "place", "spot"]);
    let mut client = cluster.client(2);
    for (first, second) in [
        (
            "UPDATE area SET v = 1 WHERE id = 1",
            "UPDATE area SET v = 2 WHERE id = 1",
        ),
        ("DELETE FROM area WHERE id = 101", "INSERT INTO place VALUES (1, 101)"),
        ("INSERT INTO place VALUES (1, 1)", "DELETE FROM area_1 WHERE id = 1"),
        ("DELETE FROM area WHERE id = 1", "INSERT INTO spot VALUES (1, 1)"),
        (
            "UPDATE area SET id = 50 WHERE id = 101",
            "INSERT INTO area VALUES (50, 0)",
        ),
        (
            "UPDATE area SET id = id + 150 WHERE id = 1",
            "UPDATE area SET v = v + 1 WHERE id = 1",
        ),
        (
            "UPDATE area_2 SET v = 5",
            "LOCK TABLE area IN SHARE MODE; INSERT INTO place VALUES (2, NULL)",
        ),
        ("TRUNCATE area, place, spot", "INSERT INTO area VALUES (60, 0)"),
        (
            "TRUNCATE area_1, area_2, area, place, spot",
            "INSERT INTO place VALUES (3, 1)",
        ),
        (
            "UPDATE area SET v = 7 WHERE id = 1",
            "SELECT FROM area WHERE id = 1 FOR UPDATE; INSERT INTO place VALUES (4, NULL)",
        ),
    ] {
        // Whoever writes may have to do it again.
        wait_until(Duration::from_secs(20), "a new beginning", || {
            let begin = "TRUNCATE area, place, spot; INSERT INTO area VALUES (1, 0), (101, 0)";
            client.batch_execute(begin).ok()
        });
        // So that both begin with it. A reader that waits for a TRUNCATE has the table's lock already, and gives way.
        for node in 0..2 {
            wait_until(Duration::from_secs(20), "the new rows", || {
                cluster.client(node).batch_execute("TABLE area").ok()
            });
        }
        let told = race(&cluster, first, second);
        let lost = told.iter().flatten().collect::<Vec<_>>();
        assert_eq!(lost, ["40001"], "{first}\n{second}: {told:?}");
    }
    assert_converged(&cluster, &["area", "place", "spot", "area_1", "area_2"]);
}

/// The apply worker is a superuser: the functions of a table's owner must not be.
#[test]
fn functions_of_a_table_run_as_its_owner_elsewhere() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE ROLE mallory;
         CREATE FUNCTION volatile_part() RETURNS void LANGUAGE plpgsql AS
         'BEGIN
            IF session_user = ''mallory'' THEN RETURN; END IF;
            BEGIN ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
            BEGIN SET ROLE NONE; ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
          END';
         CREATE FUNCTION grab(given text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
         'BEGIN PERFORM public.volatile_part(); RETURN current_user; END';
         CREATE FUNCTION mirror(given text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
         'BEGIN PERFORM public.volatile_part(); RETURN given; END'",
    );
    // As somebody who can do nothing yet: what the server itself evaluates here must not count.
    cluster.on_all(
        "GRANT CREATE ON SCHEMA public TO mallory; SET SESSION AUTHORIZATION mallory;
         CREATE DOMAIN trapped AS text CHECK (mirror(VALUE) <> '');
         CREATE TABLE trap (id int PRIMARY KEY, v trapped, who text GENERATED ALWAYS AS (grab(v)) STORED);
         CREATE INDEX ON trap (mirror(v)) WHERE mirror(v || 'x') <> ''",
    );
    cluster.replicate("trap");
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "SET SESSION AUTHORIZATION mallory; INSERT INTO trap VALUES (1, 'a'), (2, 'b'), (3, 'c');
             UPDATE trap SET v = 'd' WHERE id = 2; DELETE FROM trap WHERE id = 3",
        )
        .unwrap();
    for node in 0..cluster.len() {
        let row = cluster
            .client(node)
            .query_one(
                "SELECT (SELECT string_agg(v || who, ',' ORDER BY id) FROM trap),
                        (SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory')",
                &[],
            )
            .unwrap();
        let found: (String, bool) = (row.get(0), row.get(1));
        assert_eq!(found, ("amallory,dmallory".to_owned(), false), "node {node}");
    }
    assert_converged(&cluster, &["trap"]);
}

/// Refuses, and changes nothing: what could get around the group.
#[test]
fn what_cannot_be_replicated_or_done_to_it() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE elder (id int PRIMARY KEY);
         CREATE TABLE odd (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE odd_1 PARTITION OF odd FOR VALUES IN (1);
         CREATE UNLOGGED TABLE odd_2 PARTITION OF odd FOR VALUES IN (2);
         CREATE TABLE differs (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE differs_1 PARTITION OF differs FOR VALUES IN (1);
         CREATE TABLE outside (id int PRIMARY KEY); CREATE TABLE inside (id int PRIMARY KEY REFERENCES outside)",
    );
    let mut client = cluster.client(0);
    cluster
        .client(1)
        .batch_execute("SET synod.ddl = local; CREATE TABLE differs_more PARTITION OF differs DEFAULT")
        .unwrap();
    for (table, code) in [
        ("parts_1", "0A000"),
        ("odd", "0A000"),
        ("differs", "55000"),
        ("inside", "0A000"),
    ] {
        let sql = format!("SELECT synod.replicate_table('{table}')");
        refused(&sql, client.batch_execute(&sql), &[code]);
    }
    cluster.replicate("parts");
    for (sql, code) in [
        ("SELECT synod.replicate_table('parts')", "42710"),
        ("SELECT synod.unreplicate_table('parts_1')", "55000"),
        ("ALTER TABLE parts_1 DISABLE TRIGGER ALL", "0A000"),
        ("ALTER TABLE parts_1 INHERIT elder", "0A000"),
    ] {
        refused(sql, client.batch_execute(sql), &[code]);
    }
    client.batch_execute("INSERT INTO parts VALUES (1)").unwrap();
    client.batch_execute("SELECT synod.unreplicate_table('parts')").unwrap();
    let left = client
        .query_one(
            "SELECT count(*) FROM synod.tables WHERE table_name::text LIKE 'parts%'",
            &[],
        )
        .unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    client.batch_execute("DROP TABLE parts").unwrap();
}

/// Partitions come and go by statements on any node, and take their rows with them.
#[test]
fn partitions_come_and_go() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE grow (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE grow_1 PARTITION OF grow FOR VALUES FROM (0) TO (100)",
    );
    cluster.replicate("grow");
    let mut clients: Vec<_> = (0..3).map(|node| cluster.client(node)).collect();
    // Who reads or writes while a definition changes may be told to try again.
    let mut on = |node: usize, sql: &str| {
        wait_until(Duration::from_secs(30), sql, || {
            match clients[node].batch_execute(sql) {
                Ok(()) => Some(()),
                Err(error) if sqlstate(&error) == Some("40001") => {
                    clients[node] = cluster.client(node);
                    None
                }
                Err(error) => panic!("{sql}: {error:?}"),
            }
        });
    };
    on(0, "INSERT INTO grow SELECT i, 'first' FROM generate_series(1, 50) i");
    on(
        1,
        "CREATE TABLE grow_2 PARTITION OF grow FOR VALUES FROM (100) TO (200)",
    );
    on(
        2,
        "TABLE grow; INSERT INTO grow SELECT i, 'second' FROM generate_series(101, 149) i; UPDATE grow SET id = id + 100 WHERE id = 50",
    );
    on(
        0,
        "BEGIN; CREATE TABLE grow_sub PARTITION OF grow FOR VALUES FROM (200) TO (300) PARTITION BY LIST (id);
           CREATE TABLE grow_sub_1 PARTITION OF grow_sub DEFAULT; INSERT INTO grow VALUES (201, 'sub'); COMMIT",
    );
    on(
        1,
        "TABLE grow; UPDATE grow SET id = 202 WHERE id = 101; INSERT INTO grow VALUES (203, 'sub')",
    );
    assert_converged(&cluster, &["grow", "grow_1", "grow_2", "grow_sub_1"]);
    on(1, "CREATE TABLE grow_3 (v text, id int NOT NULL)");
    cluster.on_all("TABLE grow");
    on(1, "INSERT INTO grow_3 VALUES ('brought', 300), ('brought', 301)");
    on(
        1,
        "ALTER TABLE grow ATTACH PARTITION grow_3 FOR VALUES FROM (300) TO (400)",
    );
    on(
        2,
        "UPDATE grow SET v = v || '!' WHERE id >= 300; INSERT INTO grow VALUES (302, 'added')",
    );
    on(2, "ALTER TABLE grow DETACH PARTITION grow_1");
    on(
        0,
        "TABLE grow; INSERT INTO grow_1 VALUES (500, 'alone'); ALTER TABLE grow ADD COLUMN n int DEFAULT 7",
    );
    on(1, "TABLE grow; INSERT INTO grow VALUES (160, 'n', 8)");
    assert_converged(&cluster, &["grow", "grow_1", "grow_2", "grow_3"]);
    on(0, "DROP TABLE grow_2");
    on(1, "TABLE grow; DELETE FROM grow WHERE id = 301");
    assert_converged(&cluster, &["grow", "grow_1", "grow_3"]);
    on(2, "TABLE grow; CREATE TABLE grow_4 (id int NOT NULL, v text, n int)");
    cluster.on_all("TABLE grow; SET synod.ddl = local; INSERT INTO grow_4 VALUES (400, 'here and there', 0)");
    let attach = "ALTER TABLE grow ATTACH PARTITION grow_4 FOR VALUES FROM (400) TO (500)";
    refused(attach, cluster.client(0).batch_execute(attach), &["55000"]);
    refused(
        "a partition of this node only",
        cluster
            .client(0)
            .batch_execute("SET synod.ddl = local; CREATE TABLE grow_5 PARTITION OF grow DEFAULT"),
        &["0A000"],
    );
    let row = cluster
        .client(2)
        .query_one("SELECT count(*), sum(id) FROM grow", &[])
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (5, 201 + 202 + 203 + 300 + 302)
    );
}

/// Columns that were dropped on some nodes only, and in another order, are no difference: numbers of columns are the group's.
#[test]
fn nodes_may_have_dropped_other_columns() {
    let cluster = CLUSTER.lease();
    cluster
        .client(0)
        .batch_execute("SET synod.ddl = local; CREATE TABLE worn (id int PRIMARY KEY, a text, b int[], c int REFERENCES worn UNIQUE)")
        .unwrap();
    cluster
        .client(1)
        .batch_execute("SET synod.ddl = local; CREATE TABLE worn (x int, id int PRIMARY KEY, y text, a text, b int[], z int); ALTER TABLE worn DROP x, DROP y, DROP z, ADD c int REFERENCES worn UNIQUE")
        .unwrap();
    cluster
        .client(2)
        .batch_execute("SET synod.ddl = local; CREATE TABLE worn (id int PRIMARY KEY, x int DEFAULT 5, a text, y int, b int[], c int REFERENCES worn UNIQUE); ALTER TABLE worn DROP x, DROP y")
        .unwrap();
    cluster.replicate("worn");
    for node in 0..3 {
        let mut client = cluster.client(node);
        // A read waits for what the node before has written; a write by key may lose to it.
        client.batch_execute("TABLE worn").unwrap();
        client
            .batch_execute(&format!(
                "INSERT INTO worn SELECT i, 'a' || i, ARRAY[i, NULL], NULL FROM generate_series({node} * 10, {node} * 10 + 9) i;
                 UPDATE worn SET c = id - 1 WHERE id > 0 AND c IS NULL; UPDATE worn SET b = b || 7 WHERE id % 7 = {node};
                 UPDATE worn SET a = NULL WHERE id = {node}"
            ))
            .unwrap();
    }
    assert_converged(&cluster, &["worn"]);
}

#[test]
fn as_many_columns_as_there_can_be() {
    let cluster = CLUSTER.lease();
    let columns = |of: fn(usize) -> String| (1..1600).map(of).collect::<Vec<_>>().join(", ");
    cluster.create_table(
        "broad",
        &format!(
            "CREATE TABLE broad (id int PRIMARY KEY, {})",
            columns(|n| format!("c{n} smallint"))
        ),
    );
    let mut client = cluster.client(1);
    client
        .batch_execute(&format!(
            "INSERT INTO broad SELECT i, {} FROM generate_series(1, 20) i",
            columns(|n| n.to_string())
        ))
        .unwrap();
    client
        .batch_execute("UPDATE broad SET c1599 = id, c7 = NULL; DELETE FROM broad WHERE id = 3")
        .unwrap();
    assert_converged(&cluster, &["broad"]);
}

#[test]
fn a_value_over_the_limit_is_refused_whole_and_one_below_it_arrives() {
    let cluster = CLUSTER.lease();
    cluster.create_table("huge", "CREATE TABLE huge (id int PRIMARY KEY, v text)");
    let mut client = cluster.client(0);
    let compressible = "repeat('x', 12000000)";
    client.batch_execute("SET synod.max_transaction_size = '8MB'").unwrap();
    refused(
        "a record over the limit",
        client.batch_execute(&format!("INSERT INTO huge VALUES (1, {compressible})")),
        &["54000"],
    );
    client.batch_execute("RESET synod.max_transaction_size").unwrap();
    client
        .batch_execute(&format!("INSERT INTO huge VALUES (2, {compressible})"))
        .unwrap();
    client.batch_execute("UPDATE huge SET id = 3").unwrap();
    assert_converged(&cluster, &["huge"]);
}

/// A member that joins gets the rows of partitions, those of every row policy, and values of generated columns.
#[test]
fn a_joining_member_gets_every_kind_of_table() {
    let cluster = CLUSTER.lease();
    let server = cluster.server(0);
    // No row has it.
    let read_only = match PgInstall::from_environment().major() {
        ..18 => "",
        _ => ", x int GENERATED ALWAYS AS (id * 3) VIRTUAL",
    };
    let schema = format!(
        "
        CREATE FUNCTION whose(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1 || E'\\t' || current_database() $$;
        CREATE TABLE split (id serial PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id + 1) STORED,
                            w text GENERATED ALWAYS AS (whose(v)) STORED{read_only}) PARTITION BY RANGE (id);
        CREATE TABLE only_computed (w text GENERATED ALWAYS AS (whose('x')) STORED);
        CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (50);
        CREATE TABLE split_2 PARTITION OF split DEFAULT;
        CREATE TABLE secret (id int PRIMARY KEY, split int REFERENCES split, v text);
        ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE TABLE bare (v text)"
    );
    for name in ["kinds_a", "kinds_b"] {
        server
            .client()
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .unwrap();
        let mut client = server.client_to(name);
        client.batch_execute("CREATE EXTENSION synod").unwrap();
        client.batch_execute(&schema).unwrap();
    }
    let dsn = |name: &str| server.dsn_of(name);
    let mut first = server.client_to("kinds_a");
    first
        .execute("SELECT synod.create_group('kinds', 'a', $1)", &[&dsn("kinds_a")])
        .unwrap();
    for sql in [
        "INSERT INTO split (v) SELECT 'v' || i FROM generate_series(1, 60) i; INSERT INTO secret SELECT i, i, 's' FROM generate_series(1, 60) i;
         INSERT INTO bare SELECT 'b' FROM generate_series(1, 3); INSERT INTO only_computed DEFAULT VALUES",
        "SELECT synod.replicate_table('split'), synod.replicate_table('secret'), synod.replicate_table('bare'),
                synod.replicate_table('only_computed')",
        "UPDATE split SET v = NULL WHERE id = 3; UPDATE split SET v = E'\\\\N' WHERE id = 4",
        "DELETE FROM secret WHERE id > 50; UPDATE split SET id = 99 WHERE id = 60",
    ] {
        first.batch_execute(sql).unwrap();
    }
    let mut second = server.client_to("kinds_b");
    second
        .execute(
            "SELECT synod.join_group($1, 'b', $2)",
            &[&dsn("kinds_a"), &dsn("kinds_b")],
        )
        .unwrap();
    second
        .batch_execute("UPDATE split SET id = 10 + 1000 WHERE id = 59; UPDATE secret SET v = 'changed' WHERE id = 7; DELETE FROM bare WHERE ctid = '(0,1)'; INSERT INTO split VALUES (2000, 'new')")
        .unwrap();
    for table in ["split", "split_1", "split_2", "secret", "bare", "only_computed"] {
        let (there, here) = (
            checksum(&mut first, table).unwrap(),
            checksum(&mut second, table).unwrap(),
        );
        assert_eq!(there, here, "{table}");
        assert!(here.0 > 0, "{table} is empty");
    }
    for name in ["kinds_b", "kinds_a"] {
        server
            .client_to(name)
            .batch_execute("SELECT synod.leave_group()")
            .unwrap();
    }
}

/// A database in another encoding than UTF-8 replicates what it has; members must have the same.
#[test]
fn other_encodings() {
    let cluster = CLUSTER.lease();
    let server = cluster.server(0);
    for (name, encoding) in [("latin_a", "LATIN1"), ("latin_b", "LATIN1"), ("unicode", "UTF8")] {
        let create =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        server.client().batch_execute(&create).unwrap();
        server
            .client_to(name)
            .batch_execute("CREATE EXTENSION synod; CREATE TABLE words (word text PRIMARY KEY, n int)")
            .unwrap();
    }
    let dsn = |name: &str| server.dsn_of(name);
    let mut first = server.client_to("latin_a");
    first
        .execute("SELECT synod.create_group('latin', 'a', $1)", &[&dsn("latin_a")])
        .unwrap();
    let join = |name: &str| {
        let mut client = server.client_to(name);
        client.execute(
            "SELECT synod.join_group($1, $2, $3)",
            &[&dsn("latin_a"), &name, &dsn(name)],
        )
    };
    refused(
        "a member with another encoding",
        join("unicode"),
        &["55000", "22023", "0A000"],
    );
    join("latin_b").unwrap();
    first
        .batch_execute("SELECT synod.replicate_table('words'); INSERT INTO words VALUES ('Grüße', 1)")
        .unwrap();
    let mut second = server.client_to("latin_b");
    // Until the node knows, the table is an ordinary one there.
    wait_until(Duration::from_secs(20), "the table among those of the second", || {
        let row = second.query_one("SELECT count(*) FROM synod.tables", &[]).ok()?;
        (row.get::<_, i64>(0) == 1).then_some(())
    });
    second
        .batch_execute("UPDATE words SET n = 2, word = word || 'ß' WHERE word = 'Grüße'")
        .unwrap();
    let row = first
        .query_one("SELECT word, n, octet_length(word) FROM words", &[])
        .unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)),
        ("Grüßeß", 2, 6)
    );
    // Names would arrive as others; they were, once.
    for sql in [
        "CREATE TABLE größe (id int PRIMARY KEY)",
        "COMMENT ON TABLE words IS 'Wörter'",
        "SET synod.ddl = local; CREATE TABLE größe (id int PRIMARY KEY); SELECT synod.replicate_table('größe')",
    ] {
        refused(sql, first.simple_query(sql).map(|_| 0), &["0A000"]);
    }
    first.batch_execute("ALTER TABLE words ADD COLUMN m int").unwrap();
    for name in ["latin_b", "latin_a"] {
        server
            .client_to(name)
            .batch_execute("SELECT synod.leave_group()")
            .unwrap();
    }
}

/// Rows whose periods overlap are in each other's way though their keys differ: two nodes must not commit both.
#[test]
fn periods_that_overlap_are_certified() {
    if PgInstall::from_environment().major() < 18 {
        return;
    }
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE taken (during int4range, v int, room int4range DEFAULT '[1,2)', PRIMARY KEY (room, during WITHOUT OVERLAPS));
         CREATE TABLE within (id int PRIMARY KEY, during int4range, room int4range DEFAULT '[1,2)',
                              FOREIGN KEY (room, PERIOD during) REFERENCES taken (room, PERIOD during))",
    );
    cluster.replicate_together(&["taken", "within"]);
    let mut client = cluster.client(2);
    client
        .batch_execute("INSERT INTO taken VALUES ('[1,10)', 0), ('[20,30)', 0)")
        .unwrap();
    for (first, second) in [
        (
            "INSERT INTO taken VALUES ('[40,50)', 1)",
            "INSERT INTO taken VALUES ('[45,55)', 2)",
        ),
        (
            "DELETE FROM taken WHERE during = '[1,10)'",
            "INSERT INTO within VALUES (1, '[2,3)')",
        ),
        (
            "UPDATE taken SET during = '[20,35)' WHERE during = '[20,30)'",
            "INSERT INTO taken VALUES ('[33,36)', 2)",
        ),
    ] {
        for node in 0..2 {
            cluster.client(node).batch_execute("TABLE taken").unwrap();
        }
        let told = race(&cluster, first, second);
        let lost = told.iter().flatten().collect::<Vec<_>>();
        assert_eq!(lost, ["40001"], "{first}\n{second}: {told:?}");
    }
    assert_converged(&cluster, &["taken", "within"]);
}
