//! Multi-Paxos without I/O: `step(event) -> actions`.
//!
//! No clock, no randomness and no I/O live here: time, seeds and storage come in as events and go out as actions.
#![forbid(unsafe_code)]

mod acceptor;
mod api;
mod catch_up;
mod codec;
mod election;
mod follower;
mod handover;
mod leader;
mod lease;
mod limits;
mod membership;
mod message;
mod mutant;
mod node;
mod outbox;
mod peer;
mod proposals;
mod record;
mod tail;
mod types;
mod wire;

pub use api::{Action, DurableRecord, Event, MembershipChange, Options, Recovered};
pub use codec::{DecodeError, get_entry, get_membership, get_value, put_entry, put_membership, put_value};
pub use limits::{MAX_INFO_BYTES, MAX_MEMBERS, MAX_PAYLOAD_BYTES, MAX_POSITION};
pub use message::{Body, Message};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use node::Paxos;
pub use types::{Ballot, Command, Entry, LogId, Member, Membership, NodeId, Position, ProposalId, Value};
