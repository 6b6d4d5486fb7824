//! The replication connection: a session in which the server takes replication commands and SQL.

use std::time::Duration;

use super::lsn;
use super::resume::Timeline;
use crate::failure::Failure;
use crate::session::{Session, Target};

/// The output plugin whose slots are read.
pub const PLUGIN: &str = "synod";

/// Which server and database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// `pg_control_system().system_identifier`: no two clusters have the same, unless one is a copy of the other.
    pub identifier: String,
    /// The database.
    pub database: String,
}

/// A slot as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Nothing before this is told any more.
    pub confirmed: u64,
    /// Who reads it now.
    pub active_pid: Option<String>,
}

/// What making a slot gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The stream begins here: the snapshot shows what was committed before, the stream what is after.
    pub consistent: u64,
    /// The exported snapshot. It is valid until the next command of the session.
    pub snapshot: Option<String>,
}

/// Such a session.
pub struct Source {
    /// Takes commands until [`Source::start_command`].
    pub session: Session,
    /// Where it is connected to.
    pub system: System,
    /// What its positions are positions of.
    pub of: Timeline,
    /// The timeline it is on, a standby, too.
    pub timeline: u32,
    /// It is in recovery.
    pub standby: bool,
}

impl Source {
    /// Connect.
    pub fn connect(target: &Target) -> Result<Self, Failure> {
        let mut session = target.connect_with("stream", &[("replication", "database")])?;
        let rows = session.query("IDENTIFY_SYSTEM")?;
        let mut fields = rows.into_iter().next().unwrap_or_default().into_iter();
        let (identifier, timeline) = (fields.next().flatten(), fields.next().flatten());
        let database = fields.nth(1).flatten();
        let (Some(identifier), Some(database)) = (identifier, database) else {
            return Err(Failure::new(
                format!("{} does not say which system it is", target.whom),
                "IDENTIFY_SYSTEM gave no system identifier or no database.",
                "Connect to a database of a PostgreSQL server.",
            ));
        };
        let rows = session.query("SELECT pg_catalog.pg_is_in_recovery()")?;
        let standby = rows.first().and_then(|row| row.first()?.as_deref()) == Some("t");
        let timeline = timeline.and_then(|number| number.parse().ok()).unwrap_or_default();
        let of = Timeline {
            system: identifier.clone(),
            number: if standby { 0 } else { timeline },
        };
        Ok(Self {
            session,
            system: System { identifier, database },
            of,
            timeline,
            standby,
        })
    }

    /// The slot, if there is one of this name; an error if it cannot be ours.
    pub fn slot(&mut self, name: &str) -> Result<Option<Slot>, Failure> {
        let rows = self.session.query(&format!(
            "SELECT plugin, database, active_pid, confirmed_flush_lsn, wal_status, temporary \
               FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            literal(name)
        ))?;
        let Some(row) = rows.into_iter().next() else {
            return Ok(None);
        };
        let field = |index: usize| row.get(index).cloned().flatten();
        let plugin = field(0).unwrap_or_default();
        if plugin != PLUGIN {
            let owner = if plugin.is_empty() {
                "It is a physical one.".to_owned()
            } else {
                format!("Its output plugin is \"{plugin}\".")
            };
            return Err(Failure::new(
                format!("replication slot \"{name}\" is not one of synod"),
                owner,
                "Give another name with --slot, and --create to make a slot of that name.",
            ));
        }
        if field(1).as_deref() != Some(&self.system.database) {
            return Err(Failure::new(
                format!("replication slot \"{name}\" is one of another database"),
                format!(
                    "It belongs to database \"{}\", the connection is to \"{}\".",
                    field(1).unwrap_or_default(),
                    self.system.database
                ),
                "Connect to that database with --dsn, or give another name with --slot.",
            ));
        }
        if field(4).as_deref() == Some("lost") {
            return Err(Failure::new(
                format!("replication slot \"{name}\" has lost WAL that it needs"),
                "The server has removed it: max_slot_wal_keep_size was exceeded, or the slot was invalidated otherwise.",
                "What happened since is not in the stream. Drop the slot (--drop-slot) and begin anew with \
                 --create --initial-snapshot.",
            ));
        }
        Ok(Some(Slot {
            confirmed: field(3).and_then(|text| lsn::parse(&text)).unwrap_or_default(),
            active_pid: field(2),
        }))
    }

