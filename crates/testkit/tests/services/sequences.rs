//! Ids from sequences, and numbers without gaps.

use std::io::Write;
use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, Outcome, Session, assert_converged, sqlstate, wait_until};

use crate::{CLUSTER, append, values};

/// Every node inserts with sessions of its own; the ids that they were told.
fn insert_everywhere(cluster: &Cluster, sql: &str, sessions: usize, each: usize) -> Vec<i64> {
    let insert = |node: usize| {
        let mut client = cluster.client(node);
        let mut ids = Vec::new();
        for _ in 0..each {
            let rows = client
                .query(sql, &[])
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            ids.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        }
        ids
    };
    let insert = &insert;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3 * sessions)
            .map(|number| scope.spawn(move || insert(number % 3)))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[track_caller]
fn assert_distinct(mut ids: Vec<i64>, count: usize) {
    assert_eq!(ids.len(), count);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "some were given out twice");
}

#[test]
fn ids_of_three_nodes_never_meet() {
    let cluster = CLUSTER.lease();
    cluster.create_table("by_serial", "CREATE TABLE by_serial (id bigserial PRIMARY KEY, v int)");
    cluster.create_table(
        "by_identity",
        "CREATE TABLE by_identity (id bigint GENERATED ALWAYS AS IDENTITY, v int)",
    );
    for table in ["by_serial", "by_identity"] {
        let sql = format!("INSERT INTO {table} (v) VALUES (1) RETURNING id");
        let ids = insert_everywhere(&cluster, &sql, 2, 50);
        assert_distinct(ids, 300);
        assert_converged(&cluster, &[table]);
    }
    cluster
        .client(0)
        .batch_execute(
            "CREATE FUNCTION drawn(OUT id bigint) LANGUAGE plpgsql AS
             'BEGIN FOR n IN 1..20 LOOP id := nextval(''by_serial_id_seq''); END LOOP; END'",
        )
        .unwrap();
    // By hand, in all the ways in which a value can be drawn.
    for sql in [
        "SELECT nextval('by_serial_id_seq')",
        "SELECT nextval(pg_get_serial_sequence('by_serial', 'id'))",
        "SELECT nextval('by_serial_id_seq') FROM generate_series(1, 30)",
        "SELECT drawn()",
    ] {
        let ids = insert_everywhere(&cluster, sql, 1, 3);
        let count = ids.len();
        assert_distinct(ids, count);
    }
    let mut client = cluster.client(0);
    let id: i64 = client
        .query_one("INSERT INTO by_serial (v) VALUES (2) RETURNING id", &[])
        .unwrap()
        .get(0);
    let current: i64 = client
        .query_one("SELECT currval('by_serial_id_seq')", &[])
        .unwrap()
        .get(0);
    assert_eq!(id, current);
}

#[test]
fn bulk_loads_get_ranges_of_their_size() {
    let cluster = CLUSTER.lease();
    cluster.create_table("bulk", "CREATE TABLE bulk (id bigserial PRIMARY KEY, v int)");
    std::thread::scope(|scope| {
        for node in 0..3 {
            let cluster = &cluster;
            scope.spawn(move || {
                cluster
                    .client(node)
                    .batch_execute("INSERT INTO bulk (v) SELECT generate_series(1, 30000)")
                    .unwrap_or_else(|error| panic!("{error:?}"));
            });
        }
    });
    // COPY does not say how much will come: it may have to be tried again, never more than a few times.
    std::thread::scope(|scope| {
        for node in 0..3 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut client = cluster.client(node);
                let copied = (0..10).any(|_| copy_in(&mut client, "COPY bulk (v) FROM STDIN", 20_000));
                assert!(copied, "COPY of node {node}");
            });
        }
    });
    let (rows, ids): (i64, i64) = {
        let row = cluster
            .client(1)
            .query_one("SELECT count(*), count(DISTINCT id) FROM bulk", &[])
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!((rows, ids), (150_000, 150_000));
    assert_converged(&cluster, &["bulk"]);
}

/// COPY of so many rows of one number; false when it has to be tried again.
fn copy_in(client: &mut Client, sql: &str, rows: usize) -> bool {
    let mut writer = client.copy_in(sql).unwrap();
    writer.write_all("1\n".repeat(rows).as_bytes()).unwrap();
    match writer.finish() {
        Ok(count) => {
            assert_eq!(count, rows as u64);
            true
        }
        Err(error) => {
            assert_eq!(sqlstate(&error), Some("40001"), "{error:?}");
            false
        }
    }
}

