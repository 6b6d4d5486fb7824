//! Changes of audited tables, in `synod.audit`: each once, with who made it.

use postgres::Client;
use synod_testkit::{StopMode, refused, wait_until};

use super::{Alone, CLUSTER, PATIENCE};

/// Waits until the audit has so many rows of a table.
#[track_caller]
pub fn wait_for(client: &mut Client, table: &str, count: i64) {
    let sql = format!("SELECT count(*) FROM synod.audit WHERE table_name = '{table}'");
    let mut last = -1;
    let there = synod_testkit::try_wait_until(PATIENCE, || {
        last = client.query_one(&sql, &[]).ok()?.get(0);
        (last >= count).then_some(())
    });
    let state = client
        .query_opt(
            "SELECT state || ': ' || coalesce(reason, '-') FROM synod.stat_audit",
            &[],
        )
        .unwrap();
    let state: Option<String> = state.map(|row| row.get(0));
    assert!(
        there.is_some() && last == count,
        "{last} rows of {table} instead of {count}: {state:?}"
    );
}

/// Ends the auditing of a table and waits until the slot is gone.
#[track_caller]
pub fn end(client: &mut Client, tables: &[&str]) {
    for table in tables {
        client
            .batch_execute(&format!("SELECT synod.unaudit_table('{table}')"))
            .unwrap();
    }
    wait_until(PATIENCE, "the end of the slot", || {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'synod_audit_%' AND database = current_database()";
        (client.query_one(slots, &[]).ok()?.get::<_, i64>(0) == 0).then_some(())
    });
}

#[test]
fn every_change_is_there_with_its_author_and_both_versions() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_rows");
    let mut client = alone.client();
    client
        .batch_execute(
            "CREATE TABLE account (id int PRIMARY KEY, owner text, cents numeric); CREATE TABLE other (a int);
             ALTER TABLE account REPLICA IDENTITY FULL; INSERT INTO account VALUES (0, 'before', 0);
             SELECT synod.audit_table('account')",
        )
        .unwrap_err();
    client
        .batch_execute(
            "CREATE TABLE account (id int PRIMARY KEY, owner text, cents numeric); CREATE TABLE other (a int)",
        )
        .unwrap();
    client
        .batch_execute("ALTER TABLE account REPLICA IDENTITY FULL; INSERT INTO account VALUES (0, 'before', 0)")
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('account')").unwrap();
    client
        .batch_execute(
            "SET application_name = 'till'; BEGIN; SELECT synod.set_context('{\"request\": 4711}');
             INSERT INTO account VALUES (1, 'Zoë', 10.50); UPDATE account SET cents = 20.25 WHERE id = 1; INSERT INTO other VALUES (1); COMMIT;
             DELETE FROM account WHERE id = 1",
        )
        .unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO account VALUES (2, 'undone', 1); ROLLBACK")
        .unwrap();
    client.batch_execute("TRUNCATE account").unwrap();
    wait_for(&mut client, "public.account", 4);
    let rows = client
        .query(
            "SELECT operation, user_name, application_name, context::text, key::text, old_row::text, new_row::text FROM synod.audit ORDER BY commit_lsn, event_id",
            &[],
        )
        .unwrap();
    let cell = |row: usize, column: usize| rows[row].get::<_, Option<&str>>(column).unwrap_or("-").to_owned();
    let of = |column: usize| -> Vec<String> { (0..rows.len()).map(|row| cell(row, column)).collect() };
    assert_eq!(of(0), ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]);
    assert_eq!(of(1), ["postgres"; 4]);
    assert_eq!(of(2), ["till"; 4]);
    assert_eq!(of(3), ["{\"request\": 4711}", "{\"request\": 4711}", "-", "-"]);
    assert_eq!(of(4), ["{\"id\": 1}", "{\"id\": 1}", "{\"id\": 1}", "-"]);
    let (first, second) = (
        "{\"id\": 1, \"cents\": 10.50, \"owner\": \"Zoë\"}",
        "{\"id\": 1, \"cents\": 20.25, \"owner\": \"Zoë\"}",
    );
    assert_eq!(of(5), ["-", first, second, "-"]);
    assert_eq!(of(6), [first, second, "-", "-"]);

    // Renamed in the middle it is the same table; another of the old name is not.
    client
        .batch_execute("ALTER TABLE account RENAME TO konto; INSERT INTO konto VALUES (3); CREATE TABLE account (id int); INSERT INTO account VALUES (9)")
        .unwrap();
    wait_for(&mut client, "public.konto", 1);
    wait_for(&mut client, "public.account", 4);
    // What was written before the end of auditing is audited, what comes after is not.
    client
        .batch_execute("INSERT INTO konto SELECT g FROM generate_series(10, 3009) AS g")
        .unwrap();
    end(&mut client, &["konto"]);
    client.batch_execute("INSERT INTO konto VALUES (4)").unwrap();
    wait_for(&mut client, "public.konto", 3001);
    assert!(client.query("TABLE synod.stat_audit", &[]).unwrap().is_empty());
}

