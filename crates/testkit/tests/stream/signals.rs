//! SIGTERM while the other side hangs: it ends, and nothing is lost.

use std::net::TcpListener;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Something lies in a socket of this port that whoever listens there has not read.
fn wait_for_unread(port: u16) {
    let port = format!(":{port:04X}");
    wait_until(DEADLINE, "something to be sent to it", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // Local address, remote one, state (01: established), bytes to send and to read.
        let unread = sockets.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[1].ends_with(&port) && words[3] == "01" && !words[4].ends_with(":00000000")
        });
        unread.then_some(())
    });
}

/// It took up to fifteen minutes.
#[test]
fn a_target_that_hangs_does_not_keep_it_from_ending() {
    let server = server();
    let target = new_server("hung");
    let mut client = database(&server, "hung_from", "CREATE TABLE t (n int PRIMARY KEY)");
    target
        .client()
        .batch_execute("CREATE TABLE t (n int PRIMARY KEY)")
        .unwrap();
    let dsn = server.dsn_of("hung_from");
    let to = format!("postgresql://postgres@127.0.0.1:{}/postgres", target.port());
    streamed(&dsn, &["--create", "--to", &to, "--until-caught-up"]);
    let rows = |target: &Server| target.client().query("SELECT FROM t", &[]).unwrap().len();
    let following = Following::start(&dsn, &["--to", &to]);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    wait_until(DEADLINE, "the first row", || (rows(&target) == 1).then_some(()));
    target.pause();
    client.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    wait_for_unread(target.port());
    let log = following.1.clone();
    assert_eq!(following.terminate(), 0);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("comes again with the next run"), "{said}");
    target.resume();
    wait_for_slot(&mut client);
    streamed(&dsn, &["--to", &to, "--until-caught-up"]);
    assert_eq!(rows(&target), 2);
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn an_endpoint_that_never_answers_does_not_either_and_a_second_signal_ends_at_once() {
    let server = server();
    let mut client = database(&server, "mute", "CREATE TABLE t (n int PRIMARY KEY)");
    let dsn = server.dsn_of("mute");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    streamed(&dsn, &["--create", "--until-caught-up"]);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    let following = Following::start(&dsn, &["--to", &url]);
    let (_held, _) = listener.accept().unwrap();
    assert_eq!(following.terminate(), 0);
    wait_for_slot(&mut client);

    let mut following = Following::start(&dsn, &["--to", &url]);
    let (_held, _) = listener.accept().unwrap();
    let pid = Pid::from_child(&following.0);
    // Two that come together are one.
    let code = wait_until(DEADLINE, "the end of synod stream", || {
        let _ = kill_process(pid, Signal::TERM);
        following.0.try_wait().unwrap()
    });
    assert_eq!(code.code(), Some(143));
    assert!(following.said().is_empty(), "{}", following.said());
    wait_for_slot(&mut client);
    assert_eq!(objects(&streamed(&dsn, &["--until-caught-up"]).out).len(), 1);
    streamed(&dsn, &["--drop-slot"]);
}
