//! A slot that does not go on where the sink ends: nothing is lost silently.

use rustix::process::{Pid, Signal, kill_process};
use synod_testkit::StopMode;

use super::nodes::{CLUSTER, events};
use super::*;

/// The values in a file, in its order.
fn values(file: &Path) -> Vec<i64> {
    events(file).into_iter().map(|(_, value)| value).collect()
}

const ADVANCE: &str = "SELECT pg_replication_slot_advance('s', pg_current_wal_flush_lsn())";
const MAKE_ANEW: &str =
    "SELECT pg_drop_replication_slot('s'); SELECT pg_create_logical_replication_slot('s', 'synod', false, false)";

fn put(client: &mut Client, number: i64) {
    client.execute("INSERT INTO t VALUES ($1)", &[&number]).unwrap();
}

/// What lay between was lost, and nobody said so.
#[test]
fn a_file_whose_slot_was_moved_or_made_anew_is_not_written() {
    let server = server();
    let mut client = database(&server, "gaps", "CREATE TABLE t (n bigint PRIMARY KEY)");
    let dsn = server.dsn_of("gaps");
    let file = directory("gaps").join("events.jsonl");
    let to = path_text(&file);
    let more = ["--until-caught-up", "--to", &to];
    // Before there is any event, too.
    streamed(&dsn, &[&more[..], &["--create"]].concat());
    let mut number = 0;
    for (way, complaint) in [
        (ADVANCE, "replication slot \"s\" is further on than the sink"),
        (MAKE_ANEW, "replication slot \"s\" is further on than the sink"),
        (
            "SELECT pg_drop_replication_slot('s')",
            "holds events, but the slot is a new one",
        ),
    ] {
        let before = values(&file);
        wait_for_slot(&mut client);
        put(&mut client, number + 1);
        client.batch_execute(way).unwrap();
        put(&mut client, number + 2);
        let again = [&more[..], &["--create"]].concat();
        let ran = stream(&dsn, &again);
        assert_eq!(ran.code, 3, "{way}: {ran:?}");
        assert!(
            ran.err.contains(complaint) && ran.err.contains("--accept-gap"),
            "{}",
            ran.err
        );
        assert_eq!(values(&file), before, "{way}");
        let ran = streamed(&dsn, &[&again[..], &["--accept-gap"]].concat());
        assert!(ran.err.contains("what is missing is accepted"), "{}", ran.err);
        put(&mut client, number + 3);
        streamed(&dsn, &again);
        let mut expected = before;
        // A slot that was not there is made by the run that accepts that.
        if !complaint.contains("new one") {
            expected.push(number + 2);
        }
        expected.push(number + 3);
        assert_eq!(values(&file), expected, "{way}");
        number += 3;
    }
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn a_position_file_that_is_damaged_is_not_guessed_over() {
    let server = server();
    let mut client = database(&server, "damaged", "CREATE TABLE t (n bigint PRIMARY KEY)");
    let dsn = server.dsn_of("damaged");
    let place = directory("damaged");
    let (file, position) = (place.join("events.jsonl"), place.join("events.jsonl.position"));
    let to = path_text(&file);
    let more = ["--until-caught-up", "--to", &to];
    streamed(&dsn, &[&more[..], &["--create"]].concat());
    put(&mut client, 1);
    streamed(&dsn, &more);
    let content = std::fs::read_to_string(&position).unwrap();
    assert!(content.starts_with("synod position 1 number="), "{content}");
    std::fs::write(&position, content.replace("slot=s", "slot=x")).unwrap();
    put(&mut client, 2);
    let ran = stream(&dsn, &more);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("holds no position"), "{}", ran.err);
    assert_eq!(values(&file), [1]);
    // As files of an earlier release have none.
    std::fs::remove_file(&position).unwrap();
    let ran = streamed(&dsn, &more);
    assert!(ran.err.contains("cannot be told"), "{}", ran.err);
    assert_eq!(values(&file), [1, 2]);
    assert!(position.exists());
    streamed(&dsn, &["--drop-slot"]);
}

