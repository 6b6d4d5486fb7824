//! Replication slots: the WAL that a slot holds fills the disk when nobody reads it.

use serde_json::Value;

use super::{Checked, Level, setting};
use crate::output::size;

/// What a slot may hold before it is spoken of.
const MUCH: i64 = 1_000_000_000;

const DROP: &str = "Bring the reader back, or drop the slot (pg_drop_replication_slot) if nobody needs it any more.";

/// What the slots of a server say about it.
pub fn check(checked: &mut Checked, word: &Value) {
    let slots = word["slots"].as_array().cloned().unwrap_or_default();
    let retained = |slot: &Value| slot["retained"].as_f64().unwrap_or(0.0) as i64;
    let name = |slot: &Value| slot["name"].as_str().unwrap_or_default().to_owned();
    let holds = |slot: &Value| format!("{} holds {}", name(slot), size(retained(slot)));
    let all = |wanted: &dyn Fn(&Value) -> bool, told: &dyn Fn(&Value) -> String| -> Vec<String> {
        slots.iter().filter(|slot| wanted(slot)).map(told).collect()
    };
    let heavy = all(&|slot| retained(slot) > MUCH, &|slot| {
        let idle = if slot["active"] == false {
            ", nobody reads it"
        } else {
            ""
        };
        holds(slot) + idle
    });
    checked.check(
        !heavy.is_empty(),
        Level::Warning,
        "replication slots",
        if heavy.is_empty() {
            format!("{} slots, none that holds much WAL", slots.len())
        } else {
            heavy.join("; ")
        },
        DROP,
    );
    let idle = all(&|slot| slot["active"] == false && retained(slot) <= MUCH, &holds);
    checked.check(
        !idle.is_empty(),
        Level::Note,
        "replication slots without a reader",
        if idle.is_empty() {
            "none".into()
        } else {
            idle.join("; ")
        },
        DROP,
    );
    status(checked, &slots);
    if slots.is_empty() {
        return;
    }
    checked.check(
        setting(word, "max_slot_wal_keep_size") == "-1",
        Level::Note,
        "max_slot_wal_keep_size",
        setting(word, "max_slot_wal_keep_size"),
        "Without a limit a slot that nobody reads fills the disk. With one, such a slot is lost instead: its reader begins anew.",
    );
    plugins(checked, word, &slots);
}

/// `unreserved` and `lost`: max_slot_wal_keep_size was reached.
fn status(checked: &mut Checked, slots: &[Value]) {
    let are = |status: &str| -> Vec<&str> {
        let of_status = slots.iter().filter(|slot| slot["wal_status"] == status);
        of_status.filter_map(|slot| slot["name"].as_str()).collect()
    };
    let (unreserved, lost) = (are("unreserved"), are("lost"));
    checked.check(
        !unreserved.is_empty(),
        Level::Error,
        "replication slots about to be lost",
        if unreserved.is_empty() { "none".into() } else { unreserved.join(", ") },
        "Their WAL can be gone at the next checkpoint: bring their readers back at once, or raise max_slot_wal_keep_size.",
    );
    checked.check(
        !lost.is_empty(),
        Level::Warning,
        "replication slots that are lost",
        if lost.is_empty() {
            "none".into()
        } else {
            lost.join(", ")
        },
        "Their WAL is gone. Drop them (pg_drop_replication_slot); their readers need a new slot and a new copy.",
    );
}

/// Newer minor releases decode with plugins only that are listed.
fn plugins(checked: &mut Checked, word: &Value, slots: &[Value]) {
    let Some(listed) = word["settings"]["output_plugin_libraries"].as_str() else {
        return;
    };
    let ours = slots.iter().any(|slot| slot["plugin"] == "synod");
    let known = listed
        .split(',')
        .any(|name| name.trim().trim_matches(['"', '\'']) == "synod");
    checked.check(
        ours && !known,
        Level::Error,
        "output_plugin_libraries",
        listed,
        "Add synod to it (ALTER SYSTEM SET, then reload): slots of the plugin cannot be read without.",
    );
}

/// Auditing, where there is any.
pub fn audit(checked: &mut Checked, audit: &Value) {
    let Some(state) = audit["state"].as_str() else { return };
    let reason = audit["reason"].as_str();
    checked.check(
        state != "running",
        Level::Error,
        "auditing",
        reason.map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}")),
        if state == "lost" {
            "What its slot had not read is gone. Call synod.audit_table for one of the tables: it goes on from there."
        } else {
            "It goes on by itself when the cause is gone; meanwhile its slot keeps WAL. synod.stat_audit has a hint."
        },
    );
}
