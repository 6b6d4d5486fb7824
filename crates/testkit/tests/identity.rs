//! Who a node is: copies, lost and damaged log directories, double starts (T13). A node that cannot know what it once
//! promised must not vote.

use std::path::{Path, PathBuf};
use std::time::Duration;

use synod_testkit::{Cluster, Ledger, StopMode, assert_converged, checksum, refused, sqlstate, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);

fn files_of(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// Asserts that `node` and one live peer are no majority: a write on the peer is not acknowledged.
#[track_caller]
fn assert_does_not_vote(cluster: &mut Cluster, node: usize, peer: usize) {
    let third = 3 - node - peer;
    cluster.server_mut(third).stop(StopMode::Fast);
    let mut client = cluster.client(peer);
    client
        .batch_execute("SET synod.commit_timeout = '4s'; SET synod.read_consistency = 'local'")
        .unwrap();
    let error = client
        .batch_execute("INSERT INTO ledger VALUES (-2, 0)")
        .expect_err("a node that may not vote made a majority");
    assert!(matches!(sqlstate(&error), Some("57P03" | "08007")), "{error:?}");
    cluster.server_mut(third).start();
}

#[test]
fn a_node_with_a_wiped_log_does_not_vote() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 20);
    let directory = cluster.server(2).synod_directory("postgres").join("log");
    cluster.server_mut(2).stop(StopMode::Fast);
    assert!(
        !files_of(&directory).is_empty(),
        "the log is not where it is thought to be"
    );
    for file in files_of(&directory) {
        std::fs::remove_file(file).unwrap();
    }
    cluster.server_mut(2).start();
    let mut client = cluster.client(2);
    let reason = wait_until(DEADLINE, "the wiped node to say what is wrong", || {
        let row = client
            .query_one("SELECT to_json(s)::text FROM synod.stat_log s", &[])
            .ok()?;
        let text: String = row.get(0);
        text.contains("stopped").then_some(text)
    });
    assert!(reason.len() > 20, "{reason}");
    assert_does_not_vote(&mut cluster, 2, 1);
    // The way back: removed, then joined again.
    cluster
        .client(0)
        .batch_execute("SELECT synod.remove_node('n3')")
        .unwrap();
    cluster
        .client(2)
        .batch_execute("SELECT synod.leave_group(force => true)")
        .unwrap();
    let (via, dsn) = (cluster.server(0).dsn(), cluster.server(2).dsn());
    cluster.client(2).batch_execute("TRUNCATE ledger").unwrap();
    cluster
        .client(2)
        .execute("SELECT synod.join_group($1, 'n3', $2)", &[&via, &dsn])
        .unwrap();
    cluster.wait_for_voters(3);
    ledger.assert_kept(&cluster);
}

#[test]
fn a_whole_directory_wiped_is_no_member() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 10);
    let directory = cluster.server(1).synod_directory("postgres");
    cluster.server_mut(1).stop(StopMode::Fast);
    std::fs::remove_dir_all(&directory).unwrap();
    cluster.server_mut(1).start();
    let error = cluster
        .client(1)
        .batch_execute("INSERT INTO ledger VALUES (-1, 0)")
        .expect_err("a write past the group");
    assert_eq!(sqlstate(&error), Some("55000"), "{error:?}");
    assert_does_not_vote(&mut cluster, 1, 2);
    assert_eq!(
        checksum(&mut cluster.client(0), "(SELECT * FROM ledger WHERE id = -1)")
            .unwrap()
            .0,
        0
    );
}

#[test]
fn damage_in_the_middle_of_the_log_is_noticed_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 60);
    let directory = cluster.server(2).synod_directory("postgres").join("log");
    cluster.server_mut(2).stop(StopMode::Fast);
    let segment = files_of(&directory)
        .into_iter()
        .max_by_key(|file| file.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // The records are at the beginning; a segment is filled with zeroes.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let middle = used / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    cluster.server_mut(2).launch();
    let started = cluster.server_mut(2).wait_ready();
    assert!(
        started.is_ok(),
        "damage of the log takes the database down: {started:?}"
    );
    // The others go on; the damaged node repairs itself from them, or stops and says so.
    ledger.write_until(&cluster, &[0, 1], 20);
    let mut client = cluster.client(2);
    client.batch_execute("SET synod.read_consistency = 'local'").unwrap();
    let repaired = wait_until(DEADLINE, "repair, or a stop with a reason", || {
        let text: String = client
            .query_one("SELECT to_json(s)::text FROM synod.stat_log s", &[])
            .ok()?
            .get(0);
        let target = checksum(&mut cluster.client(0), "ledger").ok()?.0;
        if checksum(&mut client, "ledger").ok()?.0 == target {
            return Some(true);
        }
        text.contains("stopped").then_some(false)
    });
    if repaired {
        ledger.assert_kept(&cluster);
    } else {
        assert!(cluster.server(2).log().contains("synod"), "the server log says nothing");
        assert_does_not_vote(&mut cluster, 2, 1);
    }
}

