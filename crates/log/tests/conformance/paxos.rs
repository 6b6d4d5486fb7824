//! The log over Multi-Paxos under test: real segment files, a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use synod_log::{LogId, LogOptions, Membership, NodeId, PaxosLog, Position};

use crate::network::{Link, Network};
use crate::world::Implementation;

pub struct Cluster {
    pub network: Network,
    root: tempfile::TempDir,
    pub segment_bytes: u32,
    pub power: Arc<Mutex<Power>>,
}

/// Nodes whose next sync fails, and what was not synced then; and nodes whose syncs take until they are taken out again.
#[derive(Default)]
pub struct Power {
    pub cut: BTreeSet<NodeId>,
    pub hung: BTreeSet<NodeId>,
    pub unsynced: BTreeMap<NodeId, (PathBuf, Range<u32>)>,
}

impl Cluster {
    pub fn directory(&self, node: NodeId) -> PathBuf {
        self.root.path().join(format!("node{}", node.0))
    }

    pub fn options(&self, node: NodeId) -> LogOptions {
        let network = self.network.clone();
        let power = self.power.clone();
        let sync = move |path: &Path, range: Range<u32>| {
            let began = std::time::Instant::now();
            while power.lock().unwrap().hung.contains(&node) {
                if began.elapsed() > crate::world::PATIENCE {
                    return Err(std::io::Error::other("the disk never came back"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut power = power.lock().unwrap();
            if !power.cut.contains(&node) {
                return Ok(());
            }
            power.unsynced.insert(node, (path.to_path_buf(), range));
            Err(std::io::Error::other("power cut"))
        };
        LogOptions {
            sync_hook: Some(Arc::new(sync)),
            heartbeat: Duration::from_millis(20),
            election_timeout: Duration::from_millis(150),
            segment_bytes: self.segment_bytes,
            fsync: false,
            waker: Arc::new(move || network.wake()),
            ..LogOptions::new(node)
        }
    }
}

impl Implementation for Cluster {
    type Log = PaxosLog<Link>;
    const FORGETS: bool = true;

    fn new() -> Self {
        let network = Network::default();
        Cluster {
            network,
            root: tempfile::tempdir().unwrap(),
            segment_bytes: 64 << 10,
            power: Arc::default(),
        }
    }

    fn create(&mut self) -> Self::Log {
        let node = NodeId(1);
        let info = Bytes::from_static(b"node 1");
        PaxosLog::create(&self.directory(node), self.options(node), info, self.network.link(node)).unwrap()
    }

    fn reserve(&mut self, node: NodeId) -> LogId {
        PaxosLog::<Link>::reserve(&self.directory(node), &self.options(node)).unwrap()
    }

    fn join(&mut self, node: NodeId, copied: Position, membership: Membership) -> Self::Log {
        let options = LogOptions {
            deliver_from: copied + 1,
            ..self.options(node)
        };
        let link = self.network.link(node);
        PaxosLog::create_learner(&self.directory(node), options, copied, membership, link).unwrap()
    }

    fn open(&mut self, node: NodeId, deliver_from: Position) -> Self::Log {
        let options = LogOptions {
            deliver_from,
            ..self.options(node)
        };
        PaxosLog::open(&self.directory(node), options, self.network.link(node)).unwrap()
    }

    fn set_connected(&mut self, node: NodeId, connected: bool) {
        self.network.set_connected(node, connected);
    }

    fn wait(&mut self, timeout: Duration) {
        self.network.wait(timeout);
    }
}

crate::suite::tests!(Cluster);
mod faults;
