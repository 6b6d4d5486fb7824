//! Every way to write and read: what a client may send to a plain PostgreSQL does the same to strong tables.
//!
//! What can be said in SQL is a script of `statements/`, run on the group and on a plain database; here is the rest: what
//! depends on the protocol, and on more than one session.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use postgres_protocol::message::frontend;
use synod_testkit::{Options, Server, SharedCluster, assert_converged, failed, refused, run_script, wait_until};

/// The servers' own fsync does not matter here; without it, DDL is fast.
static CLUSTER: SharedCluster = SharedCluster::new(Options {
    settings: &[("fsync", "off")],
    ..Options::DEFAULT
});

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run_script(&CLUSTER.lease(), stringify!($name), include_str!(concat!("statements/", stringify!($name), ".sql")));
        }
    )*};
}

scripts! { dml transactions programs triggers sessions }

fn number(client: &mut Client, query: &str) -> i64 {
    client
        .query_one(query, &[])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

/// The extended protocol, with parameters, past the point where a plan becomes generic, each round on another node.
#[test]
fn prepared_statements_of_the_protocol() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "prepared",
        "CREATE TABLE prepared (id int PRIMARY KEY, v text, n numeric)",
    );
    let mut sessions: Vec<_> = (0..3)
        .map(|node| {
            let mut client = cluster.client(node);
            let insert = client
                .prepare("INSERT INTO prepared VALUES ($1, $2, 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v || '+'")
                .unwrap();
            let update = client
                .prepare("UPDATE prepared SET n = n + 1 WHERE id = $1 RETURNING id, n::text")
                .unwrap();
            let read = client
                .prepare("SELECT count(*), sum(n)::bigint FROM prepared WHERE id <= $1")
                .unwrap();
            (client, insert, update, read)
        })
        .collect();
    for round in 0..24 {
        let (client, insert, update, read) = &mut sessions[round as usize % 3];
        if round == 12 {
            client
                .batch_execute("SET plan_cache_mode = force_generic_plan")
                .unwrap();
        }
        assert_eq!(client.execute(insert, &[&(round / 2), &"v"]).unwrap(), 1);
        assert_eq!(client.query(update, &[&(round / 2)]).unwrap().len(), 1);
        let row = client.query_one(read, &[&round]).unwrap();
        assert_eq!(
            (row.get::<_, i64>(0), row.get::<_, i64>(1)),
            (i64::from(round / 2) + 1, i64::from(round) + 1)
        );
    }
    // A portal of the protocol, fetched in parts while the transaction writes.
    let (client, ..) = &mut sessions[1];
    let mut transaction = client.transaction().unwrap();
    let portal = transaction.bind("SELECT id FROM prepared ORDER BY id", &[]).unwrap();
    let mut seen = 0;
    while let rows @ [_, ..] = transaction.query_portal(&portal, 5).unwrap().as_slice() {
        seen += rows.len();
        transaction
            .execute("DELETE FROM prepared WHERE id = $1", &[&rows[0].get::<_, i32>(0)])
            .unwrap();
    }
    transaction.commit().unwrap();
    assert_eq!(seen, 12);
    assert_eq!(number(&mut cluster.client(2), "SELECT count(*) FROM prepared"), 9);
    assert_converged(&cluster, &["prepared"]);
}

/// Many messages before one Sync are one transaction; after an error the rest is skipped, and nothing of it remains.
#[test]
fn pipelines() {
    let cluster = CLUSTER.lease();
    cluster.create_table("piped", "CREATE TABLE piped (id int PRIMARY KEY)");
    let mut pipe = Pipeline::connect(cluster.server(1));
    let first: Vec<String> = (0..50).map(|id| format!("INSERT INTO piped VALUES ({id})")).collect();
    assert_eq!(pipe.run(&first, &[]), ("C".repeat(50), None));
    assert_eq!(number(&mut cluster.client(0), "SELECT count(*) FROM piped"), 50);
    let failing = [
        "INSERT INTO piped VALUES (100)",
        "INSERT INTO piped VALUES (1)",
        "INSERT INTO piped VALUES (101)",
    ];
    assert_eq!(
        pipe.run(&failing.map(String::from), &[]),
        ("CE".into(), Some("23505".into()))
    );
    // A Sync after each is a transaction each.
    assert_eq!(
        pipe.run(&failing.map(String::from), &[0, 1]),
        ("CEC".into(), Some("23505".into()))
    );
    let own = [
        "BEGIN",
        "INSERT INTO piped VALUES (200)",
        "COMMIT",
        "INSERT INTO piped VALUES (201)",
        "SELECT 1 FROM piped WHERE id = 200",
    ];
    assert_eq!(pipe.run(&own.map(String::from), &[]), ("CCCCDC".into(), None));
    assert_eq!(
        number(&mut cluster.client(2), "SELECT count(*) FROM piped WHERE id >= 100"),
        4
    );
    assert_converged(&cluster, &["piped"]);
}

