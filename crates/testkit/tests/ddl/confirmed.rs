//! A node that has given its word about a table that another makes the group's keeps it over a crash: until it has followed, nobody writes
//! the table there as an ordinary one. Each test was seen to fail without the file `expected` (or, for the last, without locking again).

use postgres::Client;
use synod_testkit::{Cluster, Server, StopMode, assert_converged, failed, wait_until};

use crate::{CLUSTER, DEADLINE};

/// The worker freezes before it has found out how far the node is: from the next start of the server or the worker on.
const BEFORE_IT_RESUMES: &str = "stop origin";

fn rows(client: &mut Client, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {table}");
    client.query_one(&query, &[]).unwrap().get(0)
}

/// The server is up, its apply worker is not: what is written to the table now would be nobody else's.
#[track_caller]
fn is_refused(cluster: &Cluster, node: usize, table: &str) {
    let mut client = cluster.client(node);
    for sql in [
        format!("INSERT INTO {table} VALUES (100)"),
        format!("COPY {table} FROM PROGRAM 'echo 100'"),
        format!("TRUNCATE {table}"),
    ] {
        failed(&sql, client.batch_execute(&sql), &["57P03"]);
    }
    client
        .batch_execute(
            "CREATE TEMPORARY TABLE mine (id int); INSERT INTO mine VALUES (1); INSERT INTO ordinary VALUES (1)",
        )
        .expect("other tables are written as ever");
}

/// It is read like a table of the group, whose rows are not here yet.
#[track_caller]
fn is_not_read_too_early(cluster: &Cluster, node: usize, table: &str) {
    let sql = format!("SET synod.read_timeout = '200ms'; SELECT count(*) FROM {table}");
    failed(&sql, cluster.client(node).batch_execute(&sql), &["57P03"]);
}

/// Lets the frozen worker go on; from then on the table is written as one of the group.
#[track_caller]
fn follows(cluster: &Cluster, node: usize, table: &str, rows_before: i64) {
    let server = cluster.server(node);
    let worker = server.frozen("synod apply worker");
    server.failpoint("");
    server.resume_process(worker);
    wait_until(DEADLINE, "the table to be written again", || {
        let sql = format!("INSERT INTO {table} VALUES (200)");
        cluster.client(node).batch_execute(&sql).ok()
    });
    assert_converged(cluster, &[table]);
    assert_eq!(rows(&mut cluster.client(2), table), rows_before + 1);
    wait_until(DEADLINE, "the file to go", || {
        (!server.synod_directory("postgres").join("expected").exists()).then_some(())
    });
}

/// Has rows of another server's table of this name written here.
fn subscribe(client: &mut Client, table: &str) -> Server {
    let mut publisher = Server::new(
        "publisher",
        &[("shared_preload_libraries", ""), ("wal_level", "logical")],
    );
    publisher.start();
    let sql = format!("CREATE TABLE {table} (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE {table}");
    publisher.client().batch_execute(&sql).unwrap();
    let sql = format!(
        "CREATE SUBSCRIPTION outside CONNECTION '{}' PUBLICATION p WITH (copy_data = false)",
        publisher.dsn()
    );
    client.batch_execute(&sql).unwrap();
    publisher
}

#[test]
fn a_member_that_crashes_before_it_has_followed_takes_no_writes_of_its_own() {
    let mut cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE kept_word (id int PRIMARY KEY); CREATE TABLE IF NOT EXISTS ordinary (id int)");
    let publisher = subscribe(&mut cluster.client(1), "kept_word");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO kept_word VALUES (1)").unwrap();
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('kept_word')")
        .unwrap();
    // It has given its word; the table is the group's while it is away.
    cluster.server_mut(1).kill9();
    client.batch_execute("COMMIT").unwrap();
    publisher
        .client()
        .batch_execute("INSERT INTO kept_word VALUES (300)")
        .unwrap();
    cluster.server(1).failpoint_of_next_start(BEFORE_IT_RESUMES);
    cluster.server_mut(1).start();
    cluster.server(1).frozen("synod apply worker");
    is_refused(&cluster, 1, "kept_word");
    wait_until(DEADLINE, "the subscription to be refused", || {
        let log = cluster.server(1).log();
        log.contains("what a subscription writes before the node has followed")
            .then_some(())
    });
    cluster.client(1).batch_execute("DROP SUBSCRIPTION outside").unwrap();
    is_not_read_too_early(&cluster, 1, "kept_word");
    follows(&cluster, 1, "kept_word", 1);
}

