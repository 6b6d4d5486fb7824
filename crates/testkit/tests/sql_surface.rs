//! The functions, views and settings that users call, as they are documented.

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, Options, Server, SharedCluster, assert_converged, checksum, wait_until};

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);
const DEADLINE: Duration = Duration::from_secs(30);

fn number(client: &mut Client, query: &str) -> i64 {
    client
        .query_one(query, &[])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

fn text(client: &mut Client, query: &str) -> String {
    client
        .query_one(query, &[])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

#[test]
fn the_founding_example_gives_its_results() {
    let cluster = CLUSTER.lease();
    cluster.create_table("coordinates", "CREATE TABLE coordinates (x int, y int)");
    let first = cluster.server(0).psql(
        "postgres",
        &[],
        "INSERT INTO coordinates VALUES (1,1);\nINSERT INTO coordinates VALUES (2,2);\nSELECT * FROM coordinates ;\n",
    );
    assert_eq!(
        first,
        "INSERT 0 1\nINSERT 0 1\n x | y \n---+---\n 1 | 1\n 2 | 2\n(2 rows)\n\n"
    );
    let second = cluster.server(1).psql(
        "postgres",
        &[],
        "SELECT * FROM coordinates ;\nUPDATE coordinates SET x = x * 10;\n",
    );
    assert_eq!(second, " x | y \n---+---\n 1 | 1\n 2 | 2\n(2 rows)\n\nUPDATE 2\n");
    let third = cluster.server(2).psql("postgres", &[], "SELECT * FROM coordinates ;\n");
    assert_eq!(third, " x  | y \n----+---\n 10 | 1\n 20 | 2\n(2 rows)\n\n");
    assert_converged(&cluster, &["coordinates"]);
}

#[test]
fn every_node_shows_the_same_group() {
    let cluster = CLUSTER.lease();
    let leader = cluster.leader();
    for (number_of_node, node) in cluster.nodes().iter().enumerate() {
        let mut client = node.server.client();
        let names = text(
            &mut client,
            "SELECT string_agg(name, ',' ORDER BY name) FROM synod.nodes",
        );
        assert_eq!(names, "n1,n2,n3");
        assert_eq!(
            text(&mut client, "SELECT name FROM synod.nodes WHERE is_local"),
            node.name
        );
        assert_eq!(
            text(&mut client, "SELECT dsn FROM synod.nodes WHERE is_local"),
            node.server.dsn()
        );
        assert_eq!(
            text(&mut client, "SELECT name FROM synod.nodes WHERE is_leader"),
            format!("n{}", leader + 1)
        );
        for view in ["stat_log", "stat_apply"] {
            assert_eq!(
                number(&mut client, &format!("SELECT count(*) FROM synod.{view}")),
                1,
                "{view} of node {number_of_node}"
            );
        }
    }
}

#[test]
fn every_object_has_a_comment_and_public_may_not_administer() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    let bare: Option<String> = client
        .query_one(
            "SELECT string_agg(pg_describe_object(d.classid, d.objid, d.objsubid), ', ') FROM pg_depend d
              WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND d.objsubid = 0
                AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'synod')
                AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
                AND obj_description(d.objid, d.classid::regclass::name) IS NULL",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(bare, None, "objects without a comment");
    for function in [
        "create_group",
        "join_group",
        "leave_group",
        "remove_node",
        "replicate_table",
        "unreplicate_table",
    ] {
        let open = number(
            &mut client,
            &format!(
                "SELECT count(*) FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
                  WHERE pronamespace = 'synod'::regnamespace AND proname = '{function}' AND a.grantee = 0"
            ),
        );
        assert_eq!(open, 0, "PUBLIC may call synod.{function}");
    }
}

#[test]
fn a_transaction_has_an_id_and_a_status_on_every_node() {
    let cluster = CLUSTER.lease();
    cluster.create_table("statuses", "CREATE TABLE statuses (id int PRIMARY KEY)");
    let mut client = cluster.client(1);
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("INSERT INTO statuses VALUES (1)").unwrap();
    let id: String = transaction
        .query_one("SELECT synod.current_transaction_id()::text", &[])
        .unwrap()
        .get(0);
    transaction.commit().unwrap();
    for node in cluster.nodes() {
        let mut client = node.server.client();
        wait_until(DEADLINE, "the status on every node", || {
            let status = text(&mut client, &format!("SELECT synod.transaction_status('{id}')::text"));
            (status == "committed").then_some(())
        });
    }
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("INSERT INTO statuses VALUES (2)").unwrap();
    let rolled_back: String = transaction
        .query_one("SELECT synod.current_transaction_id()::text", &[])
        .unwrap()
        .get(0);
    transaction.rollback().unwrap();
    assert_ne!(id, rolled_back);
    let status = text(
        &mut client,
        &format!("SELECT coalesce(synod.transaction_status('{rolled_back}')::text, 'none')"),
    );
    assert_ne!(status, "committed");
}

/// What a look for an outcome costs: `cargo test --test sql_surface -- --ignored --nocapture status_times`.
#[test]
#[ignore = "prints times, asserts nothing"]
fn status_times() {
    let cluster = CLUSTER.lease();
    cluster.create_table("timed", "CREATE TABLE timed (id bigserial PRIMARY KEY, filler text)");
    let mut client = cluster.client(1);
    let id = |client: &mut postgres::Client| -> String {
        let mut transaction = client.transaction().unwrap();
        transaction
            .batch_execute("INSERT INTO timed (filler) VALUES ('')")
            .unwrap();
        let id = transaction
            .query_one("SELECT synod.current_transaction_id()::text", &[])
            .unwrap()
            .get(0);
        transaction.commit().unwrap();
        id
    };
    let early = id(&mut client);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = cluster.client(1);
                for _ in 0..1500 {
                    client
                        .batch_execute("INSERT INTO timed (filler) VALUES (repeat('x', 2000))")
                        .unwrap();
                }
            });
        }
    });
    let late = id(&mut client);
    for (what, id) in [("the newest", late), ("12,000 transactions ago", early)] {
        let began = std::time::Instant::now();
        let status = text(&mut client, &format!("SELECT synod.transaction_status('{id}')::text"));
        println!("{what}: {status} after {:?}", began.elapsed());
    }
}

