//! What users get wrong: each mistake is refused with SQLSTATE, DETAIL and HINT, and changes nothing.

use postgres::{Client, NoTls};
use synod_testkit::{Cluster, Options, Server, SharedCluster, StopMode, refused};

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    nodes: 1,
    ..Options::DEFAULT
});

/// Everything that the functions under test could have changed.
fn state(client: &mut Client) -> String {
    client
        .query_one(
            "SELECT (SELECT coalesce(string_agg(name || ' ' || dsn, ','), '') FROM synod.nodes) || '; '
                 || (SELECT coalesce(string_agg(t::text, ','), '') FROM synod.replicated_table t) || '; '
                 || (SELECT count(*) FROM pg_trigger)",
            &[],
        )
        .unwrap()
        .get(0)
}

/// Runs `sql` on a member and asserts that it is refused with one of `codes` and changes nothing.
#[track_caller]
fn refuse(client: &mut Client, sql: &str, codes: &[&str]) {
    let before = state(client);
    refused(sql, client.batch_execute(sql), codes);
    assert_eq!(state(client), before, "{sql} changed something");
}

/// A server with the extension, in no group.
fn outsider(label: &str) -> Server {
    let mut server = Server::new(label, &[]);
    server.start();
    server.client().batch_execute("CREATE EXTENSION synod").unwrap();
    server
}

fn node_count(cluster: &Cluster) -> i64 {
    cluster
        .client(0)
        .query_one("SELECT count(*) FROM synod.nodes", &[])
        .unwrap()
        .get(0)
}

#[test]
fn what_cannot_be_replicated() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE TABLE fine (id int PRIMARY KEY);
             CREATE VIEW a_view AS SELECT * FROM fine;
             CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM fine;
             CREATE SEQUENCE a_sequence;
             CREATE TEMPORARY TABLE a_temporary (id int PRIMARY KEY);
             CREATE UNLOGGED TABLE an_unlogged (id int PRIMARY KEY);
             CREATE EXTENSION postgres_fdw;
             CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
             CREATE FOREIGN TABLE a_foreign (id int) SERVER elsewhere;
             CREATE TABLE a_parent (id int PRIMARY KEY);
             CREATE TABLE a_child (id int PRIMARY KEY, parent int REFERENCES a_parent)",
        )
        .unwrap();
    for (table, codes) in [
        ("missing", &["42P01"][..]),
        ("fine_pkey", &["42809"]),
        ("a_sequence", &["42809"]),
        ("a_view", &["42809"]),
        ("a_matview", &["42809"]),
        ("a_temporary", &["0A000"]),
        ("an_unlogged", &["0A000"]),
        ("a_foreign", &["0A000", "42809"]),
        ("pg_catalog.pg_class", &["0A000", "42501"]),
        ("synod.replicated_table", &["0A000", "42501", "42710"]),
    ] {
        // The name alone is resolved by PostgreSQL's regclass input, whose error has no DETAIL of its own.
        let sql = format!("SELECT synod.replicate_table('{table}')");
        if table == "missing" {
            let before = state(&mut client);
            synod_testkit::failed(&sql, client.batch_execute(&sql), codes);
            assert_eq!(state(&mut client), before);
        } else {
            refuse(&mut client, &sql, codes);
        }
    }
    refuse(&mut client, "SELECT synod.replicate_table('a_child')", &["0A000"]);
    client.batch_execute("SELECT synod.replicate_table('fine')").unwrap();
    refuse(&mut client, "SELECT synod.replicate_table('fine')", &["42710", "55000"]);
    refuse(
        &mut client,
        "SELECT synod.unreplicate_table('a_parent')",
        &["55000", "42704"],
    );
}

#[test]
fn outside_of_a_group() {
    let server = outsider("lonely");
    let mut client = server.client();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    for sql in [
        "SELECT synod.replicate_table('t')",
        "SELECT synod.unreplicate_table('t')",
        "SELECT synod.leave_group()",
        "SELECT synod.remove_node('n2')",
        "SELECT synod.wait_for(1)",
    ] {
        refuse(&mut client, sql, &["55000"]);
    }
}

