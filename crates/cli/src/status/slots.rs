//! The replication slots of a node's server, as `synod status` shows them: what is kept for whom.

use serde_json::{Value, json};

use crate::output::size;

/// Above its table.
pub const HEADER: [&str; 8] = ["SLOT", "NODE", "PLUGIN", "STATE", "READER", "RETAINED", "LAG", "WAL"];
/// Columns of numbers.
pub const RIGHT: [usize; 2] = [5, 6];

/// One slot: a row of `synod.stat_slots`, and whose server it is on.
pub struct Slot {
    node: String,
    row: Value,
}

/// The slots of a node, those that hold most first.
pub fn of(word: &Value, node: &str) -> Vec<Slot> {
    let rows = word["slots"].as_array().cloned().unwrap_or_default();
    let slot = |row| Slot {
        node: node.to_owned(),
        row,
    };
    rows.into_iter().map(slot).collect()
}

impl Slot {
    fn text(&self, column: &str) -> String {
        self.row[column].as_str().unwrap_or("-").to_owned()
    }

    fn state(&self) -> &'static str {
        match (self.row["active"] == true, self.row["wal_status"].as_str()) {
            (_, Some("lost")) => "lost",
            (true, _) => "read",
            (false, _) => "idle",
        }
    }

    /// Who reads: its name, or else where it is, or else its process.
    fn reader(&self) -> String {
        let name = self.row["application_name"].as_str().filter(|name| !name.is_empty());
        let address = self.row["client_addr"].as_str();
        match (name, address, self.row["pid"].as_i64()) {
            (Some(name), Some(address), _) => format!("{name} at {address}"),
            (Some(only), None, _) | (None, Some(only), _) => only.to_owned(),
            (None, None, Some(pid)) => format!("process {pid}"),
            (None, None, None) => "-".into(),
        }
    }

    /// Its line in the table.
    pub fn cells(&self) -> Vec<String> {
        let bytes = |column: &str| self.row[column].as_i64().map_or_else(|| "-".into(), size);
        let plugin = self.row["plugin"].as_str().unwrap_or("(physical)");
        vec![
            self.text("slot_name"),
            self.node.clone(),
            plugin.to_owned(),
            self.state().into(),
            self.reader(),
            bytes("retained_bytes"),
            bytes("lag_bytes"),
            self.text("wal_status"),
        ]
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut row = self.row.clone();
        row["node"] = json!(self.node);
        row
    }

    /// What has to be done something about.
    pub fn problem(&self) -> Option<String> {
        let what = match self.row["wal_status"].as_str()? {
            "lost" => "is lost: the WAL that its reader needs is gone",
            "unreserved" => "is about to be lost: max_slot_wal_keep_size is reached",
            _ => return None,
        };
        Some(format!("slot \"{}\" of {} {what}", self.text("slot_name"), self.node))
    }
}
