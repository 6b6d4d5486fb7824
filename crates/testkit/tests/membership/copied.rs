//! What a node that joins gets from another one: definitions that it lacks, and rows as they are.

use synod_testkit::{Cluster, Ledger, assert_converged, refused, wait_until};

use crate::{DEADLINE, join, newcomer, node_names};

/// What a node's own settings make of the text of a value: it is copied and applied as it was written.
#[test]
fn nulls_in_arrays_stay_nulls_whatever_a_node_reads_by_default() {
    let mut cluster = Cluster::start(1);
    cluster.on_all("CREATE TYPE word AS (w text)");
    cluster.create_table(
        "listed",
        "CREATE TABLE listed (id int PRIMARY KEY, plain text[], words word[])",
    );
    let insert =
        |id: i32| format!("INSERT INTO listed VALUES ({id}, ARRAY['a', NULL, 'NULL'], ARRAY[ROW('a')::word, NULL])");
    cluster.client(0).batch_execute(&insert(1)).unwrap();
    let node = cluster.add_server();
    let mut client = cluster.client(node);
    for sql in [
        "CREATE EXTENSION synod",
        "ALTER SYSTEM SET array_nulls = off",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).unwrap();
    }
    wait_until(DEADLINE, "the setting", || {
        let mut client = cluster.client(node);
        let row = client.query_one("SHOW array_nulls", &[]).unwrap();
        (row.get::<_, String>(0) == "off").then_some(())
    });
    join(&cluster, 0, node).unwrap_or_else(|error| panic!("{error:?}"));
    cluster.client(0).batch_execute(&insert(2)).unwrap();
    let right = "SELECT count(*) FROM listed WHERE plain[2] IS NULL AND plain[3] = 'NULL' AND words[2] IS NULL";
    let count: i64 = cluster.client(node).query_one(right, &[]).unwrap().get(0);
    assert_eq!(count, 2);
    assert_converged(&cluster, &["listed"]);
}

#[test]
fn tables_with_rows_are_not_overwritten() {
    let mut cluster = Cluster::start(1);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0], 5);
    let node = newcomer(&mut cluster);
    cluster
        .client(node)
        .batch_execute("INSERT INTO ledger VALUES (-7, 0)")
        .unwrap();
    refused("join_group", join(&cluster, 0, node), &["55000"]);
    cluster
        .client(node)
        .batch_execute("ALTER TABLE ledger ADD more int")
        .unwrap();
    let error = refused("join_group", join(&cluster, 0, node), &["55000"]);
    assert!(
        error.detail().unwrap_or_default().contains("more"),
        "which column? {error:?}"
    );
    assert_eq!(node_names(&mut cluster.client(0)), ["n1"]);
}

