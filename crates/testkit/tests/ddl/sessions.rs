//! What a statement means depends on its session: its role, `search_path` and other settings. It means the same elsewhere: what
//! `pg_dump` says of the nodes is compared as a whole.

use synod_testkit::{Cluster, Run, failed, try_wait_until};

use crate::{CLUSTER, DEADLINE};

/// Settings that change what the statements below mean.
const SETTINGS: &str = r"
    SET search_path = 'Odd, path', public; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Kolkata';
    SET timezone_abbreviations = 'India'; SET array_nulls = off; SET xmloption = document; SET bytea_output = escape;
    SET extra_float_digits = -8; SET transform_null_equals = on; SET default_text_search_config = 'german';
    SET check_function_bodies = off; SET default_tablespace = 'aside'; SET default_table_access_method = 'heap';
    SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on; SET quote_all_identifiers = on;
    SET work_mem = '1234kB'; SET lc_monetary = 'C'; SET session_replication_role = replica;";

const SCHEMAS: &[&str] = &["\"Odd, path\"", "\"Odd owner\""];

/// Each a transaction.
const STATEMENTS: &[&str] = &[
    r#"CREATE TABLE told (id int PRIMARY KEY, day date DEFAULT '1.2.2024', span interval DEFAULT '1 2:03:04',
           at timestamptz DEFAULT '1.2.2024 12:00 IST', name text DEFAULT 'it\'s\ta\\b', names text[] DEFAULT '{a,NULL}',
           bytes bytea DEFAULT '\\101', f float8 DEFAULT 0.1::float8 + 0.2::float8, CHECK (name = NULL OR id > 0))"#,
    "CREATE TABLE sold (day date, n int) PARTITION BY RANGE (day)",
    "CREATE TABLE sold_feb PARTITION OF sold FOR VALUES FROM ('1.2.2024') TO ('1.3.2024')",
    "CREATE TABLE sold_at (at timestamptz) PARTITION BY LIST (at);
     CREATE TABLE sold_noon PARTITION OF sold_at FOR VALUES IN ('3.2.2024 12:00')",
    "CREATE INDEX told_late ON told (id) WHERE day > '3.2.2024'",
    "CREATE VIEW late AS SELECT *, 'x\\'y' AS quoted FROM told WHERE day > '3.2.2024' AND at > '1.2.2024 0:00'",
    "CREATE DOMAIN recent AS date CHECK (VALUE > '3.2.2024')",
    "CREATE FUNCTION unchecked() RETURNS int LANGUAGE sql AS 'SELECT id FROM not_there WHERE name = \\'a\\''",
    "CREATE FUNCTION \"Unpath\"() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN \\'a\\nb\\'; END'",
    "CREATE FUNCTION frozen() RETURNS text LANGUAGE sql SET search_path FROM CURRENT SET work_mem FROM CURRENT
         SET DateStyle FROM CURRENT AS 'SELECT current_setting(\\'work_mem\\')'",
    "ALTER FUNCTION unchecked() SET work_mem FROM CURRENT; ALTER FUNCTION unchecked() SET TimeZone FROM CURRENT",
    "CREATE PROCEDURE done() LANGUAGE sql SET maintenance_work_mem FROM CURRENT AS 'SELECT 1'",
    "ALTER TABLE told ADD COLUMN due date DEFAULT '4.5.2024', ADD COLUMN every interval DEFAULT '1-2', ALTER COLUMN name SET DEFAULT 'c\\'d'",
    "ALTER TABLE told ADD CONSTRAINT not_old CHECK (day > '3.2.1999')",
    "CREATE TRIGGER on_day BEFORE UPDATE ON told FOR EACH ROW WHEN (new.day > '3.2.2024') EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE on_late AS ON UPDATE TO late DO INSTEAD NOTHING; CREATE STATISTICS told_days ON id, day FROM told",
    "COMMENT ON TABLE told IS 'a\\tb'; COMMENT ON COLUMN told.day IS 'it''s'",
    "CREATE TYPE pair AS (a date, b told); CREATE SEQUENCE steps START 5; CREATE UNIQUE INDEX ON told (name, id)",
    "CREATE SCHEMA AUTHORIZATION CURRENT_USER CREATE TABLE in_own (id int DEFAULT 1)",
    "GRANT SELECT ON told TO CURRENT_ROLE; CREATE POLICY own ON told TO CURRENT_USER USING (name <> 'a\\'b')",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor; CREATE TABLE open_to_monitors (id int)",
    "SELECT synod.replicate_table('told'); INSERT INTO told (id) VALUES (1); ALTER TABLE told ADD COLUMN last timestamptz DEFAULT '2.3.2024 4:05'",
];

