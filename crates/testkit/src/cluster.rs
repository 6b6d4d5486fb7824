//! Servers that form one group.

use postgres::Client;

use crate::install::PgInstall;
use crate::network::Network;
use crate::ports::free_port;
use crate::run::Run;
use crate::server::{Address, Server, StopMode};
use crate::wait_until;

use std::time::Duration;

/// Joining copies what is replicated, which is little in a test.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// Name of the group in every test.
const GROUP: &str = "g";

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Number of servers.
    pub nodes: usize,
    /// Whether links can be cut: each server in a network namespace of its own, which needs root.
    pub partitions: bool,
    /// Settings of every server.
    pub settings: &'a [(&'a str, &'a str)],
    /// A node whose directory is on a file system of its own of so many megabytes, which needs root.
    pub small_disk: Option<(usize, u32)>,
}

impl Options<'_> {
    /// Three servers on the loopback address.
    pub const DEFAULT: Self = Self {
        nodes: 3,
        partitions: false,
        settings: &[],
        small_disk: None,
    };
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One member: a server whose database `postgres` is in the group.
#[derive(Debug)]
pub struct Node {
    /// `n1`, `n2`, ...
    pub name: String,
    /// Its server.
    pub server: Server,
}

/// Servers, and the network between them. Nodes are numbered from 0.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// After the servers, which live in it.
    network: Option<Network>,
}

impl Cluster {
    /// Starts `nodes` servers and forms a group of them.
    #[track_caller]
    pub fn start(nodes: usize) -> Self {
        Self::start_with(&Options {
            nodes,
            ..Options::DEFAULT
        })
    }

    /// Starts servers as asked for and forms a group of them.
    #[track_caller]
    pub fn start_with(options: &Options<'_>) -> Self {
        PgInstall::from_environment().require_extension();
        let cluster = Self::servers(options);
        cluster.form();
        cluster
    }

    /// Starts servers that are in no group yet.
    #[track_caller]
    pub fn servers(options: &Options<'_>) -> Self {
        let network = options.partitions.then(|| Network::new(options.nodes));
        let nodes = (0..options.nodes)
            .map(|number| {
                let name = format!("n{}", number + 1);
                let address = match &network {
                    Some(network) => Address {
                        host: network.address(number),
                        port: 5432,
                        prefix: network.prefix(number),
                    },
                    None => Address {
                        host: "127.0.0.1".into(),
                        port: free_port(),
                        prefix: Vec::new(),
                    },
                };
                let disk = options
                    .small_disk
                    .filter(|(node, _)| *node == number)
                    .map(|(_, megabytes)| megabytes);
                let mut server = Server::at(&name, address, options.settings, disk);
                server.start();
                Node { name, server }
            })
            .collect();
        Self { nodes, network }
    }

    /// Makes a group of all servers: the first creates it, the others join it.
    #[track_caller]
    pub fn form(&self) {
        for node in &self.nodes {
            let mut client = node.server.client();
            client
                .batch_execute("CREATE EXTENSION IF NOT EXISTS synod")
                .expect("the extension can be created");
        }
        let (first, others) = self.nodes.split_first().expect("a cluster has a node");
        first
            .server
            .client()
            .execute(
                "SELECT synod.create_group($1, $2, $3)",
                &[&GROUP, &first.name, &first.server.dsn()],
            )
            .unwrap_or_else(|error| panic!("create_group: {error:?}\n{}", first.server.log_tail(20)));
        for node in others {
            node.server
                .client()
                .execute(
                    "SELECT synod.join_group($1, $2, $3)",
                    &[&first.server.dsn(), &node.name, &node.server.dsn()],
                )
                .unwrap_or_else(|error| panic!("join_group of {}: {error:?}\n{}", node.name, node.server.log_tail(20)));
        }
        self.wait_for_voters(self.nodes.len());
    }

