//! Trust boundaries, as `docs/src/trust.md` says them: what a client with the password of the nodes' own role can do, what an
//! ordinary user can, and what a member that does not keep to the protocol can make of the others.

#[path = "../../../extension/src/identity/codec.rs"]
#[allow(dead_code, reason = "the file is the extension's; a test needs little of it")]
mod codec;
#[path = "../../../extension/src/handshake.rs"]
#[allow(dead_code, reason = "the file is the extension's; a test needs little of it")]
mod handshake;

mod client;
mod peer;
mod raw;
mod surface;

use synod_testkit::{Cluster, Options, SharedCluster};

/// Everybody's: with the role of the nodes as `link`, an ordinary user as `stranger`, and a table of the group.
static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// What the tests need of a cluster, once.
fn prepare(cluster: &Cluster) {
    let mut client = cluster.client(0);
    let known: bool = client
        .query_one("SELECT pg_catalog.to_regrole('link') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if known {
        return;
    }
    for node in cluster.nodes() {
        node.server
            .client()
            .batch_execute(
                "CREATE ROLE link LOGIN IN ROLE synod_replicator; CREATE ROLE stranger LOGIN;
                 CREATE ROLE admin LOGIN IN ROLE synod_admin",
            )
            .unwrap();
    }
    cluster.create_table("kept", "CREATE TABLE kept (id serial PRIMARY KEY, note text)");
}

/// The group takes a write on a node, and it is on another one.
#[track_caller]
fn assert_group_works(cluster: &Cluster, nodes: [usize; 2]) {
    let mut client = cluster.client(nodes[0]);
    let row = synod_testkit::wait_until(std::time::Duration::from_secs(30), "a write", || {
        client
            .query_one("INSERT INTO kept (note) VALUES ('works') RETURNING id", &[])
            .ok()
    });
    let id: i32 = row.get(0);
    let seen: i64 = cluster
        .client(nodes[1])
        .query_one("SELECT count(*) FROM kept WHERE id = $1", &[&id])
        .unwrap()
        .get(0);
    assert_eq!(seen, 1, "a write on one node is not on the other");
}