#[test]
fn bad_names_and_second_groups() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    let dsn = cluster.server(0).dsn();
    refuse(
        &mut client,
        &format!("SELECT synod.create_group('h', 'n1', '{dsn}')"),
        &["55000", "42710"],
    );
    refuse(
        &mut client,
        &format!("SELECT synod.join_group('{dsn}', 'n2', '{dsn}')"),
        &["55000", "42710"],
    );
    refuse(&mut client, "SELECT synod.remove_node('nobody')", &["42704", "22023"]);

    let server = outsider("named");
    let mut client = server.client();
    let own = server.dsn();
    let long = "n".repeat(64);
    for (sql, codes) in [
        (
            format!("SELECT synod.create_group('{long}', 'n1', '{own}')"),
            &["42622"][..],
        ),
        (format!("SELECT synod.create_group('g', '{long}', '{own}')"), &["42622"]),
        (
            format!("SELECT synod.create_group('', 'n1', '{own}')"),
            &["42602", "22023"],
        ),
        (
            format!("SELECT synod.create_group('g', '', '{own}')"),
            &["42602", "22023"],
        ),
        (format!("SELECT synod.join_group('{dsn}', 'n1', '{own}')"), &["42710"]),
        (
            format!("SELECT synod.join_group('{dsn}', '{long}', '{own}')"),
            &["42622"],
        ),
    ] {
        refuse(&mut client, &sql, codes);
    }
    assert_eq!(node_count(&cluster), 1);
}

#[test]
fn wrong_addresses() {
    let cluster = CLUSTER.lease();
    let member = cluster.server(0);
    member
        .client()
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE with_password LOGIN SUPERUSER PASSWORD 'right'; EXCEPTION WHEN duplicate_object THEN END $$",
        )
        .unwrap();
    let server = outsider("stray");
    let mut client = server.client();
    let (own, via) = (server.dsn(), member.dsn());
    let closed = "host=127.0.0.1 port=1 dbname=postgres";
    let wrong_password = via.replace("user=postgres", "user=with_password password=wrong");
    let unreachable = &["08001", "08006", "08000"][..];
    for (sql, codes) in [
        (
            "SELECT synod.create_group('g', 'n1', 'nonsense without equals')".to_string(),
            &["22023", "08001", "42601"][..],
        ),
        (format!("SELECT synod.create_group('g', 'n1', '{closed}')"), unreachable),
        (
            format!("SELECT synod.create_group('g', 'n1', '{via}')"),
            &["22023", "55000"],
        ),
        (
            format!("SELECT synod.join_group('{closed}', 'n9', '{own}')"),
            unreachable,
        ),
        (
            format!("SELECT synod.join_group('{via}', 'n9', '{closed}')"),
            unreachable,
        ),
        (
            format!("SELECT synod.join_group('{wrong_password}', 'n9', '{own}')"),
            &["28P01", "08001", "08006", "28000"],
        ),
        (
            format!("SELECT synod.join_group('{own}', 'n9', '{own}')"),
            &["22023", "55000"],
        ),
    ] {
        refuse(&mut client, &sql, codes);
    }
    assert_eq!(node_count(&cluster), 1);
}

#[test]
fn peers_that_are_no_members() {
    let cluster = CLUSTER.lease();
    let server = outsider("joiner");
    let mut client = server.client();
    let own = server.dsn();
    let member = cluster.server(0);
    member.client().batch_execute("CREATE DATABASE without").unwrap();
    member.client().batch_execute("CREATE DATABASE groupless").unwrap();
    member
        .client_to("groupless")
        .batch_execute("CREATE EXTENSION synod")
        .unwrap();
    for (database, codes) in [("without", &["55000", "42704", "0A000"][..]), ("groupless", &["55000"])] {
        let via = member.dsn_of(database);
        refuse(
            &mut client,
            &format!("SELECT synod.join_group('{via}', 'n9', '{own}')"),
            codes,
        );
    }
    member.client().batch_execute("DROP DATABASE without").unwrap();
    assert_eq!(node_count(&cluster), 1);
}