#[test]
fn copy_in_and_out() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "copied",
        "CREATE TABLE copied (id int PRIMARY KEY, v text DEFAULT 'd', n int GENERATED ALWAYS AS (id * 2) STORED)",
    );
    let mut client = cluster.client(0);
    let mut copy_in = |sql: &str, data: &[u8]| {
        let mut writer = client.copy_in(sql).unwrap();
        writer.write_all(data).unwrap();
        writer.finish()
    };
    assert_eq!(
        copy_in("COPY copied (id, v) FROM STDIN", b"1\ta\n2\t\\N\n3\tt\\tab\n").unwrap(),
        3
    );
    assert_eq!(
        copy_in(
            "COPY copied (id) FROM STDIN (FORMAT csv, HEADER) WHERE id <> 5",
            b"id\n4\n5\n6\n"
        )
        .unwrap(),
        2
    );
    failed(
        "COPY of a key that is there",
        copy_in("COPY copied (id) FROM STDIN", b"7\n1\n"),
        &["23505"],
    );
    let mut reader = cluster.client(1);
    let mut out = |sql: &str| {
        let mut bytes = Vec::new();
        reader.copy_out(sql).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(
        out("COPY (SELECT id, n FROM copied ORDER BY id) TO STDOUT"),
        b"1\t2\n2\t4\n3\t6\n4\t8\n6\t12\n"
    );
    assert_eq!(
        out("COPY (DELETE FROM copied WHERE id = 6 RETURNING v) TO STDOUT"),
        b"d\n"
    );
    let binary = out("COPY copied TO STDOUT (FORMAT binary)");
    let mut client = cluster.client(2);
    client.batch_execute("DELETE FROM copied").unwrap();
    let mut writer = client.copy_in("COPY copied FROM STDIN (FORMAT binary)").unwrap();
    writer.write_all(&binary).unwrap();
    assert_eq!(writer.finish().unwrap(), 4);
    assert_converged(&cluster, &["copied"]);
}

#[test]
fn notifications_come_with_the_commit_and_only_then() {
    let cluster = CLUSTER.lease();
    cluster.create_table("news", "CREATE TABLE news (id int PRIMARY KEY)");
    let mut listener = cluster.client(0);
    listener.batch_execute("LISTEN news").unwrap();
    let mut client = cluster.client(0);
    client
        .batch_execute("BEGIN; NOTIFY news, 'lost'; INSERT INTO news VALUES (1); ROLLBACK")
        .unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO news VALUES (1); NOTIFY news, 'told'; COMMIT")
        .unwrap();
    client
        .batch_execute("BEGIN; NOTIFY news, 'conflict'; INSERT INTO news VALUES (2)")
        .unwrap();
    cluster.client(1).batch_execute("INSERT INTO news VALUES (2)").unwrap();
    failed(
        "a key that another node has taken",
        client.batch_execute("COMMIT"),
        &["40001"],
    );
    client
        .batch_execute("INSERT INTO news VALUES (3); NOTIFY news, 'last'")
        .unwrap();
    let mut told = Vec::new();
    let mut notifications = listener.notifications();
    let mut waiting = notifications.timeout_iter(Duration::from_secs(30));
    while told.last().is_none_or(|last| last != "last") {
        told.push(waiting.next().unwrap().expect("a notification").payload().to_owned());
    }
    assert_eq!(told, ["told", "last"]);
}

