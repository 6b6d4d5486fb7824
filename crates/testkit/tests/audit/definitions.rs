//! Changes of definitions in the stream.

use super::{Alone, CLUSTER, drop_slot, make_slot, told, words};
use synod_testkit::wait_until;

const DDL: &str = ", 'include-ddl', 'on'";

#[test]
fn each_statement_is_told_ahead_of_the_rows_that_have_the_new_shape() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "definitions");
    let mut client = alone.client();
    make_slot(&mut client, "defs");
    client
        .batch_execute("CREATE TABLE t (id serial PRIMARY KEY, a int); INSERT INTO t (a) VALUES (1); ALTER TABLE t ADD b text DEFAULT 'x'; INSERT INTO t (a) VALUES (2)")
        .unwrap();
    client
        .batch_execute("BEGIN; ALTER TABLE t DROP a; INSERT INTO t VALUES (3); ALTER TABLE t RENAME TO \"T two\"; INSERT INTO \"T two\" VALUES (4); COMMIT")
        .unwrap();
    client
        .batch_execute("CREATE TABLE made AS SELECT 1 AS x; SELECT 2 AS y INTO made2")
        .unwrap();
    client
        .batch_execute("DO $$BEGIN CREATE TABLE in_block (a int); INSERT INTO in_block VALUES (1); EXECUTE 'CREATE INDEX an_index ON in_block (a)'; END$$")
        .unwrap();
    let all = told(&mut client, "defs", DDL);
    assert_eq!(
        words(&all),
        [
            "DDL CREATE TABLE: public.t",
            "I t",
            "DDL ALTER TABLE: public.t",
            "I t",
            "DDL ALTER TABLE: public.t",
            "I t",
            "DDL ALTER TABLE: public.\"T two\"",
            "I T two",
            "DDL CREATE TABLE AS: public.made",
            "I made",
            "DDL SELECT INTO: public.made2",
            "I made2",
            "DDL CREATE TABLE: public.in_block",
            "I in_block",
            "DDL CREATE INDEX: public.an_index",
        ]
    );
    assert_eq!(all[2]["sql"], "ALTER TABLE t ADD b text DEFAULT 'x'");
    assert_eq!(all[14]["sql"], "CREATE INDEX an_index ON in_block (a)");
    assert_eq!(
        (&all[0]["object_type"], &all[14]["object_type"]),
        (&"table".into(), &"index".into())
    );
    let columns = |object: &serde_json::Value| -> Vec<String> {
        let columns = object["tables"][0]["columns"].as_array().cloned().unwrap_or_default();
        columns
            .iter()
            .map(|column| column["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(columns(&all[0]), ["id", "a"]);
    assert_eq!(columns(&all[2]), ["id", "a", "b"]);
    assert_eq!(columns(&all[4]), ["id", "b"]);
    assert_eq!(
        (columns(&all[8]), all[6]["tables"][0]["table"].as_str()),
        (vec!["x".into()], Some("T two"))
    );
    // Not asked for: not told.
    client
        .batch_execute("ALTER TABLE made ADD z int; INSERT INTO made VALUES (1, 2)")
        .unwrap();
    assert_eq!(words(&told(&mut client, "defs", "")), ["I made"]);
}

#[test]
fn what_is_told_and_what_is_not() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "definitions_kinds");
    let mut client = alone.client();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE gone (a int); CREATE TABLE gone2 (a int)")
        .unwrap();
    make_slot(&mut client, "kinds");
    client
        .batch_execute(
            "CREATE SCHEMA s CREATE TABLE inner_t (a int);
             CREATE TYPE s.colour AS ENUM ('red');
             CREATE FUNCTION s.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE VIEW v AS SELECT * FROM t;
             CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
             ALTER TABLE t DISABLE TRIGGER tr;
             GRANT SELECT ON t TO PUBLIC;
             COMMENT ON TABLE t IS 'secret?';
             DROP TABLE gone, gone2;
             DROP FUNCTION s.f(int);
             DROP SCHEMA s CASCADE;
             ALTER INDEX t_pkey RENAME TO t_key",
        )
        .unwrap();
    assert_eq!(
        words(&told(&mut client, "kinds", DDL)),
        [
            "DDL CREATE SCHEMA: s",
            "DDL CREATE TYPE: s.colour",
            "DDL CREATE FUNCTION: s.f(integer)",
            "DDL CREATE VIEW: public.v",
            "DDL CREATE TRIGGER: tr on public.t",
            "DDL ALTER TABLE: public.t",
            "DDL GRANT: public.t",
            "DDL COMMENT: public.t",
            "DDL DROP TABLE: public.gone, public.gone2",
            "DDL DROP FUNCTION: s.f(integer)",
            "DDL DROP SCHEMA: s",
            "DDL ALTER INDEX: public.t_key",
        ]
    );
    // Of the server, of the session, with passwords, without effect, rolled back, switched off.
    client
        .batch_execute(
            "CREATE ROLE with_password PASSWORD 'geheim'; ALTER ROLE with_password PASSWORD 'geheim'; DROP ROLE with_password;
             CREATE TEMP TABLE w (a int); ALTER TABLE w ADD b int; CREATE INDEX ON w (a); DROP TABLE w; CREATE TEMP TABLE w2 AS SELECT 1;
             CREATE TABLE IF NOT EXISTS t (a int); DROP TABLE IF EXISTS never;
             CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER srv FOREIGN DATA WRAPPER fdw; CREATE USER MAPPING FOR PUBLIC SERVER srv OPTIONS (password 'geheim');
             DROP FOREIGN DATA WRAPPER fdw CASCADE; VACUUM t",
        )
        .map_err(|error| error.to_string())
        .err();
    client
        .batch_execute("BEGIN; CREATE TABLE undone (a int); ROLLBACK")
        .unwrap();
    client
        .batch_execute("BEGIN; SAVEPOINT s; CREATE TABLE undone (a int); ROLLBACK TO s; COMMIT")
        .unwrap();
    client
        .batch_execute("SET synod.stream_ddl = off; CREATE TABLE quiet (a int); RESET synod.stream_ddl")
        .unwrap();
    assert_eq!(words(&told(&mut client, "kinds", DDL)), Vec::<String>::new());
    // Of what the client sent, only the statement.
    client
        .batch_execute("SELECT 'geheim'; CREATE TABLE one (a int); SELECT 'geheim'")
        .unwrap();
    let all = told(&mut client, "kinds", DDL);
    assert_eq!(all[0]["sql"], "CREATE TABLE one (a int)");
    // CONCURRENTLY has transactions of its own.
    client.batch_execute("CREATE INDEX CONCURRENTLY c ON one (a)").unwrap();
    client.batch_execute("DROP INDEX CONCURRENTLY c").unwrap();
    assert_eq!(
        words(&told(&mut client, "kinds", DDL)),
        ["DDL CREATE INDEX: public.c", "DDL DROP INDEX: public.c"]
    );
}

