//! Files: exactly once, whatever is killed.

use super::*;

/// The numbers in every file of the directory, in the order of the stream.
fn numbers(directory: &Path) -> Vec<i64> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    // Rotated ones first, in order; the one that is written last.
    files.sort_by_key(|path| (path.file_stem().unwrap() == "events", path.clone()));
    let text: String = files
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| value_of(&event, "n"))
        .collect()
}

/// A column of an event in the native envelope.
fn value_of(event: &Value, column: &str) -> i64 {
    let columns = &event["columns"];
    let value = match columns.as_array() {
        Some(list) => &list.iter().find(|it| it["name"] == column).unwrap()["value"],
        None => &columns[column],
    };
    value.as_i64().unwrap_or_else(|| panic!("no {column} in {event}"))
}

#[test]
fn nothing_is_lost_or_doubled_when_both_sides_are_killed_again_and_again() {
    let mut server = server();
    let mut client = database(&server, "killed", "CREATE TABLE t (n bigserial PRIMARY KEY, v text)");
    let dsn = server.dsn_of("killed");
    streamed(&dsn, &["--create", "--until-caught-up"]);
    let place = directory("killed");
    let to = path_text(&place.join("events.jsonl"));
    let more = ["--to", &to, "--rotate-size", "200000"];
    let mut written = 0;
    for round in 0..6 {
        let following = Following::start(&dsn, &more);
        let seen = numbers(&place).len();
        // Small ones, and one that is under way when it is killed.
        for _ in 0..20 {
            client.batch_execute("INSERT INTO t (v) VALUES ('x')").unwrap();
        }
        client
            .batch_execute("INSERT INTO t (v) SELECT repeat('y', 50) FROM generate_series(1, 4000)")
            .unwrap();
        written += 4_020;
        wait_until(DEADLINE, "some events", || {
            (numbers(&place).len() > seen + 30).then_some(())
        });
        if round % 3 == 2 {
            server.kill9();
            server.start();
            client = server.client_to("killed");
            // It is a sequence: a crash may skip numbers of it, so they are put back in step with the count.
            client
                .batch_execute("SELECT setval('t_n_seq', (SELECT max(n) FROM t))")
                .unwrap();
            wait_until(DEADLINE, "it to be connected again", || {
                (numbers(&place).len() == written).then_some(())
            });
            assert!(following.said().contains("trying again"), "{}", following.said());
        }
        following.kill9();
        // As a crash of the machine can leave it: the last line is torn, and was not confirmed.
        if round == 1 {
            let path = place.join("events.jsonl");
            let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, b"{\"id\":\"torn").unwrap();
        }
    }
    wait_for_slot(&mut client);
    streamed(&dsn, &[&more[..], &["--until-caught-up"]].concat());
    let expected: Vec<i64> = (1..=i64::try_from(written).unwrap()).collect();
    assert_eq!(numbers(&place), expected);
    let files = std::fs::read_dir(&place).unwrap().count();
    assert!(files >= 5, "it was rotated: {files} files");
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn a_file_is_gone_on_with_only_where_that_is_right() {
    let server = server();
    let mut client = database(
        &server,
        "files",
        "CREATE TABLE t (n int PRIMARY KEY); INSERT INTO t VALUES (1), (2)",
    );
    let dsn = server.dsn_of("files");
    let place = directory("files");
    let file = place.join("events.jsonl");
    let to = path_text(&file);
    streamed(
        &dsn,
        &["--create", "--initial-snapshot", "--until-caught-up", "--to", &to],
    );
    assert_eq!(numbers(&place), [1, 2]);
    client.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    streamed(&dsn, &["--until-caught-up", "--to", &to]);
    assert_eq!(numbers(&place), [1, 2, 3]);
    for pair in ["(11), (12)", "(13), (14)", "(15), (16)"] {
        client.batch_execute(&format!("INSERT INTO t VALUES {pair}")).unwrap();
    }
    streamed(&dsn, &["--until-caught-up", "--to", &to, "--rotate-size", "1"]);
    assert_eq!(numbers(&place), [1, 2, 3, 11, 12, 13, 14, 15, 16]);
    assert!(
        place.join("events-000003.jsonl").exists(),
        "each transaction is in a file of its own"
    );

    let ran = stream(&dsn, &["--until-caught-up", "--to", &to, "--envelope", "debezium"]);
    assert!(ran.err.contains("does not end with an event"), "{}", ran.err);
    streamed(&dsn, &["--drop-slot"]);
    client.batch_execute("INSERT INTO t VALUES (4)").unwrap();
    let ran = stream(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.contains("holds events, but the slot is a new one"),
        "{}",
        ran.err
    );
    let ran = synod(&[
        "stream", "--dsn", &dsn, "--slot", "s2", "--create", "--to", &to, "--once",
    ]);
    assert!(ran.err.contains("holds events of another source"), "{}", ran.err);
    let missing = path_text(&place.join("no/such/directory"));
    let ran = stream(&dsn, &["--create", "--until-caught-up", "--to", &missing]);
    assert!(ran.err.contains("cannot be written"), "{}", ran.err);
    assert_eq!(
        client
            .query("SELECT FROM pg_replication_slots WHERE slot_name LIKE 's%'", &[])
            .unwrap()
            .len(),
        0
    );
}

