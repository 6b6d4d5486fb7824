//! The command `synod`, run against real groups.

use serde_json::Value;
use synod_testkit::command::{Ran, synod};
use synod_testkit::{Options, PgInstall, Server, SharedCluster, StopMode, assert_converged, failed, wait_until};

use std::time::Duration;

static CLUSTER: SharedCluster = SharedCluster::new(Options::DEFAULT);
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs it against a database of `server`.
#[track_caller]
fn at(server: &Server, arguments: &[&str]) -> Ran {
    let dsn = server.dsn();
    let mut all = vec!["--dsn", dsn.as_str()];
    all.extend(arguments);
    synod(&all)
}

#[track_caller]
fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("no JSON: {error}: {ran:?}"))
}

#[test]
fn status_shows_the_group_at_a_glance() {
    let mut cluster = CLUSTER.lease();
    cluster.create_table("glanced_at", "CREATE TABLE glanced_at (id int PRIMARY KEY)");
    let report = wait_until(DEADLINE, "a healthy group", || {
        let ran = at(cluster.server(1), &["status", "--json"]);
        (ran.code == 0).then(|| json(&ran))
    });
    assert_eq!(report["healthy"], true);
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{report:#}");
    let leaders = nodes.iter().filter(|node| node["role"] == "leader").count();
    assert_eq!(leaders, 1, "{report:#}");
    for node in nodes {
        assert_eq!(node["state"], "running");
        assert_eq!(node["links_from"].as_array().unwrap().len(), 2, "{node:#}");
        assert!(node["tables"].as_i64().unwrap() >= 1);
    }
    let text = at(cluster.server(0), &["status"]);
    assert_eq!((text.code, text.err.as_str()), (0, ""), "{text:?}");
    assert!(
        text.out
            .starts_with("Group \"g\": 3 nodes, 3 running; 3 voters, a majority is 2\n"),
        "{}",
        text.out
    );
    assert!(text.out.contains("\nn1*"), "{}", text.out);

    cluster.server_mut(2).stop(StopMode::Fast);
    let ran = at(cluster.server(0), &["status", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = json(&ran);
    assert_eq!(report["nodes"][2]["state"], "unreachable");
    assert!(
        at(cluster.server(0), &["status"])
            .out
            .contains("PROBLEM:  node \"n3\" cannot be asked: ")
    );
    cluster.server_mut(2).start();
}

/// `docs/src/cli.md` is what `--help` says: `make fix` writes it.
#[test]
fn the_reference_is_the_help() {
    let page = include_str!("../../../docs/src/cli.md");
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert!(page.contains(&trimmed(&synod(&["--help"]).out)), "synod --help");
    let commands = page.lines().filter_map(|line| line.strip_prefix("## synod "));
    let mut described = 0;
    for command in commands {
        let help = synod(&[command, "--help"]).out;
        assert!(
            page.contains(&trimmed(&help)),
            "docs/src/cli.md does not say what synod {command} --help says: make fix"
        );
        described += 1;
    }
    assert_eq!(described, 11, "subcommands in docs/src/cli.md");
}

#[test]
fn errors_look_like_the_servers_own() {
    let cluster = CLUSTER.lease();
    let ran = synod(&["status", "--dsn", "host=127.0.0.1 port=1 dbname=nowhere"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.starts_with("ERROR:  could not talk to the server\nDETAIL:  "),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("\nHINT:  "), "{}", ran.err);
    let without = cluster.server(0).dsn_of("template1");
    let ran = synod(&["status", "--json", "--dsn", &without]);
    assert_eq!(ran.code, 3);
    assert!(
        json(&ran)["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("CREATE EXTENSION"),
        "{}",
        ran.out
    );
    assert_eq!(synod(&["stauts"]).code, 2);
}

/// Changes rows of one node only, past the log, as damage would.
fn damage(server: &Server, table: &str, statements: &str) {
    let mut client = server.client();
    client
        .batch_execute("SET synod.read_consistency = local; BEGIN")
        .unwrap();
    let csn: i64 = client.query_one("SELECT synod._hold(5000)", &[]).unwrap().get(0);
    client
        .batch_execute(&format!(
            "SELECT synod._begin_repair('{table}'::regclass, {csn}); {statements}; COMMIT"
        ))
        .unwrap();
}

/// A row that somebody has locked may be waited for until the hold is over, and be another one then.
#[test]
fn a_repair_that_outlives_its_hold_changes_nothing() {
    let cluster = CLUSTER.lease();
    cluster.create_table("outlived", "CREATE TABLE outlived (id int PRIMARY KEY, v int)");
    let (mut writer, mut repair) = (cluster.client(2), cluster.client(2));
    writer.batch_execute("INSERT INTO outlived VALUES (1, 0)").unwrap();
    writer.batch_execute("BEGIN; UPDATE outlived SET v = 1").unwrap();
    repair
        .batch_execute("SET synod.read_consistency = local; BEGIN")
        .unwrap();
    let csn: i64 = repair.query_one("SELECT synod._hold(2000)", &[]).unwrap().get(0);
    repair
        .batch_execute(&format!("SELECT synod._begin_repair('outlived'::regclass, {csn})"))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.batch_execute("COMMIT").unwrap());
        repair
            .batch_execute("DELETE FROM outlived WHERE id = 1; INSERT INTO outlived VALUES (1, 0)")
            .unwrap();
    });
    failed("a repair after its hold", repair.batch_execute("COMMIT"), &["55000"]);
    assert_converged(&cluster, &["outlived"]);
}

#[test]
fn compare_finds_differences_under_load_and_repair_mends_them() {
    let cluster = CLUSTER.lease();
    let answer =
        "CREATE FUNCTION answer(int) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1 || current_setting('port') $$";
    cluster.on_all(answer);
    cluster.create_table(
        "\"Odd orders\"",
        "CREATE TABLE \"Odd orders\" (gone int, id int PRIMARY KEY, \"What\" text, at timestamptz DEFAULT now(), \
         n int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (id * 2) STORED, \
         \"By\" text GENERATED ALWAYS AS (public.answer(id)) STORED); ALTER TABLE \"Odd orders\" DROP COLUMN gone",
    );
    if PgInstall::from_environment().major() >= 18 {
        let sql = "ALTER TABLE \"Odd orders\" ADD COLUMN read_only int GENERATED ALWAYS AS (id * 3) VIRTUAL";
        cluster.client(0).batch_execute(sql).unwrap();
    }
    cluster.create_table("keyless", "CREATE TABLE keyless (a int, b float8)");
    let mut writer = cluster.client(0);
    writer
        .batch_execute(
            "INSERT INTO \"Odd orders\" (id, \"What\") SELECT i, repeat('x', i % 7) FROM generate_series(1, 3000) i;
             INSERT INTO keyless SELECT i % 5, i / 3.0 FROM generate_series(1, 50) i",
        )
        .unwrap();
    assert_converged(&cluster, &["\"Odd orders\"", "keyless"]);
    damage(
        cluster.server(2),
        "public.\"Odd orders\"",
        "DELETE FROM \"Odd orders\" WHERE id = 7; UPDATE \"Odd orders\" SET \"What\" = E'tab\\t\"quote' WHERE id = 2999;
         SELECT synod._put_row(jsonb_populate_record(o, '{\"id\": -1}')) FROM \"Odd orders\" AS o WHERE id = 8",
    );
    damage(
        cluster.server(1),
        "keyless",
        "DELETE FROM keyless WHERE a = 3 AND b = 1",
    );
    // What is written meanwhile is no difference: all nodes are looked at after the same commit.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = EndOf(&stop);
        for node in 0..2 {
            let (mut client, stop) = (cluster.client(node), &stop);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    round += 1;
                    let sql = format!(
                        "UPDATE \"Odd orders\" SET \"What\" = 'r{round}' WHERE id = {}",
                        10 + node * 1000 + round % 900
                    );
                    client.batch_execute(&sql).unwrap();
                }
            });
        }
        let ran = at(cluster.server(0), &["compare", "--json"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let report = json(&ran);
        assert_eq!(report["nodes"].as_array().unwrap().len(), 3, "{report:#}");
        let of = |name: &str| {
            report["tables"]
                .as_array()
                .unwrap()
                .iter()
                .find(|table| table["table"] == name)
                .unwrap()
                .clone()
        };
        let odd = of("public.\"Odd orders\"");
        let found: Vec<String> = odd["differences"]
            .as_array()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                r#"{"key":{"id":-1},"nodes":{"n1":null,"n2":null,"n3":"a"}}"#,
                r#"{"key":{"id":2999},"nodes":{"n1":"a","n2":"a","n3":"b"}}"#,
                r#"{"key":{"id":7},"nodes":{"n1":"a","n2":"a","n3":null}}"#,
            ],
            "{odd:#}"
        );
        let keyless = of("public.keyless");
        assert_eq!(keyless["differences"].as_array().unwrap().len(), 1, "{keyless:#}");
        assert_eq!(keyless["differences"][0]["nodes"]["n2"], Value::Null);
        let others = report["tables"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|table| table["equal"] == true)
            .count();
        assert_eq!(others, report["tables"].as_array().unwrap().len() - 2);

        let odd = ["repair", "--table", "\"Odd orders\"", "--node", "n3", "--from", "n1"];
        let ran = at(cluster.server(0), &odd);
        assert_eq!(ran.code, 3);
        assert!(ran.err.contains("--yes"), "{ran:?}");
        let ran = at(cluster.server(0), &[&odd[..], &["--dry-run", "--json"]].concat());
        assert_eq!(ran.code, 1);
        assert_eq!(json(&ran)["removed"].as_array().unwrap().len(), 2);
        let ran = at(cluster.server(1), &[&odd[..], &["--yes", "--json"]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(json(&ran)["put"].as_array().unwrap().len(), 2);
        let ran = at(
            cluster.server(0),
            &[
                "repair",
                "--table",
                "public.keyless",
                "--node",
                "n2",
                "--from",
                "n3",
                "--yes",
            ],
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("  put: 3\t1\n"), "{}", ran.out);
        let ran = at(cluster.server(0), &["compare"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("3 nodes at CSN "), "{}", ran.out);
    });
    assert_converged(&cluster, &["\"Odd orders\"", "keyless"]);
}

