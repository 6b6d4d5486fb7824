//! NATS JetStream has the events in the order of the stream, also when one of them is not taken at once, and whoever else publishes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use synod_testkit::broker::{Broker, Kind};

use super::brokers::jetstream;
use super::*;

/// (subject, column `n` of the row; `None` of what is not ours), in the order of the stream.
fn messages(client: &mut Client, port: u16, stream: &str) -> Vec<(String, Option<i64>)> {
    let info = jetstream(port, &format!("$JS.API.STREAM.INFO.{stream}"), "");
    let last = info["state"]["last_seq"].as_u64().unwrap_or_default();
    let (mut subjects, mut bodies) = (Vec::new(), Vec::new());
    for sequence in 1..=last {
        let asked = format!("{{\"seq\":{sequence}}}");
        let got = jetstream(port, &format!("$JS.API.STREAM.MSG.GET.{stream}"), &asked);
        subjects.push(got["message"]["subject"].as_str().unwrap().to_owned());
        bodies.push(got["message"]["data"].as_str().unwrap_or_default().to_owned());
    }
    let decode = "SELECT convert_from(decode(body, 'base64'), 'UTF8') FROM unnest($1::text[]) WITH ORDINALITY AS b (body, nr) ORDER BY nr";
    let bodies = client.query(decode, &[&bodies]).unwrap();
    let number = |body: String| {
        let event: Value = serde_json::from_str(&body).ok()?;
        event["columns"][0]["value"].as_i64()
    };
    let numbers = bodies.iter().map(|row| number(row.get(0)));
    subjects.into_iter().zip(numbers).collect()
}

fn count(port: u16, stream: &str) -> u64 {
    let info = jetstream(port, &format!("$JS.API.STREAM.INFO.{stream}"), "");
    info["state"]["messages"].as_u64().unwrap_or_default()
}

fn create(port: u16, verb: &str, stream: &str, subject: &str, more: &str) {
    let wanted = format!("{{\"name\":\"{stream}\",\"subjects\":[\"{subject}\"],\"storage\":\"file\"{more}}}");
    let answer = jetstream(port, &format!("$JS.API.STREAM.{verb}.{stream}"), &wanted);
    assert!(answer["error"].is_null(), "{answer}");
}

/// Those after the one that failed were stored before it.
#[test]
fn nothing_is_stored_before_what_is_not_taken_yet() {
    let server = server();
    let mut client = database(&server, "ordered", "CREATE TABLE t (n int PRIMARY KEY, v text)");
    let dsn = server.dsn_of("ordered");
    let broker = Broker::start(Kind::Nats);
    let port = broker.port();
    create(
        port,
        "CREATE",
        "cdc",
        "cdc.>",
        ",\"discard\":\"new\",\"max_bytes\":300000",
    );
    let to = format!("nats://127.0.0.1:{port}/?subject=cdc.{{schema}}.{{table}}");
    streamed(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    // One of them has no room now; those after it would have.
    client
        .batch_execute(
            "INSERT INTO t SELECT n, repeat('x', CASE n WHEN 50 THEN 400000 ELSE 1 END) FROM generate_series(1, 99) n",
        )
        .unwrap();
    let following = Following::start(&dsn, &["--to", &to]);
    wait_until(DEADLINE, "the complaint", || {
        following.said().contains("maximum bytes exceeded").then_some(())
    });
    // It has been tried again, and told nothing new.
    assert_eq!(count(port, "cdc"), 49);
    create(port, "UPDATE", "cdc", "cdc.>", ",\"discard\":\"new\",\"max_bytes\":-1");
    wait_until(DEADLINE, "the others", || (count(port, "cdc") >= 99).then_some(()));
    assert_eq!(following.terminate(), 0);
    let numbers: Vec<Option<i64>> = messages(&mut client, port, "cdc").into_iter().map(|it| it.1).collect();
    assert_eq!(numbers, (1..=99).map(Some).collect::<Vec<_>>());
    streamed(&dsn, &["--drop-slot"]);
}

/// Publishes until told to end; how many messages that were.
fn publish(port: u16, stop: &AtomicBool) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"CONNECT {\"verbose\":false}\r\n").unwrap();
    let mut published = 0;
    while !stop.load(Ordering::Relaxed) {
        // Its answer says that the server has come so far.
        stream.write_all(b"PUB cdc.other 2\r\n{}\r\nPING\r\n").unwrap();
        published += 1;
        let mut answer = Vec::new();
        while !answer.ends_with(b"PONG\r\n") {
            let mut some = [0; 4_096];
            let got = stream.read(&mut some).unwrap();
            answer.extend_from_slice(&some[..got]);
        }
    }
    published
}

