//! One network namespace per server, joined by a bridge in a namespace of its own, and links that can be cut.
//!
//! A cut drops what *arrives* at one node from another: a routing rule `from <peer> iif <interface> blackhole` ahead of
//! the local table. Nothing is refused and no connection is told, as on a network that has lost its way; it needs no
//! packet filter, only `ip`. Clients are not concerned: they come through Unix sockets, which know no namespaces.
//!
//! Everything lives in namespaces named after the run, so nothing of the host's network is touched, and removing the
//! namespaces removes all of it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::account::is_root;
use crate::run::Run;

/// Addresses exist inside the run's namespaces only, so every cluster may use the same.
const PREFIX: &str = "10.213.0.";

/// Rules for cuts stand before the local table, which is moved here from 0.
const LOCAL_TABLE_PREFERENCE: &str = "1000";

/// The network of one cluster.
#[derive(Debug)]
pub struct Network {
    name: String,
    nodes: usize,
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    /// Whether networks can be made here: as root, and with namespaces allowed.
    pub fn possible() -> bool {
        if !is_root() {
            return false;
        }
        let probe = format!("{}probe{}", Run::current().name(), Run::current().next_number());
        let made = try_ip(&["netns", "add", &probe]).is_ok();
        if made {
            let _ = try_ip(&["netns", "del", &probe]);
        }
        made
    }

    /// A network of `nodes` nodes, numbered from 0, on which everything reaches everything.
    pub fn new(nodes: usize) -> Self {
        assert!(nodes < 200, "{nodes} nodes do not fit into one /24 network");
        let network = Self {
            name: format!("{}c{}", Run::current().name(), Run::current().next_number()),
            nodes,
            cut: BTreeSet::new(),
        };
        let hub = network.hub();
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "bridge", "up"]);
        for node in 0..nodes {
            network.attach(node);
        }
        network
    }

    fn attach(&self, node: usize) {
        let (hub, namespace, port) = (self.hub(), self.namespace(node), format!("port{node}"));
        ip(&["netns", "add", &namespace]);
        ip(&[
            "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ]);
        ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"]);
        ip(&[
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{}/24", self.address(node)),
            "dev",
            "eth0",
        ]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&[
            "-n",
            &namespace,
            "rule",
            "add",
            "pref",
            LOCAL_TABLE_PREFERENCE,
            "lookup",
            "local",
        ]);
        ip(&["-n", &namespace, "rule", "del", "pref", "0"]);
    }

    fn hub(&self) -> String {
        format!("{}hub", self.name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.name)
    }

    /// The address under which the other nodes reach `node`.
    pub fn address(&self, node: usize) -> String {
        format!("{PREFIX}{}", node + 1)
    }

    /// The words that make the command after them run in the namespace of `node`; it keeps its process id.
    pub(crate) fn prefix(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec"]
            .map(String::from)
            .into_iter()
            .chain([self.namespace(node)])
            .collect()
    }

    /// Drops what `from` sends to `to` from now on; the other direction stays.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        assert!(
            from < self.nodes && to < self.nodes && from != to,
            "no link {from} -> {to} among {} nodes",
            self.nodes
        );
        if self.cut.insert((from, to)) {
            self.rule("add", from, to);
        }
    }

    /// Drops everything between `a` and `b`.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Drops everything between `node` and all others.
    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes).filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    /// Undoes every cut.
    pub fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cut) {
            self.rule("del", from, to);
        }
    }

    fn rule(&self, verb: &str, from: usize, to: usize) {
        let (namespace, source) = (self.namespace(to), self.address(from));
        let preference = (from + 1).to_string();
        ip(&[
            "-n",
            &namespace,
            "rule",
            verb,
            "pref",
            &preference,
            "from",
            &source,
            "iif",
            "eth0",
            "blackhole",
        ]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _ = try_ip(&["netns", "del", &self.namespace(node)]);
        }
        let _ = try_ip(&["netns", "del", &self.hub()]);
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    if let Err(message) = try_ip(arguments) {
        panic!("ip {}: {message}", arguments.join(" "));
    }
}

fn try_ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
