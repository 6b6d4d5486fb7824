//! A [`SharedLog`] in memory: the shortest implementation that keeps every promise of the trait. The oracle that the
//! conformance suite holds the others against, and a log for tests of the log's users.
//!
//! All handles of a [`MemoryGroup`] share one vector. What is proposed is chosen at the proposer's next poll, unless
//! the handle is [cut off](MemoryGroup::set_connected).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Ballot, ChosenEntry, Command, Entry, Location, LogEvent, LogId, LogStatus, Member, Membership, MembershipChange,
    NodeId, Position, ProposalId, SharedLog, Value,
};

/// Something is always polled again after this long.
const POLL_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Bounds one event, as in the durable implementations.
const CHUNK_ENTRIES: usize = 1000;

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    membership: Membership,
    cut_off: BTreeSet<NodeId>,
}

impl State {
    fn append(&mut self, value: Value) {
        let position = self.entries.len() as Position + 1;
        self.entries.push(Entry {
            position,
            ballot: Ballot::default(),
            value,
        });
    }

    fn change(&mut self, change: MembershipChange) -> Result<(), String> {
        let mut next = self.membership.clone();
        let find = |node: NodeId| {
            let found = next.members.iter().position(|member| member.id == node);
            found.ok_or_else(|| format!("node {} is not a member", node.0))
        };
        match change {
            MembershipChange::AddLearner { log, info } => {
                if next.members.iter().any(|member| member.log == log) {
                    return Err("this log is a member already".into());
                }
                let id = NodeId(next.next_id);
                next.next_id += 1;
                next.members.push(Member {
                    id,
                    log,
                    voter: false,
                    info,
                });
            }
            MembershipChange::Promote(node) => {
                let at = find(node)?;
                if std::mem::replace(&mut next.members[at].voter, true) {
                    return Err(format!("node {} has a vote already", node.0));
                }
            }
            MembershipChange::Remove(node) => {
                let at = find(node)?;
                if next.members[at].voter && next.members.iter().filter(|member| member.voter).count() == 1 {
                    return Err(format!("node {} is the last member with a vote", node.0));
                }
                next.members.remove(at);
            }
            MembershipChange::Describe(node, info) => {
                let at = find(node)?;
                next.members[at].info = info;
            }
        }
        next.version += 1;
        self.membership = next.clone();
        self.append(Value::Membership(next));
        Ok(())
    }
}

/// The log that all handles share.
#[derive(Clone, Default)]
pub struct MemoryGroup(Arc<Mutex<State>>);

impl MemoryGroup {
    /// A group whose only member is node 1.
    pub fn new(log: LogId, info: Bytes) -> MemoryGroup {
        let group = MemoryGroup::default();
        let member = Member {
            id: NodeId(1),
            log,
            voter: true,
            info,
        };
        group.state().membership = Membership {
            version: 1,
            next_id: 2,
            members: vec![member],
        };
        group
    }

    /// A node's handle. It delivers from `deliver_from` on.
    pub fn open(&self, node: NodeId, deliver_from: Position) -> MemoryLog {
        MemoryLog {
            group: self.clone(),
            node,
            next: deliver_from.max(1),
            trimmed: 0,
            version: 0,
            proposals: Vec::new(),
            tail: None,
            changes: Vec::new(),
            announced_leader: None,
        }
    }

    /// Cut a node off from the others, or connect it again.
    pub fn set_connected(&self, node: NodeId, connected: bool) {
        if connected {
            self.state().cut_off.remove(&node);
        } else {
            self.state().cut_off.insert(node);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is that of a test that has failed already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node's handle.
pub struct MemoryLog {
    group: MemoryGroup,
    node: NodeId,
    next: Position,
    trimmed: Position,
    /// Of the membership last told.
    version: u64,
    proposals: Vec<Command>,
    tail: Option<u64>,
    changes: Vec<MembershipChange>,
    announced_leader: Option<NodeId>,
}

impl SharedLog for MemoryLog {
    fn propose(&mut self, id: ProposalId, payload: Bytes) {
        self.proposals.push(Command { id, payload });
    }

    fn tail(&mut self, token: u64) {
        self.tail = self.tail.max(Some(token));
    }

    fn change_membership(&mut self, change: MembershipChange) {
        self.changes.push(change);
    }

    fn poll(&mut self, now: Duration, events: &mut Vec<LogEvent>) -> Duration {
        let group = self.group.clone();
        let mut state = group.state();
        let connected = !state.cut_off.contains(&self.node);
        let leader = connected.then_some(NodeId(1));
        if leader != self.announced_leader {
            self.announced_leader = leader;
            events.push(LogEvent::Leader(leader));
        }
        if !connected {
            return now + POLL_AGAIN_AFTER;
        }
        for command in self.proposals.drain(..) {
            state.append(Value::Command(command));
        }
        for change in self.changes.drain(..) {
            if let Err(reason) = state.change(change) {
                events.push(LogEvent::MembershipRefused(reason));
            }
        }
        let from = (self.next as usize - 1).min(state.entries.len());
        let upto = state.entries.len().min(from + CHUNK_ENTRIES);
        let chunk: Vec<_> = state.entries[from..upto].iter().map(chosen).collect();
        if !chunk.is_empty() {
            self.next = upto as Position + 1;
            events.push(LogEvent::Chosen(chunk));
        }
        if state.membership.version > self.version {
            self.version = state.membership.version;
            events.push(LogEvent::Membership(state.membership.clone()));
        }
        if let Some(token) = self.tail.take() {
            events.push(LogEvent::Tail {
                token,
                position: state.entries.len() as Position,
            });
        }
        if upto < state.entries.len() {
            now
        } else {
            now + POLL_AGAIN_AFTER
        }
    }

    fn trim(&mut self, below: Position) {
        self.trimmed = self.trimmed.max(below.min(self.next));
    }

    fn status(&self) -> LogStatus {
        let state = self.group.state();
        let chosen = state.entries.len() as Position;
        LogStatus {
            leader: self.announced_leader,
            round: 1,
            proposed: chosen,
            chosen,
            durable: chosen,
            trimmed: self.trimmed,
            membership: state.membership.clone(),
            acknowledged: state
                .membership
                .members
                .iter()
                .map(|member| (member.id, chosen))
                .collect(),
            distrusted: Vec::new(),
            quorum: self.announced_leader.is_some(),
        }
    }
}

fn chosen(entry: &Entry) -> ChosenEntry {
    ChosenEntry {
        entry: entry.clone(),
        location: Location::default(),
    }
}