#[test]
fn whoever_else_publishes_and_however_subjects_are_spread_over_streams() {
    let server = server();
    let tables = "CREATE TABLE t (n int PRIMARY KEY); CREATE TABLE u (n int PRIMARY KEY)";
    let mut client = database(&server, "shared_stream", tables);
    let dsn = server.dsn_of("shared_stream");
    let broker = Broker::start(Kind::Nats);
    let port = broker.port();
    create(port, "CREATE", "cdc", "cdc.>", "");
    let to = format!("nats://127.0.0.1:{port}/?subject=cdc.{{schema}}.{{table}}");
    streamed(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    client
        .batch_execute("INSERT INTO t SELECT generate_series(1, 600)")
        .unwrap();
    let stop = AtomicBool::new(false);
    let others = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(port, &stop));
        wait_until(DEADLINE, "another publisher", || (count(port, "cdc") > 0).then_some(()));
        let ran = stream(&dsn, &["--until-caught-up", "--to", &to]);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(ran.code, 0, "{}", ran.err);
        publisher.join().unwrap()
    });
    wait_until(DEADLINE, "what the other one has published", || {
        (count(port, "cdc") == 600 + others as u64).then_some(())
    });
    let all = messages(&mut client, port, "cdc");
    let ours: Vec<i64> = all.iter().filter_map(|it| it.1).collect();
    assert_eq!(ours, (1..=600).collect::<Vec<_>>());
    let first = all.iter().position(|it| it.1.is_some()).unwrap();
    let last = all.iter().rposition(|it| it.1.is_some()).unwrap();
    assert!(all[first..=last].iter().any(|it| it.1.is_none()), "none came between");

    // A stream for each table.
    for table in ["t", "u"] {
        create(port, "CREATE", table, &format!("split.{table}"), "");
    }
    let to = format!("nats://127.0.0.1:{port}/?subject=split.{{table}}");
    let mut rows = String::new();
    for n in 1_001..=1_100 {
        rows += &format!("INSERT INTO t VALUES ({n}); INSERT INTO u VALUES ({n});");
    }
    client.batch_execute(&rows).unwrap();
    streamed(&dsn, &["--until-caught-up", "--to", &to]);
    for table in ["t", "u"] {
        let numbers: Vec<i64> = messages(&mut client, port, table)
            .iter()
            .filter_map(|it| it.1)
            .collect();
        assert_eq!(numbers, (1_001..=1_100).collect::<Vec<_>>(), "{table}");
    }
    streamed(&dsn, &["--drop-slot"]);
}

/// What a second slot made of the same changes was taken for a repetition, and never stored.
#[test]
fn two_slots_can_feed_one_stream() {
    let server = server();
    let mut client = database(&server, "two_slots", "CREATE TABLE t (n int PRIMARY KEY)");
    let dsn = server.dsn_of("two_slots");
    let broker = Broker::start(Kind::Nats);
    let port = broker.port();
    create(port, "CREATE", "cdc", "cdc.>", "");
    let run = |slot: &str| {
        let to = format!("nats://127.0.0.1:{port}/?subject=cdc.{slot}.{{table}}");
        let ran = synod(&[
            "stream",
            "--dsn",
            &dsn,
            "--slot",
            slot,
            "--create",
            "--until-caught-up",
            "--to",
            &to,
        ]);
        assert_eq!(ran.code, 0, "{slot}: {}", ran.err);
    };
    ["plain", "masked"].into_iter().for_each(run);
    client
        .batch_execute("INSERT INTO t SELECT generate_series(1, 3)")
        .unwrap();
    ["plain", "masked"].into_iter().for_each(run);
    let subjects: Vec<String> = messages(&mut client, port, "cdc").into_iter().map(|it| it.0).collect();
    let expected = ["cdc.plain.t", "cdc.masked.t"].map(|subject| [subject; 3]).concat();
    assert_eq!(subjects, expected);
    for slot in ["plain", "masked"] {
        let ran = synod(&["stream", "--dsn", &dsn, "--slot", slot, "--drop-slot"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
}