#[test]
fn parallel_queries_read_strongly() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "scanned",
        "CREATE TABLE scanned (id int PRIMARY KEY, v int) WITH (parallel_workers = 2)",
    );
    let mut writer = cluster.client(0);
    writer
        .batch_execute("INSERT INTO scanned SELECT i, 1 FROM generate_series(1, 20000) i")
        .unwrap();
    let mut reader = cluster.client(1);
    assert_eq!(number(&mut reader, "SELECT count(*) FROM scanned"), 20_000);
    reader
        .batch_execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; ANALYZE scanned")
        .unwrap();
    let plan: Vec<String> = reader
        .query("EXPLAIN SELECT sum(v) FROM scanned", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(plan.iter().any(|line| line.contains("Parallel")), "{plan:?}");
    for round in 1..=20 {
        writer
            .batch_execute("UPDATE scanned SET v = v + 1 WHERE id = 7")
            .unwrap();
        assert_eq!(number(&mut reader, "SELECT sum(v) FROM scanned"), 20_000 + round);
    }
    reader.batch_execute("CREATE TEMPORARY TABLE kept AS SELECT count(*) FROM scanned; UPDATE scanned SET v = 0 WHERE id IN (SELECT id FROM scanned WHERE v = 1)").unwrap();
    assert_converged(&cluster, &["scanned"]);
}

#[test]
fn two_phase_commit_is_refused_after_strong_writes_only() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "phased",
        "CREATE TABLE phased (id int PRIMARY KEY); INSERT INTO phased VALUES (1); DELETE FROM phased",
    );
    let mut client = cluster.client(0);
    client.batch_execute("CREATE TABLE phased_local (n bigint)").unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO phased_local SELECT count(*) FROM phased; PREPARE TRANSACTION 'local'")
        .unwrap();
    client.batch_execute("COMMIT PREPARED 'local'").unwrap();
    refused(
        "PREPARE TRANSACTION",
        client.batch_execute("BEGIN; INSERT INTO phased VALUES (1); PREPARE TRANSACTION 'strong'"),
        &["0A000"],
    );
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM phased"), 0);
    assert_eq!(number(&mut client, "SELECT count(*) FROM pg_prepared_xacts"), 0);
}