#[test]
fn rows_of_an_event_trigger_come_behind_the_statement_that_fired_it() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "definitions_event");
    let mut client = alone.client();
    client
        .batch_execute(
            "CREATE TABLE t (a int);
             CREATE FUNCTION filled() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO t VALUES (1, 2); END$$",
        )
        .unwrap();
    client
        .batch_execute(
            "CREATE EVENT TRIGGER fills ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION filled()",
        )
        .unwrap();
    make_slot(&mut client, "events");
    client.batch_execute("ALTER TABLE t ADD b int").unwrap();
    assert_eq!(
        words(&told(&mut client, "events", DDL)),
        ["DDL ALTER TABLE: public.t", "I t"]
    );
}

#[test]
fn every_node_of_a_group_tells_the_groups_statements() {
    let cluster = CLUSTER.lease();
    let (mut here, mut there) = (cluster.client(0), cluster.client(1));
    make_slot(&mut here, "ddl_here");
    make_slot(&mut there, "ddl_there");
    here.batch_execute("CREATE TABLE travels (a int PRIMARY KEY); SELECT synod.replicate_table('travels')")
        .unwrap();
    here.batch_execute("ALTER TABLE travels ADD b int; INSERT INTO travels VALUES (1, 2)")
        .unwrap();
    wait_until(super::PATIENCE, "the row there", || {
        let row = there.query_one("SELECT b FROM travels", &[]).ok()?;
        (row.get::<_, i32>(0) == 2).then_some(())
    });
    // What the group commits is on a node's own disk a moment later, and in its stream then.
    let gather = |client: &mut postgres::Client, slot: &str| -> Vec<serde_json::Value> {
        let of_table =
            |object: &serde_json::Value| object["object"] == "public.travels" || object["table"] == "travels";
        let mut all = Vec::new();
        wait_until(super::PATIENCE, "the row in the stream", || {
            all.extend(told(client, slot, DDL).into_iter().filter(of_table));
            words(&all).contains(&"I travels".to_owned()).then_some(())
        });
        all
    };
    let (from_here, from_there) = (gather(&mut here, "ddl_here"), gather(&mut there, "ddl_there"));
    let expected = [
        "DDL CREATE TABLE: public.travels",
        "DDL ALTER TABLE: public.travels",
        "I travels",
    ];
    assert_eq!(words(&from_here), expected);
    assert_eq!(words(&from_there), expected);
    assert_eq!(from_here[1]["sql"], from_there[1]["sql"]);
    assert_eq!(from_here[1]["tables"], from_there[1]["tables"]);
    drop_slot(&mut here, "ddl_here");
    drop_slot(&mut there, "ddl_there");
    here.batch_execute("DROP TABLE travels").unwrap();
}