/// The numbers began anew, and what had been moved away was overwritten by what came to the same place.
#[test]
fn the_number_of_a_file_that_was_moved_away_does_not_come_again() {
    let server = server();
    let mut client = database(&server, "numbers", "CREATE TABLE t (n bigint PRIMARY KEY)");
    let dsn = server.dsn_of("numbers");
    let place = directory("numbers");
    let to = path_text(&place.join("events.jsonl"));
    let more = ["--create", "--until-caught-up", "--to", &to, "--rotate-size", "1"];
    let rotated = || -> Vec<String> {
        let names = std::fs::read_dir(&place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names
            .map(|name| name.into_string().unwrap())
            .filter(|name| name.starts_with("events-"))
            .collect();
        names.sort();
        names
    };
    let mut number = 0;
    for expected in [
        ["events-000001.jsonl", "events-000002.jsonl"],
        ["events-000003.jsonl", "events-000004.jsonl"],
    ] {
        streamed(&dsn, &more);
        for _ in 0..2 {
            number += 1;
            put(&mut client, number);
        }
        streamed(&dsn, &more);
        assert_eq!(rotated(), expected);
        rotated()
            .iter()
            .for_each(|name| std::fs::remove_file(place.join(name)).unwrap());
    }
    streamed(&dsn, &["--drop-slot"]);
}

/// A slot that is made anew while its reader is away for a moment: the reader knows what it has confirmed, whatever its sink.
#[test]
fn a_slot_that_was_made_anew_behind_its_readers_back_ends_the_run() {
    let server = server();
    let mut client = database(&server, "behind", "CREATE TABLE t (n bigint PRIMARY KEY)");
    let dsn = server.dsn_of("behind");
    streamed(&dsn, &["--create", "--until-caught-up"]);
    let following = Following::start(&dsn, &[]);
    let confirmed =
        "SELECT FROM pg_replication_slots WHERE slot_name = 's' AND active AND confirmed_flush_lsn >= $1::text::pg_lsn";
    put(&mut client, 1);
    let at: String = client
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .unwrap()
        .get(0);
    wait_until(DEADLINE, "the event to be confirmed", || {
        (client.query(confirmed, &[&at]).unwrap().len() == 1).then_some(())
    });
    let pid = Pid::from_child(&following.0);
    kill_process(pid, Signal::STOP).unwrap();
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 's' AND active";
    client.batch_execute(end).unwrap();
    wait_for_slot(&mut client);
    put(&mut client, 2);
    client.batch_execute(MAKE_ANEW).unwrap();
    put(&mut client, 3);
    kill_process(pid, Signal::CONT).unwrap();
    wait_until(DEADLINE, "it to notice", || {
        following.said().contains("is further on than the sink").then_some(())
    });
    drop(following);
    wait_for_slot(&mut client);
    streamed(&dsn, &["--drop-slot"]);
}

/// A target that an earlier release began has no columns for server and timeline.
#[test]
fn a_position_in_a_postgresql_has_its_timeline() {
    const TABLE: &str = "CREATE TABLE t (n bigint PRIMARY KEY)";
    let server = server();
    let mut client = database(&server, "placed_from", TABLE);
    let mut target = database(&server, "placed_to", TABLE);
    let dsn = server.dsn_of("placed_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/placed_to", server.port());
    let more = ["--create", "--until-caught-up", "--to", &to];
    streamed(&dsn, &more);
    target
        .batch_execute("ALTER TABLE synod_stream.position DROP COLUMN system_identifier, DROP COLUMN timeline")
        .unwrap();
    put(&mut client, 1);
    streamed(&dsn, &more);
    let placed = "SELECT FROM synod_stream.position WHERE timeline = 1 AND source LIKE system_identifier || '/%'";
    assert_eq!(target.query(placed, &[]).unwrap().len(), 1);
    // Of a timeline that this server never was on.
    target
        .batch_execute("UPDATE synod_stream.position SET timeline = 2")
        .unwrap();
    put(&mut client, 2);
    let ran = stream(&dsn, &more);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("on which the server never was"), "{}", ran.err);
    target
        .batch_execute("UPDATE synod_stream.position SET timeline = 1")
        .unwrap();
    wait_for_slot(&mut client);
    client.batch_execute(MAKE_ANEW).unwrap();
    let ran = stream(&dsn, &more);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(target.query("SELECT FROM t", &[]).unwrap().len(), 1);
    put(&mut client, 3);
    let ran = streamed(&dsn, &[&more[..], &["--accept-gap"]].concat());
    assert!(ran.err.contains("what is missing is accepted"), "{}", ran.err);
    let numbers = target.query("SELECT n FROM t ORDER BY n", &[]).unwrap();
    assert_eq!(numbers.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1, 3]);
    streamed(&dsn, &more);
    streamed(&dsn, &["--drop-slot"]);
}

