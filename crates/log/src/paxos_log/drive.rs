//! Carrying out what the core asks for, in the order it asks.

use std::time::Duration;

use bytes::BytesMut;
use synod_paxos::{Action, DurableRecord, Event, Message};

use super::{PaxosLog, TAIL_AGAIN_AFTER, Unwritten, now_ms};
use crate::storage::{Completion, Record};
use crate::{LogEvent, NodeId, Position, Transport, segment};

/// State records by what they hold: the order in which a segment begins with them, and in which they are read back.
const KIND_BASE: segment::Kind = segment::KIND_STATE;
const KIND_PROMISE: segment::Kind = segment::KIND_STATE + 1;
const KIND_CHOSEN: segment::Kind = segment::KIND_STATE + 2;
const KIND_TRIMMED: segment::Kind = segment::KIND_STATE + 3;

/// A durable record as it is stored.
pub(super) fn to_record(record: DurableRecord) -> Record {
    let kind = match &record {
        DurableRecord::Accept(_) => segment::KIND_ENTRY,
        DurableRecord::Base { .. } => KIND_BASE,
        DurableRecord::Promise(_) => KIND_PROMISE,
        DurableRecord::Chosen(_) => KIND_CHOSEN,
        DurableRecord::Trimmed(_) => KIND_TRIMMED,
    };
    if let DurableRecord::Accept(entry) = record {
        return Record::entry(entry.position, entry.ballot, entry.value);
    }
    let mut bytes = BytesMut::new();
    record.encode(&mut bytes);
    Record::state(kind, bytes.freeze())
}

impl<T: Transport> PaxosLog<T> {
    /// What the storage thread has done.
    pub(super) fn take_completions(&mut self, events: &mut Vec<LogEvent>) {
        while let Some(completion) = self.storage.completion() {
            match completion {
                Completion::Written { ticket, stored } => self.places.written(ticket, &stored),
                Completion::Durable(ticket) => {
                    self.places.durable(ticket);
                    self.persisted(ticket);
                }
                Completion::Failed(reason) => return self.fail(reason, events),
            }
        }
    }

    /// All tickets up to this one are durable: say what waited for it.
    fn persisted(&mut self, ticket: u64) {
        let mut last = None;
        while self.held.front().is_some_and(|(held, _)| *held <= ticket)
            && let Some((held, then)) = self.held.pop_front()
        {
            last = Some(held);
            for (to, message) in then {
                self.transport.send(to, message.encode());
            }
        }
        if let Some(ticket) = last {
            self.paxos.handle(Event::Persisted { ticket }, &mut self.actions);
        }
    }

    /// The clock of leases: again whenever this thread may have waited.
    pub(super) fn tell_time(&mut self) {
        if let Some(lease) = &self.lease {
            match (lease.clock)() {
                Some(now) => self.paxos.set_clock(now_ms(now)),
                // No time passes: what was promised holds, but nothing may be built on what others have promised.
                None => self.paxos.want_lease(false),
            }
        }
    }

    pub(super) fn take_messages(&mut self) {
        let mut linked = Vec::new();
        self.transport.linked(&mut linked);
        for peer in linked {
            self.paxos.handle(Event::Linked { peer }, &mut self.actions);
        }
        let mut received = std::mem::take(&mut self.received);
        self.transport.receive(&mut received);
        // After everything that is handled now has come in, the owner's questions included.
        self.tell_time();
        for (from, bytes) in received.drain(..) {
            // The transport must not corrupt; a frame that does not check out is as good as lost, and is sent again.
            if let Ok(message) = Message::decode(bytes) {
                self.paxos.handle(Event::Receive { from, message }, &mut self.actions);
            }
        }
        self.received = received;
    }