#[test]
fn sequences_of_every_shape() {
    let cluster = CLUSTER.lease();
    for (name, options, column) in [
        ("down", "INCREMENT BY -1", "bigint"),
        ("tens", "INCREMENT BY 10 START 5", "bigint"),
        ("cached", "CACHE 20", "bigint"),
        ("small", "AS smallint MAXVALUE 3000", "smallint"),
        ("round", "MAXVALUE 100 CYCLE", "bigint"),
    ] {
        cluster.on_all(&format!("CREATE SEQUENCE {name}_seq {options}"));
        cluster.create_table(
            name,
            &format!("CREATE TABLE {name} (id {column} DEFAULT nextval('{name}_seq'), v int)"),
        );
        let sql = format!("INSERT INTO {name} (v) VALUES (1) RETURNING id::bigint");
        let ids = insert_everywhere(&cluster, &sql, 2, 30);
        match name {
            "down" => assert!(ids.iter().all(|id| *id < 0)),
            "tens" => assert!(ids.iter().all(|id| id % 10 == 5)),
            "round" => assert!(ids.iter().all(|id| (1..=100).contains(id))),
            _ => {}
        }
        if name != "round" {
            assert_distinct(ids, 180);
        }
        assert_converged(&cluster, &[name]);
    }
    // Used up: an error, as anywhere else.
    let mut client = cluster.client(0);
    let error = (0..200)
        .find_map(|_| {
            client
                .batch_execute("INSERT INTO small (v) SELECT generate_series(1, 40)")
                .err()
        })
        .expect("3000 values do not last for ever");
    assert_eq!(sqlstate(&error), Some("2200H"), "{error:?}");
    client.batch_execute("INSERT INTO small VALUES (1, 1)").unwrap();
}

#[test]
fn where_users_put_a_sequence() {
    let cluster = CLUSTER.lease();
    cluster.create_table("moved", "CREATE TABLE moved (id bigserial PRIMARY KEY, v int)");
    let insert = "INSERT INTO moved (v) VALUES (1) RETURNING id";
    let mut clients: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();
    // What another node has just done to the sequence or the table may not be here yet.
    let mut id = |node: usize| -> i64 {
        wait_until(Duration::from_secs(20), "an id", || {
            clients[node].query_one(insert, &[]).ok()
        })
        .get(0)
    };
    assert_eq!(id(0), 1);
    assert!(id(1) > 1);
    // Forward: everybody goes on behind it, sooner or later.
    let mut client = cluster.client(0);
    client.batch_execute("SELECT setval('moved_id_seq', 1000000)").unwrap();
    assert_eq!(id(0), 1_000_001);
    client
        .batch_execute("INSERT INTO moved VALUES (2000000, 1); SELECT setval('moved_id_seq', 2000000)")
        .unwrap();
    assert_eq!(id(0), 2_000_001);
    client
        .batch_execute("ALTER SEQUENCE moved_id_seq RESTART WITH 3000000")
        .unwrap();
    assert_eq!(id(0), 3_000_000);
    // Back: what was granted is not granted again.
    client.batch_execute("SELECT setval('moved_id_seq', 1)").unwrap();
    assert!(id(0) > 3_000_000);
    // TRUNCATE ... RESTART IDENTITY begins again, everywhere.
    client
        .batch_execute("BEGIN; TRUNCATE moved RESTART IDENTITY; INSERT INTO moved (v) VALUES (1), (2); COMMIT")
        .unwrap();
    let first: Vec<i64> = client
        .query("SELECT id FROM moved ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(first, [1, 2]);
    let ids: Vec<i64> = (0..30).map(|number| id(number % 3)).collect();
    assert!(ids.iter().all(|id| *id < 10_000), "{ids:?}");
    assert_distinct(ids, 30);
    client.batch_execute("TRUNCATE moved RESTART IDENTITY").unwrap();
    assert_eq!(id(2), 1);
    assert_converged(&cluster, &["moved"]);
}

/// A table that is made, replicated and filled in one transaction lost to the range that it had asked for.
#[test]
fn a_new_table_draws_from_its_sequence_in_the_transaction_that_replicates_it() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(1);
    client
        .batch_execute(
            "BEGIN; CREATE TABLE newborn (id bigserial PRIMARY KEY, other bigint GENERATED ALWAYS AS IDENTITY, v int);
             SELECT synod.replicate_table('newborn'); INSERT INTO newborn (v) SELECT generate_series(1, 1500); COMMIT",
        )
        .unwrap_or_else(|error| panic!("{error:?}"));
    let ids = insert_everywhere(&cluster, "INSERT INTO newborn (v) VALUES (1) RETURNING id", 1, 5);
    assert_distinct(ids, 15);
    let row = client
        .query_one(
            "SELECT count(*), count(DISTINCT id), count(DISTINCT other) FROM newborn",
            &[],
        )
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)),
        (1515, 1515, 1515)
    );
    assert_converged(&cluster, &["newborn"]);
}