    /// Waits until every running server counts `voters` voters.
    #[track_caller]
    pub fn wait_for_voters(&self, voters: usize) {
        let voters = i64::try_from(voters).expect("few nodes");
        for node in self.nodes.iter().filter(|node| node.server.is_running()) {
            let mut client = node.server.client();
            wait_until(
                JOIN_DEADLINE,
                &format!("{voters} voters as {} sees it", node.name),
                || {
                    let row = client
                        .query_one("SELECT count(*) FROM synod.nodes WHERE voter", &[])
                        .ok()?;
                    (row.get::<_, i64>(0) == voters).then_some(())
                },
            );
        }
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a cluster has at least one node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The server of `node`.
    pub fn server(&self, node: usize) -> &Server {
        &self.nodes[node].server
    }

    /// The server of `node`, to start, stop or kill it.
    pub fn server_mut(&mut self, node: usize) -> &mut Server {
        &mut self.nodes[node].server
    }

    /// A new connection to `node`.
    #[track_caller]
    pub fn client(&self, node: usize) -> Client {
        self.server(node).client()
    }

    /// Runs `sql` on every node, each for itself: DDL does not travel.
    #[track_caller]
    pub fn on_all(&self, sql: &str) {
        for node in &self.nodes {
            let mut client = node.server.client();
            let local = client.batch_execute("SET synod.ddl = local");
            if let Err(error) = local.and_then(|()| client.batch_execute(sql)) {
                panic!("{sql} on {}: {error:?}", node.name);
            }
        }
    }

    /// Creates a table on every node by `definition` (`CREATE TABLE <table> ...`), and replicates it.
    #[track_caller]
    pub fn create_table(&self, table: &str, definition: &str) {
        self.on_all(definition);
        self.replicate(table);
    }

    /// Replicates a table that every node has, and waits until every node knows.
    #[track_caller]
    pub fn replicate(&self, table: &str) {
        self.replicate_together(&[table]);
    }

    /// Replicates tables in one transaction, as those must be that refer to each other.
    #[track_caller]
    pub fn replicate_together(&self, tables: &[&str]) {
        let calls: String = tables
            .iter()
            .map(|table| format!("SELECT synod.replicate_table('{table}');"))
            .collect();
        if let Err(error) = self.client(0).batch_execute(&calls) {
            panic!("replicate {tables:?}: {error:?}\n{}", self.server(0).log_tail(10));
        }
        for node in self.nodes.iter().filter(|node| node.server.is_running()) {
            let mut client = node.server.client();
            for table in tables {
                let query =
                    format!("SELECT count(*) FROM synod.tables WHERE table_name::regclass = '{table}'::regclass");
                wait_until(
                    JOIN_DEADLINE,
                    &format!("{table} among the tables of {}", node.name),
                    || (client.query_one(&query, &[]).ok()?.get::<_, i64>(0) == 1).then_some(()),
                );
            }
        }
    }

    /// The node that leads, once the running nodes agree on one.
    #[track_caller]
    pub fn leader(&self) -> usize {
        wait_until(JOIN_DEADLINE, "one leader", || {
            let mut seen = self.nodes.iter().filter(|node| node.server.is_running()).map(|node| {
                let mut client = node.server.client();
                let row = client
                    .query_opt("SELECT name FROM synod.nodes WHERE is_leader", &[])
                    .ok()??;
                Some(row.get::<_, String>(0))
            });
            let first = seen.next()??;
            if seen.any(|other| other.as_deref() != Some(first.as_str())) {
                return None;
            }
            self.nodes.iter().position(|node| node.name == first)
        })
    }

    /// Any node that does not lead.
    #[track_caller]
    pub fn follower(&self) -> usize {
        (self.leader() + 1) % self.nodes.len()
    }

    /// The network, when the cluster was made with partitions.
    #[track_caller]
    pub fn network(&mut self) -> &mut Network {
        self.network.as_mut().expect("this cluster was made without partitions")
    }

    /// Adds a server that is in no group yet. Its number is the returned one.
    #[track_caller]
    pub fn add_server(&mut self) -> usize {
        assert!(self.network.is_none(), "a cluster with partitions has a fixed size");
        let number = self.nodes.len();
        let name = format!("n{}", number + 1);
        let mut server = Server::new(&name, &[]);
        server.start();
        self.nodes.push(Node { name, server });
        number
    }

    /// Takes away the server that was added last, which must be in no group any more.
    pub fn remove_last_server(&mut self) {
        self.nodes.pop();
    }

    /// Starts every server that is down.
    #[track_caller]
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.server.is_running()) {
            node.server.launch();
        }
        for node in &mut self.nodes {
            if let Err(reason) = node.server.wait_ready() {
                panic!(
                    "{} did not start: {reason}; its log ends:\n{}",
                    node.name,
                    node.server.log_tail(30)
                );
            }
        }
    }

    /// Stops all servers.
    pub fn stop_all(&mut self, mode: StopMode) {
        for node in &mut self.nodes {
            node.server.stop(mode);
        }
    }

    /// Whether file systems can be mounted here; says on standard error that a test is skipped when not.
    pub fn small_disks_possible(test: &str) -> bool {
        let possible = crate::disk::possible();
        if !possible {
            eprintln!("{test}: skipped, mounting a file system needs root");
        }
        possible
    }

    /// Whether clusters with partitions can be made here; says on standard error that a test is skipped when not.
    pub fn partitions_possible(test: &str) -> bool {
        let possible = Network::possible();
        if !possible {
            eprintln!(
                "{test}: skipped, network namespaces need root ({})",
                Run::current().name()
            );
        }
        possible
    }
}
