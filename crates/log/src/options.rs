//! How a [`PaxosLog`](crate::PaxosLog) behaves.

use std::sync::Arc;
use std::time::Duration;

use crate::storage::{DEFAULT_SEGMENT_BYTES, StorageOptions, SyncHook, Waker};
use crate::{NodeId, Position};

/// A clock, and where a leader's lease is told.
#[derive(Clone)]
pub struct LeaseHooks {
    /// Goes on while the process is stopped and while the machine sleeps; `None` when it cannot be read.
    pub clock: Arc<dyn Fn() -> Option<Duration> + Send + Sync>,
    /// Called with the end on `clock` in milliseconds, and the log's tail up to then unless told otherwise; zeros: no lease.
    /// Whoever learns that more is chosen learns it later.
    pub publish: Arc<dyn Fn(u64, Position) + Send + Sync>,
}

/// Options of a [`PaxosLog`](crate::PaxosLog).
#[derive(Clone)]
pub struct LogOptions {
    /// Whose log it is. Ignored by [`PaxosLog::create`](crate::PaxosLog::create): the first node of a group is 1.
    pub node: NodeId,
    /// The first position that the owner has not yet dealt with.
    pub deliver_from: Position,
    /// How often a leader makes itself heard.
    pub heartbeat: Duration,
    /// How long a follower waits for a leader before it stands for election. Twice that, plus a round trip, is how
    /// long writes pause when the leader dies. Below some 10 heartbeats, a busy machine elects without need.
    pub election_timeout: Duration,
    /// Size of new segment files.
    pub segment_bytes: u32,
    /// False only in tests.
    pub fsync: bool,
    /// Called from other threads when [`poll`](crate::SharedLog::poll) has something to do.
    pub waker: Waker,
    /// What leases need; without it none are given or taken.
    pub lease: Option<LeaseHooks>,
    /// See [`SyncHook`].
    pub sync_hook: Option<SyncHook>,
}

impl LogOptions {
    /// The usual values for `node`, with a waker that does nothing.
    pub fn new(node: NodeId) -> LogOptions {
        LogOptions {
            node,
            deliver_from: 1,
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(600),
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            fsync: true,
            waker: std::sync::Arc::new(|| {}),
            lease: None,
            sync_hook: None,
        }
    }

    pub(crate) fn storage(&self) -> StorageOptions {
        StorageOptions {
            node: self.node,
            segment_bytes: self.segment_bytes,
            fsync: self.fsync,
            waker: self.waker.clone(),
            sync_hook: self.sync_hook.clone(),
        }
    }
}