#[test]
fn wait_for_carries_a_session_to_another_node() {
    let cluster = CLUSTER.lease();
    cluster.create_table("tokens", "CREATE TABLE tokens (id int PRIMARY KEY)");
    let mut writer = cluster.client(0);
    let mut reader = cluster.client(2);
    reader.batch_execute("SET synod.read_consistency = 'local'").unwrap();
    for id in 0..20 {
        writer.execute("INSERT INTO tokens VALUES ($1)", &[&id]).unwrap();
        let token = text(&mut writer, "SELECT synod.last_csn()::text");
        reader
            .batch_execute(&format!("SELECT synod.wait_for({token})"))
            .unwrap();
        assert_eq!(
            number(&mut reader, &format!("SELECT count(*) FROM tokens WHERE id = {id}")),
            1
        );
    }
}

#[test]
fn an_unreplicated_table_is_a_local_one() {
    let cluster = CLUSTER.lease();
    cluster.create_table("once_shared", "CREATE TABLE once_shared (id int PRIMARY KEY)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO once_shared VALUES (1)")
        .unwrap();
    assert_converged(&cluster, &["once_shared"]);
    cluster
        .client(1)
        .batch_execute("SELECT synod.unreplicate_table('once_shared')")
        .unwrap();
    for node in cluster.nodes() {
        let mut client = node.server.client();
        wait_until(DEADLINE, "the table to leave synod.tables", || {
            let query = "SELECT count(*) FROM synod.tables WHERE table_name::regclass = 'once_shared'::regclass";
            (number(&mut client, query) == 0).then_some(())
        });
    }
    cluster
        .client(0)
        .batch_execute("INSERT INTO once_shared VALUES (2)")
        .unwrap();
    assert_eq!(checksum(&mut cluster.client(0), "once_shared").unwrap().0, 2);
    assert_eq!(checksum(&mut cluster.client(1), "once_shared").unwrap().0, 1);
}

