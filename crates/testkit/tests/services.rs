//! Named logs, sequences and gapless numbers of a group.

use std::io::Write;
use std::time::Duration;

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use synod_testkit::{Cluster, Options, Outcome, Session, SharedCluster, assert_converged, sqlstate, wait_until};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);

fn append(client: &mut Client, log: &str, value: &str) -> i64 {
    client
        .query_one("SELECT synod.append($1, $2::text)", &[&log, &value])
        .unwrap_or_else(|error| panic!("append to {log}: {error:?}"))
        .get(0)
}

#[track_caller]
fn refused_sql(client: &mut Client, sql: &str, code: &str) {
    let error = client.batch_execute(sql).expect_err(sql);
    assert_eq!(sqlstate(&error), Some(code), "{sql}: {error}");
}

fn values(client: &mut Client, log: &str) -> Vec<(i64, String)> {
    client
        .query("SELECT round, value FROM synod.log($1)", &[&log])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

#[test]
fn every_node_has_the_same_log() {
    let cluster = CLUSTER.lease();
    const EACH: i64 = 20;
    std::thread::scope(|scope| {
        for node in 0..3 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut client = cluster.client(node);
                for number in 0..EACH {
                    let round = append(&mut client, "same", &format!("{node}-{number}"));
                    // A statement after it sees it, on any node.
                    let mut other = cluster.client((node + 1) % 3);
                    let seen: String = other
                        .query_one("SELECT value FROM synod.log('same', $1) LIMIT 1", &[&round])
                        .unwrap()
                        .get(0);
                    assert_eq!(seen, format!("{node}-{number}"));
                }
            });
        }
    });
    let logs: Vec<_> = (0..3).map(|node| values(&mut cluster.client(node), "same")).collect();
    assert_eq!(logs[0], logs[1]);
    assert_eq!(logs[0], logs[2]);
    let rounds: Vec<i64> = logs[0].iter().map(|(round, _)| *round).collect();
    assert_eq!(rounds, (1..=3 * EACH).collect::<Vec<_>>());
}

#[test]
fn an_entry_stays_when_its_transaction_rolls_back() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client
        .batch_execute("BEGIN; SELECT synod.append('kept', 'a'); ROLLBACK")
        .unwrap();
    assert_eq!(values(&mut cluster.client(1), "kept"), [(1, "a".to_owned())]);
    // READ COMMITTED sees it in the next statement, REPEATABLE READ keeps its snapshot.
    let mut transaction = client.transaction().unwrap();
    let round: i64 = transaction
        .query_one("SELECT synod.append('kept', 'b')", &[])
        .unwrap()
        .get(0);
    let last: i64 = transaction
        .query_one("SELECT round FROM synod.last('kept')", &[])
        .unwrap()
        .get(0);
    assert_eq!((round, last), (2, 2));
    transaction.rollback().unwrap();
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM synod.last('kept')")
        .unwrap();
    assert_eq!(append(&mut client, "kept", "c"), 3);
    let last: i64 = client
        .query_one("SELECT round FROM synod.last('kept')", &[])
        .unwrap()
        .get(0);
    assert_eq!(last, 2);
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn values_of_all_types_come_back() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "SELECT synod.append('types', 'é'::text); SELECT synod.append('types', '\\x00ff'::bytea);
             SELECT synod.append('types', '{\"a\": [1, 2]}'::jsonb); SELECT synod.append('types', 'literal')",
        )
        .unwrap();
    // Larger than a slot, and larger than what travels within a record.
    for size in [100_000, 1_000_000] {
        client
            .query_one("SELECT synod.append('types', repeat('x', $1))", &[&size])
            .unwrap();
    }
    let rows = cluster
        .client(2)
        .query(
            "SELECT value_type::text, value, bytes, length(bytes) FROM synod.log('types')",
            &[],
        )
        .unwrap();
    let types: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(types, ["text", "bytea", "jsonb", "text", "text", "text"]);
    assert_eq!(rows[0].get::<_, String>(1), "é");
    assert_eq!(rows[1].get::<_, Option<String>>(1), None);
    assert_eq!(rows[1].get::<_, Vec<u8>>(2), [0, 255]);
    assert_eq!(rows[2].get::<_, String>(1), "{\"a\": [1, 2]}");
    assert_eq!(rows[5].get::<_, i32>(3), 1_000_000);
    refused_sql(
        &mut client,
        "SELECT synod.append('types', convert_to(repeat('x', 17000000), 'UTF8'))",
        "54000",
    );
}