/// A copy that took over: up to where it left the old timeline, positions mean the same; beyond, other transactions stand there. And a copy
/// that runs beside the original has the same identifier, database and slot.
#[test]
fn copies_of_a_server_are_told_apart() {
    let mut original = new_server("original");
    let mut client = database(&original, "copied", "CREATE TABLE t (n bigint PRIMARY KEY)");
    database(&original, "copies_to", "CREATE TABLE t (n bigint PRIMARY KEY)");
    let place = directory("copied");
    let (file, aside) = (place.join("events.jsonl"), place.join("aside.jsonl"));
    let (to, to_aside) = (path_text(&file), path_text(&aside));
    let dsn = original.dsn_of("copied");
    streamed(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    put(&mut client, 1);
    streamed(&dsn, &["--until-caught-up", "--to", &to]);
    drop(client);
    original.stop(StopMode::Fast);
    let mut copy = original.clone_stopped("copy");
    std::fs::write(copy.data().join("standby.signal"), "").unwrap();
    original.start();
    copy.start();
    copy.client().batch_execute("SELECT pg_promote()").unwrap();
    let mut there = copy.client_to("copied");
    wait_until(DEADLINE, "the copy to take over", || {
        there.batch_execute("INSERT INTO t VALUES (20)").ok()
    });
    for suffix in ["", ".source", ".position"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(&file), name(&aside)).unwrap();
    }
    let more = |to| ["--until-caught-up", "--to", to];
    streamed(&copy.dsn_of("copied"), &more(&to));
    assert_eq!(values(&file), [1, 20]);
    // The original goes on as well.
    let mut client = original.client_to("copied");
    put(&mut client, 10);
    let ran = stream(&dsn, &more(&to));
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("of timeline 2, on which the server never was"),
        "{}",
        ran.err
    );
    streamed(&dsn, &more(&to_aside));
    assert_eq!(values(&aside), [1, 10]);
    there
        .batch_execute("INSERT INTO t SELECT generate_series(100, 5000)")
        .unwrap();
    let ran = stream(&copy.dsn_of("copied"), &more(&to_aside));
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("the server left timeline 1 at "), "{}", ran.err);
    assert_eq!(values(&aside), [1, 10]);

    let to = format!("postgresql://postgres@127.0.0.1:{}/copies_to", original.port());
    let first = Following::start(&dsn, &["--to", &to]);
    put(&mut client, 11);
    let mut target = original.client_to("copies_to");
    let rows = "SELECT count(*), coalesce(max(n), 0) FROM t";
    let mut rows = || {
        let row = target.query_one(rows, &[]).unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    wait_until(DEADLINE, "the row", || (rows() == (1, 11)).then_some(()));
    let second = Following::start(&copy.dsn_of("copied"), &["--to", &to]);
    wait_until(DEADLINE, "the second to complain", || {
        second.said().contains("another session writes there").then_some(())
    });
    assert_eq!(first.terminate(), 0);
    wait_until(DEADLINE, "the second to give up", || {
        second.said().contains("the server left timeline 1 at ").then_some(())
    });
    assert_eq!(rows(), (1, 11), "nothing of the copy is there");
}

/// A run that began anew could not tell a gap from what it did not want, and only warned.
#[test]
fn a_node_whose_slot_begins_too_late_is_left_and_if_all_do_the_run_ends() {
    let cluster = CLUSTER.lease();
    for node in 0..3 {
        allow_plugin(cluster.server(node));
    }
    cluster.create_table("late", "CREATE TABLE late (n bigint PRIMARY KEY)");
    let dsns: Vec<String> = (0..3).map(|node| cluster.server(node).dsn()).collect();
    let file = directory("late").join("late.jsonl");
    let to = path_text(&file);
    let more = [
        "--dsn",
        &dsns[1],
        "--dsn",
        &dsns[2],
        "--to",
        &to,
        "--table",
        "public.late",
        "--until-caught-up",
    ];
    let put = |number: i64| {
        cluster
            .client(1)
            .execute("INSERT INTO late VALUES ($1)", &[&number])
            .unwrap();
        for node in 0..3 {
            let sql = "SELECT FROM late WHERE n = $1";
            wait_until(DEADLINE, "the row on every node", || {
                let there = cluster.client(node).query(sql, &[&number]).ok()?;
                (there.len() == 1).then_some(())
            });
        }
    };
    let make_anew = |node: usize| cluster.client(node).batch_execute(MAKE_ANEW).unwrap();
    streamed(&dsns[0], &[&more[..], &["--create"]].concat());
    put(1);
    streamed(&dsns[0], &more);
    assert_eq!(values(&file), [1]);
    // What was not wanted is no gap.
    cluster
        .client(0)
        .batch_execute("CREATE TABLE unwanted (n int)")
        .unwrap();
    put(2);
    make_anew(0);
    make_anew(1);
    put(3);
    let ran = streamed(&dsns[0], &more);
    assert_eq!(values(&file), [1, 2, 3], "{}", ran.err);
    assert!(
        ran.err.contains("the slot of this node begins behind CSN "),
        "{}",
        ran.err
    );
    put(4);
    (0..3).for_each(make_anew);
    put(5);
    let ran = stream(&dsns[0], &more);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("begins behind CSN") && ran.err.contains("--accept-gap"),
        "{}",
        ran.err
    );
    assert_eq!(values(&file), [1, 2, 3]);
    let ran = streamed(&dsns[0], &[&more[..], &["--accept-gap"]].concat());
    assert!(ran.err.contains("is lost"), "{}", ran.err);
    put(6);
    streamed(&dsns[0], &more);
    assert_eq!(values(&file), [1, 2, 3, 5, 6]);
    let ran = stream(&dsns[0], &["--dsn", &dsns[1], "--dsn", &dsns[2], "--drop-slot"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}
