//! What the doctor knows. Pure: from what nodes said to findings.

use serde_json::Value;

use crate::output::size;

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Will hurt one day.
    Warning,
    /// Does not work, or can lose something.
    Error,
}

impl Level {
    /// For people.
    pub fn word(self) -> &'static str {
        ["ok", "NOTE", "WARNING", "ERROR"][self as usize]
    }

    /// For programs.
    pub fn name(self) -> &'static str {
        ["ok", "note", "warning", "error"][self as usize]
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What was looked at.
    pub check: String,
    /// What was seen.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Finding {
    /// A finding.
    pub fn new(level: Level, check: &str, what: impl Into<String>, hint: &str) -> Self {
        Self {
            level,
            check: check.into(),
            what: what.into(),
            hint: hint.into(),
        }
    }
}

/// All findings about a node.
#[derive(Debug, Default)]
pub struct Checked {
    pub findings: Vec<Finding>,
    pub checks: usize,
}

impl Checked {
    /// Note one check: bad when `bad`.
    fn check(&mut self, bad: bool, level: Level, check: &str, what: impl Into<String>, hint: &str) {
        self.checks += 1;
        let level = if bad { level } else { Level::Good };
        let hint = if bad { hint } else { "" };
        self.findings.push(Finding::new(level, check, what, hint));
    }
}

/// What one node's word says about it.
pub fn of_node(word: &Value, peers: usize) -> Checked {
    let mut checked = Checked::default();
    settings(&mut checked, word);
    capacity(&mut checked, word, peers);
    sessions(&mut checked, word);
    storage(&mut checked, word);
    if word["extension"].is_null() {
        let available = word["available"].as_str();
        let hint = if available.is_some() {
            "Run CREATE EXTENSION synod."
        } else {
            "Install it: make install."
        };
        checked.check(true, Level::Error, "extension", "it is not in this database", hint);
    } else {
        member(&mut checked, word, peers);
    }
    checked
}

fn setting<'a>(word: &'a Value, name: &str) -> &'a str {
    word["settings"][name].as_str().unwrap_or_default()
}

fn number(word: &Value, name: &str) -> i64 {
    setting(word, name).parse().unwrap_or(0)
}

fn settings(checked: &mut Checked, word: &Value) {
    let libraries = setting(word, "shared_preload_libraries");
    let loaded = libraries
        .split(',')
        .any(|name| name.trim().trim_matches('"').rsplit('/').next() == Some("synod"));
    checked.check(
        !loaded,
        Level::Error,
        "shared_preload_libraries",
        format!("'{libraries}'"),
        "Add synod to it and restart the server.",
    );
    let level = setting(word, "log_min_messages");
    checked.check(
        matches!(level, "log" | "fatal" | "panic"),
        Level::Error,
        "log_min_messages",
        level,
        "Set it to error or a lower level: above it an unknown outcome (08007) could reach a client as a failure.",
    );
    checked.check(
        setting(word, "fsync") == "off",
        Level::Error,
        "fsync",
        setting(word, "fsync"),
        "Set it to on: after a crash of the machine this node's database would be damaged.",
    );
    checked.check(
        setting(word, "full_page_writes") == "off",
        Level::Warning,
        "full_page_writes",
        setting(word, "full_page_writes"),
        "Set it to on, unless the file system never tears a page.",
    );
    let isolation = setting(word, "default_transaction_isolation");
    checked.check(
        isolation == "serializable",
        Level::Warning,
        "default_transaction_isolation",
        isolation,
        "SERIALIZABLE transactions may be refused on replicated tables; see the guarantees.",
    );
    let role = setting(word, "session_replication_role");
    checked.check(
        role == "replica",
        Level::Warning,
        "session_replication_role",
        role,
        "Set it to origin for the server, and to replica only in sessions that need it.",
    );
}

fn capacity(checked: &mut Checked, word: &Value, peers: usize) {
    let peers = i64::try_from(peers).unwrap_or(i64::MAX);
    let workers = number(word, "max_worker_processes");
    checked.check(
        workers < 4,
        Level::Error,
        "max_worker_processes",
        workers.to_string(),
        "Each member database needs two, the server one more, PostgreSQL itself one: set it to 16, and restart.",
    );
    let name = match number(word, "max_active_replication_origins") {
        0 if word["version_num"].as_i64().unwrap_or(0) < 180_000 => "max_replication_slots",
        _ => "max_active_replication_origins",
    };
    let (limit, used) = (number(word, name), word["origins"].as_i64().unwrap_or(0));
    // A member has its origin already.
    let needed = if word["facts"]["node_id"].is_null() {
        used + 1
    } else {
        used.max(1)
    };
    checked.check(
        limit < needed,
        Level::Error,
        name,
        format!("{limit}, {used} origins exist"),
        "Each member database needs one replication origin: raise it and restart.",
    );
    let (most, used) = (
        number(word, "max_connections"),
        word["connections"].as_i64().unwrap_or(0),
    );
    let free = most - number(word, "superuser_reserved_connections") - used;
    checked.check(
        free < peers + 3,
        Level::Warning,
        "max_connections",
        format!("{most}, {used} in use, {free} free for ordinary users"),
        "Links between nodes are connections, too. Limit the application (ALTER ROLE ... CONNECTION LIMIT) or raise it; \
         from PostgreSQL 16 on reserve some: reserved_connections, and pg_use_reserved_connections for the links' role.",
    );
}