    /// Carry out everything that is to be done now, and what follows from it.
    pub(super) fn carry_out(&mut self, now: Duration, events: &mut Vec<LogEvent>) {
        loop {
            self.paxos.flush(&mut self.actions);
            if self.actions.is_empty() || self.failed {
                return;
            }
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.act(action, now, events);
            }
            if self.actions.is_empty() {
                // Its memory is used again.
                self.actions = actions;
            }
        }
    }

    fn act(&mut self, action: Action, now: Duration, events: &mut Vec<LogEvent>) {
        match action {
            Action::Send { to, message } => {
                let bytes = message.encode();
                for to in to {
                    self.transport.send(to, bytes.clone());
                }
            }
            Action::Persist { ticket, records, then } => self.persist(ticket, records, then),
            Action::Note(record) => self.unwritten.records.push(to_record(record)),
            Action::Chosen(entries) => self.delivery.chosen(entries),
            Action::ReadEntries { to, from, max_bytes } => self.read_entries(to, from, max_bytes),
            Action::Tail { token, position } => {
                if self.tail.wanted.is_some_and(|wanted| wanted <= token) {
                    (self.tail.wanted, self.tail.ask_at) = (None, None);
                }
                events.push(LogEvent::Tail { token, position });
            }
            Action::Lease { until_ms, tail } => {
                if let Some(lease) = &self.lease {
                    (lease.publish)(until_ms, tail);
                }
            }
            Action::TailFailed { token } => {
                if self.tail.wanted.is_some_and(|wanted| wanted <= token) {
                    self.tail.ask_at = Some(now + TAIL_AGAIN_AFTER);
                }
            }
            Action::LeaderChanged(leader) => events.push(LogEvent::Leader(leader)),
            Action::MembershipChosen { position, membership } => {
                self.transport.set_members(&membership);
                // So that the members are known without the segment that the entry lies in.
                let base = DurableRecord::Base {
                    chosen: position,
                    membership: membership.clone(),
                };
                self.unwritten.records.push(to_record(base));
                self.distrusted
                    .retain(|node| membership.members.iter().any(|member| member.id == *node));
                events.push(LogEvent::Membership(membership));
            }
            Action::MembershipRefused(reason) => events.push(LogEvent::MembershipRefused(reason)),
            Action::TooFarBehind { peer, below } => {
                let reason = format!(
                    "node {} has trimmed its log up to position {below}, which this node has not reached",
                    peer.0
                );
                self.stop(LogEvent::TooFarBehind(reason), events);
            }
            Action::Distrusted { node, .. } => {
                if !self.distrusted.contains(&node) {
                    self.distrusted.push(node);
                }
            }
            Action::Fenced(reason) => self.fail(reason, events),
        }
    }

    fn persist(&mut self, ticket: u64, records: Vec<DurableRecord>, then: Vec<(NodeId, Message)>) {
        if records.is_empty() && self.held.is_empty() {
            self.held.push_back((ticket, then));
            return self.persisted(ticket);
        }
        for record in &records {
            match record {
                DurableRecord::Accept(entry) => self.places.accepted(entry.position, ticket),
                DurableRecord::Trimmed(below) => self.trimmed(*below),
                _ => {}
            }
        }
        self.held.push_back((ticket, then));
        self.unwritten.ticket = Some(ticket);
        self.unwritten.records.extend(records.into_iter().map(to_record));
    }

    /// Give the storage what has come together. It may be durable when this returns.
    pub(super) fn write_out(&mut self) {
        let Unwritten { records, ticket, trim } = std::mem::take(&mut self.unwritten);
        match ticket {
            // The others can decide without this disk, and should it hang they need this thread for it.
            Some(ticket) if self.paxos.can_do_without_its_disk() => self.storage.write(ticket, records),
            Some(ticket) => self.storage.write_now(ticket, records),
            None if records.is_empty() => {}
            None => self.storage.note(records),
        }
        // The mark is on its way to the disk, ahead of the deletion: the storage does both in order.
        if let Some(below) = trim {
            self.storage.trim(below);
        }
    }

    fn trimmed(&mut self, below: Position) {
        self.unwritten.trim = Some(below);
        self.places.trim(below);
        if let Some(first) = self.places.get(below) {
            self.reader.forget_below(first.segment);
        }
    }

    fn read_entries(&mut self, to: NodeId, from: Position, max_bytes: usize) {
        let upto = self.paxos.chosen();
        let run = self.places.run(from, upto, max_bytes);
        let mut entries = Vec::with_capacity(run.len());
        // What was read before an error is good; without any, the core decides how to go on.
        let _ = self.reader.read(&run, &mut entries);
        let event = if entries.is_empty() {
            Event::ReadFailed { to }
        } else {
            Event::EntriesRead { to, entries }
        };
        self.paxos.handle(event, &mut self.actions);
    }

    /// Hand chosen entries to the owner.
    pub(super) fn deliver(&mut self, events: &mut Vec<LogEvent>) {
        match self.delivery.take(&self.places, &mut self.reader) {
            Ok(chunk) if chunk.is_empty() => {}
            Ok(chunk) => events.push(LogEvent::Chosen(chunk)),
            Err(error) => {
                let reason = format!("{error}; remove this node from the group and add it again");
                self.fail(reason, events);
            }
        }
    }
}