/// What had been worked out for a table was taken for another one: a session of the server, and the snapshot, count their tables from
/// one.
#[test]
fn tables_are_not_mixed_up_after_a_snapshot_or_another_connection() {
    let server = server();
    let mut client = database(
        &server,
        "mixed",
        "CREATE TABLE a (n int PRIMARY KEY); CREATE TABLE b (m int PRIMARY KEY, t text);
         INSERT INTO a VALUES (1); INSERT INTO b VALUES (2, 'b')",
    );
    let dsn = server.dsn_of("mixed");
    let file = directory("mixed").join("events.jsonl");
    let told = |count: usize| {
        wait_until(DEADLINE, "the events", || {
            let text = std::fs::read_to_string(&file).ok()?;
            (text.lines().count() == count).then_some(text)
        })
    };
    let following = Following::start(&dsn, &["--create", "--initial-snapshot", "--to", &path_text(&file)]);
    told(2);
    client.batch_execute("INSERT INTO b VALUES (3, 'b')").unwrap();
    told(3);
    client.batch_execute("INSERT INTO a VALUES (4)").unwrap();
    told(4);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'synod stream'";
    client.batch_execute(end).unwrap();
    client.batch_execute("INSERT INTO a VALUES (5)").unwrap();
    client.batch_execute("INSERT INTO b VALUES (6, 'b')").unwrap();
    let shown: Vec<String> = objects(&told(6))
        .iter()
        .map(|event| {
            let columns = event["columns"].as_array().unwrap().iter();
            let columns: Vec<String> = columns.map(|it| format!("{}={}", it["name"], it["value"])).collect();
            format!("{} {}", event["table"], columns.join(" ")).replace('"', "")
        })
        .collect();
    let expected = ["a n=1", "b m=2 t=b", "b m=3 t=b", "a n=4", "a n=5", "b m=6 t=b"];
    assert_eq!(shown, expected);
    assert_eq!(following.terminate(), 0);
    streamed(&dsn, &["--drop-slot"]);
}

/// What was written into a file that had been deleted was confirmed, and so lost.
#[test]
fn a_file_that_is_moved_or_deleted_is_begun_anew() {
    let server = server();
    let mut client = database(&server, "moved", "CREATE TABLE t (n int PRIMARY KEY)");
    let dsn = server.dsn_of("moved");
    let place = directory("moved");
    let file = place.join("events.jsonl");
    let following = Following::start(&dsn, &["--create", "--to", &path_text(&file)]);
    wait_until(DEADLINE, "it to follow", || {
        let active = "SELECT FROM pg_replication_slots WHERE slot_name = 's' AND active";
        (client.query(active, &[]).unwrap().len() == 1).then_some(())
    });
    let mut told = |number: &str, name: &Path| {
        client
            .batch_execute(&format!("INSERT INTO t VALUES ({number})"))
            .unwrap();
        let at: String = client
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .unwrap()
            .get(0);
        // Until it is confirmed, it is written again where the file is moved.
        wait_until(DEADLINE, "the event to be confirmed", || {
            let confirmed =
                "SELECT FROM pg_replication_slots WHERE slot_name = 's' AND confirmed_flush_lsn >= $1::text::pg_lsn";
            (client.query(confirmed, &[&at]).unwrap().len() == 1).then_some(())
        });
        std::fs::read_to_string(name).unwrap().lines().count()
    };
    assert_eq!(told("1", &file), 1);
    std::fs::rename(&file, place.join("events.jsonl.1")).unwrap();
    assert_eq!(told("2", &file), 1);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(told("3", &file), 1);
    assert!(
        following.said().contains("was moved, cut or deleted"),
        "{}",
        following.said()
    );
    assert_eq!(following.terminate(), 0);
    assert_eq!(numbers(&place), [3]);
    assert_eq!(
        std::fs::read_to_string(place.join("events.jsonl.1"))
            .unwrap()
            .lines()
            .count(),
        1
    );
    streamed(&dsn, &["--drop-slot"]);
}
