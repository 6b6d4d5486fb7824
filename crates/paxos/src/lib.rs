//! Multi-Paxos without I/O: `step(event) -> actions`.
//!
//! No clock, no randomness and no I/O live here: time, seeds and storage come in as events and go out as actions.
#![forbid(unsafe_code)]

mod types;

pub use types::{
    Ballot, Command, Entry, LogId, Member, Membership, NodeId, Position, ProposalId, Value,
};
