//! What is decided: which records of the log commit.
//!
//! [`Certifier`] is a deterministic state machine over the log: same entries, same verdicts, on every node and after
//! every restart. It knows no clock, no randomness and no I/O; its state is bounded.
//!
//! Any change to a rule here changes what a log means. A release that changes one must decide by log record from which
//! position it holds, or nodes of two releases part ways.
#![forbid(unsafe_code)]

mod certifier;
mod checkpoint;
mod ddl;
mod fragments;
mod mutants;
mod nodes;
mod verdict;
mod window;

#[cfg(test)]
mod tests;

pub use certifier::{Certifier, CommandId, Input};
pub use ddl::DdlLock;
pub use fragments::MAX_OPEN_FRAGMENTS;
pub use nodes::MAX_SEQUENCE_LEAD;
pub use verdict::{Abort, CheckFailure, Conflict, Skip, Verdict, VerdictKind};
pub use window::{MAX_WINDOW_KEYS, MAX_WINDOW_RECORDS};
