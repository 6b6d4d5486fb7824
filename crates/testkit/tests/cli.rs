//! The command `synod`, run against real groups.

use serde_json::Value;
use synod_testkit::command::{Ran, synod};
use synod_testkit::{Options, Server, SharedCluster, StopMode, wait_until};

use std::time::Duration;

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs it against a database of `server`.
#[track_caller]
fn at(server: &Server, arguments: &[&str]) -> Ran {
    let dsn = server.dsn();
    let mut all = vec!["--dsn", dsn.as_str()];
    all.extend(arguments);
    synod(&all)
}

#[track_caller]
fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("no JSON: {error}: {ran:?}"))
}

#[test]
fn status_shows_the_group_at_a_glance() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("glanced_at", "CREATE TABLE glanced_at (id int PRIMARY KEY)");
    let report = wait_until(DEADLINE, "a healthy group", || {
        let ran = at(cluster.server(1), &["status", "--json"]);
        (ran.code == 0).then(|| json(&ran))
    });
    assert_eq!(report["healthy"], true);
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{report:#}");
    let leaders = nodes.iter().filter(|node| node["role"] == "leader").count();
    assert_eq!(leaders, 1, "{report:#}");
    for node in nodes {
        assert_eq!(node["state"], "running");
        assert_eq!(node["links_from"].as_array().unwrap().len(), 2, "{node:#}");
        assert!(node["tables"].as_i64().unwrap() >= 1);
    }
    let text = at(cluster.server(0), &["status"]);
    assert_eq!((text.code, text.err.as_str()), (0, ""), "{text:?}");
    assert!(
        text.out
            .starts_with("Group \"g\": 3 nodes, 3 running; 3 voters, a majority is 2\n"),
        "{}",
        text.out
    );
    assert!(text.out.contains("\nn1*"), "{}", text.out);

    cluster.server_mut(2).stop(StopMode::Fast);
    let ran = at(cluster.server(0), &["status", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = json(&ran);
    assert_eq!(report["nodes"][2]["state"], "unreachable");
    assert!(
        at(cluster.server(0), &["status"])
            .out
            .contains("PROBLEM:  node \"n3\" cannot be asked: ")
    );
    cluster.server_mut(2).start();
}

#[test]
fn errors_look_like_the_servers_own() {
    let cluster = CLUSTER.lease();
    let ran = synod(&["status", "--dsn", "host=127.0.0.1 port=1 dbname=nowhere"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.starts_with("ERROR:  could not talk to the server\nDETAIL:  "),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("\nHINT:  "), "{}", ran.err);
    let without = cluster.server(0).dsn_of("template1");
    let ran = synod(&["status", "--json", "--dsn", &without]);
    assert_eq!(ran.code, 3);
    assert!(
        json(&ran)["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("CREATE EXTENSION"),
        "{}",
        ran.out
    );
    assert_eq!(synod(&["stauts"]).code, 2);
}
