//! A client that has the password of the nodes' own role, and not the group's secret.

use std::time::{Duration, Instant};

use synod_testkit::{Server, sqlstate, wait_until};

use super::codec::Identity;
use super::handshake::{Handshake, NONCE_BYTES, PROOF_BYTES, PROTOCOL_VERSION, Role, WELCOME};
use super::raw::{Raw, Told};
use super::{CLUSTER, assert_group_works, prepare};

/// A handshake ends after ten seconds; a busy machine takes its time.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(35);
/// Handshakes left half open at once.
const HALF_OPEN: usize = 24;

/// The identity of a node, as whoever can read its data directory knows it.
pub fn identity(server: &Server) -> Identity {
    let bytes = std::fs::read(server.synod_directory("postgres").join("node")).unwrap();
    Identity::decode(&bytes).unwrap()
}

pub fn uuid(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn call(group: &[u8; 16], from: i64, to: i64, nonce: &[u8]) -> String {
    let digits: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "CALL synod.link({PROTOCOL_VERSION}, '{}', {from}, {to}, '\\x{digits}')",
        uuid(group)
    )
}

/// Call a node as another one: its greeting, which is its nonce and its proof.
#[track_caller]
fn greeted(server: &Server, from: u32, nonce: &[u8; NONCE_BYTES]) -> (Raw, Vec<u8>) {
    let there = identity(server);
    let mut raw = Raw::connect(server, "link");
    raw.ask(&call(&there.group, from.into(), there.node.0.into(), nonce));
    let Told::Message(b'W', _) = raw.read() else {
        panic!("no link")
    };
    let Told::Message(b'd', greeting) = raw.read() else {
        panic!("no greeting")
    };
    assert_eq!(greeting.len(), NONCE_BYTES + PROOF_BYTES);
    (raw, greeting)
}

#[track_caller]
fn assert_refused(mut raw: Raw, codes: &[&str], what: &str) {
    match raw.end() {
        Told::Failed { code, .. } => assert!(codes.contains(&code.as_str()), "{what}: {code}"),
        Told::Closed if codes.is_empty() => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn links(server: &Server) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'link'";
    server.client().query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn a_link_with_wrong_words_does_not_come_about() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    let here = identity(server);
    let nonce = [7; NONCE_BYTES];
    let to = i64::from(here.node.0);
    let mut session = Raw::connect(server, "link");
    let calls = [
        (call(&[9; 16], 2, to, &nonce), "55000"),
        (call(&here.group, 2, to + 1, &nonce), "55000"),
        (call(&here.group, 0, to, &nonce), "55000"),
        (call(&here.group, -1, to, &nonce), "55000"),
        (call(&here.group, to, to, &nonce), "55000"),
        (call(&here.group, 2, -1, &nonce), "55000"),
        (call(&here.group, 2, to, &[]), "08P01"),
        (call(&here.group, 2, to, &[7; NONCE_BYTES - 1]), "08P01"),
        (call(&here.group, 2, to, &[7; 1 << 20]), "08P01"),
        (call(&here.group, 2, to, &nonce).replacen('1', "0", 1), "0A000"),
        (call(&here.group, 2, to, &nonce).replacen('1', "-1", 1), "0A000"),
        ("CALL synod.link(NULL, NULL, NULL, NULL, NULL)".into(), "22004"),
        (
            format!("BEGIN; DO $$ BEGIN {}; END $$", call(&here.group, 2, to, &nonce)),
            "25001",
        ),
        (format!("BEGIN; {}", call(&here.group, 2, to, &nonce)), "25001"),
    ];
    for (sql, expected) in calls {
        session.ask(&sql);
        match session.ready() {
            Some(Told::Failed { code, .. }) => assert_eq!(code, expected, "{:.200}", sql),
            other => panic!("{sql:.200}: {other:?}"),
        }
        session.ask("ROLLBACK");
        session.ready();
    }
    let mut stranger = Raw::connect(server, "stranger");
    stranger.ask(&call(&here.group, 2, to, &nonce));
    assert!(matches!(stranger.ready(), Some(Told::Failed { code, .. }) if code == "42501"));
    assert_group_works(&cluster, [0, 1]);
}

#[test]
fn nobody_links_without_the_secret() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    let here = identity(server);
    let nonce = [7; NONCE_BYTES];
    let handshake = |from: u32, called: &[u8]| -> [u8; PROOF_BYTES] {
        let of = Handshake {
            secret: &here.secret,
            group: &here.group,
            from,
            to: here.node.0,
            dialling_nonce: &nonce,
            called_nonce: called,
        };
        of.proof(Role::Dialling)
    };

    let (mut raw, _) = greeted(server, 2, &nonce);
    raw.copy(&[0; PROOF_BYTES]);
    assert_refused(raw, &["28000"], "a guess");

    // What the called node says is no proof of the caller's.
    let (mut raw, greeting) = greeted(server, 2, &nonce);
    raw.copy(&greeting[NONCE_BYTES..]);
    assert_refused(raw, &["28000"], "its own proof");

    // A proof that was good once, recorded; the node's nonce is new each time.
    let (_, recorded) = greeted(server, 2, &nonce);
    let proof = handshake(2, &recorded[..NONCE_BYTES]);
    let (mut raw, _) = greeted(server, 2, &nonce);
    raw.copy(&proof);
    assert_refused(raw, &["28000"], "a recorded proof");

    // A good proof of one node is not another's.
    let (mut raw, greeting) = greeted(server, 3, &nonce);
    raw.copy(&handshake(2, &greeting[..NONCE_BYTES]));
    assert_refused(raw, &["28000"], "another node's proof");

    // And with it, this is how a link looks like; the node's own link of that name is back afterwards.
    let (mut raw, greeting) = greeted(server, 2, &nonce);
    raw.copy(&handshake(2, &greeting[..NONCE_BYTES]));
    assert_eq!(raw.read(), Told::Message(b'd', WELCOME.to_vec()));
    drop(raw);
    assert_group_works(&cluster, [0, 1]);
}

