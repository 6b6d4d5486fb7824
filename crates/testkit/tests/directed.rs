//! Interleavings put together by hand: processes are frozen at failpoints and let go in an order that was once fatal. Each
//! test names the mend without which it fails, and was seen to fail without it where it says so.

use std::time::{Duration, Instant};

use postgres::Client;
use synod_testkit::{
    Cluster, Options, Session, SharedCluster, assert_converged, failed, sqlstate, try_wait_until, wait_until,
};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

const DEADLINE: Duration = Duration::from_secs(20);

fn number(client: &mut Client, query: &str) -> i64 {
    client
        .query_one(query, &[])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

fn own_id(client: &mut Client) -> String {
    client
        .query_one("SELECT synod.current_transaction_id()", &[])
        .unwrap()
        .get(0)
}

fn status(client: &mut Client, id: &str) -> String {
    client
        .query_one("SELECT synod.transaction_status($1)", &[&id])
        .unwrap()
        .get(0)
}

/// Runs `statement` in a session of node 0 that freezes at `failpoint`; `meanwhile` happens, then it goes on.
#[track_caller]
fn frozen_at(
    cluster: &Cluster,
    failpoint: &str,
    statement: &str,
    meanwhile: impl FnOnce(),
) -> Result<(), postgres::Error> {
    let mut client = cluster.client(0);
    let pid = pid(&mut client);
    client
        .batch_execute(&format!("SET synod.failpoint = 'stop {failpoint}'"))
        .unwrap();
    std::thread::scope(|scope| {
        let committing = scope.spawn(move || client.batch_execute(statement));
        cluster.server(0).wait_frozen(pid);
        meanwhile();
        cluster.server(0).resume_process(pid);
        committing.join().unwrap()
    })
}

/// The log worker of node 0 fails by itself, stays away for a while, and is started again.
#[track_caller]
fn restart_log_worker(cluster: &Cluster) {
    let server = cluster.server(0);
    let mut client = server.client();
    let state = |client: &mut Client| -> String {
        client
            .query_one("SELECT state FROM synod.stat_log", &[])
            .unwrap()
            .get(0)
    };
    let before = number(&mut client, "SELECT incarnation FROM synod.stat_log");
    server.failpoint("log-worker");
    wait_until(DEADLINE, "the log worker to fail", || {
        (state(&mut client) == "stopped").then_some(())
    });
    server.failpoint("");
    wait_until(DEADLINE, "the log worker to run again", || {
        let again = number(&mut client, "SELECT incarnation FROM synod.stat_log") != before;
        (again && state(&mut client) == "running").then_some(())
    });
}

/// A record of before the restart is not of the running incarnation, although its backend lives. (Not seen to fail with that
/// mistake brought back: it takes a commit at the very moment of the restart.)
#[test]
fn a_restart_of_the_log_worker_alone_commits_nothing_twice() {
    let cluster = CLUSTER.lease();
    // Without a key, so that a second row does not fail.
    cluster.create_table("twice", "CREATE TABLE twice (v int)");
    let before = number(&mut cluster.client(0), "SELECT decided_csn FROM synod.stat_apply");
    let committed = frozen_at(&cluster, "before-turn", "INSERT INTO twice VALUES (1)", || {
        restart_log_worker(&cluster);
        // Something behind it, decided by the new worker: the apply worker has looked at what comes first.
        cluster.client(1).batch_execute("INSERT INTO twice VALUES (2)").unwrap();
        let mut client = cluster.client(0);
        wait_until(DEADLINE, "both to be decided on n1", || {
            (number(&mut client, "SELECT decided_csn FROM synod.stat_apply") >= before + 2).then_some(())
        });
        // Everybody looks again.
        cluster.server(0).failpoint("");
        let applied = try_wait_until(Duration::from_millis(500), || {
            (number(&mut client, "SELECT applied_csn FROM synod.stat_apply") > before).then_some(())
        });
        assert!(applied.is_none(), "a record was applied whose backend lives");
    });
    committed.expect("the backend has its turn");
    assert_converged(&cluster, &["twice"]);
    assert_eq!(number(&mut cluster.client(0), "SELECT count(*) FROM twice"), 2);
}

/// What is undecided when the log worker fails: its client is told "unknown" with the right id, and all nodes agree later.
#[test]
fn a_restart_of_the_log_worker_tells_the_undecided_the_truth() {
    let cluster = CLUSTER.lease();
    cluster.create_table("undecided", "CREATE TABLE undecided (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client.batch_execute("BEGIN; INSERT INTO undecided VALUES (1)").unwrap();
    let id = own_id(&mut client);
    let mut late = cluster.client(0);
    late.batch_execute("BEGIN; INSERT INTO undecided VALUES (2)").unwrap();
    let void = own_id(&mut late);
    cluster.server(1).pause();
    cluster.server(2).pause();
    std::thread::scope(|scope| {
        let committing = scope.spawn(move || client.batch_execute("COMMIT"));
        let server = cluster.server(0);
        let mut observer = server.client();
        wait_until(DEADLINE, "the record to be on its way", || {
            let busy = "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'";
            (number(&mut observer, busy) > 0).then_some(())
        });
        server.failpoint("log-worker");
        let error = committing.join().unwrap().expect_err("nobody decided it");
        server.failpoint("");
        assert!(matches!(sqlstate(&error), Some("08007" | "55000")), "{error:?}");
        if sqlstate(&error) == Some("08007") {
            let hint = error.as_db_error().unwrap().hint().unwrap_or_default().to_owned();
            assert!(
                hint.contains(&id),
                "the hint names another transaction than {id}: {hint}"
            );
        }
    });
    cluster.server(1).resume();
    cluster.server(2).resume();
    wait_until(DEADLINE, "the log worker to run again", || {
        let mut client = cluster.client(0);
        let row = client
            .query_one("SELECT state = 'running' FROM synod.stat_log", &[])
            .ok()?;
        row.get::<_, bool>(0).then_some(())
    });
    // An id that was told before the restart names no transaction after it.
    let error = late.batch_execute("COMMIT").expect_err("its id is void");
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    assert_converged(&cluster, &["undecided"]);
    let present = number(&mut cluster.client(2), "SELECT count(*) FROM undecided WHERE id = 1") == 1;
    for node in 0..3 {
        let mut session = Session::new(cluster.server(node));
        assert_eq!(session.resolve(&id, DEADLINE), Some(present), "{id} on n{}", node + 1);
        assert_eq!(session.resolve(&void, DEADLINE), Some(false), "{void} on n{}", node + 1);
    }
}

/// Fails (10 s) when the one before it wakes only the backend that it knew of (`turn::wake_committer`).
#[test]
fn a_turn_that_is_let_go_wakes_the_next() {
    let cluster = CLUSTER.lease();
    cluster.create_table("queue", "CREATE TABLE queue (id int PRIMARY KEY)");
    let decided = |client: &mut Client| number(client, "SELECT decided_csn FROM synod.stat_apply");
    let mut observer = cluster.client(0);
    let mut second = cluster.client(0);
    let second_pid = pid(&mut second);
    let mut third = cluster.client(0);
    let (waited, told) = std::thread::scope(|scope| {
        let mut threads = None;
        let mut start = Instant::now();
        frozen_at(&cluster, "after-turn", "INSERT INTO queue VALUES (1)", || {
            let mut seen = decided(&mut observer);
            let mut wait_for_next = |observer: &mut Client| {
                wait_until(DEADLINE, "the next to be decided", || {
                    (decided(observer) > seen).then_some(())
                });
                seen = decided(observer);
            };
            let second = scope.spawn(move || second.batch_execute("INSERT INTO queue VALUES (2)"));
            wait_for_next(&mut observer);
            let third = scope.spawn(move || third.batch_execute("INSERT INTO queue VALUES (3)"));
            wait_for_next(&mut observer);
            cluster
                .client(0)
                .execute("SELECT pg_cancel_backend($1)", &[&second_pid])
                .unwrap();
            let told = second.join().unwrap();
            // The apply worker has had its wake-up for what was let go, and sleeps again behind the frozen turn.
            start = Instant::now();
            threads = Some((third, told));
        })
        .expect("the frozen one commits");
        let (third, told) = threads.unwrap();
        third.join().unwrap().expect("the third one commits");
        (start.elapsed(), told)
    });
    assert_eq!(
        told.as_ref().err().and_then(|error| sqlstate(error)),
        Some("08007"),
        "{told:?}"
    );
    assert!(waited < Duration::from_secs(5), "the node slept for {waited:?}");
    assert_converged(&cluster, &["queue"]);
    assert_eq!(number(&mut cluster.client(0), "SELECT count(*) FROM queue"), 3);
}

/// Fails (40001) when a doom is not held against the transaction that it was meant for (`give_way::is_doomed`).
#[test]
fn a_doom_that_comes_late_hits_no_innocent() {
    let cluster = CLUSTER.lease();
    cluster.create_table("doomed", "CREATE TABLE doomed (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO doomed VALUES (1, 0), (2, 0)")
        .unwrap();
    let server = cluster.server(0);
    let log_worker = server.pid_of("synod log worker");
    let mut holder = cluster.client(0);
    // The log worker answers nobody while it is frozen.
    holder.batch_execute("SET synod.read_consistency = 'local'").unwrap();
    holder
        .batch_execute("BEGIN; UPDATE doomed SET v = 1 WHERE id = 1")
        .unwrap();
    server.failpoint("stop doom");
    cluster
        .client(1)
        .batch_execute("UPDATE doomed SET v = 2 WHERE id = 1")
        .unwrap();
    // It has seen who is in the way, and has not said so yet.
    server.wait_frozen(log_worker);
    server.failpoint("");
    holder
        .batch_execute("ROLLBACK; BEGIN; UPDATE doomed SET v = 3 WHERE id = 2")
        .expect("nobody is in the way of this one");
    server.resume_process(log_worker);
    let mut observer = cluster.client(0);
    wait_until(DEADLINE, "the change of n2", || {
        (number(&mut observer, "SELECT v::bigint FROM doomed WHERE id = 1") == 2).then_some(())
    });
    holder
        .batch_execute("SELECT count(*) FROM doomed")
        .expect("it is innocent");
    holder.batch_execute("COMMIT").expect("it is innocent");
    assert_converged(&cluster, &["doomed"]);
}

/// Was a crash of the whole server (SIGSEGV) about once in a thousand sessions that ended while another node wrote what they had
/// written, because `give_way::is_doomed` looked at the PGPROC of a process that had none any more. Seen to fail without the mend.
#[test]
fn a_cancel_that_comes_when_its_session_ends_is_no_crash() {
    let cluster = CLUSTER.lease();
    cluster.create_table("leaving", "CREATE TABLE leaving (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO leaving VALUES (1, 0)")
        .unwrap();
    let server = cluster.server(0);
    let log_worker = server.pid_of("synod log worker");
    let mut leaving = cluster.client(0);
    let leaver = pid(&mut leaving);
    // The log worker answers nobody while it is frozen.
    let sql = "SET synod.read_consistency = 'local'; SET synod.failpoint = 'stop exit'";
    leaving.batch_execute(sql).unwrap();
    server.failpoint("stop cancel");
    leaving
        .batch_execute("BEGIN; UPDATE leaving SET v = 1 WHERE id = 1")
        .unwrap();
    std::thread::scope(|scope| {
        // It is cancelled only while it runs something.
        scope.spawn(move || leaving.batch_execute("SELECT pg_sleep(1)"));
        cluster
            .client(1)
            .batch_execute("UPDATE leaving SET v = 2 WHERE id = 1")
            .unwrap();
        server.wait_frozen(log_worker);
        server.failpoint("");
    });
    server.wait_frozen(leaver);
    server.resume_process(log_worker);
    let mut observer = cluster.client(0);
    wait_until(DEADLINE, "the change of n2", || {
        (number(&mut observer, "SELECT v::bigint FROM leaving WHERE id = 1") == 2).then_some(())
    });
    server.resume_process(leaver);
    wait_until(DEADLINE, "the session to be gone", || {
        (!std::path::Path::new(&format!("/proc/{leaver}")).exists()).then_some(())
    });
    // That no server has crashed is checked when the lease ends.
    assert_converged(&cluster, &["leaving"]);
}

/// Fails (every log worker stops at the record, or apply does) when fragments are named in the order of the body instead of that of the log
/// (`Engine::finish_upload`).
#[test]
fn pieces_that_arrive_out_of_order_are_a_reason_to_try_again() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("pieces", "CREATE TABLE pieces (id int PRIMARY KEY, filler text)");
    // About 3 MB: a dozen fragments.
    let insert = "INSERT INTO pieces SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 5000) i";
    cluster.server(1).failpoint("fragments");
    failed(
        "a body whose pieces are out of order",
        cluster.client(1).batch_execute(insert),
        &["40001"],
    );
    cluster.server(1).failpoint("");
    cluster.client(1).batch_execute(insert).unwrap();
    assert_converged(&cluster, &["pieces"]);
    assert_eq!(number(&mut cluster.client(2), "SELECT count(*) FROM pieces"), 5000);
    for node in 0..3 {
        assert_eq!(cluster.server(node).spill_files(), [""; 0], "on n{}", node + 1);
    }
    // What was given up does not stand in the way of a joiner, who gets it all.
    let newcomer = cluster.add_server();
    let (via, dsn) = (cluster.server(0).dsn(), cluster.server(newcomer).dsn());
    let mut client = cluster.client(newcomer);
    client
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE pieces (id int PRIMARY KEY, filler text)")
        .unwrap();
    for (table, columns) in [
        ("twice", "(v int)"),
        ("undecided", "(id int PRIMARY KEY)"),
        ("queue", "(id int PRIMARY KEY)"),
        ("doomed", "(id int PRIMARY KEY, v int)"),
        ("held", "(id int PRIMARY KEY, filler text)"),
        ("spilt", "(id int PRIMARY KEY, filler text)"),
        ("early", "(v int)"),
    ] {
        if number(
            &mut cluster.client(0),
            &format!("SELECT count(*) FROM pg_class WHERE relname = '{table}'"),
        ) == 1
        {
            client
                .batch_execute(&format!("CREATE TABLE {table} {columns}"))
                .unwrap();
        }
    }
    client
        .execute("SELECT synod.join_group($1, 'n4', $2)", &[&via, &dsn])
        .unwrap();
    assert_converged(&cluster, &["pieces"]);
    client.batch_execute("SELECT synod.leave_group()").unwrap();
    cluster.remove_last_server();
    cluster.wait_for_voters(3);
}

/// From the moment of 08007 on, through the session's next transaction, whose number is another one.
#[test]
fn an_undecided_transaction_is_not_called_aborted() {
    let cluster = CLUSTER.lease();
    cluster.create_table("held", "CREATE TABLE held (id int PRIMARY KEY, filler text)");
    let mut client = cluster.client(0);
    // The transaction is known to the others and to this node's log, but they cannot answer yet.
    client
        .batch_execute("SET synod.commit_timeout = '300ms'; SET synod.read_consistency = 'local'")
        .unwrap();
    client.batch_execute("BEGIN; INSERT INTO held VALUES (1)").unwrap();
    let id = own_id(&mut client);
    cluster.server(1).pause();
    cluster.server(2).pause();
    let error = client.batch_execute("COMMIT").expect_err("nobody can decide it");
    let told = sqlstate(&error).map(str::to_owned);
    client.batch_execute("BEGIN").unwrap();
    let next = own_id(&mut client);
    assert_ne!(next, id);
    cluster.server(1).resume();
    cluster.server(2).resume();
    match told.as_deref() {
        Some("08007") => {
            let hint = error.as_db_error().unwrap().hint().unwrap_or_default().to_owned();
            assert!(
                hint.contains(&id),
                "the hint names another transaction than {id}: {hint}"
            );
            let mut observer = cluster.client(0);
            // Never "aborted" on the way to "committed".
            let mut seen = Vec::new();
            wait_until(DEADLINE, "the outcome", || {
                let now = status(&mut observer, &id);
                let done = now == "committed";
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
                (done || seen.iter().any(|status| status == "aborted")).then_some(())
            });
            assert!(!seen.iter().any(|status| status == "aborted"), "{seen:?}");
        }
        // Refused before it was proposed: the node had noticed that it is alone.
        Some("57P03") => {}
        other => panic!("COMMIT answered {other:?}: {error:?}"),
    }
    assert_eq!(status(&mut cluster.client(0), &next), "in progress");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(status(&mut cluster.client(0), &next), "aborted");
    assert_converged(&cluster, &["held"]);
}

/// Fails when any of the ways out of a commit forgets its files (`submit::remove_spill`, `capture::SpillFile`).
#[test]
fn no_way_out_of_a_large_commit_leaves_files() {
    let cluster = CLUSTER.lease();
    cluster.create_table("spilt", "CREATE TABLE spilt (id int PRIMARY KEY, filler text)");
    let large = |id: i32| {
        format!("INSERT INTO spilt SELECT i, repeat(md5(i::text), 20) FROM generate_series({id}, {id} + 4999) i")
    };
    let mut client = cluster.client(0);
    let no_files = |what: &str| {
        wait_until(
            DEADLINE,
            &format!("no files in spill/ after {what}: {:?}", cluster.server(0).spill_files()),
            || cluster.server(0).spill_files().is_empty().then_some(()),
        );
    };
    client.batch_execute(&large(10_000)).unwrap();
    no_files("a commit");
    client.batch_execute("SET synod.max_transaction_size = '1MB'").unwrap();
    failed("too large", client.batch_execute(&large(20_000)), &["54000"]);
    no_files("a refusal");
    client.batch_execute("RESET synod.max_transaction_size").unwrap();
    // Lost to another node.
    client
        .batch_execute(&format!("SET synod.read_consistency = 'local'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM spilt; {}", large(30_000)))
        .unwrap();
    let _ = cluster.client(1).batch_execute("INSERT INTO spilt VALUES (30001)");
    let error = client.batch_execute("COMMIT").expect_err("it lost");
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    let _ = client.batch_execute("ROLLBACK");
    no_files("a conflict");
    // Refused between the seal and the log.
    client
        .batch_execute(&format!(
            "BEGIN; {}; SELECT synod.current_transaction_id()",
            large(40_000)
        ))
        .unwrap();
    restart_log_worker(&cluster);
    let error = client.batch_execute("COMMIT").expect_err("its id is void");
    assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
    no_files("a void id");
    // Cancelled before and behind the proposal.
    for (round, paused) in [false, true, true].into_iter().enumerate() {
        if paused {
            cluster.server(1).pause();
            cluster.server(2).pause();
        }
        let timeout = if paused { 300 } else { 30 };
        let id = 50_000 + 10_000 * i32::try_from(round).unwrap();
        client
            .batch_execute(&format!(
                "SET synod.commit_timeout = '{timeout}ms'; BEGIN; {}",
                large(id)
            ))
            .unwrap();
        let _ = client.batch_execute("COMMIT");
        let _ = client.batch_execute("ROLLBACK");
        cluster.server(1).resume();
        cluster.server(2).resume();
        no_files("a time-out");
    }
    assert_converged(&cluster, &["spilt"]);
    assert_eq!(cluster.server(1).spill_files(), [""; 0]);
}

/// Fails when a backend commits before the apply worker has found the replication origin: the commit would not carry its CSN,
/// and a crash would apply it twice (`xact::before_commit`).
#[test]
fn nothing_is_committed_before_the_origin_is_known() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("early", "CREATE TABLE early (v int)");
    cluster.server(0).failpoint("origin");
    cluster.server_mut(0).kill9();
    cluster.server_mut(0).start();
    let mut client = cluster.client(0);
    // Without the barrier, which would not let it pass either.
    client
        .batch_execute("SET synod.read_consistency = 'local'; SET synod.read_timeout = '1s'; SET synod.failpoint = ''")
        .unwrap();
    wait_until(DEADLINE, "the log worker to run without the apply worker", || {
        let row = client
            .query_opt("SELECT state = 'running' FROM synod.stat_log", &[])
            .ok()??;
        row.get::<_, bool>(0).then_some(())
    });
    failed(
        "a commit that cannot carry its CSN",
        client.batch_execute("INSERT INTO early VALUES (1)"),
        &["57P03", "55000"],
    );
    cluster.server(0).failpoint("");
    wait_until(DEADLINE, "writes to pass", || {
        client.batch_execute("INSERT INTO early VALUES (2)").ok()
    });
    cluster.server_mut(0).kill9();
    cluster.server_mut(0).start();
    assert_converged(&cluster, &["early"]);
    assert_eq!(number(&mut cluster.client(1), "SELECT count(*) FROM early"), 1);
}

