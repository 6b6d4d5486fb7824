//! Words of nodes, and what the doctor makes of them.

use serde_json::json;

use super::super::between::between_nodes;
use super::super::question::Clock;
use super::*;

fn healthy() -> Value {
    json!({
        "settings": {
            "shared_preload_libraries": "pg_stat_statements, synod", "log_min_messages": "warning", "fsync": "on",
            "full_page_writes": "on", "default_transaction_isolation": "read committed",
            "session_replication_role": "origin", "max_worker_processes": "16", "max_replication_slots": "10",
            "max_connections": "100", "superuser_reserved_connections": "3", "statement_timeout": "0",
        },
        "version_num": 150020, "extension": "0.1.0", "available": "0.1.0", "origins": 1, "connections": 10,
        "slots": [], "role_settings": [], "prepared": [], "encoding": "UTF8",
        "facts": { "library": "0.1.0", "protocol": 1, "node_id": 1 }, "keyless": [], "links": 2,
        "log": { "state": "running", "quorum": true }, "apply": { "state": "running", "applied_csn": 5, "decided_csn": 5 },
        "disk": { "free_bytes": 50_000_000_000_i64, "total_bytes": 100_000_000_000_i64, "log_bytes": 1000 },
    })
}

fn bad(word: &Value) -> Vec<String> {
    let found = of_node(word, 2).findings;
    found
        .into_iter()
        .filter(|finding| finding.level > Level::Good)
        .map(|finding| finding.check)
        .collect()
}

#[test]
fn a_healthy_node_has_nothing() {
    assert_eq!(bad(&healthy()), Vec::<String>::new());
}

#[test]
fn each_illness_is_named() {
    let mut word = healthy();
    word["settings"]["log_min_messages"] = json!("fatal");
    word["settings"]["shared_preload_libraries"] = json!("synodical");
    word["keyless"] = json!(["public.log"]);
    word["prepared"] = json!(["tx"]);
    word["links"] = json!(1);
    word["role_settings"] = json!([{ "role": "app", "setting": "statement_timeout=5s" }]);
    word["audit"] = json!({ "state": "stopped", "reason": "disk full" });
    word["slots"] = json!([{ "name": "old", "active": false, "retained": 2e9 }]);
    word["settings"]["max_slot_wal_keep_size"] = json!("-1");
    assert_eq!(
        bad(&word),
        [
            "shared_preload_libraries",
            "log_min_messages",
            "timeouts",
            "prepared transactions",
            "replication slots",
            "max_slot_wal_keep_size",
            "auditing",
            "links",
            "tables without a key",
        ]
    );
    assert_eq!(bad(&json!({ "settings": {} }))[0], "shared_preload_libraries");
}

#[test]
fn clocks_are_compared_with_their_uncertainty() {
    let word = healthy();
    let clock = |ahead| Clock { ahead, within: 0.6 };
    let (a, b, c) = (clock(0.0), clock(1.9), clock(3.0));
    let level = |other: &Clock| {
        let found = between_nodes(&[("a", &word, &a), ("b", &word, other)]);
        found
            .into_iter()
            .find(|finding| finding.check == "clocks")
            .map(|finding| finding.level)
    };
    assert_eq!(level(&b), Some(Level::Good));
    assert_eq!(level(&c), Some(Level::Warning));
}

#[test]
fn slots_are_judged_by_what_they_hold_and_what_is_left_to_them() {
    let mut word = healthy();
    word["settings"]["max_slot_wal_keep_size"] = json!("1000");
    word["settings"]["output_plugin_libraries"] = json!("pgoutput, test_decoding");
    let slot = |name: &str, active: bool, retained: f64, wal_status: &str| json!({ "name": name, "active": active, "retained": retained, "wal_status": wal_status, "plugin": "synod" });
    word["slots"] = json!([
        slot("read", true, 5e6, "reserved"),
        slot("slow", true, 2e9, "extended"),
        slot("idle", false, 5e6, "reserved"),
        slot("late", true, 5e8, "unreserved"),
        slot("gone", true, 0.0, "lost"),
    ]);
    assert_eq!(
        bad(&word),
        [
            "replication slots",
            "replication slots without a reader",
            "replication slots about to be lost",
            "replication slots that are lost",
            "output_plugin_libraries",
        ]
    );
    word["slots"] = json!([slot("read", true, 5e6, "reserved")]);
    word["settings"]["output_plugin_libraries"] = json!("pgoutput, \"synod\"");
    assert_eq!(bad(&word), Vec::<String>::new());
}
