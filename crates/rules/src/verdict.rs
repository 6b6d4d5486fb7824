//! What the certifier says about an entry.

use synod_change::Key;

/// The verdict on one log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The entry changes no tables.
    Skip(Skip),
    /// The record commits; its position is its CSN.
    Commit {
        /// The committing position before this one: a node may apply this record when it has applied that one. 0 if there
        /// is none.
        previous: u64,
    },
    /// The record is void, on every node.
    Abort(Abort),
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// A no-op or a change of membership.
    Noop,
    /// The same proposal stands at a lower position, and that is where its verdict was given.
    Duplicate,
    /// Its proposer is not, or no longer, entitled to propose: a newer incarnation of the node has begun, or this one
    /// never began.
    Fenced,
    /// A piece of a body, remembered for the record that will name it.
    Fragment,
    /// An incarnation begins.
    Start,
}

/// Why a record is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Another record took one of its keys first.
    Conflict(Conflict),
    /// Its base lies before the window: whether it conflicts is no longer known.
    TooOld,
    /// It names fragments that its incarnation did not leave open, a base that is not below its position, or too many
    /// keys. Only a faulty or a fenced proposer makes such records.
    Malformed,
    /// It asks for the DDL lock, which another transaction has, or relies on it and does not have it.
    DdlLocked,
}

/// Two claims that cannot both stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The claim that lost: the first in the record's order.
    pub key: Key,
    /// The latest committed record that holds a conflicting claim.
    pub position: u64,
}

/// Why a local pre-certification failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// A committed record holds a conflicting claim.
    Conflict(Conflict),
    /// The key's base lies before the window.
    TooOld {
        /// The key with that base.
        key: Key,
        /// The lowest base that can be certified.
        floor: u64,
    },
}

/// A verdict as one byte, for the index of verdicts on disk. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VerdictKind {
    /// None was given yet.
    Unknown = 0,
    /// [`Skip::Noop`]
    Noop = 1,
    /// [`Skip::Duplicate`]
    Duplicate = 2,
    /// [`Skip::Fenced`]
    Fenced = 3,
    /// [`Skip::Fragment`]
    Fragment = 4,
    /// [`Skip::Start`]
    Start = 5,
    /// [`Verdict::Commit`]
    Commit = 16,
    /// [`Abort::Conflict`]
    Conflict = 32,
    /// [`Abort::TooOld`]
    TooOld = 33,
    /// [`Abort::Malformed`]
    Malformed = 34,
    /// [`Abort::DdlLocked`]
    DdlLocked = 35,
}

impl VerdictKind {
    /// From its byte; `None` for a byte that means nothing.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Unknown,
            1 => Self::Noop,
            2 => Self::Duplicate,
            3 => Self::Fenced,
            4 => Self::Fragment,
            5 => Self::Start,
            16 => Self::Commit,
            32 => Self::Conflict,
            33 => Self::TooOld,
            34 => Self::Malformed,
            35 => Self::DdlLocked,
            _ => return None,
        })
    }
}

impl Verdict {
    /// The verdict without its particulars.
    #[must_use]
    pub const fn kind(&self) -> VerdictKind {
        match self {
            Self::Skip(Skip::Noop) => VerdictKind::Noop,
            Self::Skip(Skip::Duplicate) => VerdictKind::Duplicate,
            Self::Skip(Skip::Fenced) => VerdictKind::Fenced,
            Self::Skip(Skip::Fragment) => VerdictKind::Fragment,
            Self::Skip(Skip::Start) => VerdictKind::Start,
            Self::Commit { .. } => VerdictKind::Commit,
            Self::Abort(Abort::Conflict(_)) => VerdictKind::Conflict,
            Self::Abort(Abort::TooOld) => VerdictKind::TooOld,
            Self::Abort(Abort::Malformed) => VerdictKind::Malformed,
            Self::Abort(Abort::DdlLocked) => VerdictKind::DdlLocked,
        }
    }

    /// [`kind`](Self::kind) as the byte that is stored.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.kind() as u8
    }

    /// Whether the record commits.
    #[must_use]
    pub const fn commits(&self) -> bool {
        matches!(self, Self::Commit { .. })
    }
}
