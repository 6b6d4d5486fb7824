//! What roles may do, listed. A right that is added shows here, and must be thought about: `docs/src/trust.md`.

use std::os::unix::fs::PermissionsExt;

use postgres::{Client, NoTls, SimpleQueryMessage};
use synod_testkit::{Server, sqlstate};

use super::{CLUSTER, assert_group_works, prepare};

/// Functions that anybody who can connect may execute.
const OF_EVERYBODY: [&str; 7] = [
    "synod.applied_csn()",
    "synod.current_transaction_id()",
    "synod.last_csn()",
    "synod.set_context(jsonb)",
    "synod.table_identity(regclass)",
    "synod.transaction_status(text)",
    "synod.wait_for(bigint)",
];

/// What the nodes' own role may execute besides.
const OF_NODES: [&str; 20] = [
    "synod._admit(uuid,bytea,boolean,bytea)",
    "synod._certification_checkpoint()",
    "synod._check_new(text,text,bigint)",
    "synod._check_tables(text,text,boolean)",
    "synod._copy_tables(text,text,text,bigint,boolean)",
    "synod._expel(uuid,bytea)",
    "synod._export_snapshot()",
    "synod._forget(boolean)",
    "synod._is_member(text,integer)",
    "synod._node_facts()",
    "synod._promote(integer)",
    "synod._release_origin()",
    "synod._release_tables()",
    "synod._replicate_own_tables()",
    "synod._set_origin(bigint)",
    "synod._stat_apply()",
    "synod._table_definition(bigint,oid)",
    "synod._travelling_form(anyelement)",
    "synod.link(integer,uuid,integer,integer,bytea)",
    "synod.table_definition(text,text)",
];

fn session(server: &Server, user: &str) -> Client {
    let dsn = server
        .client_dsn("postgres")
        .replace("user=postgres", &format!("user={user}"));
    Client::connect(&dsn, NoTls).unwrap()
}

fn list(client: &mut Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Functions of the extension that a role may execute.
fn functions(client: &mut Client, role: &str) -> Vec<String> {
    list(
        client,
        &format!(
            "SELECT p.oid::regprocedure::text FROM pg_proc AS p
              WHERE p.pronamespace = 'synod'::regnamespace AND p.prorettype <> 'trigger'::regtype
                AND has_function_privilege('{role}', p.oid, 'EXECUTE')
              ORDER BY (p.oid::regprocedure::text) COLLATE \"C\""
        ),
    )
}

/// What a role may do with tables, views, sequences, schemas and the database, catalogs apart; without what everybody may.
fn rights(client: &mut Client, role: &str) -> Vec<String> {
    list(
        client,
        &format!(
            "SELECT c.oid::regclass || ' ' || r FROM pg_class AS c,
                    unnest(ARRAY['SELECT','INSERT','UPDATE','DELETE','TRUNCATE','REFERENCES','TRIGGER']) AS r
              WHERE c.relkind IN ('r','p','v','m','f') AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                AND c.relnamespace::regnamespace::text NOT LIKE 'pg\\_toast%'
                AND (has_table_privilege('{role}', c.oid, r)
                     OR r IN ('SELECT','INSERT','UPDATE','REFERENCES') AND has_any_column_privilege('{role}', c.oid, r))
             UNION ALL
             SELECT c.oid::regclass || ' ' || r FROM pg_class AS c, unnest(ARRAY['USAGE','SELECT','UPDATE']) AS r
              WHERE c.relkind = 'S' AND has_sequence_privilege('{role}', c.oid, r)
             UNION ALL
             SELECT nspname || ' CREATE' FROM pg_namespace WHERE has_schema_privilege('{role}', oid, 'CREATE')
             UNION ALL
             SELECT 'database CREATE' WHERE has_database_privilege('{role}', current_database(), 'CREATE')
             UNION ALL
             SELECT 'member of ' || g.rolname FROM pg_roles AS g
              WHERE g.rolname <> '{role}' AND pg_has_role('{role}', g.oid, 'MEMBER')
             UNION ALL
             SELECT 'superuser, createrole, createdb, replication or bypassrls' FROM pg_roles
              WHERE rolname = '{role}' AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
             ORDER BY 1"
        ),
    )
}

#[test]
fn rights_are_those_that_are_listed() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let mut client = cluster.client(0);
    assert_eq!(functions(&mut client, "stranger"), OF_EVERYBODY);
    let mut nodes: Vec<&str> = OF_EVERYBODY.iter().chain(&OF_NODES).copied().collect();
    nodes.sort_unstable();
    assert_eq!(functions(&mut client, "link"), nodes);
    // Which tables are replicated is for everybody to see, who else does what is not.
    assert_eq!(rights(&mut client, "stranger"), ["synod.tables SELECT"]);
    assert_eq!(
        rights(&mut client, "link"),
        [
            "member of synod_replicator",
            "synod.replicated_table SELECT",
            "synod.stat_apply SELECT",
            "synod.tables SELECT"
        ]
    );
    // What runs with more rights than its caller's looks nowhere but where it should.
    let loose = list(
        &mut client,
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'synod'::regnamespace AND prosecdef
            AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp']",
    );
    assert!(
        loose.is_empty(),
        "SECURITY DEFINER without a fixed search_path: {loose:?}"
    );
}

