//! PostgreSQL's own publications of replicated tables, on a node that did not make the changes: its WAL has the net effect of each
//! transaction.

use std::time::Duration;

use synod_testkit::{Server, wait_until};

use super::CLUSTER;

/// Rows that exchange unique keys in one transaction are updates one after the other: who holds what they are told against unique
/// constraints may do so only at the end.
#[test]
fn a_subscriber_gets_rows_that_exchange_keys() {
    let cluster = CLUSTER.lease();
    let definition = |constraint: &str| {
        format!(
            "CREATE TABLE published (id int PRIMARY KEY, email text UNIQUE {constraint}, place int UNIQUE {constraint})"
        )
    };
    cluster.create_table("published", &definition("DEFERRABLE"));
    let mut publisher = cluster.client(1);
    publisher
        .batch_execute("CREATE PUBLICATION of_net_effects FOR TABLE published")
        .unwrap();
    let mut subscriber = Server::new("subscriber", &[("shared_preload_libraries", "")]);
    subscriber.start();
    let mut there = subscriber.client();
    there
        .batch_execute(&definition("DEFERRABLE INITIALLY DEFERRED"))
        .unwrap();
    let subscription = format!(
        "CREATE SUBSCRIPTION of_net_effects CONNECTION '{}' PUBLICATION of_net_effects WITH (copy_data = false)",
        cluster.server(1).dsn()
    );
    there.batch_execute(&subscription).unwrap();
    let content = "SELECT coalesce(string_agg(p::text, ' ' ORDER BY id), '') FROM published p";
    for change in [
        "INSERT INTO published SELECT i, i, i FROM generate_series(1, 4) i",
        "UPDATE published SET email = 'new' WHERE id = 2",
        "UPDATE published SET email = NULL WHERE id = 1; UPDATE published SET email = '1' WHERE id = 3; UPDATE published SET email = '3' WHERE id = 1",
        "UPDATE published SET place = 5 - place",
        "UPDATE published SET id = id + 10 WHERE id > 2; DELETE FROM published WHERE id = 1; INSERT INTO published VALUES (1, 'again', 4)",
    ] {
        cluster
            .client(0)
            .batch_execute(&format!("BEGIN; {change}; COMMIT"))
            .unwrap();
        let here: String = publisher.query_one(content, &[]).unwrap().get(0);
        wait_until(Duration::from_secs(30), change, || {
            let told: String = there.query_one(content, &[]).unwrap().get(0);
            (told == here).then_some(())
        });
    }
    there.batch_execute("DROP SUBSCRIPTION of_net_effects").unwrap();
    publisher.batch_execute("DROP PUBLICATION of_net_effects").unwrap();
}
