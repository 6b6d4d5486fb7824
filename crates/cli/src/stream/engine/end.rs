//! What is wanted of a connection, and why it ends.

use synod_change::DecodeError;

use crate::failure::{Failure, sentence};

/// Why the stream is not gone on with.
#[derive(Debug)]
pub enum End {
    /// The position that was asked for is reached.
    Reached,
    /// We were told to end.
    Stopped,
    /// The connection to the server is lost, or the sink has forgotten what it took: again from the last durable position.
    Again(Failure),
    /// Somebody has to do something.
    Fatal(Failure),
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Fatal(Failure::new(
            "the stream cannot be understood",
            sentence(&error.to_string()),
            "Run a release of the command synod that is as new as the server's.",
        ))
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

/// What is wanted of the stream.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// End when everything that was committed before here is delivered.
    pub until: Option<u64>,
    /// Refused events are parked, and the others go on.
    pub park: bool,
    /// Only what all nodes of a group have.
    pub group_only: bool,
    /// What is done when the first record of the group that comes is not the next one.
    pub on_gap: OnGap,
    /// All records of the group up to here are delivered.
    pub delivered_csn: u64,
    /// The sink knows that of those up to here.
    pub kept_csn: u64,
}

/// See [`Wishes::on_gap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// The slot is where it was left, so nothing can be missing.
    Nothing,
    /// An earlier run may have delivered what lies between, and did not say; or the gap is accepted.
    Tell,
    /// Another node is tried.
    Leave,
}
