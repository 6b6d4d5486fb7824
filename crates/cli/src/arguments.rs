//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

const ABOUT: &str =
    "Forms groups of strongly consistent PostgreSQL databases, shows what they do, finds and mends what is wrong";

const ENDING: &str = "\
Connecting:
  Like psql: --dsn takes a connection string, a URI or the name of a database; what it does not say comes from
  PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGPASSFILE, PGSERVICE, PGSSLMODE and so on. The other nodes of the
  group are reached at the addresses in synod.nodes, as the same user and with the same options.
  The user must be a member of synod_admin; for status and top, pg_monitor suffices.

Exit status:
  0  done, and nothing was found wrong
  1  done, and something is wrong: a node is down, a setting does not do, rows differ
  2  the command line is not understood
  3  not done: an error was told";

/// The command.
#[derive(Debug, Parser)]
#[command(name = "synod", version, about = ABOUT, after_help = ENDING, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Database to connect to: a connection string, a URI or a name
    #[arg(
        short,
        long,
        global = true,
        value_name = "CONNINFO",
        env = "SYNOD_DSN",
        hide_env_values = true
    )]
    pub dsn: Option<String>,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for a node that does not answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5)]
    connect_timeout: u64,
}

impl Common {
    /// How long a connection may take.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout.max(1))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show every node of the group: state, role, applied CSN and lag, links, reasons for stops
    #[command(after_help = "\
Examples:
  synod status --dsn 'host=db1 dbname=app user=admin'
  PGHOST=db1 PGDATABASE=app synod status --json | jq '.nodes[] | select(.state != \"running\")'

Exits with 1 when a node is down or stopped, lags more than --max-lag, or the group has no majority.")]
    Status(Status),
}

/// Options of `synod status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Positions of the log that a healthy node may be behind
    #[arg(long, value_name = "POSITIONS", default_value_t = 100_000)]
    pub max_lag: i64,
}
