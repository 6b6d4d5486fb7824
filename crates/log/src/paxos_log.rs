//! The shared log over Multi-Paxos: drives the core ([`synod_paxos::Paxos`]), the storage thread and the transport.
//!
//! Invariants:
//! - What a message promises or acknowledges is durable before it is sent: `then` of a `Persist` waits for its ticket.
//! - trimmed <= delivered + 1 <= chosen + 1; an entry is delivered only when other processes can read it.
//! - After [`LogEvent::Failed`] nothing is sent, written or delivered any more.
//!
//! A crash loses nothing that was acknowledged; proposals under way are in the log afterwards or not.

mod drive;
mod open;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use synod_paxos::{Action, Event, Message, Paxos};

use crate::delivery::Delivery;
use crate::places::Places;
use crate::reader::SegmentReader;
use crate::storage::{Record, Storage};
use crate::{
    ChosenEntry, Command, LeaseHooks, LogEvent, LogId, LogStatus, MAX_PAYLOAD_BYTES, MembershipChange, NodeId,
    Position, ProposalId, SharedLog, Transport, Value,
};

/// After a question for the tail failed, wait this long before it is asked again.
const TAIL_AGAIN_AFTER: Duration = Duration::from_millis(25);

/// A [`SharedLog`] replicated by Multi-Paxos.
pub struct PaxosLog<T> {
    paxos: Paxos,
    storage: Storage,
    transport: T,
    reader: SegmentReader,
    places: Places,
    delivery: Delivery,
    /// Tickets under way, and what to send when they are durable.
    held: VecDeque<(u64, Vec<(NodeId, Message)>)>,
    unwritten: Unwritten,
    /// `unwritten` has let a verdict go first.
    has_waited: bool,
    /// Proposals since the last poll.
    proposals: Vec<Command>,
    tail: Tail,
    lease: Option<LeaseHooks>,
    distrusted: Vec<NodeId>,
    /// Events that arose outside of `poll`, or were found at opening.
    early: Vec<LogEvent>,
    failed: bool,
    /// Kept for its memory.
    actions: Vec<Action>,
    received: Vec<(NodeId, Bytes)>,
}

/// What the storage is to be given, in the order in which the core asked: once for a poll, when all messages have left.
#[derive(Default)]
struct Unwritten {
    records: Vec<Record>,
    /// The last of the tickets; without one, the records need not be durable soon.
    ticket: Option<u64>,
    /// Then give up what lies below.
    trim: Option<Position>,
}

/// The latest question for the tail: it stands for all before it.
#[derive(Default)]
struct Tail {
    /// Asked by the owner and not answered.
    wanted: Option<u64>,
    /// To be handed to the core, not before this time.
    ask_at: Option<Duration>,
}

impl<T: Transport> PaxosLog<T> {
    /// The identity of this node's log directory.
    pub fn log_id(&self) -> LogId {
        self.storage.log_id()
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.paxos.id()
    }

    /// Whether this node, when it leads, is to tell the tail without a round as long as it has the promises for it
    /// ([`Paxos::want_lease`]).
    pub fn want_lease(&mut self, wanted: bool) {
        self.paxos.want_lease(wanted && self.lease.is_some());
    }

    /// Whether this node, when it leads, hands over to the node that proposes nearly everything ([`Paxos::follow_writers`]).
    pub fn follow_writers(&mut self, wanted: bool) {
        self.paxos.follow_writers(wanted);
    }

    /// This process is about to end: let another one lead ([`Event::HandOver`]). Takes effect with the next polls.
    pub fn hand_over(&mut self) {
        if !self.failed {
            self.paxos.handle(Event::HandOver, &mut self.actions);
        }
    }