#[test]
fn the_node_that_replicates_a_table_and_crashes_loses_no_row_either() {
    let mut cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE own_word (id int PRIMARY KEY); CREATE TABLE IF NOT EXISTS ordinary (id int)");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO own_word VALUES (1)").unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let committing = std::thread::spawn(move || {
        client.batch_execute("SET synod.failpoint = 'stop before-turn'; SELECT synod.replicate_table('own_word')")
    });
    cluster.server(0).wait_frozen(pid);
    cluster.server_mut(0).kill9();
    committing.join().unwrap().expect_err("its server is gone");
    cluster.server(0).failpoint_of_next_start(BEFORE_IT_RESUMES);
    cluster.server_mut(0).start();
    cluster.server(0).frozen("synod apply worker");
    is_refused(&cluster, 0, "own_word");
    is_not_read_too_early(&cluster, 0, "own_word");
    follows(&cluster, 0, "own_word", 1);
}

/// The transaction that replicates a table gives up before it is decided: its locks are gone, the record is not. What is written here
/// until it is applied was truncated away with it.
#[test]
fn nobody_writes_while_the_outcome_of_replicating_is_unknown() {
    let cluster = CLUSTER.lease();
    // The first write of a server's life waits for the group anyway.
    cluster.create_table("own_other", "CREATE TABLE own_other (id int PRIMARY KEY)");
    cluster.on_all("CREATE TABLE own_unknown (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO own_other VALUES (1)").unwrap();
    client.batch_execute("INSERT INTO own_unknown VALUES (1)").unwrap();
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('own_unknown'); SET LOCAL synod.commit_timeout = '500ms'")
        .unwrap();
    cluster.server(1).pause();
    cluster.server(2).pause();
    let outcome = client.batch_execute("COMMIT");
    let sql =
        "SET synod.read_consistency = local; SET synod.commit_timeout = '300ms'; INSERT INTO own_unknown VALUES (2)";
    let written = cluster.client(0).batch_execute(sql);
    cluster.server(1).resume();
    cluster.server(2).resume();
    failed("COMMIT", outcome, &["08007"]);
    failed(sql, written, &["57P03"]);
    wait_until(DEADLINE, "the table to be written again", || {
        cluster
            .client(0)
            .batch_execute("INSERT INTO own_unknown VALUES (3)")
            .ok()
    });
    assert_converged(&cluster, &["own_unknown"]);
    assert_eq!(rows(&mut cluster.client(1), "own_unknown"), 2);
    // One that is rolled back leaves an ordinary table, which is written at once.
    cluster
        .client(0)
        .batch_execute("CREATE TABLE own_in_vain (id int)")
        .unwrap();
    client
        .batch_execute(
            "BEGIN; SELECT synod.replicate_table('own_in_vain'); ROLLBACK; INSERT INTO own_in_vain VALUES (1)",
        )
        .unwrap();
}

/// The locks are the session's: they go when it ends.
#[test]
fn nobody_writes_between_two_apply_workers() {
    let cluster = CLUSTER.lease();
    cluster.on_all("CREATE TABLE between (id int PRIMARY KEY); CREATE TABLE IF NOT EXISTS ordinary (id int)");
    let mut client = cluster.client(0);
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('between')")
        .unwrap();
    let server = cluster.server(1);
    let first = server.pid_of("synod apply worker");
    server.failpoint(BEFORE_IT_RESUMES);
    cluster
        .client(1)
        .batch_execute(&format!("SELECT pg_terminate_backend({first})"))
        .unwrap();
    server.frozen("synod apply worker");
    is_refused(&cluster, 1, "between");
    client.batch_execute("COMMIT").unwrap();
    follows(&cluster, 1, "between", 0);
}

