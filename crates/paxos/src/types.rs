//! The words of the shared log: positions, ballots, proposals, members.

use bytes::Bytes;

/// A place in the log, counted from 1. 0 means "before the first". In Synod a position is also the CSN of the record
/// that stands there (see `docs/architecture.md`, "One record, one position").
pub type Position = u64;

/// A member of a group. Given out once by the membership record and never used again. 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// The identity of one log directory, made at random when the directory is created. A wiped or copied disk can so not
/// pass for the disk that made the promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub [u8; 16]);

/// A leader's term: ordered by round, then by node, so that no two nodes ever own the same ballot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Grows with every candidacy.
    pub round: u64,
    /// Who leads in this ballot.
    pub node: NodeId,
}

/// Names a proposal for ever: a proposal sent twice carries the same id and is one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId {
    /// The node where the proposal was made.
    pub node: NodeId,
    /// That node's start number: grows with every start of its log worker.
    pub incarnation: u64,
    /// Counts the proposals of one incarnation, from 1.
    pub sequence: u64,
}

/// What the database wants in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who proposed it.
    pub id: ProposalId,
    /// Opaque to consensus.
    pub payload: Bytes,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Never reused.
    pub id: NodeId,
    /// The log directory that may vote under this id.
    pub log: LogId,
    /// Learners receive the log and do not count for quorums.
    pub voter: bool,
    /// Opaque to consensus: name, address, system identifier.
    pub info: Bytes,
}

/// The configuration of a group, itself a record in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Grows by one with every change.
    pub version: u64,
    /// The id that the next new member gets.
    pub next_id: u32,
    /// Sorted by id.
    pub members: Vec<Member>,
}

/// What stands at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Fills a position that a new leader found empty.
    Noop,
    /// A proposal of the database.
    Command(Command),
    /// The configuration from the next position on.
    Membership(Membership),
}

/// A value at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub position: Position,
    /// The ballot in which it was accepted.
    pub ballot: Ballot,
    /// What.
    pub value: Value,
}
