//! The harness itself, on plain PostgreSQL: a fault that is not really made proves nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use synod_testkit::{Cluster, Network, Options, Server, StopMode, checksum, failed, wait_until};

const PLAIN: &[(&str, &str)] = &[("shared_preload_libraries", "")];
const DEADLINE: Duration = Duration::from_secs(20);

fn plain_server() -> Server {
    let mut server = Server::new("plain", PLAIN);
    server.start();
    server
}

#[test]
fn a_killed_server_keeps_what_it_committed() {
    let mut server = plain_server();
    server
        .client()
        .batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)")
        .unwrap();
    let mut open = server.client();
    open.batch_execute("BEGIN; INSERT INTO t VALUES (3)").unwrap();
    server.kill9();
    assert!(!server.is_running());
    assert!(open.simple_query("COMMIT").is_err());
    server.start();
    assert_eq!(checksum(&mut server.client(), "t").unwrap().0, 2);
    assert!(server.log().contains("automatic recovery in progress"));
    server.restart(StopMode::Fast);
    assert_eq!(server.psql("postgres", &["-At"], "SELECT count(*) FROM t;\n"), "2\n");
}

#[test]
fn a_paused_server_is_silent_and_wakes_up() {
    let server = plain_server();
    let mut client = server.client();
    server.pause();
    let query = std::thread::spawn(move || {
        client
            .simple_query("SELECT 1")
            .expect("the server answers when it wakes up");
        Instant::now()
    });
    let silence = Instant::now();
    wait_until(DEADLINE, "half a second of silence", || {
        (silence.elapsed() > Duration::from_millis(500)).then_some(())
    });
    assert!(!query.is_finished());
    let resumed = Instant::now();
    server.resume();
    assert!(query.join().unwrap() >= resumed);
}

#[test]
fn a_copied_directory_is_a_server_of_its_own() {
    let mut server = plain_server();
    server.client().batch_execute("CREATE TABLE t (a int)").unwrap();
    server.stop(StopMode::Fast);
    let mut twin = server.clone_stopped("twin");
    server.start();
    twin.start();
    twin.client().batch_execute("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(checksum(&mut server.client(), "t").unwrap().0, 0);
}

#[test]
fn links_are_cut_in_one_direction_and_heal() {
    if !Cluster::partitions_possible("links_are_cut_in_one_direction_and_heal") {
        return;
    }
    assert!(Network::possible());
    let mut cluster = Cluster::servers(&Options {
        nodes: 2,
        partitions: true,
        settings: PLAIN,
        ..Options::DEFAULT
    });
    cluster.on_all("CREATE EXTENSION dblink");
    let reaches = |cluster: &Cluster, from: usize, to: usize| {
        let dsn = format!("{} connect_timeout=2", cluster.server(to).dsn());
        let query = "SELECT * FROM dblink($1, 'SELECT 1') AS t(a int)";
        cluster.client(from).query_one(query, &[&dsn]).is_ok()
    };
    assert!(reaches(&cluster, 0, 1) && reaches(&cluster, 1, 0));
    cluster
        .client(0)
        .execute("SELECT dblink_connect('open', $1)", &[&cluster.server(1).dsn()])
        .unwrap();
    cluster.network().cut_one_way(0, 1);
    assert!(
        !reaches(&cluster, 0, 1) && !reaches(&cluster, 1, 0),
        "TCP needs both directions"
    );
    cluster.network().heal();
    assert!(reaches(&cluster, 0, 1) && reaches(&cluster, 1, 0));
}

/// Run by the next test in a process of its own, which is then killed.
#[test]
fn victim() {
    let Some(report) = std::env::var_os("SYNOD_TEST_VICTIM") else {
        return;
    };
    let server = plain_server();
    std::fs::write(report, server.data().display().to_string()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_test_leaves_nothing_behind() {
    let report = std::env::temp_dir().join(format!("synod-victim-{}", std::process::id()));
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env("SYNOD_TEST_VICTIM", &report)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let data = wait_until(DEADLINE, "the victim's server", || {
        let text = std::fs::read_to_string(&report).ok()?;
        (!text.is_empty()).then(|| PathBuf::from(text))
    });
    std::fs::remove_file(&report).unwrap();
    let postmaster: String = std::fs::read_to_string(data.join("postmaster.pid"))
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .into();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let process = PathBuf::from(format!("/proc/{postmaster}"));
    let run_directory = data.parent().unwrap().parent().unwrap().to_owned();
    wait_until(DEADLINE, "the guard", || {
        (!process.exists() && !run_directory.exists()).then_some(())
    });
}

#[test]
fn a_disk_is_full_and_has_space_again() {
    if !Cluster::small_disks_possible("a_disk_is_full_and_has_space_again") {
        return;
    }
    let cluster = Cluster::servers(&Options {
        nodes: 1,
        small_disk: Some((0, 200)),
        settings: PLAIN,
        ..Options::DEFAULT
    });
    let mut client = cluster.client(0);
    client.batch_execute("CREATE TABLE t (a text)").unwrap();
    cluster.server(0).disk().fill();
    let fill = "INSERT INTO t SELECT repeat(md5(i::text), 50) FROM generate_series(1, 20000) i";
    failed("an insert on a full disk", client.batch_execute(fill), &["53100"]);
    cluster.server(0).disk().free();
    client.batch_execute("INSERT INTO t VALUES ('fits')").unwrap();
}
