//! What slots keep.

use super::{Alone, CLUSTER, make_slot};
use serde_json::Value;

fn synod(server: &synod_testkit::Server, database: &str, arguments: &[&str]) -> (String, i32) {
    let output = std::process::Command::new(synod_testkit::command::synod_program())
        .args(arguments)
        .args(["-d", &server.dsn_of(database)])
        .output()
        .expect("the program starts");
    let code = output.status.code().unwrap_or(-1);
    (String::from_utf8_lossy(&output.stdout).into_owned(), code)
}

#[test]
fn slots_are_shown_with_what_they_keep_and_who_reads() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "slots");
    let mut client = alone.client();
    make_slot(&mut client, "kept");
    client
        .batch_execute("CREATE TABLE t (a text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 1000)")
        .unwrap();
    let row = client
        .query_one(
            "SELECT plugin, database, active, retained_bytes, lag_bytes, wal_status, application_name FROM synod.stat_slots WHERE slot_name = 'kept'",
            &[],
        )
        .unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, bool>(2)),
        ("synod", "slots", false)
    );
    assert!(
        row.get::<_, i64>(3) > 400_000 && row.get::<_, i64>(4) > 400_000,
        "{row:?}"
    );
    assert_eq!(
        (row.get::<_, &str>(5), row.get::<_, Option<&str>>(6)),
        ("reserved", None)
    );
    // The role that monitors may look.
    client.batch_execute("CREATE ROLE watch; GRANT pg_monitor TO watch; SET ROLE watch; TABLE synod.stat_slots; RESET ROLE; DROP ROLE watch").unwrap();

    let server = cluster.server(0);
    let (text, _) = synod(server, "postgres", &["status"]);
    let line = text
        .lines()
        .find(|line| line.starts_with("kept "))
        .unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("synod") && line.contains("idle"), "{line}");
    let (text, _) = synod(server, "postgres", &["status", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let slot = report["slots"]
        .as_array()
        .and_then(|slots| slots.iter().find(|slot| slot["slot_name"] == "kept"));
    assert!(
        slot.is_some_and(|slot| slot["retained_bytes"].as_i64() > Some(400_000)),
        "{text}"
    );
    let (text, _) = synod(server, "postgres", &["doctor"]);
    for said in ["replication slots without a reader: ", "max_slot_wal_keep_size: -1"] {
        assert!(text.contains(said), "{text}");
    }
}
