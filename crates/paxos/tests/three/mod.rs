//! A node of a group of three that has just started, for tests which speak to it as the others.

use bytes::Bytes;
use synod_paxos::{Event, LogId, Member, Membership, NodeId, Options, Paxos, Recovered};

/// Of each node.
pub fn log(id: u32) -> LogId {
    LogId([id as u8; 16])
}

/// Node 1 of three.
pub fn node() -> Paxos {
    let member = |id| Member {
        id: NodeId(id),
        log: log(id),
        voter: true,
        info: Bytes::new(),
    };
    let membership = Membership {
        version: 1,
        next_id: 4,
        members: (1..=3).map(member).collect(),
    };
    let recovered = Recovered {
        membership,
        ..Recovered::default()
    };
    let mut paxos = Paxos::new(Options::new(NodeId(1), log(1), 1), recovered);
    paxos.step(Event::Tick { now_ms: 0 }, &mut Vec::new());
    paxos
}