/// What was granted stays granted when the number of the fed column changes: by DROP COLUMN, by DROP TYPE ... CASCADE, and not when
/// that is rolled back.
#[test]
fn a_column_before_one_fed_by_a_sequence_can_be_dropped() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "narrowed",
        "CREATE TYPE shade AS ENUM ('dark'); CREATE DOMAIN amount AS int;
         CREATE TABLE narrowed (first int, tint shade, id bigserial, sum amount, other bigint GENERATED BY DEFAULT AS IDENTITY, v int)",
    );
    let insert = "INSERT INTO narrowed (v) VALUES (1) RETURNING id, other";
    let draw = |node: usize| -> (i64, i64) {
        let row = wait_until(Duration::from_secs(20), "a row", || {
            cluster.client(node).query_one(insert, &[]).ok()
        });
        (row.get(0), row.get(1))
    };
    let mut drawn = vec![draw(0)];
    for (node, sql) in [
        (1, "ALTER TABLE narrowed DROP COLUMN first"),
        (2, "DROP TYPE shade CASCADE"),
        (
            0,
            "BEGIN; DROP DOMAIN amount CASCADE; ALTER TABLE narrowed DROP COLUMN v; ROLLBACK",
        ),
        (
            1,
            "BEGIN; SAVEPOINT a; ALTER TABLE narrowed DROP COLUMN other; ROLLBACK TO a; ALTER TABLE narrowed DROP COLUMN sum; COMMIT",
        ),
    ] {
        // A node that has no range yet asks after the change.
        cluster
            .client(node)
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        for node in 0..3 {
            drawn.push(draw(node));
        }
    }
    // More than a range, so that the next ones are granted under the new numbers.
    let many = "INSERT INTO narrowed (v) SELECT generate_series(1, 1500) RETURNING id";
    insert_everywhere(&cluster, many, 1, 2);
    let count = drawn.len() as i64 + 9000;
    let row = cluster
        .client(2)
        .query_one(
            "SELECT count(*), count(DISTINCT id), count(DISTINCT other) FROM narrowed",
            &[],
        )
        .unwrap();
    let found: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(found, (count, count, count), "some were given out twice");
    assert_converged(&cluster, &["narrowed"]);
    let ranges = "SELECT string_agg(r::text, ' ' ORDER BY column_number, node_id) FROM synod.sequence_range r
                  JOIN synod.tables t USING (table_id) WHERE t.table_name = 'narrowed'::regclass";
    let on_node = |node: usize| -> Option<String> { cluster.client(node).query_one(ranges, &[]).ok()?.get(0) };
    wait_until(Duration::from_secs(20), "equal ranges", || {
        (on_node(0).is_some() && on_node(0) == on_node(1) && on_node(1) == on_node(2)).then_some(())
    });
}

/// The range was granted under a number that was another column's on the other nodes, or nobody's, and given out by two nodes later.
#[test]
fn who_has_dropped_a_column_takes_no_range_by_the_new_numbers() {
    let cluster = CLUSTER.lease();
    cluster.create_table("shifted", "CREATE TABLE shifted (first int, id bigserial, v int)");
    let insert = "INSERT INTO shifted (v) VALUES (1) RETURNING id";
    let mut ids: Vec<i64> = vec![cluster.client(0).query_one(insert, &[]).unwrap().get(0)];
    // This node has no range yet.
    let mut client = cluster.client(1);
    let error = client
        .batch_execute("BEGIN; ALTER TABLE shifted DROP COLUMN first; INSERT INTO shifted (v) VALUES (1)")
        .unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{error:?}");
    client
        .batch_execute("ROLLBACK; ALTER TABLE shifted DROP COLUMN first")
        .unwrap();
    ids.push(client.query_one(insert, &[]).unwrap().get(0));
    // With a range of its own it draws from that.
    client
        .batch_execute("BEGIN; ALTER TABLE shifted ADD COLUMN last int; ALTER TABLE shifted DROP COLUMN v; INSERT INTO shifted (last) VALUES (1); COMMIT")
        .unwrap();
    ids.extend(insert_everywhere(
        &cluster,
        "INSERT INTO shifted (last) VALUES (1) RETURNING id",
        1,
        3,
    ));
    assert_distinct(ids, 11);
    let count: i64 = client
        .query_one("SELECT count(DISTINCT id) FROM shifted", &[])
        .unwrap()
        .get(0);
    assert_eq!(count, 12);
    assert_converged(&cluster, &["shifted"]);
}

