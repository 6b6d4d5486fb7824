//! NATS JetStream and Redis, from Debian's packages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use synod_testkit::broker::{Broker, Kind};

use super::*;

/// Ask a NATS server's JetStream API.
pub fn jetstream(port: u16, subject: &str, body: &str) -> Value {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let talk = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{body}\r\n",
        body.len()
    );
    stream.write_all(talk.as_bytes()).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.starts_with("MSG ") {
            let length = line.split_whitespace().last().unwrap().parse().unwrap();
            let mut payload = vec![0; length];
            reader.read_exact(&mut payload).unwrap();
            return serde_json::from_slice(&payload).unwrap();
        }
    }
}

/// Every message of the stream.
fn messages(port: u16, stream: &str) -> Vec<String> {
    let info = jetstream(port, &format!("$JS.API.STREAM.INFO.{stream}"), "");
    let last = info["state"]["last_seq"].as_u64().unwrap_or_default();
    (1..=last)
        .map(|sequence| {
            let asked = format!("{{\"seq\":{sequence}}}");
            let got = jetstream(port, &format!("$JS.API.STREAM.MSG.GET.{stream}"), &asked);
            got["message"]["subject"].as_str().unwrap().to_owned() + " " + got["message"]["hdrs"].as_str().unwrap()
        })
        .collect()
}