#[test]
fn a_joining_node_gets_the_rows_and_a_leaving_one_keeps_them() {
    let mut cluster = Cluster::start(2);
    cluster.create_table("stock", "CREATE TABLE stock (id int PRIMARY KEY, amount int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO stock SELECT i, i * 2 FROM generate_series(1, 5000) i")
        .unwrap();
    let third = cluster.add_server();
    let mut client = cluster.client(third);
    client
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE stock (id int PRIMARY KEY, amount int)")
        .unwrap();
    let (via, dsn) = (cluster.server(1).dsn(), cluster.server(third).dsn());
    client
        .execute("SELECT synod.join_group($1, 'n3', $2)", &[&via, &dsn])
        .unwrap();
    cluster.wait_for_voters(3);
    cluster
        .client(0)
        .batch_execute("UPDATE stock SET amount = 0 WHERE id = 1")
        .unwrap();
    client
        .batch_execute("UPDATE stock SET amount = 1 WHERE id = 2")
        .unwrap();
    assert_converged(&cluster, &["stock"]);

    client.batch_execute("SELECT synod.leave_group()").unwrap();
    wait_until(DEADLINE, "two voters", || {
        (number(&mut cluster.client(0), "SELECT count(*) FROM synod.nodes WHERE voter") == 2).then_some(())
    });
    cluster.client(0).batch_execute("DELETE FROM stock").unwrap();
    let mut client = cluster.client(third);
    assert_eq!(
        checksum(&mut client, "stock").unwrap().0,
        5000,
        "the table stays, as it was, on the node that left"
    );
    client.batch_execute("INSERT INTO stock VALUES (9999, 0)").unwrap();
    assert_eq!(checksum(&mut cluster.client(1), "stock").unwrap().0, 0);
}

#[test]
fn a_dead_node_is_removed_and_the_rest_goes_on() {
    let mut cluster = Cluster::start(3);
    cluster.create_table("t", "CREATE TABLE t (id int PRIMARY KEY)");
    cluster.server_mut(2).kill9();
    cluster
        .client(0)
        .batch_execute("SELECT synod.remove_node('n3')")
        .unwrap();
    cluster.wait_for_voters(2);
    cluster.client(1).batch_execute("INSERT INTO t VALUES (1)").unwrap();
    cluster.server_mut(2).start();
    let refused = cluster
        .client(2)
        .batch_execute("SET synod.commit_timeout = '2s'; INSERT INTO t VALUES (2)");
    assert!(
        refused.is_err(),
        "a removed node took a write: {}",
        cluster.server(2).psql("postgres", &["-At"], "SELECT * FROM synod.nodes; TABLE synod.replicated_table; TABLE synod.stat_log; TABLE t; SELECT tgname FROM pg_trigger;")
    );
    assert_eq!(number(&mut cluster.client(0), "SELECT count(*) FROM t"), 1);
}

#[test]
fn databases_of_one_server_form_a_group() {
    let mut server = Server::new("alone", &[]);
    server.start();
    for database in ["a", "b", "c"] {
        server
            .client()
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .unwrap();
        server
            .client_to(database)
            .batch_execute("CREATE EXTENSION synod; CREATE TABLE t (id int PRIMARY KEY)")
            .unwrap();
    }
    let dsn = |database| server.dsn_of(database);
    server
        .client_to("a")
        .execute("SELECT synod.create_group('one', 'a', $1)", &[&dsn("a")])
        .unwrap();
    server
        .client_to("b")
        .execute("SELECT synod.join_group($1, 'b', $2)", &[&dsn("a"), &dsn("b")])
        .unwrap();
    server
        .client_to("c")
        .execute("SELECT synod.create_group('two', 'c', $1)", &[&dsn("c")])
        .unwrap();
    server
        .client_to("a")
        .batch_execute("SELECT synod.replicate_table('t')")
        .unwrap();
    server
        .client_to("c")
        .batch_execute("SELECT synod.replicate_table('t')")
        .unwrap();
    server.client_to("c").batch_execute("INSERT INTO t VALUES (3)").unwrap();
    server.client_to("a").batch_execute("INSERT INTO t VALUES (1)").unwrap();
    let seen = |database| {
        let mut client = server.client_to(database);
        text(&mut client, "SELECT coalesce(string_agg(id::text, ','), '') FROM t")
    };
    assert_eq!(seen("b"), "1");
    assert_eq!(seen("c"), "3");
}