/// A sequence of nobody's is known by the columns that draw from it: when the first of them does so no more, what was granted is still
/// known.
#[test]
fn a_shared_sequence_outlives_the_column_by_which_it_was_known() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "drawing",
        "CREATE SEQUENCE drawn_from; CREATE TABLE drawing (a bigint DEFAULT nextval('drawn_from'), v int, b bigint DEFAULT nextval('drawn_from'))",
    );
    let insert = "INSERT INTO drawing (v) VALUES (1) RETURNING b";
    let mut ids = Vec::new();
    let mut draw = |nodes: &[usize]| {
        for node in nodes {
            let row = wait_until(Duration::from_secs(20), "a row", || {
                cluster.client(*node).query_one(insert, &[]).ok()
            });
            ids.push(row.get::<_, i64>(0));
        }
    };
    draw(&[0, 1]);
    let mut client = cluster.client(0);
    client
        .batch_execute("ALTER TABLE drawing ALTER COLUMN a DROP DEFAULT")
        .unwrap();
    draw(&[2, 0, 1]);
    client
        .batch_execute("ALTER TABLE drawing ADD COLUMN c bigint; ALTER TABLE drawing ALTER COLUMN c SET DEFAULT nextval('drawn_from'); ALTER TABLE drawing DROP COLUMN b")
        .unwrap();
    for node in [2, 0, 1] {
        let rows = wait_until(Duration::from_secs(20), "rows", || {
            let sql = "INSERT INTO drawing (v) SELECT generate_series(1, 700) RETURNING c";
            cluster.client(node).query(sql, &[]).ok()
        });
        ids.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    let count = ids.len();
    assert_distinct(ids, count);
    assert_converged(&cluster, &["drawing"]);
}

#[test]
fn partitions_share_the_sequence_of_their_table() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "parted",
        "CREATE TABLE parted (id bigserial, other bigint GENERATED BY DEFAULT AS IDENTITY, v int) PARTITION BY HASH (v);
         CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    );
    let insert = "INSERT INTO parted (v) SELECT generate_series(1, 4) RETURNING id + other * 0";
    assert_distinct(insert_everywhere(&cluster, insert, 1, 10), 120);
    let mut client = cluster.client(1);
    client.batch_execute("TRUNCATE parted RESTART IDENTITY").unwrap();
    let id: i64 = client
        .query_one("INSERT INTO parted (v) VALUES (1) RETURNING id", &[])
        .unwrap()
        .get(0);
    assert_eq!(id, 1);
    assert_distinct(insert_everywhere(&cluster, insert, 1, 10), 120);
    let (rows, ids): (i64, i64) = {
        let row = client
            .query_one("SELECT count(*), count(DISTINCT (id, other)) FROM parted", &[])
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!((rows, ids), (121, 121));
    assert_converged(&cluster, &["parted_0", "parted_1"]);
}

#[test]
fn a_range_is_given_up_in_a_crash() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("crashed", "CREATE TABLE crashed (id bigserial PRIMARY KEY, v int)");
    let insert = "INSERT INTO crashed (v) VALUES (1) RETURNING id";
    for _ in 0..20 {
        insert_everywhere(&cluster, insert, 1, 1);
    }
    let greatest = |cluster: &Cluster| -> i64 {
        cluster
            .client(0)
            .query_one("SELECT max(id) FROM crashed", &[])
            .unwrap()
            .get(0)
    };
    let before = greatest(&cluster);
    cluster.server_mut(1).kill9();
    cluster.server_mut(1).start();
    let mut client = cluster.client(1);
    let id: i64 = wait_until(Duration::from_secs(30), "an INSERT after the crash", || {
        Some(client.query_one(insert, &[]).ok()?.get(0))
    });
    assert!(id > before, "{id} after {before}");
    let ids = insert_everywhere(&cluster, insert, 1, 10);
    assert_distinct(ids, 30);
    assert_converged(&cluster, &["crashed"]);
}