/// A savepoint that is gone back to leaves nothing that a crash could keep or lose.
#[test]
fn a_local_write_that_was_rolled_back_is_no_part_of_the_transaction() {
    let cluster = CLUSTER.lease();
    cluster.create_table("went_on", "CREATE TABLE went_on (id int PRIMARY KEY)");
    cluster.on_all("CREATE TABLE given_up (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    for sql in [
        "BEGIN; SAVEPOINT a; INSERT INTO given_up VALUES (1); SAVEPOINT b; INSERT INTO given_up VALUES (2); RELEASE b;
         ROLLBACK TO a; INSERT INTO went_on VALUES (1)",
        "BEGIN; INSERT INTO went_on VALUES (2); DO $$ BEGIN INSERT INTO given_up VALUES (3), (3); EXCEPTION WHEN unique_violation THEN NULL; END $$",
    ] {
        client.batch_execute(sql).unwrap();
        client
            .batch_execute("COMMIT")
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client
        .batch_execute(
            "BEGIN; SAVEPOINT a; INSERT INTO given_up VALUES (4); SAVEPOINT b; INSERT INTO given_up VALUES (5);
             ROLLBACK TO b; RELEASE a; INSERT INTO went_on VALUES (3)",
        )
        .unwrap();
    failed("a local write that stands", client.batch_execute("COMMIT"), &["0A000"]);
    assert_converged(&cluster, &["went_on"]);
}

/// What `synod.mixed_transactions = allow` promises, and what it does not: the strong part of a transaction is on every node
/// once the group has decided; the local part is there if the commit returned, and lost when the server dies in between.
#[test]
fn mixed_transactions_when_allowed() {
    let cluster = CLUSTER.lease();
    cluster.create_table("shared", "CREATE TABLE shared (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client
        .batch_execute("CREATE TABLE beside (id int PRIMARY KEY)")
        .unwrap();
    let mixed = |id: i32| format!("BEGIN; INSERT INTO shared VALUES ({id}); INSERT INTO beside VALUES ({id}); COMMIT");
    refused("a mixed transaction", client.batch_execute(&mixed(1)), &["0A000"]);
    client
        .batch_execute("ROLLBACK; SET synod.mixed_transactions = allow")
        .unwrap();
    client.batch_execute(&mixed(2)).unwrap();
    client
        .batch_execute("BEGIN; CREATE TABLE beside_too (id int); INSERT INTO shared VALUES (3); COMMIT")
        .unwrap();
    // A conflict takes both parts away.
    client
        .batch_execute("BEGIN; INSERT INTO beside VALUES (4); INSERT INTO shared VALUES (4)")
        .unwrap();
    cluster
        .client(1)
        .batch_execute("INSERT INTO shared VALUES (4)")
        .unwrap();
    failed(
        "a key that another node has taken",
        client.batch_execute("COMMIT"),
        &["40001"],
    );
    // An error after the verdict: unknown, and the local part is gone.
    client.batch_execute("SET synod.failpoint = 'after-turn'").unwrap();
    failed(
        "an error after the verdict",
        client.batch_execute(&mixed(5)),
        &["08007"],
    );
    client.batch_execute("RESET synod.failpoint").unwrap();
    client.batch_execute(&mixed(6)).unwrap();
    for (id, gap) in [(7, "kill after-turn"), (8, "kill after-commit")] {
        let mut victim = cluster.client(0);
        victim
            .batch_execute(&format!(
                "SET synod.mixed_transactions = allow; SET synod.failpoint = '{gap}'"
            ))
            .unwrap();
        victim.batch_execute(&mixed(id)).expect_err("the server died");
        wait_until(Duration::from_secs(30), "the server after the crash", || {
            let mut client = cluster.server(0).try_client("postgres").ok()?;
            client.query("SELECT FROM shared", &[]).ok()
        });
    }
    let mut client = cluster.client(0);
    let ids = |client: &mut Client, table: &str| -> Vec<i32> {
        let query = format!("SELECT id FROM {table} ORDER BY id");
        client
            .query(&query, &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    };
    assert_eq!(ids(&mut client, "shared"), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        ids(&mut client, "beside"),
        [2, 6, 8],
        "what was committed here is durable, the rest is gone"
    );
    assert_converged(&cluster, &["shared"]);
}

/// A client that sends many messages at once.
struct Pipeline(UnixStream);

impl Pipeline {
    fn connect(server: &Server) -> Self {
        let mut pipe = Self(UnixStream::connect(server.socket()).unwrap());
        let mut message = BytesMut::new();
        frontend::startup_message([("user", "postgres"), ("database", "postgres")], &mut message).unwrap();
        pipe.0.write_all(&message).unwrap();
        pipe.answers(1);
        pipe
    }

    /// Sends the statements in one go, with a Sync behind the last and behind those whose numbers are given. Returns what
    /// they were answered with (D: a row, C: complete, E: an error), and the SQLSTATE of the last error.
    fn run(&mut self, statements: &[String], syncs: &[usize]) -> (String, Option<String>) {
        let mut message = BytesMut::new();
        for (number, sql) in statements.iter().enumerate() {
            frontend::parse("", sql, [], &mut message).unwrap();
            let nothing = |_: (), _: &mut BytesMut| Ok(postgres_protocol::IsNull::Yes);
            if frontend::bind("", "", [], [], nothing, [], &mut message).is_err() {
                panic!("a bind without parameters");
            }
            frontend::execute("", 0, &mut message).unwrap();
            if syncs.contains(&number) {
                frontend::sync(&mut message);
            }
        }
        frontend::sync(&mut message);
        self.0.write_all(&message).unwrap();
        self.answers(syncs.len() + 1)
    }

    /// What comes until the server has been ready so many times.
    fn answers(&mut self, mut readies: usize) -> (String, Option<String>) {
        let (mut told, mut sqlstate) = (String::new(), None);
        while readies > 0 {
            let mut head = [0; 5];
            self.0.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; length as usize - 4];
            self.0.read_exact(&mut body).unwrap();
            match head[0] {
                b'Z' => readies -= 1,
                kind @ (b'C' | b'D' | b'E') => told.push(char::from(kind)),
                _ => {}
            }
            if head[0] == b'E' {
                let mut fields = body.split(|byte| *byte == 0);
                let code = fields.find_map(|field| field.strip_prefix(b"C")).unwrap_or_default();
                sqlstate = Some(String::from_utf8_lossy(code).into_owned());
            }
        }
        (told, sqlstate)
    }
}
