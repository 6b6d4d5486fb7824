//! The model under test.

use std::time::Duration;

use bytes::Bytes;
use synod_log::{LogId, Membership, MemoryGroup, MemoryLog, NodeId, Position};

use crate::world::Implementation;

pub struct Memory(MemoryGroup);

fn log_id(node: NodeId) -> LogId {
    LogId([node.0 as u8; 16])
}

impl Implementation for Memory {
    type Log = MemoryLog;
    const FORGETS: bool = false;

    fn new() -> Self {
        Memory(MemoryGroup::new(log_id(NodeId(1)), Bytes::from_static(b"node 1")))
    }

    fn create(&mut self) -> MemoryLog {
        self.0.open(NodeId(1), 1)
    }

    fn reserve(&mut self, node: NodeId) -> LogId {
        log_id(node)
    }

    fn join(&mut self, node: NodeId, copied: Position, _: Membership) -> MemoryLog {
        self.0.open(node, copied + 1)
    }

    fn open(&mut self, node: NodeId, deliver_from: Position) -> MemoryLog {
        self.0.open(node, deliver_from)
    }

    fn set_connected(&mut self, node: NodeId, connected: bool) {
        self.0.set_connected(node, connected);
    }

    fn wait(&mut self, _: Duration) {}
}

crate::suite::tests!(Memory);