#[test]
fn one_of_those_who_append_after_a_round_wins() {
    let cluster = CLUSTER.lease();
    append(&mut cluster.client(0), "lock", "free");
    let winners: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|number| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut client = cluster.client(number % 3);
                    match client.query_one("SELECT synod.append('lock', 'mine', 1)", &[]) {
                        Ok(row) => {
                            assert_eq!(row.get::<_, i64>(0), 2);
                            true
                        }
                        Err(error) => {
                            assert_eq!(sqlstate(&error), Some("40001"));
                            false
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(winners.iter().filter(|won| **won).count(), 1);
    assert_eq!(values(&mut cluster.client(1), "lock").len(), 2);
}

#[test]
fn those_who_listen_are_woken_on_every_node() {
    let cluster = CLUSTER.lease();
    let mut listeners: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();
    for client in &mut listeners {
        client.batch_execute("LISTEN synod_news").unwrap();
    }
    append(&mut cluster.client(1), "news", "x");
    for client in &mut listeners {
        let notification = client
            .notifications()
            .timeout_iter(Duration::from_secs(10))
            .next()
            .unwrap()
            .expect("a notification");
        assert_eq!((notification.channel(), notification.payload()), ("synod_news", "1"));
        assert_eq!(values(client, "news"), [(1, "x".to_owned())]);
    }
}

#[test]
fn a_log_is_trimmed_but_for_its_last_entry() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    for value in ["a", "b", "c"] {
        append(&mut client, "short", value);
    }
    client.batch_execute("SELECT synod.trim_log('short', 2)").unwrap();
    assert_eq!(values(&mut cluster.client(1), "short").len(), 2);
    client.batch_execute("SELECT synod.trim_log('short', 100)").unwrap();
    assert_eq!(values(&mut cluster.client(2), "short"), [(3, "c".to_owned())]);
    assert_eq!(append(&mut client, "short", "d"), 4);
}

#[test]
fn what_cannot_be_appended_is_refused() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    refused_sql(&mut client, "SELECT synod.append('', 'x')", "42602");
    refused_sql(&mut client, "SELECT synod.append('a b', 'x')", "42602");
    client.batch_execute("BEGIN READ ONLY").unwrap();
    refused_sql(&mut client, "SELECT synod.append('no', 'x')", "25006");
    client
        .batch_execute("ROLLBACK; CREATE ROLE nobody LOGIN; SET ROLE nobody")
        .unwrap();
    refused_sql(&mut client, "SELECT synod.append('no', 'x')", "42501");
    refused_sql(&mut client, "SELECT * FROM synod.log('no')", "42501");
    client.batch_execute("RESET ROLE; DROP ROLE nobody").unwrap();
    assert!(values(&mut client, "no").is_empty());
}

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
    let mut id = |node: usize| -> i64 { clients[node].query_one(insert, &[]).unwrap().get(0) };
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

/// What the services cost here: `cargo test --test services -- --ignored --nocapture rates`.
#[test]
#[ignore = "prints rates, asserts nothing"]
fn rates() {
    let cluster = CLUSTER.lease();
    cluster.create_table("rated", "CREATE TABLE rated (id bigserial PRIMARY KEY, v int)");
    cluster.create_table("plain_ids", "CREATE TABLE plain_ids (id bigint PRIMARY KEY, v int)");
    cluster.client(0).batch_execute("CREATE SEQUENCE aside").unwrap();
    let rate = |what: &str, sessions: usize, sql: &str| {
        const SPAN: Duration = Duration::from_secs(3);
        let count = std::sync::atomic::AtomicU64::new(0);
        let start = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..sessions {
                scope.spawn(|| {
                    let mut client = cluster.client(0);
                    let prepared = client.prepare(sql).unwrap();
                    while start.elapsed() < SPAN {
                        client.execute(&prepared, &[]).unwrap();
                        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        let rate = count.into_inner() as f64 / start.elapsed().as_secs_f64();
        println!("{what}, {sessions} session(s): {rate:.0}/s");
    };
    for sessions in [1, 8] {
        rate("append", sessions, "SELECT synod.append('rated', 'x')");
        rate(
            "INSERT with an id of a sequence",
            sessions,
            "INSERT INTO rated (v) VALUES (1)",
        );
        rate(
            "INSERT with an id that is not the group's",
            sessions,
            "INSERT INTO plain_ids VALUES (nextval('aside'), 1)",
        );
        rate("nextval of the group's", sessions, "SELECT nextval('rated_id_seq')");
        rate("nextval of another", sessions, "SELECT nextval('aside')");
        rate("next_gapless", sessions, "SELECT synod.next_gapless('rated')");
    }
}
