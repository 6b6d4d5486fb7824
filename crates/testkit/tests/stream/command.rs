//! The command itself: slots, ends, complaints, status.

use super::*;

#[test]
fn what_is_wrong_with_a_slot_is_told() {
    let server = server();
    let mut client = database(&server, "slots", "CREATE TABLE t (id int PRIMARY KEY)");
    let dsn = server.dsn_of("slots");
    let ran = stream(&dsn, &["--until-caught-up"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("replication slot \"s\" does not exist"), "{}", ran.err);
    assert!(ran.err.contains("--create"), "{}", ran.err);

    client
        .batch_execute("SELECT pg_create_logical_replication_slot('other', 'test_decoding'); SELECT pg_create_physical_replication_slot('phys')")
        .unwrap();
    for (slot, detail) in [("other", "\"test_decoding\""), ("phys", "physical")] {
        let ran = synod(&["stream", "--dsn", &dsn, "--slot", slot, "--create", "--until-caught-up"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(
            ran.err.contains("is not one of synod") && ran.err.contains(detail),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("HINT:  "), "{}", ran.err);
    }
    streamed(&dsn, &["--create", "--until-caught-up"]);
    let elsewhere = server.dsn();
    let ran = stream(&elsewhere, &["--until-caught-up"]);
    assert!(ran.err.contains("is one of another database"), "{}", ran.err);
    let ran = streamed(&dsn, &["--drop-slot"]);
    assert_eq!(ran.out, "replication slot \"s\" is dropped\n");
    assert_eq!(stream(&dsn, &["--drop-slot"]).code, 3);
    for wrong in [
        &["--to", "ftp://host/"][..],
        &["--to", "redis://h/?actoin=del"],
        &["--to", "nats://h/?subject={id}"],
        &["--table", "nodot"],
        &["--option", "nothing"],
        &["--until-lsn", "zero"],
        &["--initial-snapshot"],
    ] {
        let ran = stream(
            &dsn,
            &[&["--create"][usize::from(wrong[0] == "--initial-snapshot")..], wrong].concat(),
        );
        assert!(matches!(ran.code, 2 | 3), "{wrong:?}: {ran:?}");
        assert!(!ran.err.is_empty());
    }
    let ran = stream(&dsn, &["--create", "--until-caught-up", "--option", "no-such-option=1"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.contains("no-such-option") && ran.err.contains("HINT:  --option takes: "),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("include-tables"), "{}", ran.err);
    let ran = stream(&dsn, &["--option", "include-tables=public.t"]);
    assert!(
        ran.err.contains("HINT:  Tables are chosen with --table."),
        "{}",
        ran.err
    );
    client
        .batch_execute(
            "SELECT pg_drop_replication_slot('other'), pg_drop_replication_slot('phys'), pg_drop_replication_slot('s')",
        )
        .unwrap();
}

#[test]
fn a_plugin_that_is_not_allowed_is_explained() {
    let server = server();
    let mut client = server.client();
    if client
        .query_opt("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'", &[])
        .unwrap()
        .is_none()
    {
        return;
    }
    client
        .batch_execute("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding'")
        .unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let ran = wait_until(DEADLINE, "a server without the plugin", || {
        let ran = synod(&[
            "stream",
            "--dsn",
            &server.dsn(),
            "--slot",
            "x",
            "--create",
            "--until-caught-up",
        ]);
        if ran.code == 0 {
            synod(&["stream", "--dsn", &server.dsn(), "--slot", "x", "--drop-slot"]);
        }
        (ran.code != 0).then_some(ran)
    });
    allow_plugin(&server);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err
            .contains("HINT:  Allow it in the server: ALTER SYSTEM SET output_plugin_libraries"),
        "{}",
        ran.err
    );
}

#[test]
fn lines_on_standard_output_come_from_where_the_last_run_ended() {
    let server = server();
    let mut client = database(&server, "lines", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let dsn = server.dsn_of("lines");
    assert_eq!(streamed(&dsn, &["--create", "--until-caught-up"]).out, "");
    client
        .batch_execute(
            "INSERT INTO t VALUES (1, 'ä'), (2, NULL); UPDATE t SET v = 'b' WHERE id = 2; DELETE FROM t WHERE id = 1",
        )
        .unwrap();
    let events = objects(&streamed(&dsn, &["--until-caught-up"]).out);
    let told: Vec<String> = events.iter().map(|event| event["action"].to_string()).collect();
    assert_eq!(events.len(), 4, "{told:?}");
    let ids: std::collections::BTreeSet<String> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(streamed(&dsn, &["--once"]).out, "", "nothing comes twice");
    client.batch_execute("INSERT INTO t VALUES (3, 'c')").unwrap();
    let until: String = client
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .unwrap()
        .get(0);
    client.batch_execute("INSERT INTO t VALUES (4, 'd')").unwrap();
    assert_eq!(objects(&streamed(&dsn, &["--until-lsn", &until]).out).len(), 1);
    let ran = streamed(&dsn, &["--until-caught-up", "--json", "--envelope", "cloudevents"]);
    let event = &objects(&ran.out)[0];
    assert_eq!(
        (&event["specversion"], &event["subject"]),
        (&"1.0".into(), &"public.t".into())
    );
    let status = objects(&ran.err);
    let last = status.last().unwrap();
    assert_eq!(
        (last["ended"].as_str(), last["events"].as_u64()),
        (Some("caught up"), Some(1)),
        "{last}"
    );
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn a_database_in_another_encoding_comes_in_utf8() {
    let server = server();
    server
        .client()
        .batch_execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        .unwrap();
    let mut client = server.client_to("latin");
    client
        .batch_execute(
            "CREATE TABLE \"größe\" (id int PRIMARY KEY, \"weiß\" text); INSERT INTO \"größe\" VALUES (1, 'ä')",
        )
        .unwrap();
    let dsn = server.dsn_of("latin");
    let snapshot = streamed(&dsn, &["--create", "--initial-snapshot", "--until-caught-up"]).out;
    client.batch_execute("INSERT INTO \"größe\" VALUES (2, 'ö')").unwrap();
    let followed = streamed(&dsn, &["--until-caught-up"]).out;
    for (lines, letter) in [(snapshot, "ä"), (followed, "ö")] {
        let event = &objects(&lines)[0];
        assert_eq!(event["table"], "größe");
        assert_eq!(
            (&event["columns"][1]["name"], &event["columns"][1]["value"]),
            (&"weiß".into(), &letter.into())
        );
    }
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn the_snapshot_is_filtered_as_the_stream_is() {
    let server = server();
    let mut client = database(
        &server,
        "filtered",
        "CREATE TABLE people (id int, name text, mail text, secret text, PRIMARY KEY (id) INCLUDE (name));
         CREATE TABLE aside (id int PRIMARY KEY); INSERT INTO aside VALUES (1);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF parts DEFAULT",
    );
    let dsn = server.dsn_of("filtered");
    let rows = "INSERT INTO people VALUES (1, 'ann', 'a@x', 's'), (2, 'bob', NULL, 's'), (3, 'cat', 'c@x', 's'); INSERT INTO parts VALUES (7)";
    client.batch_execute(rows).unwrap();
    // Not a row of it under a name that the mask does not know.
    for option in [
        "mask-columns=public.parts(id null)",
        "exclude-columns=public.people(secrets)",
    ] {
        let ran = stream(
            &dsn,
            &[
                "--option",
                option,
                "--create",
                "--initial-snapshot",
                "--until-caught-up",
            ],
        );
        assert_ne!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.out, "", "{option}");
    }
    let more = [
        "--table",
        "public.p*",
        "--exclude-table",
        "*.parts_*",
        "--option",
        "exclude-columns=public.people(secret)",
        "--option",
        "mask-columns=public.people(mail hash)",
        "--option",
        "mask-salt=pepper",
        "--option",
        "row-filter=public.people where (name <> 'cat')",
        "--option",
        "publish-via-root=on",
        "--until-caught-up",
    ];
    let snapshot = objects(&streamed(&dsn, &[&more[..], &["--create", "--initial-snapshot"]].concat()).out);
    client.batch_execute("TRUNCATE people, parts").unwrap();
    client.batch_execute(rows).unwrap();
    let all = objects(&streamed(&dsn, &more).out);
    let inserts: Vec<&Value> = all.iter().filter(|event| event["action"] == "I").collect();
    let shown = |event: &Value| format!("{}.{} {}", event["schema"], event["table"], event["columns"]);
    let mut first: Vec<String> = snapshot.iter().map(shown).collect();
    let mut then: Vec<String> = inserts.iter().map(|event| shown(event)).collect();
    first.sort();
    then.sort();
    assert_eq!(first, then);
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(snapshot[0]["id"].as_str().unwrap().starts_with("snapshot/"));
    let cleared = all
        .iter()
        .filter(|event| event["action"] == "T")
        .map(|event| event["id"].to_string());
    assert_eq!(
        cleared.collect::<std::collections::BTreeSet<_>>().len(),
        2,
        "each table that is emptied has an id"
    );
    streamed(&dsn, &["--drop-slot"]);
}

#[test]
fn a_terminal_shows_progress_and_a_signal_ends_it_well() {
    let server = server();
    let mut client = database(&server, "shown", "CREATE TABLE t (id int PRIMARY KEY)");
    let dsn = server.dsn_of("shown");
    streamed(&dsn, &["--create", "--until-caught-up"]);
    client
        .batch_execute("INSERT INTO t SELECT generate_series(1, 100)")
        .unwrap();
    let out = directory("shown").join("events.jsonl");
    let program = synod_testkit::command::synod_program();
    let line = format!(
        "{} stream --dsn '{dsn}' --slot s --until-caught-up --to {}",
        program.display(),
        path_text(&out)
    );
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{screen}");
    assert!(
        screen.contains("caught up: ") && screen.contains("100 events"),
        "{screen:?}"
    );

    let following = Following::start(&dsn, &["--to", &path_text(&out)]);
    client.batch_execute("INSERT INTO t VALUES (101)").unwrap();
    wait_until(DEADLINE, "the event", || {
        (std::fs::read_to_string(&out).unwrap().lines().count() == 101).then_some(())
    });
    assert_eq!(following.said(), "", "it is quiet");
    assert_eq!(following.terminate(), 0);
    streamed(&dsn, &["--drop-slot"]);
}

/// The event was called by the number of the first table, which another reader may be told of.
#[test]
fn the_id_of_an_emptied_table_does_not_depend_on_the_others() {
    let server = server();
    let mut client = database(
        &server,
        "emptied",
        "CREATE TABLE a (); CREATE TABLE b (); CREATE TABLE c ()",
    );
    let dsn = server.dsn_of("emptied");
    streamed(&dsn, &["--create", "--until-caught-up"]);
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('all_of_them', 'synod'); TRUNCATE a, b, c")
        .unwrap();
    let all =
        "SELECT data FROM pg_logical_slot_get_changes('all_of_them', NULL, NULL, 'format', 'json', 'include-ids', 'on')
                 WHERE data LIKE '%\"action\":\"T\"%'";
    let told: Vec<String> = client.query(all, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let ids = |lines: &str| -> Vec<String> { objects(lines).iter().map(|it| it["id"].to_string()).collect() };
    let ran = streamed(
        &dsn,
        &["--until-caught-up", "--table", "public.b", "--table", "public.c"],
    );
    assert_eq!(ids(&ran.out), ids(&told[1..].join("\n")));
    // With one between that is not wanted.
    client
        .batch_execute("SELECT pg_logical_slot_get_changes('all_of_them', NULL, NULL); TRUNCATE a, b, c")
        .unwrap();
    let told: Vec<String> = client.query(all, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let ran = streamed(
        &dsn,
        &["--until-caught-up", "--table", "public.a", "--table", "public.c"],
    );
    let told = ids(&told.join("\n"));
    assert_eq!(ids(&ran.out), [told[0].clone(), told[2].clone()]);
    client
        .execute("SELECT pg_drop_replication_slot('all_of_them')", &[])
        .unwrap();
    streamed(&dsn, &["--drop-slot"]);
}