#[test]
fn nats_keeps_every_event_once_whoever_is_killed() {
    let server = server();
    let mut client = database(
        &server,
        "nats",
        "CREATE TABLE t (n int PRIMARY KEY); CREATE TABLE \"o.d d\" (n int PRIMARY KEY)",
    );
    let dsn = server.dsn_of("nats");
    let mut broker = Broker::start(Kind::Nats);
    let to = format!(
        "nats://127.0.0.1:{}/?stream=cdc&subject=cdc.{{schema}}.{{table}}",
        broker.port()
    );
    streamed(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    let count = |port| {
        let info = jetstream(port, "$JS.API.STREAM.INFO.cdc", "");
        info["state"]["messages"].as_u64().unwrap_or_default()
    };
    let following = Following::start(&dsn, &["--to", &to]);
    client
        .batch_execute("INSERT INTO t SELECT generate_series(1, 3000); INSERT INTO \"o.d d\" VALUES (1)")
        .unwrap();
    wait_until(DEADLINE, "some messages", || (count(broker.port()) > 100).then_some(()));
    following.kill9();
    let following = Following::start(&dsn, &["--to", &to]);
    wait_until(DEADLINE, "all messages", || {
        (count(broker.port()) >= 3_001).then_some(())
    });
    broker.kill9();
    client
        .batch_execute("INSERT INTO t SELECT generate_series(3001, 3100)")
        .unwrap();
    wait_until(DEADLINE, "the complaint", || {
        following.said().contains("NATS server").then_some(())
    });
    broker.resume();
    wait_until(DEADLINE, "the rest", || (count(broker.port()) >= 3_101).then_some(()));
    assert_eq!(following.terminate(), 0);
    assert_eq!(count(broker.port()), 3_101, "none came twice");
    let all = messages(broker.port(), "cdc");
    assert!(all[3_000].starts_with("cdc.public.o_d_d "), "{}", all[3_000]);
    // A subject that no stream takes is told, and waits.
    let elsewhere = format!("nats://127.0.0.1:{}/?subject=elsewhere", broker.port());
    client.batch_execute("INSERT INTO t VALUES (0)").unwrap();
    let following = Following::start(&dsn, &["--to", &elsewhere]);
    wait_until(DEADLINE, "the complaint", || {
        following
            .said()
            .contains("no stream of the NATS server takes subject \"elsewhere\"")
            .then_some(())
    });
    assert_eq!(following.terminate(), 0);
    streamed(&dsn, &["--drop-slot"]);
}

/// A run to a sink of this host, whom the authority in a file is trusted for; whether it came to a good end, and its first complaint.
fn encrypted(dsn: &str, broker: &Broker, url: &str, trusted: Option<&Path>) -> (bool, String) {
    let to = url.replace("PORT", &broker.port().to_string());
    let mut command = synod_command(&arguments(dsn, &["--create", "--until-caught-up", "--to", &to]));
    // By the option, or, as libraries and tools have it, by the environment.
    match trusted {
        Some(file) if url.starts_with("tls:") => command.env("SSL_CERT_FILE", file),
        Some(file) => command.arg("--tls-ca").arg(file),
        None => &mut command,
    };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let said = errors.lines().next().map(|line| line.unwrap()).unwrap_or_default();
    let _ = child.kill();
    (child.wait().unwrap().success(), said)
}

#[test]
fn what_is_sent_is_encrypted_for_whom_the_certificate_names() {
    let server = server();
    let mut client = database(&server, "encrypted", "CREATE TABLE t (n int PRIMARY KEY)");
    let dsn = server.dsn_of("encrypted");
    streamed(&dsn, &["--create", "--until-caught-up"]);
    let mut n = 0;
    for (kind, url) in [
        (Kind::NatsTls, "tls://HOST:PORT/?stream=cdc"),
        (Kind::RedisTls, "rediss://HOST:PORT/?channel=cdc"),
        (Kind::Https, "https://HOST:PORT/hook"),
    ] {
        let broker = Broker::start(kind);
        n += 1;
        client.execute("INSERT INTO t VALUES ($1)", &[&n]).unwrap();
        let authority = broker.authority();
        for (host, trusted, why) in [
            ("127.0.0.1", Some(authority.as_path()), "not valid for name"),
            ("localhost", None, "UnknownIssuer"),
        ] {
            let (_, said) = encrypted(&dsn, &broker, &url.replace("HOST", host), trusted);
            assert!(said.contains(why), "{kind:?} {host}: {said}");
        }
        // Not encrypted, where it wants that.
        let plain = url
            .replace("tls:", "nats:")
            .replace("rediss:", "redis:")
            .replace("https:", "http:");
        let (good, said) = encrypted(&dsn, &broker, &plain.replace("HOST", "localhost"), None);
        assert!(!good && !said.is_empty(), "{kind:?}");
        let (good, said) = encrypted(&dsn, &broker, &url.replace("HOST", "localhost"), Some(&authority));
        assert!(good, "{kind:?}: {said}");
        if kind == Kind::Https {
            assert_eq!(objects(&broker.posted()).len(), 1);
        }
    }
    let ran = stream(&dsn, &["--to", "https://localhost/", "--tls-ca", "/dev/null"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("the certificates in \"/dev/null\" cannot be read"),
        "{}",
        ran.err
    );
    streamed(&dsn, &["--drop-slot"]);
}

/// A command to Redis, and the first line of its answer.
fn redis(port: u16, command: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// It ended the run: no key says which row it was, and which keys are the table's was not asked.
#[test]
fn redis_loses_all_keys_of_a_table_without_a_key() {
    let server = server();
    let mut client = database(
        &server,
        "keyless",
        "CREATE TABLE \"a*[b]\" (v int); CREATE TABLE other (id int PRIMARY KEY)",
    );
    let dsn = server.dsn_of("keyless");
    let broker = Broker::start(Kind::Redis);
    let port = broker.port();
    let to = format!("redis://127.0.0.1:{port}/0?action=unlink");
    streamed(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    let left = || {
        let names = ["public.a*[b]:1", "public.a*[b]:x:y", "public.aXb:1", "public.other:1"];
        names.map(|name| redis(port, &format!("EXISTS {name}")) == ":1")
    };
    for change in [
        "INSERT INTO \"a*[b]\" VALUES (1), (2)",
        "UPDATE \"a*[b]\" SET v = 3",
        "DELETE FROM \"a*[b]\" WHERE v = 3",
        "TRUNCATE \"a*[b]\"",
    ] {
        // More than one SCAN looks at.
        redis(
            port,
            "EVAL \"for i=1,3000 do redis.call('set','public.a*[b]:k'..i,'') end\" 0",
        );
        for name in ["public.a*[b]:1", "public.a*[b]:x:y", "public.aXb:1", "public.other:1"] {
            redis(port, &format!("SET {name} cached"));
        }
        assert_eq!(left(), [true; 4]);
        client.batch_execute(change).unwrap();
        let ran = streamed(&dsn, &["--until-caught-up", "--to", &to]);
        assert_eq!(left(), [false, false, true, true], "{change}");
        assert_eq!(redis(port, "DBSIZE"), ":2", "{change}");
        assert_eq!(
            ran.err.contains("looked for with SCAN"),
            !change.starts_with("TRUNCATE"),
            "{}",
            ran.err
        );
    }
    // A pattern that would match whatever there is.
    client.batch_execute("INSERT INTO \"a*[b]\" VALUES (1)").unwrap();
    let ran = stream(
        &dsn,
        &[
            "--until-caught-up",
            "--to",
            &format!("redis://127.0.0.1:{port}/0?key={{key}}"),
        ],
    );
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("cannot be told to Redis"), "{}", ran.err);
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn redis_loses_the_keys_of_changed_rows_and_no_others() {
    let server = server();
    let mut client = database(
        &server,
        "cached",
        "CREATE TABLE t (a int, b text, v text, PRIMARY KEY (a, b)); INSERT INTO t SELECT i, 'x', 'v' FROM generate_series(1, 9) i",
    );
    let dsn = server.dsn_of("cached");
    let mut broker = Broker::start(Kind::Redis);
    let port = broker.port();
    for key in 1..=9 {
        redis(port, &format!("SET public.t:{key}:x cached"));
    }
    redis(port, "SET other kept");
    let left = || -> Vec<i32> {
        (1..=9)
            .filter(|key| redis(port, &format!("EXISTS public.t:{key}:x")) == ":1")
            .collect()
    };
    let to = format!("redis://127.0.0.1:{port}/0?action=unlink");
    streamed(&dsn, &["--create", "--until-caught-up", "--to", &to]);
    client
        .batch_execute("UPDATE t SET v = 'w' WHERE a = 1; DELETE FROM t WHERE a = 2; UPDATE t SET a = 30 WHERE a = 3; INSERT INTO t VALUES (10, 'x', '')")
        .unwrap();
    streamed(&dsn, &["--until-caught-up", "--to", &to]);
    assert_eq!(left(), [4, 5, 6, 7, 8, 9]);
    // Down, then up.
    broker.kill9();
    let following = Following::start(&dsn, &["--to", &to]);
    client.batch_execute("UPDATE t SET v = 'w' WHERE a = 4").unwrap();
    wait_until(DEADLINE, "the complaint", || {
        following.said().contains("Redis server").then_some(())
    });
    broker.resume();
    wait_until(DEADLINE, "the key to go", || (left() == [5, 6, 7, 8, 9]).then_some(()));
    client.batch_execute("TRUNCATE t").unwrap();
    wait_until(DEADLINE, "all keys of the table to go", || {
        left().is_empty().then_some(())
    });
    assert_eq!(redis(port, "EXISTS other"), ":1");
    assert_eq!(following.terminate(), 0);

    let subscriber = TcpStream::connect(("127.0.0.1", port)).unwrap();
    subscriber.set_read_timeout(Some(DEADLINE)).unwrap();
    (&subscriber).write_all(b"SUBSCRIBE changed\r\n").unwrap();
    let mut heard = BufReader::new(subscriber).lines().map(|line| line.unwrap());
    assert!(heard.any(|line| line == ":1"), "subscribed");
    let to = format!("redis://127.0.0.1:{port}/?channel=changed&key=row/{{b}}/{{a}}");
    client.batch_execute("INSERT INTO t VALUES (7, 'q', '')").unwrap();
    for (key, why) in [
        ("user:{nocol}", "has no column \"nocol\""),
        ("user:{v}", "not in its replica identity"),
    ] {
        let to = format!("redis://127.0.0.1:{port}/?key={key}");
        let ran = stream(&dsn, &["--until-caught-up", "--to", &to]);
        assert_eq!(ran.code, 3);
        assert!(ran.err.contains(why), "{}", ran.err);
    }
    streamed(&dsn, &["--until-caught-up", "--to", &to]);
    assert!(heard.any(|line| line == "row/q/7"));
    streamed(&dsn, &["--drop-slot"]);
}
