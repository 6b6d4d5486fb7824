//! Collects what the handlers want done until the next flush, and puts it into the one safe order.
//!
//! Invariants:
//! - `persisted <= ticket`; every record handed out is in a `Persist` with a ticket at or below `ticket`, or in a `Note`.
//! - What is in `then` leaves only after every record that was collected before it is durable.
//! - Records keep the order in which the handlers pushed them: a `Chosen` mark follows the `Accept`s that it covers and
//!   precedes the `Accept`s of entries that were proposed because of it.

use std::collections::BTreeSet;

use crate::api::{Action, DurableRecord};
use crate::message::{Body, Message};
use crate::types::{Entry, LogId, NodeId};

#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    log: LogId,
    session: u64,
    ticket: u64,
    persisted: u64,
    records: Vec<DurableRecord>,
    then: Vec<(NodeId, Body)>,
    sends: Vec<(Vec<NodeId>, Body)>,
    chosen: Vec<Entry>,
    notices: Vec<Action>,
    /// Who was sent how long an answer since the last flush.
    long: BTreeSet<(NodeId, Long)>,
}

/// Answers that hold a chunk of entries: many times as long as what asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Long {
    Promise,
    Learn,
}

impl Outbox {
    pub(crate) fn new(log: LogId, session: u64) -> Outbox {
        Outbox {
            log,
            session,
            ..Outbox::default()
        }
    }

    /// Say it now.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        self.sends.push((vec![to], body));
    }

    /// Say it now, to several.
    pub(crate) fn send_all(&mut self, to: Vec<NodeId>, body: Body) {
        if !to.is_empty() {
            self.sends.push((to, body));
        }
    }

    /// Say it when everything recorded so far is durable.
    pub(crate) fn send_durably(&mut self, to: NodeId, body: Body) {
        self.then.push((to, body));
    }

    /// Whether a peer may have an answer of this kind: one between two flushes. An honest peer asks for no more, and asks
    /// again; of one that floods this node with questions, the answers would fill the memory.
    pub(crate) fn may_be_long(&mut self, to: NodeId, kind: Long) -> bool {
        self.long.insert((to, kind))
    }

    /// Keep it.
    pub(crate) fn record(&mut self, record: DurableRecord) {
        self.records.push(record);
    }

    pub(crate) fn chosen(&mut self, entry: Entry) {
        self.chosen.push(entry);
    }

    /// Tell the host, after the entries chosen so far.
    pub(crate) fn notice(&mut self, action: Action) {
        self.notices.push(action);
    }

    /// The ticket under which what is recorded now will become durable.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.ticket + 1
    }

    /// The ticket with which everything recorded so far will be durable, or `None` if it is already.
    pub(crate) fn covering_ticket(&self) -> Option<u64> {
        let ticket = if self.will_issue_ticket() {
            self.ticket + 1
        } else {
            self.ticket
        };
        (ticket > self.persisted).then_some(ticket)
    }

    fn will_issue_ticket(&self) -> bool {
        let is_all_durable = self.records.is_empty() && self.ticket == self.persisted;
        self.records.iter().any(needs_sync) || (!self.then.is_empty() && !is_all_durable)
    }

    /// Everything up to this ticket is durable. False: a ticket that was never issued.
    pub(crate) fn persisted(&mut self, ticket: u64) -> bool {
        if ticket > self.ticket {
            return false;
        }
        self.persisted = self.persisted.max(ticket);
        true
    }

    /// Hand everything out.
    pub(crate) fn flush(&mut self, actions: &mut Vec<Action>) {
        self.long.clear();
        let (log, session) = (self.log, self.session);
        let seal = |body| Message { log, session, body };
        actions.extend(self.sends.drain(..).map(|(to, body)| Action::Send {
            to,
            message: seal(body),
        }));
        if self.will_issue_ticket() {
            self.ticket += 1;
            let then = self.then.drain(..).map(|(to, body)| (to, seal(body))).collect();
            actions.push(Action::Persist {
                ticket: self.ticket,
                records: std::mem::take(&mut self.records),
                then,
            });
        } else {
            actions.extend(self.records.drain(..).map(Action::Note));
            let then = self.then.drain(..);
            actions.extend(then.map(|(to, body)| Action::Send {
                to: vec![to],
                message: seal(body),
            }));
        }
        if !self.chosen.is_empty() {
            actions.push(Action::Chosen(std::mem::take(&mut self.chosen)));
        }
        actions.append(&mut self.notices);
    }
}

/// Losing the others costs only time.
fn needs_sync(record: &DurableRecord) -> bool {
    !matches!(record, DurableRecord::Chosen(_))
}