#[test]
fn what_is_not_listed_is_refused() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    for user in ["stranger", "link"] {
        let mut client = session(server, user);
        for statement in [
            "SELECT * FROM kept",
            "INSERT INTO kept VALUES (-1)",
            "UPDATE kept SET note = 'x'",
            "DELETE FROM kept",
            "TRUNCATE kept",
            "BEGIN; LOCK TABLE kept",
            "SELECT nextval('kept_id_seq')",
            "ALTER TABLE kept ADD COLUMN x int",
            "CREATE TRIGGER t BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION synod.capture()",
            "SELECT * FROM synod.nodes",
            "SELECT * FROM synod._nodes()",
            "SELECT * FROM synod.stat_log",
            "SELECT * FROM synod.stat_progress_join",
            "SELECT * FROM synod.log_entry",
            "SELECT * FROM synod.gapless",
            "SELECT * FROM synod.sequence_range",
            "SELECT synod.append('log', 'value')",
            "SELECT * FROM synod.log('log')",
            "SELECT synod.trim_log('log', 1)",
            "SELECT synod.next_gapless('name')",
            "SELECT synod.create_group('g', 'n', 'd')",
            "SELECT synod.join_group('v', 'n', 'd')",
            "SELECT synod.rejoin_group()",
            "SELECT synod.leave_group()",
            "SELECT synod.leave_group(true)",
            "SELECT synod.remove_node('n2')",
            "SELECT synod.alter_node('n2', 'd')",
            "SELECT synod.replicate_table('kept')",
            "SELECT synod.unreplicate_table('kept')",
            "SELECT synod._hold(1000)",
            "SELECT synod._begin_repair('kept'::regclass, 1)",
            "SELECT synod._put_row(ROW(1, 'x'))",
            "SELECT synod._disk()",
            "SELECT pg_read_file('synod')",
            "SET session_replication_role = replica",
            "SET ROLE synod_admin",
        ] {
            let error = client.batch_execute(statement).expect_err(statement);
            assert_eq!(sqlstate(&error), Some("42501"), "{user}: {statement}: {error:?}");
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
    // The secret and the addresses lie in files of the server's user alone.
    let directory = server.synod_directory("postgres");
    for path in [directory.parent().unwrap(), &directory] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

/// Arguments at the edge of what a type can hold, as literals.
fn literals(type_name: &str) -> Vec<String> {
    let long = "x".repeat(100_000);
    let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match type_name {
        "int4" => of(&["NULL", "-1", "0", "2147483647", "-2147483648"]),
        "int8" => of(&["NULL", "-1", "0", "9223372036854775807", "-9223372036854775808"]),
        "bool" => of(&["NULL", "true", "false"]),
        "oid" => of(&[
            "NULL",
            "0",
            "4294967295",
            "'pg_class'::regclass::oid",
            "'kept'::regclass::oid",
        ]),
        "regclass" => of(&["NULL", "0::oid::regclass", "'pg_class'::regclass", "'kept'::regclass"]),
        "uuid" => of(&[
            "NULL",
            "'00000000-0000-0000-0000-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        ]),
        "bytea" => of(&["NULL", "''", "'\\x00'", &format!("'\\x{}'", "ff".repeat(50_000))]),
        "jsonb" => of(&[
            "NULL",
            "'null'",
            "'[]'",
            "'{\"a\": {\"b\": null}}'",
            &format!("'{{\"a\": \"{long}\"}}'"),
        ]),
        "text" => of(&[
            "NULL",
            "''",
            "E'\\u00ff'",
            "'a.b.c'",
            "'host=127.0.0.1 port=1'",
            &format!("'{long}'"),
        ]),
        // Of whatever type they are.
        "anyelement" => of(&[
            "NULL::pg_class",
            "ROW(1, ROW(NULL, 'x'))",
            "(SELECT t FROM pg_type AS t LIMIT 1)",
            "'[0:0][-1:0]={{1,NULL}}'::int[]",
            "(SELECT array_agg(c) FROM pg_class AS c WHERE relname LIKE 'pg_a%')",
            "'{(,1), [5,)}'::int4multirange",
            "'empty'::numrange",
            "ARRAY[ROW(1), ROW(2, 3)]",
            "'pg_class'::regclass",
            "'x'::name",
        ]),
        other => panic!("what would be odd arguments of type {other}?"),
    }
}

/// Calls with every argument odd once while the others are ordinary, and with all of them odd.
fn odd_calls(client: &mut Client, function: &str) -> Vec<String> {
    let row = client
        .query_one(
            "SELECT prokind = 'p', pronargs::int,
                    ARRAY(SELECT format_type(t, NULL)::regtype::oid::regtype::text FROM unnest(proargtypes) AS t),
                    ARRAY(SELECT typname::text FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n) JOIN pg_type ON pg_type.oid = a.t ORDER BY n),
                    oid::regproc::text
               FROM pg_proc WHERE oid = $1::text::regprocedure",
            &[&function],
        )
        .unwrap();
    let (is_procedure, types, name): (bool, Vec<String>, String) = (row.get(0), row.get(3), row.get(4));
    let choices: Vec<Vec<String>> = types.iter().map(|name| literals(name)).collect();
    let most = choices.iter().map(Vec::len).max().unwrap_or(1);
    let mut lists: Vec<Vec<String>> = (0..most)
        .map(|round| choices.iter().map(|of| of[round % of.len()].clone()).collect())
        .collect();
    for (index, of) in choices.iter().enumerate() {
        for choice in of {
            let mut list: Vec<String> = choices.iter().map(|of| of[1].clone()).collect();
            list[index].clone_from(choice);
            lists.push(list);
        }
    }
    let call = if is_procedure { "CALL" } else { "SELECT * FROM" };
    lists
        .iter()
        .map(|list| {
            let typed: Vec<String> = list
                .iter()
                .zip(&types)
                .map(|(value, name)| match name.as_str() {
                    "anyelement" => value.clone(),
                    _ => format!("{value}::{name}"),
                })
                .collect();
            format!("{call} {name}({})", typed.join(", "))
        })
        .collect()
}

fn state(client: &mut Client) -> String {
    let sql = "SELECT (SELECT string_agg(n.node_id || n.name || n.dsn || n.voter, ',' ORDER BY node_id) FROM synod.nodes AS n)
                      || (SELECT string_agg(t::text, ',' ORDER BY t::text) FROM synod.replicated_table AS t)
                      || (SELECT count(*) FROM pg_trigger) || (SELECT count(*) FROM pg_replication_origin)";
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn odd_arguments_are_refused_and_change_nothing() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    let mut admin = cluster.client(0);
    let before = state(&mut admin);
    for (user, known) in [("stranger", &OF_EVERYBODY[..]), ("link", &OF_NODES[..])] {
        let mut client = session(server, user);
        client.batch_execute("SET statement_timeout = '300ms'").unwrap();
        for function in known {
            let mut last = String::new();
            for call in odd_calls(&mut admin, function) {
                let shown: String = call.chars().take(200).collect();
                match client.simple_query(&call) {
                    Ok(told) => {
                        let rows = told
                            .iter()
                            .filter(|one| matches!(one, SimpleQueryMessage::Row(_)))
                            .count();
                        assert!(rows <= 1, "{user}: {shown}: {rows} rows");
                    }
                    Err(error) => {
                        let code = sqlstate(&error).unwrap_or_else(|| {
                            panic!(
                                "{user}: {shown} (after {last}) ends the session: {error:?}\n{}",
                                server.log_tail(20)
                            )
                        });
                        assert!(!code.starts_with("XX"), "{user}: {shown}: {error:?}");
                    }
                }
                last = shown;
            }
        }
    }
    assert_eq!(state(&mut admin), before);
    assert_group_works(&cluster, [0, 1]);
}
