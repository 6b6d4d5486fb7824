//! A group of nodes in one process, driven until something is the case.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_log::{
    Entry, LogEvent, LogId, LogStatus, Membership, MembershipChange, NodeId, Position, ProposalId, SharedLog, Value,
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What the suite needs of an implementation.
pub trait Implementation: Sized {
    type Log: SharedLog;
    /// Nothing yet.
    fn new() -> Self;
    /// The first node of a group.
    fn create(&mut self) -> Self::Log;
    /// The identity of a node to be added.
    fn reserve(&mut self, node: NodeId) -> LogId;
    /// A node that was added, with a copy of the data as of `copied`.
    fn join(&mut self, node: NodeId, copied: Position, membership: Membership) -> Self::Log;
    /// A node that was stopped.
    fn open(&mut self, node: NodeId, deliver_from: Position) -> Self::Log;
    /// Cut a node off from all others, or connect it.
    fn set_connected(&mut self, node: NodeId, connected: bool);
    /// Return when a log has something to do, or at the time given.
    fn wait(&mut self, timeout: Duration);
    /// A trim has an effect on peers that lag: `false` for the model, which never forgets.
    const FORGETS: bool;
}

/// One node and what its log told.
pub struct Node<L> {
    pub log: Option<L>,
    /// Positions below are not in `entries`: the node joined later.
    pub first: Position,
    pub entries: Vec<Entry>,
    pub tails: Vec<(u64, Position)>,
    pub membership: Membership,
    pub refused: Vec<String>,
    pub failed: Option<String>,
    pub sequence: u64,
    incarnation: u64,
    next_poll: Duration,
}

impl<L> Node<L> {
    fn new(log: L, first: Position) -> Node<L> {
        Node {
            log: Some(log),
            first,
            entries: Vec::new(),
            tails: Vec::new(),
            membership: Membership::default(),
            refused: Vec::new(),
            failed: None,
            sequence: 0,
            incarnation: 1,
            next_poll: Duration::ZERO,
        }
    }

    /// The next position to be delivered.
    pub fn next(&self) -> Position {
        self.first + self.entries.len() as Position
    }

    pub fn count(&self, id: ProposalId) -> usize {
        let is = |entry: &&Entry| matches!(&entry.value, Value::Command(command) if command.id == id);
        self.entries.iter().filter(is).count()
    }
}

pub struct World<I: Implementation> {
    pub implementation: I,
    pub nodes: BTreeMap<u32, Node<I::Log>>,
    start: Instant,
}

impl<I: Implementation> World<I> {
    /// A group of `size` members with a vote.
    pub fn new(size: u32) -> Self {
        let mut implementation = I::new();
        let first = Node::new(implementation.create(), 1);
        let mut world = World {
            implementation,
            nodes: BTreeMap::from([(1, first)]),
            start: Instant::now(),
        };
        for node in 2..=size {
            world.add(1, node);
            world.promote(1, node);
        }
        world
    }

    /// Add a learner through `via`, with no data copied but what the membership record itself covers.
    pub fn add(&mut self, via: u32, node: u32) {
        let log = self.implementation.reserve(NodeId(node));
        let info = Bytes::from(format!("node {node}"));
        self.change(via, MembershipChange::AddLearner { log, info });
        let (copied, membership) = self.membership_entry(via);
        let log = self.implementation.join(NodeId(node), copied, membership);
        self.nodes.insert(node, Node::new(log, copied + 1));
    }

    pub fn promote(&mut self, via: u32, node: u32) {
        self.until("the learner has caught up", |world| {
            world.nodes[&node].next() == world.nodes[&via].next() && world.status(via).leader.is_some()
        });
        self.change(via, MembershipChange::Promote(NodeId(node)));
        self.until("the learner has its vote", |world| {
            world.member(via, node) == Some(true)
        });
    }

    /// Ask for a change until it is not refused: a leader that has just come to be may refuse for a moment.
    pub fn change(&mut self, via: u32, change: MembershipChange) {
        let deadline = Instant::now() + PATIENCE;
        self.until_leader();
        loop {
            let version = self.nodes[&via].membership.version;
            let refused = self.nodes[&via].refused.len();
            self.log(via).change_membership(change.clone());
            self.until("the change is answered", |world| {
                world.nodes[&via].membership.version > version || world.nodes[&via].refused.len() > refused
            });
            if self.nodes[&via].membership.version > version {
                return;
            }
            let last = self.nodes[&via].refused.last().cloned();
            assert!(Instant::now() < deadline, "{change:?} is refused: {last:?}");
        }
    }

    /// The last membership record as a node has seen it delivered.
    fn membership_entry(&mut self, via: u32) -> (Position, Membership) {
        let version = self.nodes[&via].membership.version;
        let find = |world: &World<I>| {
            world.nodes[&via]
                .entries
                .iter()
                .rev()
                .find_map(|entry| match &entry.value {
                    Value::Membership(membership) if membership.version >= version => {
                        Some((entry.position, membership.clone()))
                    }
                    _ => None,
                })
        };
        self.until("the membership record is delivered", |world| find(world).is_some());
        find(self).unwrap()
    }