    /// It leads, and waits for the one that it is going to tell to.
    pub fn is_handing_over(&self) -> bool {
        self.paxos.is_handing_over()
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    fn fail(&mut self, reason: String, events: &mut Vec<LogEvent>) {
        self.stop(LogEvent::Failed(reason), events);
    }

    /// Nothing follows this event.
    fn stop(&mut self, event: LogEvent, events: &mut Vec<LogEvent>) {
        if !std::mem::replace(&mut self.failed, true) {
            events.push(event);
        }
    }
}

impl<T: Transport> SharedLog for PaxosLog<T> {
    fn propose(&mut self, id: ProposalId, payload: Bytes) {
        if payload.len() > MAX_PAYLOAD_BYTES {
            let reason = format!(
                "a proposal of {} bytes is above the limit of {MAX_PAYLOAD_BYTES}",
                payload.len()
            );
            self.early.push(LogEvent::Failed(reason));
            self.failed = true;
            return;
        }
        self.proposals.push(Command { id, payload });
    }

    fn tail(&mut self, token: u64) {
        self.tail.wanted = self.tail.wanted.max(Some(token));
        self.tail.ask_at = Some(Duration::ZERO);
    }

    fn change_membership(&mut self, change: MembershipChange) {
        if !self.failed {
            self.paxos.handle(Event::ChangeMembership(change), &mut self.actions);
        }
    }

    fn poll(&mut self, now: Duration, events: &mut Vec<LogEvent>) -> Duration {
        events.append(&mut self.early);
        if self.failed {
            return Duration::MAX;
        }
        self.take_completions(events);
        self.take_messages();
        self.take_requests(now);
        // Always: the core counts milliseconds.
        self.paxos
            .handle(Event::Tick { now_ms: now_ms(now) }, &mut self.actions);
        self.settle(now, events);
        // The write may take a while: whoever waits for a verdict has it first, but not twice in a row.
        self.has_waited = !self.has_waited && self.unwritten.ticket.is_some() && self.decides_own(events);
        if !self.has_waited && !self.failed {
            self.write_out();
            self.tell_time();
            self.take_completions(events);
            self.settle(now, events);
        }
        self.next_poll(now)
    }

    fn trim(&mut self, below: Position) {
        if !self.failed {
            self.paxos.handle(Event::Trim { below }, &mut self.actions);
        }
    }

    fn status(&self) -> LogStatus {
        LogStatus {
            leader: self.paxos.leader(),
            round: self.paxos.ballot().round,
            proposed: self.paxos.proposed(),
            chosen: self.paxos.chosen(),
            durable: self.paxos.durable(),
            trimmed: self.paxos.trimmed(),
            membership: self.paxos.membership().clone(),
            acknowledged: self.paxos.acknowledged(),
            distrusted: self.distrusted.clone(),
            quorum: self.paxos.has_quorum() && !self.failed,
        }
    }
}

impl<T: Transport> PaxosLog<T> {
    /// Carry out what is to be done now; messages leave, entries are handed over.
    fn settle(&mut self, now: Duration, events: &mut Vec<LogEvent>) {
        self.carry_out(now, events);
        self.transport.flush();
        if !self.failed {
            self.deliver(events);
        }
    }

    /// Among the entries handed over are proposals of this node: somebody waits for them.
    fn decides_own(&self, events: &[LogEvent]) -> bool {
        let me = self.paxos.id();
        let is_own =
            |chosen: &ChosenEntry| matches!(&chosen.entry.value, Value::Command(command) if command.id.node == me);
        events
            .iter()
            .any(|event| matches!(event, LogEvent::Chosen(entries) if entries.iter().any(is_own)))
    }

    fn take_requests(&mut self, now: Duration) {
        if !self.proposals.is_empty() {
            let proposals = std::mem::take(&mut self.proposals);
            self.paxos.handle(Event::Propose(proposals), &mut self.actions);
        }
        if self.tail.ask_at.is_some_and(|at| at <= now) {
            self.tail.ask_at = None;
            if let Some(token) = self.tail.wanted {
                self.paxos.handle(Event::Tail { token }, &mut self.actions);
            }
        }
    }

    fn next_poll(&self, now: Duration) -> Duration {
        if self.failed {
            return Duration::MAX;
        }
        let tick = Duration::from_millis(self.paxos.next_tick_ms());
        // The owner has more to take at once; what is chosen but not written yet is announced by the waker.
        let more = self.delivery.lags() && self.delivery.ready(&self.places);
        if more || self.unwritten.ticket.is_some() {
            now
        } else {
            tick.min(self.tail.ask_at.unwrap_or(tick))
        }
    }
}

fn now_ms(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