#[test]
fn gapless_numbers_have_no_gaps() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "invoices",
        "CREATE TABLE invoices (number bigint PRIMARY KEY, node int)",
    );
    const EACH: usize = 15;
    std::thread::scope(|scope| {
        for node in 0..3 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut session = Session::new(cluster.server(node));
                for number in 0..EACH {
                    if number % 5 == 0 {
                        // Given back.
                        let client = session.client().unwrap();
                        let _ = client.batch_execute("BEGIN; SELECT synod.next_gapless('invoice')");
                        client.batch_execute("ROLLBACK").unwrap();
                    }
                    let outcome = session.transact("", |transaction| {
                        transaction.execute(
                            "INSERT INTO invoices SELECT synod.next_gapless('invoice'), $1",
                            &[&(node as i32)],
                        )
                    });
                    assert!(matches!(outcome, Outcome::Committed(1)), "{outcome:?}");
                }
            });
        }
    });
    let row = cluster
        .client(0)
        .query_one("SELECT count(*), min(number), max(number) FROM invoices", &[])
        .unwrap();
    let all = 3 * EACH as i64;
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)),
        (all, 1, all)
    );
    assert_converged(&cluster, &["invoices"]);
}

#[test]
fn who_joins_gets_it_all() {
    let cluster = CLUSTER.lease();
    cluster.create_table("joined", "CREATE TABLE joined (id bigserial PRIMARY KEY, v int)");
    let insert = "INSERT INTO joined (v) VALUES (1) RETURNING id";
    insert_everywhere(&cluster, insert, 1, 2);
    append(&mut cluster.client(0), "joined", "before");
    cluster
        .client(0)
        .batch_execute("SELECT synod.next_gapless('joined')")
        .unwrap();
    let mut leaver = cluster.client(2);
    append(&mut leaver, "joined", "leaving");
    let highest = |client: &mut Client| -> i64 {
        client
            .query_one(
                "SELECT granted FROM synod.sequences WHERE table_name = 'joined'::regclass",
                &[],
            )
            .unwrap()
            .get(0)
    };
    let granted = highest(&mut leaver);
    let tables: String = leaver
        .query_one("SELECT string_agg(table_name::text, ', ') FROM synod.tables", &[])
        .unwrap()
        .get(0);
    leaver.batch_execute("SELECT synod.leave_group()").unwrap();
    // Alone, its sequences go on behind all that the group may have used.
    let id: i64 = leaver.query_one(insert, &[]).unwrap().get(0);
    assert_eq!(id, granted + 1);
    append(&mut cluster.client(0), "joined", "meanwhile");
    leaver.batch_execute(&format!("TRUNCATE {tables}")).unwrap();
    let (via, own) = (cluster.server(0).dsn(), cluster.server(2).dsn());
    leaver
        .execute("SELECT synod.join_group($1, 'n3', $2)", &[&via, &own])
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(append(&mut leaver, "joined", "after"), 4);
    assert_eq!(values(&mut leaver, "joined"), values(&mut cluster.client(0), "joined"));
    assert_eq!(highest(&mut leaver), granted);
    let number: i64 = leaver
        .query_one("SELECT synod.next_gapless('joined')", &[])
        .unwrap()
        .get(0);
    assert_eq!(number, 2);
    assert_distinct(insert_everywhere(&cluster, insert, 1, 5), 15);
    assert_converged(&cluster, &["joined"]);
}

/// What one node restarts, forward or not, was set on the others, too: into the range that they had in use, and ids were given out twice.
#[test]
fn a_restart_on_another_node_takes_nobody_back() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "restarted",
        "CREATE TABLE restarted (id bigserial, other int GENERATED BY DEFAULT AS IDENTITY, mark uuid PRIMARY KEY DEFAULT gen_random_uuid())",
    );
    let insert = |node: usize| -> (i64, i32) {
        let sql = "INSERT INTO restarted SELECT FROM generate_series(1, 5) RETURNING id, other";
        let row = cluster.client(node).query(sql, &[]).unwrap().pop().unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(insert(0), (5, 5));
    insert(1);
    let alter = |sql: &str| cluster.client(1).batch_execute(sql).unwrap();
    alter("ALTER SEQUENCE restarted_id_seq RESTART WITH 3");
    alter("ALTER TABLE restarted ALTER other RESTART WITH 2");
    assert_eq!(insert(0), (10, 10));
    alter("ALTER SEQUENCE restarted_id_seq RESTART");
    assert_eq!(insert(0), (15, 15));
    alter("ALTER SEQUENCE restarted_id_seq RESTART WITH 500");
    assert!(insert(0).0 >= 504);
    alter("ALTER SEQUENCE restarted_id_seq RESTART WITH 1000000");
    assert!(insert(0).0 > 1_000_000);
    for node in [1, 2] {
        insert(node);
    }
    let sql = "SELECT count(*) - count(DISTINCT id), count(*) - count(DISTINCT other) FROM restarted";
    let twice = cluster.client(2).query_one(sql, &[]).unwrap();
    assert_eq!((twice.get::<_, i64>(0), twice.get::<_, i64>(1)), (0, 0));
    assert_converged(&cluster, &["restarted"]);
}
