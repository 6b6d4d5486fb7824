//! This node's own proposals, until they are chosen.
//!
//! A proposal goes to the leader, again when the leader changes, and again when it takes too long. It may so be chosen at
//! two positions; the certifier above makes one record of them.
//!
//! Invariants: `pending` holds exactly the proposals of this process that were not seen chosen; each is in `sent` at least
//! once while a leader is known.

use std::collections::{BTreeMap, VecDeque};

use crate::message::Body;
use crate::node::{Paxos, Role};
use crate::types::{Command, NodeId, ProposalId};

#[derive(Clone, Debug, Default)]
pub(crate) struct Proposals {
    pending: BTreeMap<ProposalId, Command>,
    /// Oldest first: when it was sent.
    sent: VecDeque<(u64, ProposalId)>,
    /// To be sent to the leader at the next flush.
    outgoing: Vec<Command>,
    /// A leader that we do not hear, but that may hear us.
    pub(crate) hint: Option<NodeId>,
}

impl Proposals {
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }
}

impl Paxos {
    pub(crate) fn on_propose(&mut self, commands: Vec<Command>) {
        for command in commands {
            self.proposals.pending.insert(command.id, command.clone());
            self.send_proposal(command);
        }
    }

    fn send_proposal(&mut self, command: Command) {
        self.proposals.sent.push_back((self.now_ms, command.id));
        match &mut self.role {
            Role::Leader(leader) => leader.enqueue(command, self.options.queue_bytes),
            _ if self.leader.or(self.proposals.hint).is_some() => self.proposals.outgoing.push(command),
            // The change of leader sends it.
            _ => {}
        }
    }

    /// A leader is new: it may know of none of them.
    pub(crate) fn resend_proposals(&mut self) {
        self.proposals.outgoing.clear();
        if self.leader.is_none() {
            return;
        }
        self.proposals.hint = None;
        self.proposals.sent.clear();
        let commands: Vec<Command> = self.proposals.pending.values().cloned().collect();
        for command in commands {
            self.send_proposal(command);
        }
    }

    /// The leader may not have got what was sent to it: a node that has just started knows its leader before it can speak to it. Who
    /// leads hears of what is missing from the others.
    pub(crate) fn on_linked(&mut self, peer: NodeId) {
        if matches!(self.role, Role::Leader(_)) || self.leader.or(self.proposals.hint) != Some(peer) {
            return;
        }
        self.fail_questions(u64::MAX);
        self.proposals.outgoing.clear();
        self.proposals.sent.clear();
        let commands: Vec<Command> = self.proposals.pending.values().cloned().collect();
        commands.into_iter().for_each(|command| self.send_proposal(command));
    }

    pub(crate) fn tick_proposals(&mut self) {
        let late_ms = self.options.resend_ms;
        let now_ms = self.now_ms;
        while let Some((_, id)) = self
            .proposals
            .sent
            .pop_front_if(|(sent_ms, _)| *sent_ms + late_ms <= now_ms)
        {
            if let Some(command) = self.proposals.pending.get(&id).cloned() {
                self.send_proposal(command);
            }
        }
    }

    pub(crate) fn forward_proposals(&mut self) {
        if self.proposals.outgoing.is_empty() {
            return;
        }
        let commands = std::mem::take(&mut self.proposals.outgoing);
        let Some(to) = self.leader.or(self.proposals.hint) else {
            return;
        };
        let (mut part, mut bytes) = (Vec::new(), 0);
        for command in commands {
            if !part.is_empty() && bytes + command.payload.len() > self.options.chunk_bytes {
                self.outbox.send(
                    to,
                    Body::Forward {
                        commands: std::mem::take(&mut part),
                    },
                );
                bytes = 0;
            }
            bytes += command.payload.len();
            part.push(command);
        }
        self.outbox.send(to, Body::Forward { commands: part });
    }

    /// Another node's proposals arrive. Who does not lead drops them: their proposer will notice.
    pub(crate) fn on_forward(&mut self, commands: Vec<Command>) {
        let Role::Leader(leader) = &mut self.role else { return };
        for command in commands {
            leader.enqueue(command, self.options.queue_bytes);
        }
    }

    pub(crate) fn on_command_chosen(&mut self, id: ProposalId) {
        if id.node == self.options.id {
            self.proposals.pending.remove(&id);
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.command_chosen(id);
        }
    }
}
