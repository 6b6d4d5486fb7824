//! Who is measured: servers, and how each kind is set up. All have the same settings but for replication.

use synod_testkit::{Cluster, Options, Server, StopMode, pgbench, probe, wait_until};

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::slice::{Case, Column, INSERT_TABLE, INSERT_TABLE_DEFINITION, Workload};

/// Loading counts for nothing, so it goes in large transactions.
const LOAD_ROWS: i64 = 50_000;

/// Standbys connect within this.
const STANDBY_DEADLINE: Duration = Duration::from_secs(60);

/// Same for all: memory for the tables, checkpoints out of the way, the rest (fsync too) as PostgreSQL has it.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("max_connections", "150"),
];

/// A way to run PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Plain,
    /// One server and two standbys, of which one must have the commit on disk.
    Quorum,
    /// Three nodes.
    Synod,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Quorum, Self::Synod];

    /// From the command line.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "plain" => Ok(Self::Plain),
            "quorum" => Ok(Self::Quorum),
            "synod" => Ok(Self::Synod),
            _ => Err(format!("unknown contestant {name}: plain, quorum or synod")),
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Plain => "one plain server",
            Self::Quorum => "quorum synchronous replication, ANY 1 of two standbys",
            Self::Synod => "Synod, three nodes",
        }
    }
}

/// Servers ready to be measured.
#[derive(Debug)]
pub enum Contestant {
    /// See [`Kind::Plain`].
    Plain(Server),
    /// See [`Kind::Quorum`]: the primary. The standbys only have to live.
    Quorum(Server, Vec<Server>),
    /// See [`Kind::Synod`].
    Synod(Cluster),
}

impl Contestant {
    /// Starts the servers and fills the tables.
    pub fn prepare(kind: Kind, scale: u32) -> Self {
        match kind {
            Kind::Plain => {
                let mut server = Server::new("plain", &without_synod());
                server.start();
                create(&server);
                fill(&server, scale);
                Self::Plain(server)
            }
            Kind::Quorum => Self::prepare_quorum(scale),
            Kind::Synod => {
                let cluster = Cluster::start_with(&Options {
                    settings: &SETTINGS,
                    ..Options::default()
                });
                // Definitions travel.
                create(cluster.server(0));
                for table in pgbench::TABLES.into_iter().chain([INSERT_TABLE, probe::TABLE]) {
                    cluster.replicate(table);
                }
                fill(cluster.server(0), scale);
                synod_testkit::assert_converged(&cluster, &["pgbench_branches"]);
                cluster.on_all("VACUUM ANALYZE");
                cluster.on_all("CHECKPOINT");
                Self::Synod(cluster)
            }
        }
    }

    fn prepare_quorum(scale: u32) -> Self {
        let mut primary = Server::new("primary", &without_synod());
        primary.start();
        create(&primary);
        fill(&primary, scale);
        primary.stop(StopMode::Fast);
        append(&primary.data().join("pg_hba.conf"), "host replication all all trust\n");
        let mut standbys: Vec<Server> = ["s1", "s2"]
            .into_iter()
            .map(|name| {
                let standby = primary.clone_stopped(name);
                let source = format!("{} application_name={name}", primary.dsn());
                standby.configure(&[("primary_conninfo", &source)]);
                signal_standby(&standby);
                standby
            })
            .collect();
        primary.configure(&[("synchronous_standby_names", "ANY 1 (s1, s2)")]);
        primary.start();
        for standby in &mut standbys {
            standby.start();
        }
        let mut client = primary.client();
        wait_until(STANDBY_DEADLINE, "two quorum standbys", || {
            let query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum' AND state = 'streaming'";
            (client.query_one(query, &[]).ok()?.get::<_, i64>(0) == 2).then_some(())
        });
        Self::Quorum(primary, standbys)
    }

    /// Everything that this contestant is measured at in a round.
    pub fn cases(&self) -> Vec<Case> {
        let columns: &[Column] = match self {
            Self::Plain(_) => &[Column::Plain],
            Self::Quorum(..) => &[Column::Quorum],
            Self::Synod(_) => &[Column::SynodOne, Column::SynodSpread],
        };
        let mut cases = Vec::new();
        for column in columns {
            for workload in Workload::ALL {
                for clients in Case::CLIENTS {
                    cases.push(Case {
                        column: *column,
                        workload,
                        clients,
                    });
                }
            }
        }
        cases
    }
}

fn without_synod() -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![("shared_preload_libraries", "")];
    settings.extend(SETTINGS);
    settings
}

fn append(path: &Path, line: &str) {
    let opened = std::fs::OpenOptions::new().append(true).open(path);
    if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
        panic!("cannot write {}: {error}", path.display());
    }
}

/// A standby is a data directory with this file in it.
fn signal_standby(standby: &Server) {
    let path = standby.data().join("standby.signal");
    if let Err(error) = std::fs::write(&path, "") {
        panic!("cannot write {}: {error}", path.display());
    }
    synod_testkit::Run::current().account().own(&path);
}

fn create(server: &Server) {
    pgbench::create_tables(server);
    let mut client = server.client();
    for definition in [INSERT_TABLE_DEFINITION, probe::DEFINITION] {
        if let Err(error) = client.batch_execute(definition) {
            panic!("{definition}: {error:?}");
        }
    }
}

fn fill(server: &Server, scale: u32) {
    let mut client = server.client();
    for statement in pgbench::fill_statements(scale, LOAD_ROWS) {
        if let Err(error) = client.execute(&statement, &[]) {
            panic!("{statement}: {error:?}\n{}", server.log_tail(10));
        }
    }
    for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
        if let Err(error) = client.execute(statement, &[]) {
            panic!("{statement}: {error:?}");
        }
    }
}
