//! What `synod stream` takes on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::envelope::Envelope;
use super::lsn;

/// Examples, under the help.
pub const EXAMPLES: &str = "\
Sinks (--to), and how often an event arrives there:
  -                                       standard output, a JSON object per line           at least once
  file:events.jsonl                       a file, rotated, synced                           exactly once
  postgresql://user@host/db               rows in another PostgreSQL                        exactly once
  https://host/path                       POST, signed with --secret-file                   at least once
  nats://host:4222?subject=T              NATS JetStream; subject T, {schema} and {table}   exactly once within the
      &stream=S                           in it are filled in; stream S is made if needed   stream's duplicate window
  redis://host:6379/0?key=T               DEL of the key of each changed row; T is made of  at least once, which is
      &action=del|unlink|publish          {schema}, {table}, {key} and {column}             enough for a cache
      &channel=C                          to publish them instead, on channel C
  tls:// and rediss:// are the same with TLS. At least once: after a crash the last events may come again, with the same ids.

Examples:
  synod stream --dsn 'host=db1 dbname=app' --slot audit --create --to -
  synod stream --dsn 'host=db1 dbname=app' --slot files --create --to file:/var/lib/cdc/app.jsonl --rotate-size 100000000
  synod stream --dsn 'host=db1 dbname=shop' --slot rollup --create --initial-snapshot \\
      --to 'postgresql://warehouse/all' --target-schema shops --source-column shop --source shop-1
  synod stream --dsn 'host=db1 dbname=app' --slot hooks --to https://example.org/hook --envelope cloudevents --secret-file key
  synod stream --dsn 'host=n1 dbname=app' --dsn 'host=n2 dbname=app' --slot feed --create --to file:feed.jsonl
  synod stream --dsn 'host=db1 dbname=app' --slot audit --drop-slot

The user needs the attribute REPLICATION; for --initial-snapshot also SELECT on the tables. Ends at SIGINT and SIGTERM after what was
taken is delivered. Exits with 1 when events were parked.";

/// Options of `synod stream`.
#[derive(Args, Clone, Debug)]
pub struct Stream {
    /// Replication slot to read
    #[arg(long, value_name = "NAME")]
    pub slot: String,
    /// Make the slot if it is not there
    #[arg(long)]
    pub create: bool,
    /// Deliver the tables' rows as of the making of the slot first
    #[arg(long, requires = "create")]
    pub initial_snapshot: bool,
    /// Go on although the slot begins behind what the sink has: what lies between is missing there
    #[arg(long, conflicts_with = "initial_snapshot")]
    pub accept_gap: bool,
    /// Drop the slot, on every --dsn, and end
    #[arg(long, conflicts_with_all = ["create", "to", "replay_parked"])]
    pub drop_slot: bool,
    /// Tables wanted: schema.table, names as in SQL, * for any part of them; may be given more than once [default: all]
    #[arg(short, long = "table", value_name = "PATTERN")]
    pub tables: Vec<String>,
    /// Tables not wanted, the same way
    #[arg(long = "exclude-table", value_name = "PATTERN")]
    pub exclude_tables: Vec<String>,
    /// Any other option of the output plugin: columns, row-filter, mask-columns, operations, ...
    #[arg(long = "option", value_name = "NAME=VALUE")]
    pub plugin_options: Vec<String>,
    /// Where events go [default: standard output]
    #[arg(long, value_name = "URL", env = "SYNOD_STREAM_TO", hide_env_values = true)]
    pub to: Option<String>,
    /// How an event is written
    #[arg(long, value_enum, default_value_t = Envelope::Native)]
    pub envelope: Envelope,
    /// What events say of where they come from [default: the slot's name]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// End when everything committed before this position is delivered
    #[arg(long, value_name = "LSN", value_parser = lsn::argument)]
    pub until_lsn: Option<u64>,
    /// End when everything committed before the start is delivered
    #[arg(long, visible_alias = "once", conflicts_with = "until_lsn")]
    pub until_caught_up: bool,
    /// Bytes that may wait between server and sink; beyond, the server keeps them
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub max_memory: usize,
    /// When the sink will not take an event
    #[arg(long, value_enum, default_value_t = OnRefusal::Stop)]
    pub on_refusal: OnRefusal,
    /// File for parked events [default: synod-parked-SLOT.jsonl]
    #[arg(long, value_name = "FILE")]
    pub parked: Option<PathBuf>,
    /// Send the parked events once more, and end
    #[arg(long)]
    pub replay_parked: bool,
    /// Seconds between status lines, with --json
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub status_interval: f64,
    /// File: begin another one at so many bytes
    #[arg(long, value_name = "BYTES")]
    pub rotate_size: Option<u64>,
    /// File: begin another one after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub rotate_after: Option<u64>,
    /// HTTP: events in one request; more than one are sent as a JSON array
    #[arg(long, value_name = "EVENTS", default_value_t = 1)]
    pub batch: usize,
    /// HTTP: sign requests with the secret in this file (header synod-signature)
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// HTTP: another header; may be given more than once
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// https, tls, rediss: trust the authorities in this file (PEM), instead of those of the operating system
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PostgreSQL: schema of all tables there
    #[arg(long, value_name = "SCHEMA")]
    pub target_schema: Option<String>,
    /// PostgreSQL: a table that has another name there; may be given more than once
    #[arg(long = "rename-table", value_name = "FROM=TO")]
    pub rename_tables: Vec<String>,
    /// PostgreSQL: column there that names the source of a row (--source)
    #[arg(long, value_name = "COLUMN")]
    pub source_column: Option<String>,
}

/// What becomes of an event that the sink will not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnRefusal {
    /// End, and name it
    Stop,
    /// Keep it aside, and go on with the others
    Park,
}

impl Stream {
    /// What events say of where they come from.
    pub fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(&self.slot)
    }

    /// Where parked events are kept.
    pub fn parked(&self) -> PathBuf {
        let default = || PathBuf::from(format!("synod-parked-{}.jsonl", self.slot));
        self.parked.clone().unwrap_or_else(default)
    }
}
