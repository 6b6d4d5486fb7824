//! What a slot has not seen is never passed over in silence.

use synod_testkit::{Server, StopMode, assert_converged, failed};

use super::reader::{make_slot, read, read_with};
use super::{CLUSTER, SETTINGS};

/// A reader that changes to a slot which begins later than it has read sees that something is missing.
#[test]
fn a_slot_that_begins_too_late_says_so() {
    let cluster = CLUSTER.lease();
    cluster.create_table("gap", "CREATE TABLE gap (id int PRIMARY KEY)");
    let (mut here, mut there) = (cluster.client(0), cluster.client(1));
    make_slot(&mut here, "gap_early");
    let insert = |client: &mut postgres::Client, id: i32| {
        client.execute("INSERT INTO gap VALUES ($1)", &[&id]).unwrap();
        assert_converged(&cluster, &["gap"]);
    };
    insert(&mut here, 1);
    let read_so_far = read(&mut here, "gap_early").unwrap().records.last().unwrap().0;
    make_slot(&mut there, "gap_none");
    insert(&mut here, 2);
    make_slot(&mut there, "gap_late");
    insert(&mut there, 3);

    // This one goes on where the reader is: the record before its first one is the reader's last, or one with nothing to tell.
    let (first, before) = read(&mut there, "gap_none").unwrap().records[0];
    assert!(
        before.unwrap() <= read_so_far || before.unwrap() < first,
        "{before:?} {first}"
    );
    let none = read(&mut here, "gap_early").unwrap().records;
    assert_eq!(none[0].1, Some(read_so_far));
    // This one misses a record, and shows it.
    let (_, before) = read(&mut there, "gap_late").unwrap().records[0];
    assert_eq!(before, Some(none[0].0), "the record that is missing");
    assert!(before.unwrap() > read_so_far);
    here.execute("SELECT pg_drop_replication_slot('gap_early')", &[])
        .unwrap();
    there
        .execute(
            "SELECT pg_drop_replication_slot(slot) FROM unnest(ARRAY['gap_none', 'gap_late']) slot",
            &[],
        )
        .unwrap();
}

/// The pieces of a large transaction, of which the reader wants nothing but what is in the last, told nothing of the record before: the
/// next record then seemed to follow a gap.
#[test]
fn a_large_transaction_of_which_only_the_end_is_wanted_names_the_record_before() {
    let cluster = CLUSTER.lease();
    cluster.create_table("gap_bulk", "CREATE TABLE gap_bulk (id int PRIMARY KEY, v text)");
    cluster.create_table("gap_few", "CREATE TABLE gap_few (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    make_slot(&mut client, "gap_end");
    client
        .batch_execute(
            "BEGIN; INSERT INTO gap_bulk SELECT n, repeat('v', 1000) FROM generate_series(1, 600) n; INSERT INTO gap_few VALUES (1); COMMIT;
             INSERT INTO gap_few VALUES (2)",
        )
        .unwrap();
    let wanted = ", 'include-tables', 'public.gap_few'";
    let records = read_with(&mut client, "gap_end", wanted).unwrap().records;
    assert_eq!(records.len(), 2);
    let before = records[0].1.expect("the first record names the one before");
    assert!(before < records[0].0, "{records:?}");
    assert_eq!(records[1].1, Some(records[0].0));
    client
        .execute("SELECT pg_drop_replication_slot('gap_end')", &[])
        .unwrap();
}

/// Which origin is this node's own is known when its workers have begun; a reader may be there earlier.
#[test]
fn what_was_made_here_is_told_before_the_workers_have_begun() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("early_read", "CREATE TABLE early_read (id int PRIMARY KEY)");
    make_slot(&mut cluster.client(0), "early_reader");
    for (node, id) in [(0, 1), (1, 2)] {
        let sql = format!("INSERT INTO early_read VALUES ({id})");
        cluster.client(node).batch_execute(&sql).unwrap();
    }
    assert_converged(&cluster, &["early_read"]);
    cluster.server(0).failpoint("origin");
    cluster.server_mut(0).restart(StopMode::Fast);
    let mut client = cluster.client(0);
    let told = "SELECT data FROM pg_logical_slot_peek_changes('early_reader', NULL, NULL, 'only-local', 'on')
                 WHERE data LIKE 'table%'";
    let told: Vec<String> = client.query(told, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    cluster.server(0).failpoint("");
    assert_eq!(told, ["table public.early_read: INSERT: id[integer]:1"]);
    client
        .execute("SELECT pg_drop_replication_slot('early_reader')", &[])
        .unwrap();
    assert_converged(&cluster, &["early_read"]);
}

/// A slot that was made by copying one of another plugin begins where no slot of ours was.
#[test]
fn changes_from_before_the_first_slot_are_an_error() {
    let cluster = CLUSTER.lease();
    cluster.create_table("unseen", "CREATE TABLE unseen (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client
        .execute(
            "SELECT pg_create_logical_replication_slot('other_plugin', 'test_decoding')",
            &[],
        )
        .unwrap();
    client.batch_execute("INSERT INTO unseen VALUES (1)").unwrap();
    client
        .execute(
            "SELECT pg_copy_logical_replication_slot('other_plugin', 'copied_slot', false, 'synod')",
            &[],
        )
        .unwrap();
    let error = failed("reading the copied slot", read(&mut client, "copied_slot"), &["55000"]);
    assert!(error.hint().is_some(), "{error:?}");
    for slot in ["other_plugin", "copied_slot"] {
        client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).unwrap();
    }
}

/// The rows that a node copies when it joins are nobody's changes, and what came before them is missing.
#[test]
fn a_copied_node_ends_its_slots() {
    let cluster = CLUSTER.lease();
    cluster.create_table("copied_rows", "CREATE TABLE copied_rows (id int PRIMARY KEY)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO copied_rows VALUES (1), (2)")
        .unwrap();
    let mut server = Server::new("alone", SETTINGS);
    server.start();
    let mut client = server.client();
    client
        .batch_execute(
            "CREATE EXTENSION synod; CREATE TABLE own (id int); CREATE TABLE copied_rows (id int PRIMARY KEY)",
        )
        .unwrap();
    make_slot(&mut client, "alone");
    client.batch_execute("INSERT INTO own VALUES (1)").unwrap();
    client
        .execute(
            "SELECT synod.join_group($1, 'n4', $2)",
            &[&cluster.server(0).dsn(), &server.dsn()],
        )
        .unwrap();
    let error = failed("reading past the copy", read(&mut client, "alone"), &["55000"]);
    assert!(error.hint().is_some(), "{error:?}");
    assert!(error.message().contains("copied"), "{error:?}");
    make_slot(&mut client, "after");
    cluster
        .client(1)
        .batch_execute("INSERT INTO copied_rows VALUES (3)")
        .unwrap();
    client.execute("SELECT synod.wait_for(synod.last_csn())", &[]).unwrap();
    assert_converged(&cluster, &["copied_rows"]);
    synod_testkit::wait_until(std::time::Duration::from_secs(30), "the record to arrive", || {
        let reading = read(&mut client, "after").unwrap();
        (reading.told.len() == 1).then_some(())
    });
    client
        .batch_execute("SELECT pg_drop_replication_slot('alone'), pg_drop_replication_slot('after')")
        .unwrap();
    client.batch_execute("SELECT synod.leave_group()").unwrap();
}