#[test]
fn auditing_is_for_administrators_and_its_rows_are_nobodys_to_change() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_rights");
    let mut client = alone.client();
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE ROLE clerk; CREATE ROLE auditor IN ROLE synod_admin; GRANT ALL ON t TO clerk, auditor").unwrap();
    client.batch_execute("SET ROLE clerk").unwrap();
    for sql in [
        "SELECT synod.audit_table('t')",
        "SELECT synod.unaudit_table('t')",
        "TABLE synod.audit",
        "DELETE FROM synod.audit",
        "TABLE synod.stat_audit",
    ] {
        synod_testkit::failed(sql, client.batch_execute(sql), &["42501"]);
    }
    client
        .batch_execute(
            "RESET ROLE; SET ROLE auditor; SELECT synod.audit_table('t'); INSERT INTO t VALUES (1); TABLE synod.audit",
        )
        .unwrap();
    for sql in [
        "DELETE FROM synod.audit",
        "UPDATE synod.audit SET user_name = 'x'",
        "INSERT INTO synod.audited VALUES (1, '0/0', NULL)",
    ] {
        synod_testkit::failed(sql, client.batch_execute(sql), &["42501"]);
    }
    wait_for(&mut client, "public.t", 1);
    client
        .batch_execute(
            "RESET ROLE; CREATE TEMP TABLE w (a int); CREATE VIEW v AS TABLE t; CREATE UNLOGGED TABLE u (a int)",
        )
        .unwrap();
    for table in ["w", "v", "u", "pg_class", "synod.audit"] {
        let sql = format!("SELECT synod.audit_table('{table}')");
        refused(&sql, client.batch_execute(&sql), &["0A000"]);
    }
    refused(
        "not audited",
        client.batch_execute("SELECT synod.unaudit_table('pg_class')"),
        &["55000"],
    );
    end(&mut client, &["t"]);
    let sql = "BEGIN; INSERT INTO t VALUES (2); SELECT synod.audit_table('t')";
    refused(sql, client.batch_execute(sql), &["25001"]);
    client
        .batch_execute("ROLLBACK; DROP OWNED BY clerk, auditor; DROP ROLE clerk, auditor")
        .unwrap();
}

#[test]
fn each_change_is_audited_once_whatever_dies() {
    let mut cluster = CLUSTER.lease();
    let name = "audit_crash";
    cluster
        .client(0)
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .unwrap();
    let mut client = cluster.server(0).client_to(name);
    client
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE t (a int PRIMARY KEY, b int)")
        .unwrap();
    client
        .batch_execute("SELECT synod.audit_table('t'); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) AS g")
        .unwrap();
    wait_for(&mut client, "public.t", 100);
    // It dies between the commit of its rows and the slot's advance: a crash of the server.
    client
        .batch_execute("ALTER SYSTEM SET synod.failpoint = 'kill audit-written'")
        .unwrap();
    // A worker that has written the rows, but not yet moved its slot, dies of this at once, and the session with it.
    let _ = client.batch_execute("SELECT pg_reload_conf()");
    let mut written = 100;
    for _ in 0..2 {
        // Asked until it has died: the setting may come a moment later.
        wait_until(PATIENCE, "the end of the worker", || {
            let mut client = cluster.server(0).try_client(name).ok();
            match client
                .as_mut()
                .map(|client| client.batch_execute("UPDATE t SET b = b + 1 WHERE a = 1"))
            {
                Some(Ok(())) => {
                    written += 1;
                    None
                }
                _ => Some(()),
            }
        });
    }
    wait_until(PATIENCE, "the server to be back without the failpoint", || {
        let mut client = cluster.server(0).try_client(name).ok()?;
        client.batch_execute("ALTER SYSTEM RESET synod.failpoint").ok()?;
        client.batch_execute("SELECT pg_reload_conf()").ok()
    });
    // And with the whole server.
    cluster.server_mut(0).restart(StopMode::Immediate);
    let mut client = cluster.server(0).client_to(name);
    let updates: i32 = client.query_one("SELECT b FROM t WHERE a = 1", &[]).unwrap().get(0);
    assert!(i64::from(updates) >= written - 100, "acknowledged updates are there");
    wait_for(&mut client, "public.t", 100 + i64::from(updates));
    end(&mut client, &["t"]);
    drop(client);
    cluster
        .client(0)
        .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .unwrap();
}