/// A value's text may leave something out, and reading it may check what held where it was written.
#[test]
fn repair_puts_values_as_they_are() {
    let cluster = CLUSTER.lease();
    cluster
        .client(0)
        .batch_execute(
            "CREATE DOMAIN \"Watched\" AS int NOT NULL CHECK (current_setting('cli.watched', true) = 'on');
             CREATE TYPE watched_pair AS (\"Number\" \"Watched\", body xml)",
        )
        .unwrap();
    // A strong read: the types are everywhere.
    cluster.on_all("SELECT FROM synod.log_entry");
    cluster.create_table(
        "as_they_are",
        "CREATE TABLE as_they_are (\"Plain\" \"Watched\", id int PRIMARY KEY, list \"Watched\"[], x xml, xs xml[], pair watched_pair)",
    );
    let mut client = cluster.client(0);
    // A server may be built without libxml.
    let document = match client.batch_execute("SELECT xml '<a/>'") {
        Ok(()) => r#"xml '<?xml version="1.0" encoding="UTF-8"?><a>"\ä</a>'"#,
        Err(_) => "NULL::xml",
    };
    client
        .batch_execute(&format!(
            "SET cli.watched = 'on';
             INSERT INTO as_they_are SELECT 3, 1, '{{4}}', d, ARRAY[d, NULL], ROW(5::\"Watched\", d)::watched_pair FROM (SELECT {document} AS d) AS s;
             INSERT INTO as_they_are VALUES (6, 2)"
        ))
        .unwrap();
    let change = "DELETE FROM as_they_are WHERE id = 1; UPDATE as_they_are SET xs = '{}' WHERE id = 2";
    damage(cluster.server(2), "as_they_are", change);
    let repair = "repair --table as_they_are --node n3 --from n1 --yes";
    let ran = at(cluster.server(0), &repair.split(' ').collect::<Vec<_>>());
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = at(cluster.server(0), &["compare", "--table", "as_they_are"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let sql = "SELECT concat_ws(' ', id, \"Plain\", list, x::text, xs[1]::text, (pair).body::text, (pair).\"Number\") FROM as_they_are ORDER BY id";
    let texts = |node: usize| -> Vec<String> {
        let rows = cluster.client(node).query(sql, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(texts(2), texts(0));
}

/// Who names the table that he has replicated was told that it is not.
#[test]
fn partitions_are_compared_by_the_name_of_their_table() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "parted",
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id); \
         CREATE TABLE parted_one PARTITION OF parted_low FOR VALUES IN (1); \
         CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (20)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO parted VALUES (1), (11), (12)")
        .unwrap();
    assert_converged(&cluster, &["parted"]);
    damage(
        cluster.server(2),
        "parted_high",
        "DELETE FROM parted_high WHERE id = 11",
    );
    let compare = |table: &str| {
        let ran = at(
            cluster.server(0),
            &["compare", "--json", "--table", table, "--table", "parted_one"],
        );
        let report = json(&ran);
        let tables = report["tables"].as_array().unwrap().iter();
        (
            ran.code,
            tables
                .map(|table| (table["table"].to_string(), table["equal"] == true))
                .collect::<Vec<_>>(),
        )
    };
    let told = |name: &str, equal: bool| (format!("\"public.{name}\""), equal);
    assert_eq!(
        compare("parted"),
        (1, vec![told("parted_high", false), told("parted_one", true)])
    );
    assert_eq!(compare("parted_low"), (0, vec![told("parted_one", true)]));
    let repair = |table| {
        at(
            cluster.server(0),
            &["repair", "--table", table, "--node", "n3", "--from", "n1", "--yes"],
        )
    };
    let ran = repair("parted");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err
            .contains("Its rows are in public.parted_high, public.parted_one."),
        "{ran:?}"
    );
    assert_eq!(repair("parted_high").code, 0);
    assert_converged(&cluster, &["parted"]);
}

/// Tells writers to stop, also when the test fails.
struct EndOf<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_hold_ends_by_itself() {
    let cluster = CLUSTER.lease();
    cluster.create_table("held", "CREATE TABLE held (id int PRIMARY KEY)");
    let mut writer = cluster.client(0);
    let mut id = 0;
    let mut write = |client: &mut postgres::Client| {
        id += 1;
        let began = std::time::Instant::now();
        client.execute("INSERT INTO held VALUES ($1)", &[&id]).unwrap();
        began.elapsed()
    };
    // At its deadline, although its transaction goes on; one node holds, the others do not.
    let mut holder = cluster.client(0);
    let hold = "SET synod.read_consistency = local; BEGIN; SELECT synod._hold";
    holder.batch_execute(&format!("{hold}(700)")).unwrap();
    assert!(write(&mut cluster.client(1)) < Duration::from_secs(5));
    assert!(write(&mut writer) > Duration::from_millis(300), "a held node committed");
    let error = holder
        .batch_execute("SELECT synod._snapshot_at(1)")
        .expect_err("a snapshot after the deadline");
    assert_eq!(synod_testkit::sqlstate(&error), Some("55000"), "{error:?}");
    // With its transaction.
    holder.batch_execute("ROLLBACK").unwrap();
    holder.batch_execute(&format!("{hold}(60000)")).unwrap();
    let error = cluster
        .client(0)
        .batch_execute(&format!("{hold}(10)"))
        .expect_err("two holds at once");
    assert_eq!(synod_testkit::sqlstate(&error), Some("55000"), "{error:?}");
    holder.batch_execute("COMMIT").unwrap();
    assert!(write(&mut writer) < Duration::from_secs(10));
    // With its session.
    holder.batch_execute(&format!("{hold}(60000)")).unwrap();
    drop(holder);
    assert!(write(&mut writer) < Duration::from_secs(10));
    assert_converged(&cluster, &["held"]);
}

#[test]
fn a_stopped_node_is_told_apart_from_a_different_one() {
    let cluster = CLUSTER.lease();
    cluster.create_table("stuck", "CREATE TABLE stuck (id int PRIMARY KEY)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO stuck VALUES (1), (2)")
        .unwrap();
    assert_converged(&cluster, &["stuck"]);
    damage(cluster.server(2), "stuck", "DELETE FROM stuck WHERE id = 1");
    cluster
        .client(0)
        .batch_execute("DELETE FROM stuck WHERE id = 1")
        .unwrap();
    let report = wait_until(DEADLINE, "the node to stop", || {
        let report = json(&at(cluster.server(0), &["status", "--json"]));
        (report["nodes"][2]["state"] == "not applying").then_some(report)
    });
    assert!(
        report["problems"][0]
            .as_str()
            .unwrap()
            .contains("node \"n3\" does not apply: "),
        "{report:#}"
    );
    let ran = at(cluster.server(0), &["compare", "--table", "stuck", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let compared = json(&ran);
    assert_eq!(compared["not_compared"][0]["node"], "n3", "{compared:#}");
    assert_eq!(compared["tables"][0]["equal"], true);
    // The row that apply looks for is put back by hand; then it goes on.
    let mut client = cluster.client(2);
    client
        .batch_execute("SET synod.read_consistency = local; BEGIN")
        .unwrap();
    let csn: i64 = client.query_one("SELECT synod._hold(5000)", &[]).unwrap().get(0);
    client
        .batch_execute(&format!(
            "SELECT synod._begin_repair('stuck'::regclass, {csn}); INSERT INTO stuck VALUES (1); COMMIT"
        ))
        .unwrap();
    wait_until(DEADLINE, "a healthy group", || {
        (at(cluster.server(0), &["status"]).code == 0).then_some(())
    });
    assert_converged(&cluster, &["stuck"]);
}

#[test]
fn doctor_and_top_look_at_every_node() {
    let cluster = CLUSTER.lease();
    cluster.create_table("without_key", "CREATE TABLE without_key (a int)");
    let ran = at(cluster.server(0), &["doctor", "--json"]);
    let report = json(&ran);
    let findings = report["findings"].as_array().unwrap();
    let level = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {report:#}"))["level"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(report["nodes"].as_array().unwrap().len(), 3);
    for check in [
        "shared_preload_libraries",
        "log_min_messages",
        "max_connections",
        "links",
        "clocks",
        "version",
        "disk of the shared log",
    ] {
        assert_eq!(level(check), "ok", "{check}: {report:#}");
    }
    assert_eq!(level("tables without a key"), "note");
    assert!(at(cluster.server(0), &["doctor"]).out.contains("HINT:  "));
    let before = at(
        cluster.server(1),
        &["doctor", "--json", "--dsn", &cluster.server(1).dsn_of("template1")],
    );
    assert_eq!(before.code, 1);
    assert!(before.out.contains("Run CREATE EXTENSION synod."), "{}", before.out);

    let ran = at(
        cluster.server(0),
        &["top", "--interval", "0.2", "--count", "2", "--json"],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    let looks: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(looks.len(), 2);
    assert_eq!(looks[1]["nodes"].as_array().unwrap().len(), 3);
    let text = at(cluster.server(0), &["top", "-i", "0.2", "-n", "1"]);
    assert!(text.out.contains("COMMITS/S"), "{text:?}");
    // On a terminal it takes the whole screen, and gives it back.
    let program = synod_testkit::command::synod_program();
    let line = format!(
        "{} top --dsn '{}' -i 0.2 -n 2",
        program.display(),
        cluster.server(0).dsn()
    );
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{screen}");
    assert!(
        screen.contains("\u{1b}[?1049h") && screen.contains("\u{1b}[?1049l"),
        "{screen:?}"
    );
    assert!(screen.contains("CONFLICTS/S"), "{screen}");
}

#[test]
fn a_group_is_made_joined_and_left() {
    let mut server = Server::new("made", &[]);
    server.start();
    for database in ["a", "b"] {
        server
            .client()
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .unwrap();
        server
            .client_to(database)
            .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
            .unwrap();
    }
    let (a, b) = (server.dsn_of("a"), server.dsn_of("b"));
    let ran = synod(&["-d", &a, "create", "shop", "--node", "a", "--address", &a]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "group \"shop\" is made; its only node is \"a\"\n"),
        "{ran:?}"
    );
    server
        .client_to("a")
        .batch_execute("SELECT synod.replicate_table('t'); INSERT INTO t VALUES (1)")
        .unwrap();
    let ran = synod(&["-d", &b, "join", "--via", &a, "--node", "b", "--address", &b, "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(json(&ran)["tables"], 1);
    let ran = synod(&[
        "-d",
        &a,
        "move",
        "--node",
        "b",
        "--address",
        &format!("{b} connect_timeout=3"),
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        synod(&["-d", &b, "rejoin"]).code,
        3,
        "a healthy node needs no fresh copy"
    );
    let ran = synod(&["-d", &b, "join", "--via", &a, "--node", "b", "--address", &b]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.starts_with("ERROR:  "), "{}", ran.err);
    assert_eq!(synod(&["-d", &b, "leave"]).code, 0);
    let ran = synod(&["-d", &b, "status"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("not a member of a group"), "{ran:?}");
    let ran = synod(&["-d", &a, "leave", "--node", "b"]);
    assert!(ran.err.contains("node \"b\" does not exist"), "{ran:?}");
}
