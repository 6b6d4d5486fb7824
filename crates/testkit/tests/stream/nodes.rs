//! Several nodes of a group: one dies, another one is gone on with.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use synod_testkit::{Options, SharedCluster};

use super::endpoint::Endpoint;
use super::*;

pub static CLUSTER: SharedCluster = SharedCluster::new(Options {
    nodes: 3,
    partitions: false,
    settings: &[("wal_level", "logical"), ("fsync", "off")],
    small_disk: None,
});

/// (id of the event, value of the row), in the order of the stream.
pub fn events(file: &Path) -> Vec<(String, i64)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| {
            let columns = event["columns"].as_array().unwrap();
            let value = columns.iter().find(|it| it["name"] == "n").unwrap()["value"]
                .as_i64()
                .unwrap();
            (event["id"].as_str().unwrap().to_owned(), value)
        })
        .collect()
}

#[test]
fn when_its_node_dies_another_one_is_gone_on_with() {
    let mut cluster = CLUSTER.lease();
    for node in 0..3 {
        allow_plugin(cluster.server(node));
    }
    cluster.create_table("fed", "CREATE TABLE fed (n bigint PRIMARY KEY)");
    cluster.on_all("CREATE TABLE own (n bigint PRIMARY KEY)");
    let dsns: Vec<String> = (0..3).map(|node| cluster.server(node).dsn()).collect();
    let place = directory("fed");
    let file = place.join("feed.jsonl");
    let to = path_text(&file);
    let more = ["--dsn", &dsns[1], "--dsn", &dsns[2], "--to", &to, "--create"];
    streamed(&dsns[0], &[&more[..], &["--until-caught-up"]].concat());
    for node in 0..3 {
        assert_eq!(
            cluster
                .client(node)
                .query("SELECT FROM pg_replication_slots WHERE slot_name = 's'", &[])
                .unwrap()
                .len(),
            1
        );
    }
    let following = Following::start(&dsns[0], &more);
    cluster.client(0).batch_execute("INSERT INTO own VALUES (1)").unwrap();
    let stop = AtomicBool::new(false);
    let written: Vec<i64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..3)
            .map(|node| {
                let (mut client, stop) = (cluster.client(node), &stop);
                scope.spawn(move || write_until(&mut client, node, stop))
            })
            .collect();
        wait_until(DEADLINE, "events", || (events(&file).len() > 50).then_some(()));
        // A writer's node is not the one that dies, nor is a majority lost.
        cluster.server_mut(0).kill9();
        let seen = events(&file).len();
        wait_until(DEADLINE, "events from another node", || {
            (events(&file).len() > seen + 100).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let expected: BTreeSet<i64> = written.iter().copied().collect();
    wait_until(DEADLINE, "everything", || {
        let there: BTreeSet<i64> = events(&file).iter().map(|(_, value)| *value).collect();
        expected.is_subset(&there).then_some(())
    });
    let told = events(&file);
    let ids: BTreeSet<&String> = told.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), told.len(), "an id was told twice");
    let mut rows: Vec<i64> = told.iter().map(|(_, value)| *value).collect();
    rows.sort_unstable();
    let there = cluster.client(1).query("SELECT n FROM fed ORDER BY n", &[]).unwrap();
    assert_eq!(rows, there.iter().map(|row| row.get(0)).collect::<Vec<i64>>());
    let csns: Vec<u64> = told
        .iter()
        .map(|(id, _)| id.split('/').nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(csns.is_sorted(), "in the order of the group");
    // Slots that nobody reads follow what is delivered.
    let slot = "SELECT active, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 's'";
    let position = |node: usize| {
        let row = cluster.client(node).query_one(slot, &[]).unwrap();
        (row.get::<_, bool>(0), row.get::<_, String>(1))
    };
    let idle = [1, 2]
        .into_iter()
        .find(|node| !position(*node).0)
        .expect("one node is read");
    let before = position(idle).1;
    cluster
        .client(idle)
        .batch_execute("INSERT INTO fed VALUES (-2)")
        .unwrap();
    wait_until(DEADLINE, "the slot of the node that is not read to move", || {
        (position(idle).1 != before).then_some(())
    });
    wait_until(DEADLINE, "the last row", || {
        (events(&file).len() > told.len()).then_some(())
    });
    assert_eq!(following.terminate(), 0);

    // The node is back; another run goes on there, from where the file ends.
    cluster.start_all();
    cluster.client(1).batch_execute("INSERT INTO fed VALUES (-1)").unwrap();
    wait_until(DEADLINE, "the node to catch up", || {
        let row = cluster.client(0).query_opt("SELECT FROM fed WHERE n = -1", &[]).ok()?;
        row.map(|_| ())
    });
    streamed(&dsns[0], &[&more[..], &["--until-caught-up"]].concat());
    let after = events(&file);
    assert_eq!(after.len(), told.len() + 2, "{:?}", &after[told.len()..]);
    assert_eq!(after.last().unwrap().1, -1);
    let ran = stream(&dsns[0], &["--dsn", &dsns[1], "--dsn", &dsns[2], "--drop-slot"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// The slots of the other nodes lasted from the beginning, so that after a crash one of them was taken for finished.
#[test]
fn a_snapshot_that_was_cut_off_begins_anew_on_another_node() {
    let cluster = CLUSTER.lease();
    for node in 0..3 {
        allow_plugin(cluster.server(node));
    }
    cluster.create_table("shown", "CREATE TABLE shown (n bigint PRIMARY KEY)");
    cluster
        .client(1)
        .batch_execute("INSERT INTO shown VALUES (1), (2)")
        .unwrap();
    let endpoint = Endpoint::start(|_| "503 Not now".into());
    let url = endpoint.url();
    let dsns: Vec<String> = (0..3).map(|node| cluster.server(node).dsn()).collect();
    let more = [
        "--create",
        "--initial-snapshot",
        "--table",
        "public.shown",
        "--to",
        &url,
    ];
    let others = |first: usize, second: usize| ["--dsn", dsns[first].as_str(), "--dsn", dsns[second].as_str()];
    // A strong read: no slot that is made from here on tells of them.
    for node in 0..3 {
        let count = cluster
            .client(node)
            .query_one("SELECT count(*) FROM shown", &[])
            .unwrap();
        assert_eq!(count.get::<_, i64>(0), 2);
    }
    let following = Following::start(&dsns[0], &[&others(1, 2)[..], &more].concat());
    wait_until(DEADLINE, "a row to be sent", || {
        (!endpoint.requests().is_empty()).then_some(())
    });
    following.kill9();
    let refused = endpoint.requests().len();
    endpoint.answer(|_| "200 Taken".into());
    let more = [&others(0, 2)[..], &more, &["--until-caught-up"]].concat();
    streamed(&dsns[1], &more);
    let sent: Vec<String> = endpoint.requests()[refused..]
        .iter()
        .map(|request| {
            let event: Value = serde_json::from_str(&request.body).unwrap();
            event["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent.iter().all(|id| id.starts_with("snapshot/")), "{sent:?}");
    // Now it is finished, whichever node is read.
    streamed(&dsns[2], &[&others(0, 1)[..], &more[4..]].concat());
    assert_eq!(endpoint.requests().len(), refused + 2);
    let ran = stream(&dsns[0], &["--dsn", &dsns[1], "--dsn", &dsns[2], "--drop-slot"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// What the snapshot has that the slots of the other nodes have, too, was told by those again: which it was, was only in memory.
#[test]
fn another_node_does_not_tell_what_the_snapshot_has() {
    let cluster = CLUSTER.lease();
    for node in 0..3 {
        allow_plugin(cluster.server(node));
    }
    cluster.create_table("covered", "CREATE TABLE covered (n bigint PRIMARY KEY)");
    cluster.client(0).batch_execute("CREATE TABLE apart (n int)").unwrap();
    let dsns: Vec<String> = (0..3).map(|node| cluster.server(node).dsn()).collect();
    let file = directory("covered").join("covered.jsonl");
    let to = path_text(&file);
    let more = [
        "--create",
        "--initial-snapshot",
        "--table",
        "public.covered",
        "--to",
        &to,
    ];
    let others = |first: usize, second: usize| ["--dsn", dsns[first].as_str(), "--dsn", dsns[second].as_str()];
    // The first node's slot waits for a transaction that is under way there; those of the others are made before.
    let mut open = cluster.client(0);
    open.batch_execute("BEGIN; INSERT INTO apart VALUES (1)").unwrap();
    let following = Following::start(&dsns[0], &[&others(1, 2)[..], &more].concat());
    wait_until(DEADLINE, "the first node's slot to be waited for", || {
        let waits = "SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event_type = 'Lock'";
        (cluster.client(0).query(waits, &[]).unwrap().len() == 1).then_some(())
    });
    cluster
        .client(1)
        .batch_execute("INSERT INTO covered SELECT generate_series(1, 5)")
        .unwrap();
    wait_until(DEADLINE, "the rows on the first node", || {
        (cluster.client(0).query("SELECT FROM covered", &[]).unwrap().len() == 5).then_some(())
    });
    open.batch_execute("COMMIT").unwrap();
    wait_until(DEADLINE, "the snapshot", || (events(&file).len() == 5).then_some(()));
    let slot = "SELECT FROM pg_replication_slots WHERE slot_name = 's'";
    wait_until(DEADLINE, "the slot that lasts", || {
        (cluster.client(0).query(slot, &[]).unwrap().len() == 1).then_some(())
    });
    following.kill9();
    cluster
        .client(1)
        .batch_execute("INSERT INTO covered VALUES (6)")
        .unwrap();
    let more = [&others(0, 2)[..], &more, &["--until-caught-up"]].concat();
    wait_until(DEADLINE, "the row on the second node", || {
        streamed(&dsns[1], &more);
        (events(&file).len() >= 6).then_some(())
    });
    let told: Vec<i64> = events(&file).into_iter().map(|it| it.1).collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 6]);
    let ran = stream(&dsns[0], &["--dsn", &dsns[1], "--dsn", &dsns[2], "--drop-slot"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// Values of this writer that were acknowledged.
fn write_until(client: &mut Client, node: usize, stop: &AtomicBool) -> Vec<i64> {
    let mut written = Vec::new();
    let mut next = i64::try_from(node).unwrap() * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        next += 1;
        // A change of leaders may leave one unknown: it is there or not.
        if client.execute("INSERT INTO fed VALUES ($1)", &[&next]).is_ok() {
            written.push(next);
        }
    }
    written
}
