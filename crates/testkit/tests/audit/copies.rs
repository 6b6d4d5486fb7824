//! Copies of a server, from whatever time, read what it says in the WAL.

use std::time::Duration;

use synod_testkit::{Server, StopMode, wait_until};

use super::{make_slot, told, words};

const SETTINGS: &[(&str, &str)] = &[("wal_level", "logical"), ("autovacuum", "off"), ("fsync", "off")];

/// The copy is older than the first message of ours, and has a slot: a standby that takes over.
#[test]
fn a_standby_from_before_the_first_message_tells_it() {
    let mut server = Server::new("copied", SETTINGS);
    server.start();
    let mut client = server.client();
    client.batch_execute("CREATE EXTENSION synod").unwrap();
    make_slot(&mut client, "early");
    drop(client);
    server.stop(StopMode::Fast);
    let mut standby = server.clone_stopped("standby");
    let primary = format!(
        "host={} port={} user=postgres",
        server.data().parent().unwrap().display(),
        server.port()
    );
    standby.configure(&[("primary_conninfo", &primary)]);
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    server.start();
    standby.start();
    let mut client = server.client();
    client
        .batch_execute("SET synod.context = '{\"user\": \"ann\"}'; CREATE TABLE t (id int PRIMARY KEY)")
        .unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    let at: String = client
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .unwrap()
        .get(0);
    let mut copy = standby.client();
    wait_until(Duration::from_secs(30), "the standby to follow", || {
        let sql = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
        copy.query_one(sql, &[&at]).unwrap().get::<_, bool>(0).then_some(())
    });
    copy.batch_execute("SELECT pg_promote()").unwrap();
    let options = ", 'include-ddl', 'on', 'include-context', 'on'";
    let (here, there) = (told(&mut client, "early", options), told(&mut copy, "early", options));
    assert_eq!(here, there);
    let ann = "X {\"user\":\"ann\"}";
    assert_eq!(words(&there), [ann, "DDL CREATE TABLE: public.t", ann, "I t"]);
}