fn sessions(checked: &mut Checked, word: &Value) {
    let timeouts = [
        "statement_timeout",
        "idle_session_timeout",
        "transaction_timeout",
        "idle_in_transaction_session_timeout",
    ];
    let rows = word["role_settings"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for row in &rows {
        let text = row["setting"].as_str().unwrap_or_default();
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if timeouts.contains(&name) && !matches!(value, "0" | "0s" | "0ms") {
            let role = row["role"].as_str().unwrap_or("all roles");
            found.push(format!("{role}: {text}"));
        }
    }
    for name in ["statement_timeout", "idle_session_timeout"] {
        if number(word, name) != 0 {
            found.push(format!("the server: {name}={}", setting(word, name)));
        }
    }
    checked.check(
        !found.is_empty(),
        Level::Note,
        "timeouts",
        if found.is_empty() {
            "none by role, database or server".into()
        } else {
            found.join("; ")
        },
        "Links switch them off for themselves. In a session that calls synod.join_group itself, switch them off first.",
    );
    let local = rows
        .iter()
        .filter_map(|row| row["setting"].as_str())
        .any(|text| text == "session_replication_role=replica");
    checked.check(
        local,
        Level::Warning,
        "session_replication_role by role",
        if local {
            "replica is set for a role or database"
        } else {
            "nobody has it set"
        },
        "Ordinary clients need origin: ALTER ROLE ... RESET session_replication_role.",
    );
    let prepared = word["prepared"].as_array().map_or(0, Vec::len);
    checked.check(
        prepared > 0,
        Level::Warning,
        "prepared transactions",
        format!("{prepared} in this database"),
        "Their locks stop apply until they end: COMMIT PREPARED or ROLLBACK PREPARED; see pg_prepared_xacts.",
    );
}

fn storage(checked: &mut Checked, word: &Value) {
    slots::check(checked, word);
    let (known, actual) = (&word["collation_version"], &word["collation_actual"]);
    checked.check(
        !known.is_null() && known != actual,
        Level::Warning,
        "collation version",
        format!(
            "created with {}, the library is {}",
            known.as_str().unwrap_or("none"),
            actual.as_str().unwrap_or("none")
        ),
        "REINDEX what depends on it, then ALTER DATABASE ... REFRESH COLLATION VERSION.",
    );
    let disk = &word["disk"];
    if let (Some(free), Some(total)) = (disk["free_bytes"].as_i64(), disk["total_bytes"].as_i64()) {
        let retention = number(word, "synod.log_retention") * 1_048_576;
        let log = disk["log_bytes"].as_i64().unwrap_or(0);
        let grows = (retention - log).max(0);
        checked.check(
            free < grows || free < total / 20,
            if free < 134_217_728 {
                Level::Error
            } else {
                Level::Warning
            },
            "disk of the shared log",
            format!("{} of {} free, the log has {}", size(free), size(total), size(log)),
            "Make room, or lower synod.log_retention: a node whose disk is full stops.",
        );
    }
}

fn member(checked: &mut Checked, word: &Value, peers: usize) {
    let (extension, library) = (word["extension"].as_str(), word["facts"]["library"].as_str());
    checked.check(
        extension != library,
        Level::Error,
        "version",
        format!(
            "extension {}, library {}",
            extension.unwrap_or("none"),
            library.unwrap_or("none")
        ),
        "Run ALTER EXTENSION synod UPDATE; restart the server if the library is the older one.",
    );
    slots::audit(checked, &word["audit"]);
    if word["facts"]["node_id"].is_null() {
        checked.check(
            true,
            Level::Note,
            "membership",
            "this database is in no group",
            "See synod create and synod join.",
        );
        return;
    }
    for (part, what) in [("log", "shared log"), ("apply", "apply")] {
        let state = word[part]["state"].as_str().unwrap_or("not started");
        let reason = word[part]["reason"].as_str();
        checked.check(
            state != "running",
            Level::Error,
            what,
            reason.map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}")),
            "See the server log; apply goes on by itself when the cause is gone, the log worker after a restart.",
        );
    }
    checked.check(
        word["log"]["quorum"] == false,
        Level::Error,
        "majority",
        if word["log"]["quorum"] == true {
            "reached"
        } else {
            "not reached"
        },
        "Writes and strong reads wait. Bring the other nodes or the network back.",
    );
    let links = word["links"].as_i64().unwrap_or(0);
    checked.check(
        links < i64::try_from(peers).unwrap_or(0),
        Level::Warning,
        "links",
        format!("{links} of {peers} other nodes are connected"),
        "See the server logs of those that are not: their dsn for this node, pg_hba.conf and passwords.",
    );
    let keyless: Vec<&str> = word["keyless"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    checked.check(
        !keyless.is_empty(),
        Level::Note,
        "tables without a key",
        if keyless.is_empty() { "none".into() } else { keyless.join(", ") },
        "UPDATE and DELETE find their rows by all columns there: add a primary key, or a unique index as replica identity.",
    );
}

mod slots;
#[cfg(test)]
mod tests;
