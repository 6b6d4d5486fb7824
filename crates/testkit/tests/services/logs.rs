//! Named logs.

use std::time::Duration;

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use synod_testkit::{StopMode, sqlstate, wait_until};

use crate::{CLUSTER, append, refused_sql, values};

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

/// Its session gives way while it waits for the entry: with 40001 a client would append it again.
#[test]
fn who_gives_way_is_not_told_to_append_again() {
    let cluster = CLUSTER.lease();
    cluster.create_table("in_the_way", "CREATE TABLE in_the_way (id int PRIMARY KEY)");
    for (sql, code, left) in [
        ("SELECT synod.append('told_once', 'a')", "08007", "a"),
        ("SELECT synod.append('told_once', 'b', 1)", "40001", "b"),
    ] {
        let mut client = cluster.client(0);
        client.batch_execute("BEGIN; SELECT FROM in_the_way").unwrap();
        let server = cluster.server(0);
        let worker = server.pid_of("synod apply worker");
        server.pause_process(worker);
        cluster.client(1).batch_execute("TRUNCATE in_the_way").unwrap();
        let error = std::thread::scope(|scope| {
            let told = scope.spawn(|| client.batch_execute(sql));
            // The entry is decided behind the TRUNCATE that its session is in the way of.
            wait_until(Duration::from_secs(30), "the entry elsewhere", || {
                let last = values(&mut cluster.client(1), "told_once");
                last.last().is_some_and(|(_, value)| value == left).then_some(())
            });
            server.resume_process(worker);
            told.join().unwrap().expect_err("the session is in the way")
        });
        assert_eq!(sqlstate(&error), Some(code), "{sql}: {error:?}");
        drop(client);
    }
    assert_eq!(values(&mut cluster.client(0), "told_once").len(), 2);
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

/// An entry that was appended is never said not to be, though it is gone before its session looks.
#[test]
fn an_entry_may_be_trimmed_before_its_round_is_read() {
    let cluster = CLUSTER.lease();
    append(&mut cluster.client(0), "hasty", "1");
    let told = |last: i64, sql: &'static str| {
        let mut client = cluster.client(0);
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        client.batch_execute("SET synod.failpoint = 'stop appended'").unwrap();
        std::thread::scope(|scope| {
            let appending = scope.spawn(move || client.query_one(sql, &[]).map(|row| row.get::<_, Option<i64>>(0)));
            cluster.server(0).wait_frozen(pid);
            let mut other = cluster.client(1);
            assert_eq!(append(&mut other, "hasty", "later"), last);
            other.batch_execute("SELECT synod.trim_log('hasty', 1000)").unwrap();
            cluster
                .client(0)
                .batch_execute("SELECT * FROM synod.log('hasty')")
                .unwrap();
            cluster.server(0).resume_process(pid);
            appending.join().unwrap()
        })
    };
    assert_eq!(told(3, "SELECT synod.append('hasty', 'x')").unwrap(), None);
    let unknown = told(5, "SELECT synod.append('hasty', 'x', 3)").expect_err("it is gone");
    assert_eq!(sqlstate(&unknown), Some("08007"), "{unknown:?}");
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

/// A superuser could: a row less, and the next round was another one on this node; a column more, and no node could apply what came next.
#[test]
fn nobody_else_writes_or_redefines_what_logs_are_kept_in() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    assert_eq!(append(&mut client, "own", "1"), 1);
    for sql in [
        "DELETE FROM synod.log_entry WHERE log = 'own'",
        "TRUNCATE synod.log_entry",
        "INSERT INTO synod.log_entry SELECT log, 99, csn, node_id, appended_at, value_type, value FROM synod.log_entry",
        "COPY synod.sequence_range FROM PROGRAM 'true'",
        "UPDATE synod.replicated_table SET table_id = table_id + 1",
        "ALTER TABLE synod.log_entry ADD COLUMN note text",
        "ALTER TABLE synod.gapless RENAME TO numbers",
        "ALTER TABLE synod.gapless RENAME COLUMN last_value TO number",
        "CREATE UNIQUE INDEX ON synod.log_entry (value)",
        "CREATE RULE nothing AS ON INSERT TO synod.gapless DO INSTEAD NOTHING",
        "ALTER SCHEMA synod RENAME TO council",
        "ALTER EXTENSION synod DROP TABLE synod.log_entry",
    ] {
        refused_sql(&mut client, sql, "0A000");
    }
    for sql in [
        "ALTER TABLE synod.log_entry SET (autovacuum_enabled = on)",
        "VACUUM synod.log_entry",
        "REINDEX TABLE synod.log_entry",
    ] {
        client.batch_execute(sql).unwrap();
    }
    assert_eq!(append(&mut client, "own", "2"), 2);
    for node in 0..3 {
        let expected = [(1, "1".to_owned()), (2, "2".to_owned())];
        assert_eq!(values(&mut cluster.client(node), "own"), expected);
    }
}

#[test]
fn without_a_majority_nothing_is_appended_or_nobody_knows() {
    let mut cluster = CLUSTER.lease();
    assert_eq!(append(&mut cluster.client(0), "alone", "before"), 1);
    for node in [1, 2] {
        cluster.server_mut(node).stop(StopMode::Immediate);
    }
    let mut client = cluster.client(0);
    client.batch_execute("SET synod.commit_timeout = '500ms'").unwrap();
    let ended = |client: &mut Client| {
        let error = client
            .query_one("SELECT synod.append('alone', 'x')", &[])
            .expect_err("there is no majority");
        sqlstate(&error).map(str::to_owned)
    };
    // Until the node knows that it is alone, it proposes, and cannot tell what comes of it.
    let mut unknown = 0;
    wait_until(Duration::from_secs(30), "a refusal", || {
        match ended(&mut client).as_deref() {
            Some("57P03") => Some(()),
            Some("08007") => {
                unknown += 1;
                None
            }
            other => panic!("{other:?}"),
        }
    });
    // Nor has one that starts alone: what it waits for is said.
    cluster.server_mut(0).stop(StopMode::Fast);
    cluster.server_mut(0).start();
    let mut client = cluster.client(0);
    client.batch_execute("SET synod.read_timeout = '500ms'").unwrap();
    let told = wait_until(Duration::from_secs(30), "the log worker", || {
        let error = client
            .query_one("SELECT synod.next_gapless('alone')", &[])
            .expect_err("there is no majority");
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "57P03", "{error:?}");
        error
            .detail()
            .filter(|detail| detail.contains("no majority"))
            .map(|_| error.clone())
    });
    assert!(told.hint().is_some_and(|hint| hint.contains("synod.nodes")), "{told:?}");
    cluster.start_all();
    let last = wait_until(Duration::from_secs(60), "an append", || {
        let row = cluster
            .client(0)
            .query_one("SELECT synod.append('alone', 'after')", &[])
            .ok()?;
        Some(row.get::<_, i64>(0))
    });
    let entries = values(&mut cluster.client(1), "alone");
    assert_eq!(entries.len() as i64, last);
    let in_doubt = entries.iter().filter(|(_, value)| value == "x").count();
    assert!(in_doubt <= unknown, "{in_doubt} of {unknown}");
}