/// What makes a table and fills it is told as the table and its rows: a replay has each row once, and runs no function a second time.
#[test]
fn a_replay_has_the_rows_of_a_table_that_was_made_with_them_once() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "made_with_rows");
    let mut client = alone.client();
    client
        .batch_execute("CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'glad'); CREATE SEQUENCE drawn")
        .unwrap();
    let again = Alone::new(&cluster, "made_again");
    let mut target = again.client();
    target
        .batch_execute("CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'glad')")
        .unwrap();
    make_slot(&mut client, "made");
    for statement in [
        "CREATE TABLE a (id int PRIMARY KEY, v numeric(8,2)); INSERT INTO a VALUES (1, 1.5), (2, NULL)",
        "CREATE TABLE b AS SELECT id, v, nextval('drawn') AS \"N\", 'glad'::s.mood AS m, random() AS r FROM a",
        "SET search_path = s, public; SELECT * INTO c FROM a; INSERT INTO c VALUES (3, 3)",
        "CREATE TABLE public.d (one, two) AS VALUES (1::smallint, '(1,2)'::point) WITH DATA",
        "CREATE TABLE public.e AS SELECT 1 AS x WITH NO DATA; CREATE TABLE public.f AS SELECT",
        "BEGIN; CREATE TABLE public.g AS TABLE a; ALTER TABLE public.g ADD PRIMARY KEY (id); UPDATE public.g SET id = 7 WHERE id = 1; COMMIT",
        "ALTER TABLE public.b ADD PRIMARY KEY (id); UPDATE public.b SET v = 4 WHERE id = 2",
    ] {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let sql = "SELECT data FROM pg_logical_slot_get_changes('made', NULL, NULL, 'format', 'sql', 'include-ddl', 'on')";
    let script: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let script = script.join("\n") + "\n";
    let said = cluster.server(0).psql(
        "made_again",
        &["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"],
        &script,
    );
    assert_eq!(said, "", "{script}");
    for table in [
        "public.a", "public.b", "s.c", "public.d", "public.e", "public.f", "public.g",
    ] {
        let sql = format!("SELECT array_agg(t::text ORDER BY t::text)::text FROM {table} t");
        let [here, there] = [&mut client, &mut target].map(|client| {
            let row = client
                .query_one(&sql, &[])
                .unwrap_or_else(|error| panic!("{table}: {error:?}"));
            row.get::<_, Option<String>>(0)
        });
        assert_eq!(there, here, "{table}\n{script}");
    }
    // A reader who is not told of the table is not told of its rows by the statement either.
    client
        .batch_execute("CREATE TABLE public.hidden AS SELECT 'secret' AS x")
        .unwrap();
    let sql = "SELECT string_agg(data, '') FROM pg_logical_slot_get_changes('made', NULL, NULL, 'format', 'sql', 'include-ddl', 'on',
        'exclude-tables', 'public.hidden')";
    let script: String = client.query_one(sql, &[]).unwrap().get(0);
    assert!(
        !script.contains("secret") && script.contains("-- CREATE TABLE AS public.hidden is left out"),
        "{script}"
    );
}

/// `text` leaves out what is ours; `test_decoding` shows every message, ours as the bytes that they are.
#[test]
fn text_is_what_test_decoding_prints_but_for_messages_of_ours() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "beside");
    let mut client = alone.client();
    make_slot(&mut client, "ours");
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('theirs', 'test_decoding')")
        .unwrap();
    for statement in [
        "SET synod.context = '{\"user\": \"ann\"}'; CREATE TABLE t (id serial PRIMARY KEY, v text)",
        "INSERT INTO t (v) VALUES ('x'); ALTER TABLE t ADD w int DEFAULT 3",
        "BEGIN; UPDATE t SET w = 4; SAVEPOINT a; CREATE INDEX ON t (v); ROLLBACK TO a; ALTER TABLE t RENAME v TO u; DELETE FROM t; COMMIT",
        "SELECT pg_logical_emit_message(true, 'mine', 'yes'); CREATE TABLE u AS SELECT * FROM t; DROP TABLE t",
    ] {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let mut lines = |slot: &str| -> Vec<Vec<u8>> {
        let sql = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'include-xids', 'off')";
        let rows = client.query(sql, &[&slot]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let (ours, mut theirs) = (lines("ours"), lines("theirs"));
    let all = theirs.len();
    theirs.retain(|line| !line.starts_with(b"message: transactional: 1 prefix: synod."));
    assert!(all > theirs.len() + 5, "{all}");
    assert_eq!(ours, theirs);
}