#[test]
fn a_peer_of_another_version() {
    let cluster = CLUSTER.lease();
    let server = outsider("old");
    let member = cluster.server(0);
    let mut peer = member.client();
    // What a member with another release of the extension looks like from outside.
    let version: String = peer
        .query_one("SELECT extversion FROM pg_extension WHERE extname = 'synod'", &[])
        .unwrap()
        .get(0);
    peer.batch_execute("UPDATE pg_extension SET extversion = '99.0' WHERE extname = 'synod'")
        .unwrap();
    let sql = format!("SELECT synod.join_group('{}', 'n9', '{}')", member.dsn(), server.dsn());
    let result = std::panic::catch_unwind(|| refuse(&mut server.client(), &sql, &["55000", "0A000"]));
    peer.execute(
        "UPDATE pg_extension SET extversion = $1 WHERE extname = 'synod'",
        &[&version],
    )
    .unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    assert_eq!(node_count(&cluster), 1);
}

#[test]
fn tables_that_differ_say_how() {
    let mut cluster = Cluster::start(2);
    let mut first = cluster.client(0);
    let differences = [
        (
            "missing_there",
            "CREATE TABLE missing_there (id int PRIMARY KEY)",
            "SELECT 1",
        ),
        (
            "a_type",
            "CREATE TABLE a_type (id int PRIMARY KEY, a int)",
            "CREATE TABLE a_type (id int PRIMARY KEY, a bigint)",
        ),
        (
            "a_column",
            "CREATE TABLE a_column (id int PRIMARY KEY)",
            "CREATE TABLE a_column (id int PRIMARY KEY, extra int)",
        ),
        (
            "a_null",
            "CREATE TABLE a_null (id int PRIMARY KEY, a int NOT NULL)",
            "CREATE TABLE a_null (id int PRIMARY KEY, a int)",
        ),
        (
            "a_key",
            "CREATE TABLE a_key (id int PRIMARY KEY)",
            "CREATE TABLE a_key (id int)",
        ),
        (
            "an_index",
            "CREATE TABLE an_index (id int PRIMARY KEY, a int UNIQUE)",
            "CREATE TABLE an_index (id int PRIMARY KEY, a int)",
        ),
    ];
    for (table, here, there) in differences {
        first.batch_execute(&format!("SET synod.ddl = local; {here}")).unwrap();
        cluster
            .client(1)
            .batch_execute(&format!("SET synod.ddl = local; {there}"))
            .unwrap();
        let sql = format!("SELECT synod.replicate_table('{table}')");
        let before = state(&mut first);
        let error = refused(
            &sql,
            first.batch_execute(&sql),
            &["55000", "42P01", "42809", "42P17", "0A000"],
        );
        assert!(
            error.detail().unwrap_or_default().contains("n2"),
            "{table}: which node differs? {error:?}"
        );
        assert_eq!(state(&mut first), before, "{sql} changed something");
    }
    cluster.stop_all(StopMode::Fast);
}

#[test]
fn without_shared_preload_libraries() {
    let mut server = Server::new("unloaded", &[("shared_preload_libraries", "")]);
    server.start();
    let mut client = server.client();
    let dsn = server.dsn();
    match client.batch_execute("CREATE EXTENSION synod") {
        Err(error) => {
            refused("CREATE EXTENSION", Err::<(), _>(error), &["55000"]);
        }
        Ok(()) => {
            let sql = format!("SELECT synod.create_group('g', 'n1', '{dsn}')");
            refused(&sql, client.batch_execute(&sql), &["55000"]);
        }
    }
    assert!(!server.data().join("synod").exists());
}

#[test]
fn ordinary_users_may_not_administer() {
    let cluster = CLUSTER.lease();
    let server = cluster.server(0);
    server.client().batch_execute("CREATE ROLE ordinary LOGIN").unwrap();
    let dsn = server.client_dsn("postgres").replace("user=postgres", "user=ordinary");
    let mut client = Client::connect(&dsn, NoTls).unwrap();
    for call in [
        "leave_group()",
        "remove_node('n1')",
        "replicate_table('pg_class')",
        "create_group('g', 'n', 'd')",
    ] {
        let sql = format!("SELECT synod.{call}");
        synod_testkit::failed(&sql, client.batch_execute(&sql), &["42501"]);
    }
    assert_eq!(node_count(&cluster), 1);
}