/// The schemas' definitions as `pg_dump` tells them.
fn definitions(cluster: &Cluster, node: usize, schemas: &[&str]) -> String {
    let dsn = cluster.server(node).client_dsn("postgres");
    let mut arguments = vec!["-d", &dsn, "--schema-only"];
    arguments.extend(schemas.iter().flat_map(|schema| ["-n", schema]));
    let dump = Run::current().program("pg_dump", &arguments);
    let dump = dump.unwrap_or_else(|error| panic!("pg_dump: {error:?}"));
    // The keys of psql's restricted mode are random.
    let lines = dump.lines().filter(|line| !line.contains("restrict "));
    lines.collect::<Vec<_>>().join("\n")
}

#[track_caller]
pub(crate) fn assert_same_definitions(cluster: &Cluster, schemas: &[&str]) -> String {
    let mut all = Vec::new();
    let same = try_wait_until(DEADLINE, || {
        all = (0..cluster.len())
            .map(|node| definitions(cluster, node, schemas))
            .collect();
        (all[0] == all[1] && all[0] == all[2]).then(|| all[0].clone())
    });
    same.unwrap_or_else(|| {
        let lines = |node: usize| all[node].lines().map(str::to_owned).collect::<Vec<_>>();
        let (first, others) = (lines(0), [lines(1), lines(2)]);
        let differing: Vec<String> = others
            .iter()
            .flat_map(|other| {
                let only_here = first
                    .iter()
                    .filter(|line| !other.contains(line))
                    .map(|line| format!("- {line}"));
                let only_there = other
                    .iter()
                    .filter(|line| !first.contains(line))
                    .map(|line| format!("+ {line}"));
                only_here.chain(only_there).collect::<Vec<_>>()
            })
            .collect();
        panic!("the definitions differ:\n{}", differing.join("\n"))
    })
}

#[test]
fn statements_of_an_odd_session_mean_the_same_everywhere() {
    let cluster = CLUSTER.lease();
    for node in 0..cluster.len() {
        let mut client = cluster.client(node);
        client
            .batch_execute(
                "CREATE ROLE \"Odd login\" SUPERUSER; CREATE ROLE \"Odd owner\"; GRANT CREATE ON DATABASE postgres TO \"Odd owner\";
                 GRANT USAGE, CREATE ON SCHEMA public TO \"Odd owner\"; GRANT synod_admin TO \"Odd owner\";
                 ALTER DATABASE postgres SET work_mem = '9MB'; SET allow_in_place_tablespaces = on",
            )
            .unwrap();
        client.batch_execute("CREATE TABLESPACE aside LOCATION ''").unwrap();
        client
            .batch_execute("GRANT CREATE ON TABLESPACE aside TO \"Odd owner\"")
            .unwrap();
    }
    let mut client = cluster.client(1);
    client
        .batch_execute(
            "CREATE SCHEMA \"Odd, path\" AUTHORIZATION \"Odd owner\"; SET SESSION AUTHORIZATION \"Odd login\"",
        )
        .unwrap();
    client.batch_execute(SETTINGS).unwrap();
    client.batch_execute("SET ROLE \"Odd owner\"").unwrap();
    for sql in STATEMENTS {
        if let Err(error) = client.batch_execute(sql) {
            panic!("{sql}: {error:?}");
        }
    }
    let dump = assert_same_definitions(&cluster, SCHEMAS);
    for part in [
        "1234kB",
        "default_tablespace = aside",
        "\"Odd, path\".told",
        "'2024-02-01'",
        "Odd owner",
    ] {
        assert!(dump.contains(part), "{part} is missing:\n{dump}");
    }
    // Who the session is does not travel; who is meant by it must not be guessed.
    client.batch_execute("SET standard_conforming_strings = on").unwrap();
    for sql in [
        "ALTER TABLE sold OWNER TO SESSION_USER",
        "CREATE SCHEMA theirs AUTHORIZATION SESSION_USER",
        "CREATE SCHEMA AUTHORIZATION SESSION_USER",
        "GRANT SELECT ON told TO SESSION_USER",
        "CREATE POLICY theirs ON told TO SESSION_USER",
        "ALTER POLICY own ON told TO pg_monitor, SESSION_USER",
        "ALTER FUNCTION unchecked() OWNER TO SESSION_USER",
        "ALTER DEFAULT PRIVILEGES FOR ROLE SESSION_USER GRANT SELECT ON TABLES TO pg_monitor",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO SESSION_USER",
        "REASSIGN OWNED BY CURRENT_USER TO SESSION_USER",
        "DROP OWNED BY SESSION_USER",
        "CREATE FUNCTION as_now() RETURNS int LANGUAGE sql SET role FROM CURRENT AS 'SELECT 1'",
    ] {
        let error = failed(sql, client.batch_execute(sql), &["0A000"]);
        assert!(error.hint().is_some(), "{sql}: {error:?}");
    }
    client
        .batch_execute("RESET ROLE; SET search_path = \"Odd, path\"; DROP VIEW late; DROP TABLE told, sold, sold_at, open_to_monitors CASCADE")
        .unwrap();
    assert_same_definitions(&cluster, SCHEMAS);
    for node in 0..cluster.len() {
        cluster
            .client(node)
            .batch_execute("ALTER DATABASE postgres RESET work_mem")
            .unwrap();
    }
}