#[test]
fn tables_that_are_missing_are_made() {
    let mut cluster = Cluster::start(1);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0], 5);
    let prepare = |cluster: &Cluster, node| {
        cluster
            .client(node)
            .batch_execute(
                "CREATE FUNCTION grab(text) RETURNS bool LANGUAGE plpgsql AS
                 'BEGIN ALTER ROLE mallory SUPERUSER; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END'",
            )
            .unwrap();
    };
    cluster.client(0).batch_execute("CREATE ROLE mallory").unwrap();
    prepare(&cluster, 0);
    cluster
        .client(0)
        .batch_execute(
            "CREATE SCHEMA \"a schema\"; CREATE TYPE \"a schema\".mood AS ENUM ('sad', 'ok');
             CREATE TABLE \"a schema\".moods (id serial PRIMARY KEY, mood \"a schema\".mood, note text CHECK (note <> ''));
             CREATE INDEX ON \"a schema\".moods (mood);
             INSERT INTO \"a schema\".moods (mood) VALUES ('ok'), ('sad');
             CREATE TABLE trap (id int PRIMARY KEY, v text CHECK (grab(v)));
             ALTER TABLE trap OWNER TO mallory; SET ROLE mallory; INSERT INTO trap VALUES (1, 'x'); RESET ROLE",
        )
        .unwrap();
    cluster
        .client(0)
        .batch_execute("SELECT synod.replicate_table('\"a schema\".moods'); SELECT synod.replicate_table('trap')")
        .unwrap();
    // Into a database without any table, and into one that has all but one.
    let bare = cluster.add_server();
    let partial = cluster.add_server();
    cluster
        .client(bare)
        .batch_execute("CREATE EXTENSION synod; CREATE EXTENSION pg_stat_statements; CREATE EXTENSION citext")
        .unwrap();
    cluster
        .client(partial)
        .batch_execute(
            "CREATE EXTENSION synod; CREATE TABLE mine (a int);
             CREATE SCHEMA \"a schema\"; CREATE TYPE \"a schema\".mood AS ENUM ('sad', 'ok');
             CREATE TABLE ledger (id int PRIMARY KEY, node int)",
        )
        .unwrap();
    for node in [bare, partial] {
        cluster.client(node).batch_execute("CREATE ROLE mallory").unwrap();
        if node == partial {
            prepare(&cluster, node);
        }
        join(&cluster, 0, node).unwrap();
        let row = cluster
            .client(node)
            .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'", &[])
            .unwrap();
        assert!(!row.get::<_, bool>(0), "what COPY runs is run as the owner");
        cluster
            .client(node)
            .batch_execute("INSERT INTO \"a schema\".moods (id, mood) VALUES (100 + random() * 1e6, 'sad')")
            .unwrap();
    }
    cluster.wait_for_voters(3);
    assert_converged(&cluster, &["ledger", "\"a schema\".moods", "trap"]);
    // One that was a member and whose tables were dropped has functions and types all the same.
    let mut client = cluster.client(bare);
    for sql in [
        "SELECT synod.leave_group()",
        "DROP TABLE ledger, \"a schema\".moods, trap",
    ] {
        client.batch_execute(sql).unwrap();
    }
    join(&cluster, 0, bare).unwrap();
    cluster.wait_for_voters(3);
    assert_converged(&cluster, &["ledger", "\"a schema\".moods", "trap"]);
}

/// XML shows its declaration only as text; a domain's check asks a setting that the joining session does not have; a row is older than
/// the constraint that it breaks.
#[test]
fn rows_are_copied_as_they_are_whatever_is_checked_today() {
    let mut cluster = Cluster::start(1);
    // A server may be built without libxml.
    let has_xml = cluster.client(0).batch_execute("SELECT xml '<a/>'").is_ok();
    let document = match has_xml {
        true => r#"'<?xml version="1.0" encoding="UTF-8"?><a>"\ä</a>'::xml"#,
        false => "NULL::xml",
    };
    cluster
        .client(0)
        .batch_execute(&format!(
            "CREATE DOMAIN permitted AS int CHECK (current_setting('copied.permitted', true) = 'on');
            CREATE TYPE page AS (number permitted, body xml);
            CREATE TABLE copied (id int PRIMARY KEY, x xml, list xml[], page page, plain permitted, numbers permitted[], n int);
            SELECT synod.replicate_table('copied');
            SET copied.permitted = 'on';
            INSERT INTO copied SELECT 1, d, ARRAY[d, NULL], ROW(7::permitted, d)::page, 8, '{{9,NULL}}', -1
                FROM (SELECT {document} AS d) s;
            INSERT INTO copied VALUES (2);
            ALTER TABLE copied ADD CHECK (n > 0) NOT VALID",
        ))
        .unwrap();
    let node = cluster.add_server();
    cluster.client(node).batch_execute("CREATE EXTENSION synod").unwrap();
    join(&cluster, 0, node).unwrap_or_else(|error| panic!("{error:?}"));
    let texts = |node: usize| -> Vec<Option<String>> {
        let sql = "SELECT concat_ws(' ', x::text, list[1]::text, list::text, (page).body::text, (page).number, plain, numbers, n)
            FROM copied ORDER BY id";
        let rows = cluster.client(node).query(sql, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let given = texts(0);
    assert!(
        given[0].as_ref().unwrap().matches("<?xml").count() >= 3 || !has_xml,
        "{given:?}"
    );
    assert_eq!(texts(node), given);
}