    pub fn member(&self, via: u32, node: u32) -> Option<bool> {
        let members = &self.nodes[&via].membership.members;
        members
            .iter()
            .find(|member| member.id == NodeId(node))
            .map(|member| member.voter)
    }

    pub fn log(&mut self, node: u32) -> &mut I::Log {
        let node = self.nodes.get_mut(&node).expect("a node");
        // It is polled at once.
        node.next_poll = Duration::ZERO;
        node.log.as_mut().expect("a running node")
    }

    pub fn status(&self, node: u32) -> LogStatus {
        self.nodes[&node].log.as_ref().expect("a running node").status()
    }

    pub fn propose(&mut self, node: u32, bytes: usize) -> ProposalId {
        let state = self.nodes.get_mut(&node).expect("a node");
        state.sequence += 1;
        let (incarnation, sequence) = (state.incarnation, state.sequence);
        let id = ProposalId {
            node: NodeId(node),
            incarnation,
            sequence,
        };
        self.log(node).propose(id, Bytes::from(vec![sequence as u8; bytes]));
        id
    }

    /// Trim, and drive the log until it has done so.
    pub fn trim(&mut self, node: u32, below: Position) {
        self.log(node).trim(below);
        self.step();
        self.until("the trim is done", |world| world.status(node).trimmed == below);
    }

    pub fn stop(&mut self, node: u32) {
        self.nodes.get_mut(&node).expect("a node").log = None;
    }

    pub fn restart(&mut self, node: u32) {
        let next = self.nodes[&node].next();
        let log = self.implementation.open(NodeId(node), next);
        let state = self.nodes.get_mut(&node).expect("a node");
        (state.log, state.failed) = (Some(log), None);
        state.incarnation += 1;
        state.next_poll = Duration::ZERO;
    }

    pub fn running(&self) -> Vec<u32> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.log.is_some())
            .map(|(number, _)| *number)
            .collect()
    }

    /// Poll everybody once, and check what must hold of what they say.
    pub fn step(&mut self) {
        let mut soonest = Duration::MAX;
        let mut quiet = true;
        for node in self.nodes.values_mut() {
            let Some(log) = &mut node.log else { continue };
            let mut events = Vec::new();
            let now = self.start.elapsed();
            node.next_poll = log.poll(now, &mut events);
            soonest = soonest.min(node.next_poll);
            quiet &= events.is_empty();
            for event in events {
                node.take(event);
            }
        }
        if quiet {
            self.implementation
                .wait(soonest.saturating_sub(self.start.elapsed()).min(PATIENCE));
        }
    }

    pub fn until(&mut self, what: &str, condition: impl Fn(&World<I>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            self.step();
            if Instant::now() > deadline {
                let states: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|(number, node)| {
                        (
                            number,
                            node.next(),
                            &node.failed,
                            node.log.as_ref().map(|log| log.status()),
                        )
                    })
                    .collect();
                panic!("waited too long until {what}: {states:#?}");
            }
        }
    }

    /// Drive for a while, whatever happens.
    pub fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step();
        }
    }

    pub fn until_leader(&mut self) -> u32 {
        self.until("there is a leader", |world| {
            world
                .running()
                .iter()
                .any(|node| world.status(*node).leader == Some(NodeId(*node)) && world.status(*node).quorum)
        });
        let running = self.running();
        *running
            .iter()
            .find(|node| self.status(**node).leader == Some(NodeId(**node)))
            .unwrap()
    }

    pub fn until_chosen(&mut self, on: &[u32], ids: &[ProposalId]) {
        self.until("the proposals are chosen", |world| {
            on.iter()
                .all(|node| ids.iter().all(|id| world.nodes[node].count(*id) > 0))
        });
    }

    /// What every two nodes delivered is the same, position by position.
    pub fn check_agreement(&self) {
        let mut log: BTreeMap<Position, (&Value, u32)> = BTreeMap::new();
        for (number, node) in &self.nodes {
            for entry in &node.entries {
                let (value, other) = log.entry(entry.position).or_insert((&entry.value, *number));
                assert_eq!(
                    *value, &entry.value,
                    "position {} on {other} and {number}",
                    entry.position
                );
            }
        }
    }
}

impl<L> Node<L> {
    fn take(&mut self, event: LogEvent) {
        match event {
            LogEvent::Chosen(chunk) => {
                assert!(!chunk.is_empty());
                for chosen in chunk {
                    assert_eq!(chosen.entry.position, self.next(), "contiguous");
                    self.entries.push(chosen.entry);
                }
            }
            LogEvent::Tail { token, position } => self.tails.push((token, position)),
            LogEvent::Leader(_) => {}
            LogEvent::Membership(membership) => {
                if membership.version >= self.membership.version {
                    self.membership = membership;
                }
            }
            LogEvent::MembershipRefused(reason) => self.refused.push(reason),
            LogEvent::Failed(reason) | LogEvent::TooFarBehind(reason) => self.failed = Some(reason),
        }
    }
}
