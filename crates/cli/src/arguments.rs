//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;
use crate::stream::Stream;

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
    /// Database to connect to: a connection string, a URI or a name; stream takes several
    #[arg(
        short,
        long,
        global = true,
        value_name = "CONNINFO",
        env = "SYNOD_DSN",
        hide_env_values = true
    )]
    dsn: Vec<String>,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for a node that does not answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5)]
    connect_timeout: u64,
}

impl Common {
    /// The database, for commands that take one.
    pub fn dsn(&self) -> Result<Option<&str>, Failure> {
        match &self.dsn[..] {
            [] => Ok(None),
            [dsn] => Ok(Some(dsn)),
            _ => Err(Failure::new(
                "--dsn was given more than once",
                "Only stream reads from several nodes.",
                "Give one member of the group: the others are found through it.",
            )),
        }
    }

    /// All of them.
    pub fn dsns(&self) -> &[String] {
        &self.dsn
    }

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
    /// Show live what the group does: commits, conflicts, latency, lag, what waits
    #[command(after_help = "\
Examples:
  synod top --dsn 'host=db1 dbname=app user=admin'
  synod top --interval 5 --count 12 --json    one JSON object per line: for logs and graphs

Keys: q ends it.")]
    Top(Top),
    /// Check settings, clocks, tables, versions, slots and disk on every node; say what to do
    #[command(after_help = "\
Examples:
  synod doctor --dsn 'host=db1 dbname=app user=admin'
  synod doctor --json | jq '.findings[] | select(.level == \"error\")'

Works before a group exists, too: it then checks the one server. Exits with 1 when there is an error or a warning.")]
    Doctor(Doctor),
    /// Make a group whose first node is this database
    #[command(after_help = "\
Example:
  synod create --dsn 'host=db1 dbname=app user=admin' shop \\
      --node db1 --address 'host=db1 dbname=app user=synod_link'

Creates the extension if it is not there.")]
    Create(Create),
    /// Make this database a node of a group: copies the tables, then follows
    #[command(after_help = "\
Example:
  pg_dump --schema-only 'host=db1 dbname=app' | psql 'host=db2 dbname=app'
  synod join --dsn 'host=db2 dbname=app user=admin' --via 'host=db1 dbname=app user=admin' \\
      --node db2 --address 'host=db2 dbname=app user=synod_link'

Creates the extension if it is not there. What fails or is interrupted is undone.")]
    Join(Join),
    /// Give this node a fresh copy of the group's tables, after its log has stopped for good
    #[command(after_help = "\
Example:
  synod rejoin --dsn 'host=db3 dbname=app user=admin'

For a node that was away for longer than the others keep the log, or whose log is damaged.")]
    Rejoin(Rejoin),
    /// Tell the group that a node is reached at another address from now on
    #[command(after_help = "\
Example:
  synod move --dsn 'host=db1 dbname=app user=admin' --node db3 --address 'host=db3.new dbname=app user=synod_link'")]
    Move(Move),
    /// Leave the group, or take a dead node out of it
    #[command(after_help = "\
Examples:
  synod leave --dsn 'host=db3 dbname=app user=admin'                 db3 leaves; its tables keep their rows
  synod leave --dsn 'host=db1 dbname=app user=admin' --node db3      db3 is dead: the others go on without it
  synod leave --dsn 'host=db3 dbname=app user=admin' --force         db3 was removed, or is a copy of a member")]
    Leave(Leave),
    /// Compare tables between nodes, all as of one commit, and find the rows that differ
    #[command(after_help = "\
Examples:
  synod compare --dsn 'host=db1 dbname=app user=admin'               every replicated table
  synod compare --table public.orders --json

How it works: every node is stopped for a moment at the same CSN (commits wait, at most --pause), and opens a snapshot;
then it goes on. The rows are compared in the snapshots: checksums of row groups first, then the rows of groups
that differ. The user needs SELECT on the tables (pg_read_all_data).")]
    Compare(Compare),
    /// Make the rows of a table on one node equal to those of another
    #[command(after_help = "\
Example:
  synod compare --table public.orders
  synod repair --table public.orders --node db3 --from db1 --dry-run
  synod repair --table public.orders --node db3 --from db1 --yes

DANGER: this writes to one node past the shared log. It is for a table that the group has already lost agreement on:
somebody wrote to it with its triggers off, or a disk or a bug changed rows. What only that node had is lost, so keep
the output of the dry run. Find the cause first. While it runs (at most --pause) no commit and no strong read of
that node ends, and those that wait too long are told so (57P03, 08007); let clients use another node. A node whose apply has stopped cannot be repaired so, as it can
reach no CSN that the others still know: let it leave and join again.")]
    Repair(Repair),
    /// Follow the change stream of a replication slot into a file, another PostgreSQL, HTTP, NATS or Redis
    #[command(after_long_help = crate::stream::EXAMPLES)]
    Stream(Box<Stream>),
}

/// Options of `synod top`.
#[derive(Args, Debug)]
pub struct Top {
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    pub interval: f64,
    /// End after so many looks
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub count: Option<u64>,
}

/// Options of `synod doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Show what is all right, too
    #[arg(short, long)]
    pub verbose: bool,
}

/// Options of `synod create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name of the new group
    pub group: String,
    /// Name of this node in it
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// How the other nodes will reach this database: a connection string, also used by its own server
    #[arg(long, value_name = "CONNINFO")]
    pub address: String,
}

/// Options of `synod join`.
#[derive(Args, Debug)]
pub struct Join {
    /// A member of the group, as this server reaches it
    #[arg(long, value_name = "CONNINFO")]
    pub via: String,
    /// Name of this node in the group
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// How the other nodes will reach this database: a connection string, also used by its own server
    #[arg(long, value_name = "CONNINFO")]
    pub address: String,
}

/// Options of `synod rejoin`.
#[derive(Args, Debug)]
pub struct Rejoin {
    /// A member to copy from, as this server reaches it [default: any]
    #[arg(long, value_name = "CONNINFO")]
    pub via: Option<String>,
}

/// Options of `synod move`.
#[derive(Args, Debug)]
pub struct Move {
    /// The node that has moved
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// How the other nodes reach it from now on: a connection string
    #[arg(long, value_name = "CONNINFO")]
    pub address: String,
}

/// Options of `synod leave`.
#[derive(Args, Debug)]
pub struct Leave {
    /// Another node, to be taken out of the group
    #[arg(long, value_name = "NAME", conflicts_with = "force")]
    pub node: Option<String>,
    /// Leave without telling the group
    #[arg(long)]
    pub force: bool,
}

/// Options of `synod compare`.
#[derive(Args, Debug)]
pub struct Compare {
    /// Table to compare, with its partitions or heirs, by its name on the first node; may be given more than once [default: all]
    #[arg(short, long = "table", value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Rows that differ are listed up to this number per table
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Milliseconds that a node may be stopped at most
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5_000)]
    pub pause: u32,
}

/// Options of `synod repair`.
#[derive(Args, Debug)]
pub struct Repair {
    /// Table to repair, by its name on the first node
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// Node whose rows are wrong
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Node whose rows are right
    #[arg(long, value_name = "NAME")]
    pub from: String,
    /// Show what would be changed and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it
    #[arg(long)]
    pub yes: bool,
    /// Milliseconds that the node may be stopped at most
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 60_000)]
    pub pause: u32,
}

/// Options of `synod status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Positions of the log that a healthy node may be behind
    #[arg(long, value_name = "POSITIONS", default_value_t = 100_000)]
    pub max_lag: i64,
}