#[test]
fn a_torn_tail_is_cut_and_fetched_again() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 40);
    let directory = cluster.server(2).synod_directory("postgres").join("log");
    cluster.server_mut(2).kill9();
    ledger.write_until(&cluster, &[0, 1], 10);
    // Segments are made ahead of their use: the last one with anything in it.
    let (segment, mut bytes) = files_of(&directory)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "seg"))
        .map(|file| (file.clone(), std::fs::read(file).unwrap()))
        .rfind(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .expect("the log has a segment");
    // What a power failure leaves: the beginning of a record that was never finished.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let tail = &mut bytes[used + 1..];
    let torn = tail.len().min(9);
    tail[..torn].copy_from_slice(&[0x5a; 9][..torn]);
    std::fs::write(&segment, bytes).unwrap();
    cluster.server_mut(2).start();
    ledger.write_until(&cluster, &[2], 5);
    ledger.assert_kept(&cluster);
}

/// The number of a node's starts fences what an earlier start may still have under way: one that is damaged is not guessed anew. (It was
/// bare digits: of a torn number, what was left of it was taken.)
#[test]
fn a_damaged_number_of_starts_is_refused() {
    let mut cluster = Cluster::start(1);
    let file = cluster.server(0).synod_directory("postgres").join("incarnation");
    let expected = file.with_file_name("expected");
    let mut client = cluster.client(0);
    client
        .batch_execute("CREATE TABLE started (id int PRIMARY KEY)")
        .unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let replicating = std::thread::spawn(move || {
        client.batch_execute("SET synod.failpoint = 'stop before-turn'; SELECT synod.replicate_table('started')")
    });
    cluster.server(0).wait_frozen(pid);
    let about_to_be = std::fs::read(&expected).expect("the node has given its word");
    cluster.server(0).resume_process(pid);
    replicating.join().unwrap().unwrap();
    cluster.server_mut(0).stop(StopMode::Fast);
    // As if the apply worker had not yet seen that the lock for the table's definition is over: it takes that again. (While the log
    // stands still it is never over, and writers waited for it.)
    std::fs::write(&expected, about_to_be).unwrap();
    let sound = std::fs::read(&file).unwrap();
    std::fs::write(&file, &sound[..sound.len() - 7]).unwrap();
    cluster.server_mut(0).start();
    let mut client = cluster.client(0);
    wait_until(DEADLINE, "the node to say what is wrong", || {
        let row = client.query_one("SELECT state, reason FROM synod.stat_log", &[]).ok()?;
        let (state, reason): (String, Option<String>) = (row.get(0), row.get(1));
        (state == "stopped" && reason?.contains("incarnation\" is damaged")).then_some(())
    });
    // One that meets the worker in one of its attempts waits for it. (Each did, while a failed worker passed for one that runs.)
    client.batch_execute("SET statement_timeout = '2s'").unwrap();
    wait_until(DEADLINE, "a refusal", || {
        let error = client
            .batch_execute("INSERT INTO started VALUES (1)")
            .expect_err("no log");
        (sqlstate(&error) == Some("55000")).then_some(())
    });
    std::fs::write(&file, &sound).unwrap();
    wait_until(DEADLINE, "the node to go on", || {
        client.batch_execute("INSERT INTO started VALUES (2)").ok()
    });
    assert!(std::fs::read(&file).unwrap() != sound, "two starts with one number");
}