    /// Make one. A temporary one goes with the session.
    pub fn create_slot(&mut self, name: &str, temporary: bool, snapshot: bool) -> Result<Made, Failure> {
        let export = if snapshot {
            "EXPORT_SNAPSHOT"
        } else {
            "NOEXPORT_SNAPSHOT"
        };
        let temporary = if temporary { "TEMPORARY " } else { "" };
        let command = format!(
            "CREATE_REPLICATION_SLOT {} {temporary}LOGICAL {PLUGIN} {export}",
            identifier(name)
        );
        let rows = self.session.query(&command).map_err(explain)?;
        let mut fields = rows.into_iter().next().unwrap_or_default().into_iter();
        let consistent = fields.nth(1).flatten().and_then(|text| lsn::parse(&text));
        Ok(Made {
            consistent: consistent.unwrap_or_default(),
            snapshot: fields.next().flatten(),
        })
    }

    /// Make a lasting slot that stands where a temporary one of this session does.
    pub fn keep_slot(&mut self, temporary: &str, name: &str) -> Result<(), Failure> {
        let sql = format!(
            "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, false)",
            literal(temporary),
            literal(name)
        );
        self.session.query(&sql).map_err(explain).map(drop)
    }

    /// Drop it. It must not be in use.
    pub fn drop_slot(&mut self, name: &str) -> Result<(), Failure> {
        let command = format!("DROP_REPLICATION_SLOT {}", identifier(name));
        self.session.query(&command).map(drop)
    }

    /// Where the WAL that is on disk ends, once everything that was committed before this call is.
    pub fn flushed(&mut self) -> Result<u64, Failure> {
        let inserted = self.position("pg_current_wal_insert_lsn()")?;
        let mut flushed = 0;
        // What is committed asynchronously follows within three rounds of the WAL writer, 0.2 s each unless set otherwise. An insert
        // position at the start of a page is past its header, a flush position before it.
        for _ in 0..100 {
            flushed = self.position("pg_current_wal_flush_lsn()")?;
            if flushed + 64 >= inserted {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(flushed)
    }

    /// What a function says of the WAL.
    pub fn position(&mut self, function: &str) -> Result<u64, Failure> {
        let rows = self.session.query(&format!("SELECT pg_catalog.{function}"))?;
        let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        text.and_then(|text| lsn::parse(&text)).ok_or_else(|| {
            Failure::new(
                format!("{} does not say where its WAL ends", self.session.whom),
                format!("{function} gave no position."),
                "",
            )
        })
    }

    /// Which timelines it left, and where, to come to this one.
    pub fn history(&mut self, timeline: u32) -> Result<String, Failure> {
        let rows = self.session.query(&format!("TIMELINE_HISTORY {timeline}"))?;
        let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
        Ok(content.unwrap_or_default())
    }

    /// The command that makes the session stream.
    pub fn start_command(slot: &str, from: u64, options: &[(String, String)]) -> String {
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{} {}", identifier(name), literal(value)))
            .collect();
        format!(
            "START_REPLICATION SLOT {} LOGICAL {} ({})",
            identifier(slot),
            lsn::text(from),
            options.join(", ")
        )
    }
}

/// A newer minor release loads only those output plugins that the operator lists.
fn explain(mut failure: Failure) -> Failure {
    let said = format!("{} {} {}", failure.message, failure.detail, failure.hint);
    if said.contains("output_plugin_libraries") {
        failure.hint =
            "Allow it in the server: ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding', 'synod'; \
                        SELECT pg_reload_conf();"
                .into();
    } else if failure.sqlstate.as_deref() == Some("58P01") {
        failure.hint = "Install the extension's library on the server (make install, or the package).".into();
    }
    failure
}

/// `"name"`
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`, for a server with standard_conforming_strings, and for replication commands.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether it may be otherwise in a while: the server is away, starts, has no room, or still thinks that we are there.
pub fn passes(failure: &Failure) -> bool {
    match failure.sqlstate.as_deref() {
        None => failure.message.starts_with("could not talk to"),
        Some(code) => {
            matches!(code, "57P01" | "57P02" | "57P03" | "57P05" | "55006" | "25006")
                || code.starts_with("08")
                || code.starts_with("53")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_quote_what_they_are_given() {
        let options = [
            ("format".to_owned(), "binary".to_owned()),
            ("add-tables".into(), "o'x".into()),
        ];
        assert_eq!(
            Source::start_command("a\"b", 0x1_0000_00FF, &options),
            "START_REPLICATION SLOT \"a\"\"b\" LOGICAL 1/FF (\"format\" 'binary', \"add-tables\" 'o''x')"
        );
    }
}