/// And they go when a transaction of it fails.
#[test]
fn nobody_writes_after_a_failure_to_apply() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("blocked", "CREATE TABLE blocked (id int PRIMARY KEY, v int)");
    cluster.on_all("CREATE TABLE after_failure (id int PRIMARY KEY); CREATE TABLE IF NOT EXISTS ordinary (id int)");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO blocked VALUES (1, 1)").unwrap();
    assert_converged(&cluster, &["blocked"]);
    cluster
        .client(1)
        .batch_execute("BEGIN; SELECT FROM blocked FOR UPDATE; PREPARE TRANSACTION 'in_the_way'")
        .unwrap();
    client
        .batch_execute("BEGIN; SELECT synod.replicate_table('after_failure')")
        .unwrap();
    let mut observer = cluster.client(1);
    // They wait for the worker's lock before they look whether they may write.
    let waiting = ["COPY after_failure FROM PROGRAM 'echo 100'", "TRUNCATE after_failure"].map(|sql| {
        let mut writer = cluster.client(1);
        let thread = std::thread::spawn(move || writer.batch_execute(sql));
        let locks = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'after_failure'::regclass
                        AND mode = CASE WHEN $1 THEN 'RowExclusiveLock' ELSE 'AccessExclusiveLock' END";
        wait_until(DEADLINE, sql, || {
            let row = observer.query_one(locks, &[&sql.starts_with("COPY")]).ok()?;
            (row.get::<_, i64>(0) == 1).then_some(())
        });
        (sql, thread)
    });
    cluster.client(2).batch_execute("UPDATE blocked SET v = 2").unwrap();
    wait_until(DEADLINE, "apply to stop", || {
        let row = observer.query_one("SELECT reason FROM synod.stat_apply", &[]).ok()?;
        row.get::<_, Option<String>>(0)?.contains("in_the_way").then_some(())
    });
    for (sql, thread) in waiting {
        failed(sql, thread.join().unwrap(), &["57P03", "40001"]);
    }
    let sql = "SET lock_timeout = '500ms'; INSERT INTO after_failure VALUES (1)";
    failed(sql, cluster.client(1).batch_execute(sql), &["55P03", "57P03"]);
    observer.batch_execute("COMMIT PREPARED 'in_the_way'").unwrap();
    client.batch_execute("COMMIT").unwrap();
    wait_until(DEADLINE, "the table to be written again", || {
        let sql = "INSERT INTO after_failure VALUES (1)";
        cluster.client(1).batch_execute(sql).ok()
    });
    assert_converged(&cluster, &["after_failure", "blocked"]);
    // What is wrong with the file is said, and nothing is guessed.
    damaged_file_is_refused(&mut cluster);
}

fn damaged_file_is_refused(cluster: &mut Cluster) {
    let file = cluster.server(1).synod_directory("postgres").join("expected");
    cluster.server_mut(1).stop(StopMode::Fast);
    std::fs::write(&file, "SYNODexp, and nothing else").unwrap();
    cluster.server_mut(1).start();
    let mut client = cluster.client(1);
    wait_until(DEADLINE, "apply to say so", || {
        let row = client.query_one("SELECT reason FROM synod.stat_apply", &[]).ok()?;
        row.get::<_, Option<String>>(0)?
            .contains("its checksum is wrong")
            .then_some(())
    });
    let sql = "INSERT INTO ordinary VALUES (2)";
    failed(sql, client.batch_execute(sql), &["XX001"]);
    std::fs::remove_file(&file).unwrap();
    wait_until(DEADLINE, "apply to go on", || client.batch_execute(sql).ok());
}