/// A configuration that lost the line took writes for this node alone; and so did all nodes once one had dropped the schema.
#[test]
fn a_member_without_the_library_or_the_extension_does_not_write() {
    let mut cluster = Cluster::start(3);
    cluster.create_table("kept", "CREATE TABLE kept (id int PRIMARY KEY, v int)");
    cluster.create_table("keyless", "CREATE TABLE keyless (v int)");
    let mut client = cluster.client(2);
    client
        .batch_execute("INSERT INTO kept VALUES (1, 1); INSERT INTO keyless VALUES (1)")
        .unwrap();
    for drop in ["DROP SCHEMA synod CASCADE", "DROP EXTENSION synod CASCADE"] {
        let error = refused(drop, client.batch_execute(drop), &["55006"]);
        assert!(
            error.hint().is_some_and(|hint| hint.contains("leave_group")),
            "{error:?}"
        );
    }
    client
        .batch_execute("ALTER SYSTEM SET shared_preload_libraries = plpgsql")
        .unwrap();
    cluster.server_mut(2).restart(StopMode::Fast);
    let mut client = cluster.client(2);
    for write in [
        "INSERT INTO kept VALUES (2, 2)",
        "UPDATE kept SET v = 3",
        "DELETE FROM kept",
        "TRUNCATE kept",
        "INSERT INTO keyless VALUES (2)",
        "COPY kept FROM PROGRAM 'echo 4,4' (FORMAT csv)",
    ] {
        let error = refused(write, client.batch_execute(write), &["55000"]);
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("shared_preload_libraries")),
            "{error:?}"
        );
    }
    client
        .batch_execute("ALTER SYSTEM RESET shared_preload_libraries")
        .unwrap();
    cluster.server_mut(2).restart(StopMode::Fast);
    cluster
        .client(0)
        .batch_execute("INSERT INTO kept VALUES (2, 5)")
        .unwrap();
    // Under pg_upgrade, which has noted before how far the server is, nothing of ours runs.
    cluster.server_mut(2).stop(StopMode::Fast);
    cluster
        .client(0)
        .batch_execute("INSERT INTO kept VALUES (3, 6)")
        .unwrap();
    cluster.server_mut(2).start_with(&["-b"]);
    assert!(cluster.server(2).processes_titled("synod ").is_empty());
    cluster.server_mut(2).restart(StopMode::Fast);
    assert_converged(&cluster, &["kept", "keyless"]);
}

#[test]
fn a_copy_of_a_node_does_not_split_the_group() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 20);
    cluster.server_mut(2).stop(StopMode::Fast);
    let mut twin = cluster.server(2).clone_stopped("twin");
    cluster.server_mut(2).start();
    ledger.write_until(&cluster, &[0, 1, 2], 20);
    // A copy that has fallen behind its original, under the same identity.
    twin.start();
    let mut client = twin.client();
    client
        .batch_execute("SET synod.commit_timeout = '5s'; SET synod.read_timeout = '5s'")
        .unwrap();
    let written = client.batch_execute("INSERT INTO ledger VALUES (-7, 7)");
    ledger.write_until(&cluster, &[0, 1], 20);
    twin.stop(StopMode::Immediate);
    drop(twin);
    // One of the two is the node; the other is refused. Whoever it was, there is one history.
    cluster.server_mut(2).restart(StopMode::Fast);
    ledger.assert_kept(&cluster);
    let present = checksum(&mut cluster.client(0), "(SELECT * FROM ledger WHERE id = -7)")
        .unwrap()
        .0;
    match written {
        Ok(()) => assert_eq!(present, 1, "an acknowledged write of the copy is lost"),
        Err(error) if sqlstate(&error) == Some("08007") => {}
        Err(error) => assert_eq!(present, 0, "refused and there: {error:?}"),
    }
}

#[test]
fn a_directory_is_not_run_twice() {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 5);
    let lock = cluster.server(2).data().join("postmaster.pid");
    let second = cluster.server(2).start_again();
    assert!(
        second.contains("lock file") || second.contains("postmaster.pid"),
        "{second}"
    );
    // As operators do who believe the lock file stale.
    let content = std::fs::read(&lock).unwrap();
    std::fs::remove_file(&lock).unwrap();
    let third = cluster.server(2).start_again();
    assert!(third.contains("FATAL"), "{third}");
    if !lock.exists() {
        std::fs::write(&lock, content).unwrap();
    }
    cluster.server_mut(2).restart(StopMode::Immediate);
    ledger.write_until(&cluster, &[0, 1, 2], 5);
    ledger.assert_kept(&cluster);
}

#[test]
fn a_cloned_database_is_no_member() {
    let cluster = Cluster::start(3);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1, 2], 5);
    let server = cluster.server(0);
    let dsn = server.client_dsn("postgres");
    let dump = synod_testkit::Run::current().program("pg_dump", &["-d", &dsn]).unwrap();
    server.client().batch_execute("CREATE DATABASE restored").unwrap();
    let output = server.psql("restored", &["-q"], &dump);
    assert!(!output.contains("FATAL"), "{output}");
    let mut client = server.client_to("restored");
    assert_eq!(
        client
            .query_one("SELECT count(*) FROM synod.nodes", &[])
            .unwrap()
            .get::<_, i64>(0),
        0
    );
    let written = client.batch_execute("INSERT INTO ledger VALUES (-9, 0)");
    assert_converged(&cluster, &["ledger"]);
    assert_eq!(
        checksum(&mut cluster.client(0), "(SELECT * FROM ledger WHERE id = -9)")
            .unwrap()
            .0,
        0,
        "{written:?}"
    );
}
