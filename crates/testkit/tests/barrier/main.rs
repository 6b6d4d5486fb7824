//! A strong read never misses a write that returned before it began, whatever the form of the read (T8).

use postgres::Client;
use synod_testkit::{Cluster, Options, SharedCluster};

mod forms;
mod skipping;

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

/// Alternations of write and read per form: a barrier that does nothing loses within a few.
const ROUNDS: i32 = 25;

fn make_table(cluster: &Cluster) {
    let exists: bool = cluster
        .client(0)
        .query_one("SELECT to_regclass('seen') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if exists {
        return;
    }
    cluster.create_table("seen", "CREATE TABLE seen (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO seen SELECT i, 0 FROM generate_series(1, 100) i")
        .unwrap();
    cluster.on_all(
        "CREATE FUNCTION seen_stable() RETURNS int STABLE LANGUAGE sql AS 'SELECT v FROM seen WHERE id = 1';
         CREATE FUNCTION seen_volatile() RETURNS int VOLATILE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT v FROM seen WHERE id = 1); END';
         CREATE PROCEDURE seen_after_commit(INOUT v int) LANGUAGE plpgsql AS
             'BEGIN COMMIT; SELECT s.v INTO v FROM seen s WHERE s.id = 1; END';
         CREATE TABLE others AS SELECT i FROM generate_series(1, 100) i;
         CREATE FUNCTION seen_in_worker() RETURNS int STABLE PARALLEL SAFE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT v FROM seen WHERE id = 1); END';
         CREATE VIEW seen_view AS SELECT * FROM seen",
    );
}

fn simple(client: &mut Client, sql: &str) -> i32 {
    let messages = client
        .simple_query(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let value = messages.iter().rev().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.unwrap_or_else(|| panic!("{sql}: no row")).trim().parse().unwrap()
}

const READ: &str = "SELECT v FROM seen WHERE id = 1";