#[test]
fn what_stops_it_is_told_and_it_goes_on_by_itself() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_stopped");
    let mut client = alone.client();
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    client
        .batch_execute("ALTER SYSTEM SET synod.failpoint = 'audit'")
        .unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    // The first ones may come before the worker has read the settings.
    let mut rows = 0;
    wait_until(PATIENCE, "the reason", || {
        rows += 1;
        client.execute("INSERT INTO t VALUES ($1)", &[&rows]).unwrap();
        let row = client
            .query_opt("SELECT reason FROM synod.stat_audit WHERE state = 'stopped'", &[])
            .ok()??;
        row.get::<_, &str>(0).contains("failpoint").then_some(())
    });
    client.batch_execute("ALTER SYSTEM RESET synod.failpoint").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_for(&mut client, "public.t", i64::from(rows));
    wait_until(PATIENCE, "auditing to run again", || {
        let row = client.query_opt("SELECT FROM synod.stat_audit WHERE state = 'running'", &[]);
        row.ok()?.map(drop)
    });

    // While it cannot go on it keeps so much WAL and no more; what that costs is said.
    for sql in [
        "ALTER SYSTEM SET synod.failpoint = 'audit'",
        "ALTER SYSTEM SET synod.audit_max_wal = '2MB'",
        "SELECT pg_reload_conf()",
        "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)",
    ] {
        client.batch_execute(sql).unwrap();
    }
    wait_until(PATIENCE, "the slot to be given up", || {
        let row = client.query_opt("SELECT FROM synod.stat_audit WHERE state = 'lost'", &[]);
        row.ok()?.map(drop)
    });
    for sql in [
        "ALTER SYSTEM RESET synod.failpoint",
        "ALTER SYSTEM RESET synod.audit_max_wal",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).unwrap();
    }
    let said = cluster.server(0).psql(alone.name, &[], "SELECT synod.audit_table('t')");
    assert!(
        said.contains("WARNING:  the audit of this database has a gap"),
        "{said}"
    );
    client.batch_execute("INSERT INTO t VALUES (0)").unwrap();
    wait_for(&mut client, "public.t", i64::from(rows) + 1);
    end(&mut client, &["t"]);
}

#[test]
fn on_another_node_the_author_is_the_one_who_made_the_change() {
    let cluster = CLUSTER.lease();
    cluster.create_table("safe", "CREATE TABLE safe (a int PRIMARY KEY, b int)");
    let (mut here, mut there) = (cluster.client(0), cluster.client(1));
    for client in [&mut here, &mut there] {
        client.batch_execute("SELECT synod.audit_table('safe')").unwrap();
    }
    here.batch_execute("SET application_name = 'till 9'; INSERT INTO safe VALUES (1, 1)")
        .unwrap();
    here.batch_execute("UPDATE safe SET b = 2").unwrap();
    wait_for(&mut here, "public.safe", 2);
    wait_for(&mut there, "public.safe", 2);
    let sql = "SELECT operation, application_name, session_id, new_row::text FROM synod.audit WHERE table_name = 'public.safe' ORDER BY event_id";
    let (mine, theirs) = (here.query(sql, &[]).unwrap(), there.query(sql, &[]).unwrap());
    for (mine, theirs) in mine.iter().zip(&theirs) {
        for column in 0..4 {
            assert_eq!(
                mine.get::<_, Option<&str>>(column),
                theirs.get::<_, Option<&str>>(column)
            );
        }
        assert_eq!(mine.get::<_, Option<&str>>(1), Some("till 9"));
    }
    for client in [&mut here, &mut there] {
        end(client, &["safe"]);
        client.batch_execute("DELETE FROM safe").unwrap();
    }
    here.batch_execute("DROP TABLE safe").unwrap();
}
