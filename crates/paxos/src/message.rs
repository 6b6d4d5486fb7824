//! What nodes say to each other.
//!
//! Every message names the sender's log directory and process, so that a wiped disk or an earlier process cannot pass
//! for the one that was asked. Positions in messages are claims of the sender at the time of sending: loss, repetition
//! and reordering of any message is harmless.

use crate::api::MembershipChange;
use crate::types::{Ballot, Command, Entry, LogId, NodeId, Position};

/// A message with its sender's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's log directory.
    pub log: LogId,
    /// The sender's process ([`crate::Options::session`]).
    pub session: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you promise me this ballot? Changes nothing at the receiver.
    PreVote {
        /// The ballot that would be asked for.
        ballot: Ballot,
        /// What the sender knows to be chosen.
        chosen: Position,
    },
    /// Answer to `PreVote`.
    PreVoteReply {
        /// As asked.
        ballot: Ballot,
        /// Yes or no.
        granted: bool,
        /// The sender's promise.
        promised: Ballot,
        /// What the sender knows to be chosen: a candidate that knows less fetches it.
        chosen: Position,
        /// The leader whom the sender hears.
        leader: Option<NodeId>,
    },
    /// Phase 1: promise this ballot, and tell what was accepted from `from` on.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// What the sender knows to be chosen. Who knows more refuses.
        chosen: Position,
        /// First position to report (`chosen + 1`, later the `next` of the previous part).
        from: Position,
    },
    /// Answer to `Prepare`, sent when the promise is durable.
    Promise {
        /// As asked.
        ballot: Ballot,
        /// As asked.
        from: Position,
        /// Accepted entries from `from` on, ascending, up to a chunk.
        entries: Vec<Entry>,
        /// Where the next part begins; `None` when this was the last one.
        next: Option<Position>,
        /// The highest position that the sender holds durably.
        last: Position,
    },
    /// Answer to `Prepare`, `Accept` or `Heartbeat` of a ballot that is too low, or to a candidate that knows too
    /// little.
    Rejected {
        /// The ballot refused.
        ballot: Ballot,
        /// The sender's promise.
        promised: Ballot,
        /// What the sender knows to be chosen.
        chosen: Position,
    },
    /// Phase 2: accept these.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// What the leader knows to be chosen.
        chosen: Position,
        /// Contiguous entries, all in this ballot. May be empty: then only the watermark counts.
        entries: Vec<Entry>,
    },
    /// Everything up to `upto` is durable here, each position either accepted in this ballot or chosen.
    Accepted {
        /// The leader's ballot.
        ballot: Ballot,
        /// The watermark.
        upto: Position,
        /// The highest position that the sender holds durably in any ballot; never goes back.
        last: Position,
    },
    /// The leader is alive.
    Heartbeat {
        /// Its ballot.
        ballot: Ballot,
        /// Counts heartbeats; the answer confirms all rounds up to this one.
        round: u64,
        /// What the leader knows to be chosen.
        chosen: Position,
        /// The last position sent to this receiver: if it is missing, it was lost.
        sent: Position,
        /// Who answers helps nobody else to lead for so long.
        lease_ms: u64,
    },
    /// Answer to `Heartbeat`: when this was said, the sender had promised nothing higher than `ballot`.
    HeartbeatReply {
        /// As asked.
        ballot: Ballot,
        /// As asked.
        round: u64,
        /// Everything up to here has arrived (durable or not).
        received: Position,
        /// As in `Accepted`.
        upto: Position,
        /// The highest position that the sender holds in any ballot, durably or not: at least what it ever said to be
        /// durable, unless its disk went back in time. `Position::MAX`: the disk is damaged and cannot say.
        last: Position,
        /// What the sender knows to be chosen.
        chosen: Position,
        /// Something is missing after `received`.
        gap: bool,
    },
    /// Something is missing after `received`: answer to an `Accept` that does not connect.
    Gap {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here has arrived.
        received: Position,
    },
    /// Facts: these are chosen, whatever ballot says so. Contiguous.
    Learn {
        /// The entries.
        entries: Vec<Entry>,
        /// What the sender knows to be chosen.
        chosen: Position,
    },
    /// Send me what is chosen from here on (one chunk).
    Fetch {
        /// First position wanted.
        from: Position,
    },
    /// Answer to `Fetch`: given up.
    Trimmed {
        /// First position that the sender still has.
        below: Position,
    },
    /// Propose these for me.
    Forward {
        /// The proposals.
        commands: Vec<Command>,
    },
    /// Where is the end of the log?
    TailRequest {
        /// The asker's token.
        token: u64,
    },
    /// Answer to `TailRequest`.
    TailReply {
        /// The asker's process.
        session: u64,
        /// The asker's token; stands for all lower ones.
        token: u64,
        /// The tail, or `None`: cannot tell.
        position: Option<Position>,
    },
    /// Change the membership for me.
    Change {
        /// What to change.
        change: MembershipChange,
    },
    /// Answer to `Change`.
    ChangeRefused {
        /// Why.
        reason: String,
    },
    /// The leader has proposed its last, and the receiver has it: stand for election, without asking whether a leader is heard.
    TakeOver {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here is chosen, and nothing was proposed after it.
        chosen: Position,
    },
    /// The group does not know the receiver's log directory under its id.
    Fenced {
        /// The log directory that is refused.
        log: LogId,
        /// Why.
        reason: String,
    },
}