/// Was a row put into the table as it had been, because apply looked at the table ahead of its lock (`apply::locked`): the session
/// passes its turn on before it tells other processes what it has changed. Seen to fail without the mend (other bytes on n1 than on
/// the others). Without an index: the server tells at once that one is built anew.
#[test]
fn a_row_that_follows_a_change_of_its_table_meets_the_table_as_it_is() {
    let cluster = CLUSTER.lease();
    cluster.create_table("reshaped", "CREATE TABLE reshaped (v interval)");
    // The apply worker of n1 knows the table from now on.
    let mut other = cluster.client(1);
    for _ in 0..3 {
        other.batch_execute("INSERT INTO reshaped VALUES ('1 day')").unwrap();
    }
    let mut observer = cluster.client(0);
    assert_eq!(number(&mut observer, "SELECT count(*) FROM reshaped"), 3);
    let apply_worker = cluster.server(0).pid_of("synod apply worker");
    let waits = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = {apply_worker}");
    let change = "ALTER TABLE reshaped ALTER v TYPE uuid USING md5(v::text)::uuid";
    // Its bytes are those of an interval, too.
    let row = "00010203-0405-0607-0809-0a0b0c0d0e0f";
    frozen_at(&cluster, "turn-passed", change, || {
        wait_until(DEADLINE, "the change of the table on n2", || {
            other
                .batch_execute(&format!("INSERT INTO reshaped VALUES ('{row}')"))
                .ok()
        });
        wait_until(DEADLINE, "apply to want the table", || {
            (number(&mut observer, &waits) > 0).then_some(())
        });
    })
    .expect("it has committed");
    assert_converged(&cluster, &["reshaped"]);
    let right = format!("SELECT count(*) FROM reshaped WHERE v = '{row}'");
    assert_eq!(number(&mut observer, &right), 1);
}