#[test]
fn garbage_in_a_handshake_ends_it() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    let nonce = [7; NONCE_BYTES];
    let message = |kind: u8, length: u32, body: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    };
    let cases = [
        ("a gigabyte announced", message(b'd', 1 << 30, &[0; 64])),
        ("four gigabytes announced", message(b'd', u32::MAX, &[0; 64])),
        ("a length below its own", message(b'd', 0, &[0; 64])),
        ("no content", message(b'd', 4, &[])),
        ("one byte too few", message(b'd', 4 + 31, &[0; 31])),
        ("one byte too many", message(b'd', 4 + 33, &[0; 33])),
        ("a query", message(b'Q', 4 + 9, b"SELECT 1\0")),
        ("zeros", vec![0; 4096]),
        (
            "noise",
            (0..4096u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
    ];
    for (what, bytes) in cases {
        let (mut raw, _) = greeted(server, 2, &nonce);
        raw.put(&bytes);
        assert_refused(raw, &["08P01"], what);
    }
    // Who says goodbye is let go.
    for bytes in [message(b'c', 4, &[]), message(b'X', 4, &[])] {
        let (mut raw, _) = greeted(server, 2, &nonce);
        raw.put(&bytes);
        assert_refused(raw, &[], "a goodbye");
    }
    drop(greeted(server, 2, &nonce));
    assert_group_works(&cluster, [0, 1]);
}

#[test]
fn handshakes_left_half_open_end_by_themselves() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    let here = identity(server);
    let nonce = [7; NONCE_BYTES];
    let begun = Instant::now();
    let mut waiting: Vec<Raw> = (0..HALF_OPEN)
        .map(|number| {
            let (mut raw, _) = greeted(server, 2, &nonce);
            // Nothing; a type; half a length; half a proof.
            let stops: [&[u8]; 4] = [b"", b"d", b"d\0\0", b"d\0\0\0\x24half a proof"];
            raw.put(stops[number % stops.len()]);
            raw
        })
        .collect();
    // Nobody is kept from working meanwhile, the node that they pose as least of all.
    assert_group_works(&cluster, [0, 1]);
    for raw in &mut waiting {
        match raw.end() {
            Told::Failed { code, message } => {
                assert_eq!(
                    (code.as_str(), message.as_str()),
                    ("08P01", "the calling node did not prove itself in time")
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() < HANDSHAKE_DEADLINE, "after {:?}", begun.elapsed());
    wait_until(HANDSHAKE_DEADLINE, "the sessions to end", || {
        (links(server) == 0).then_some(())
    });

    // A link that has begun a message and then says nothing gives way to a newer one of the same node.
    let handshake = |called: &[u8]| {
        let of = Handshake {
            secret: &here.secret,
            group: &here.group,
            from: 9,
            to: here.node.0,
            dialling_nonce: &nonce,
            called_nonce: called,
        };
        of.proof(Role::Dialling)
    };
    let linked = || {
        let (mut raw, greeting) = greeted(server, 9, &nonce);
        raw.copy(&handshake(&greeting[..NONCE_BYTES]));
        assert_eq!(raw.read(), Told::Message(b'd', WELCOME.to_vec()));
        raw
    };
    let mut old = linked();
    old.put(b"d\0\0\x10\0half of it");
    let new = linked();
    assert!(matches!(old.end(), Told::Failed { code, .. } if code == "57P01"));
    drop(new);
    assert_group_works(&cluster, [0, 1]);
}

#[test]
fn the_password_of_the_nodes_own_role_does_not_make_a_member() {
    let cluster = CLUSTER.lease();
    prepare(&cluster);
    let server = cluster.server(0);
    let dsn = server.client_dsn("postgres").replace("user=postgres", "user=link");
    let mut client = postgres::Client::connect(&dsn, postgres::NoTls).unwrap();
    let victim = identity(cluster.server(1));
    let info = super::codec::MemberInfo {
        name: "n2".into(),
        dsn: "host=evil.example".into(),
        system_identifier: victim.system_identifier,
        database: victim.database,
        server_version: 150_000,
    };
    let log = uuid(&victim.log.0);
    let new = uuid(&[5; 16]);
    let info = info.encode();
    for (log, replace, proof, expected) in [
        (&new, false, Vec::new(), "42501"),
        (&new, true, Vec::new(), "42501"),
        (&new, true, vec![0u8; PROOF_BYTES], "28000"),
        (&log, true, vec![0; 3], "28000"),
    ] {
        let sql = format!("SELECT * FROM synod._admit('{log}', $1, $2, $3)");
        let error = client.query(&sql, &[&info, &replace, &proof]).expect_err("admitted");
        assert_eq!(sqlstate(&error), Some(expected), "{error:?}");
    }
    for (proof, expected) in [(Vec::new(), "42501"), (vec![1u8; PROOF_BYTES], "28000")] {
        let sql = format!("SELECT synod._expel('{log}', $1)");
        let error = client.query(&sql, &[&proof]).expect_err("expelled");
        assert_eq!(sqlstate(&error), Some(expected), "{error:?}");
    }
    // Nor does it keep the others from changing definitions.
    let error = client
        .batch_execute("SELECT * FROM synod._export_snapshot()")
        .expect_err("a snapshot");
    assert_eq!(sqlstate(&error), Some("42501"), "{error:?}");
    // Nor does it prepare a database that is no member.
    server.client().batch_execute("CREATE DATABASE lone").unwrap();
    server
        .client_to("lone")
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .unwrap();
    let dsn = server.client_dsn("lone").replace("user=postgres", "user=link");
    let mut client = postgres::Client::connect(&dsn, postgres::NoTls).unwrap();
    for call in [
        "_set_origin(1)",
        "_release_origin()",
        "_forget(true)",
        "_release_tables()",
        "_replicate_own_tables()",
        "_check_tables('host=127.0.0.1 port=1', 'x', false)",
        "_copy_tables('host=127.0.0.1 port=1', 's', 'x', 1, true)",
    ] {
        let error = client.batch_execute(&format!("SELECT synod.{call}")).expect_err(call);
        assert_eq!(sqlstate(&error), Some("42501"), "{call}: {error:?}");
    }
    drop(client);
    server.client().batch_execute("DROP DATABASE lone").unwrap();
    let members: i64 = server
        .client()
        .query_one("SELECT count(*) FROM synod.nodes", &[])
        .unwrap()
        .get(0);
    assert_eq!(members, 3);
    assert_group_works(&cluster, [0, 1]);
}
