//! One member database in shared memory: what its processes tell each other about it.
//!
//! Invariants, as inequalities:
//!
//! `trimmed <= applied <= last_commit <= certified <= chosen <= proposed`
//!
//! `applied` and `last_commit` are positions of *committing* records; `certified` is any position.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::{MAX_SLOTS, NodeLock};
use crate::pg::slot::INLINE_BYTES;

/// Size of the chain from a commit to its successor; a power of two.
pub const NEXT_OF: usize = 1 << 16;
/// Members of a group that the views can show.
pub const MAX_MEMBERS: usize = 32;
/// Transactions whose backends have let go, known by number.
pub const ORPHANS: usize = 256;
/// Room for the encoded membership.
pub const MEMBERSHIP_BYTES: usize = 16 * 1024;
/// Room for the reason why a node stopped.
pub const REASON_BYTES: usize = 1024;
/// Room for a membership request or its answer.
pub const REQUEST_BYTES: usize = 4 * 1024;

/// Tables under the DDL lock that are known singly.
pub const DDL_TABLES: usize = 256;
/// Relations that are about to be replicated and are known singly.
const EXPECTED: usize = 64;
/// Room for the names of tables that the owner of the DDL lock is about to replicate. A request for it is in a slot.
pub const DDL_EXPECTED_BYTES: usize = INLINE_BYTES / 2;

/// What a node is doing, in [`NodeShared::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NodeState {
    /// Workers are not up yet (or the entry is unused).
    Starting = 0,
    /// Normal work.
    Running = 1,
    /// The log worker stopped; see the reason.
    LogStopped = 2,
}

/// What the apply worker is doing, in [`NodeShared::apply_state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ApplyState {
    /// Not up yet.
    Starting = 0,
    /// Applying or waiting for something to apply.
    Running = 1,
    /// Cannot apply: see the reason. Retries by itself.
    Stopped = 2,
}

/// One member database of this server.
#[repr(C)]
pub struct NodeShared {
    /// Database oid; 0: the entry is free.
    pub database: AtomicU32,
    /// This node's id in its group.
    pub node_id: AtomicU32,
    /// The group's uuid, in two halves.
    pub group_id: [AtomicU64; 2],
    /// The running start of the log worker.
    pub incarnation: AtomicU64,
    /// A [`NodeState`].
    pub state: AtomicU32,
    /// An [`ApplyState`].
    pub apply_state: AtomicU32,
    /// Number of the log worker's PGPROC, or -1.
    pub log_worker: AtomicI32,
    /// Its process id, or 0.
    pub log_worker_pid: AtomicI32,
    /// Number of the apply worker's PGPROC, or -1.
    pub apply_worker: AtomicI32,
    /// Its process id, or 0.
    pub apply_worker_pid: AtomicI32,
    /// Set by leave, remove and rejoin: workers end and are not started again.
    pub leaving: AtomicBool,
    /// Process id of the session that set `leaving`: when it is gone, nobody will finish what it began.
    pub leaving_pid: AtomicI32,
    /// The log of the others begins above what this node has: only a fresh copy of the tables helps.
    pub needs_copy: AtomicBool,
    /// Process id of the worker that makes the copy, or 0.
    pub rejoin_worker_pid: AtomicI32,

    /// Applied CSN: every committing record up to it is visible here.
    pub applied: AtomicU64,
    /// Everything of the group has been here once since the server started, sequences included.
    pub caught_up: AtomicBool,
    /// Verdicts are known up to here.
    pub certified: AtomicU64,
    /// Highest committing position <= certified.
    pub last_commit: AtomicU64,
    /// The lowest base that is sure to be certified still when what is on its way now has been.
    pub lasting_floor: AtomicU64,
    /// Chosen by the group, as far as known here.
    pub chosen: AtomicU64,
    /// Durable on this node's disk.
    pub durable: AtomicU64,
    /// Highest position accepted or proposed here.
    pub proposed: AtomicU64,
    /// Everything below was given up here.
    pub trimmed: AtomicU64,
    /// Known leader, or 0.
    pub leader: AtomicU32,
    /// Round of the current ballot.
    pub round: AtomicU64,
    /// 1 while this node hears a quorum (or a leader that does).
    pub quorum: AtomicBool,

    /// Tickets handed to readers (see `pg/barrier.rs`).
    pub tail_requested: AtomicU64,
    /// Tickets up to here are answered by `tail_target`.
    pub tail_served: AtomicU64,
    /// Readers with a served ticket wait until `applied` reaches this.
    pub tail_target: AtomicU64,
    /// While this node leads under a lease: its end by [`crate::pg::clock::awake_and_asleep`] in milliseconds; 0: no lease.
    pub lease_until_ms: AtomicU64,
    /// The log's tail as long as the lease lasts. Written before `lease_until_ms`, and read after it.
    pub lease_tail: AtomicU64,
    /// Backends that wait for `applied` to move (so that a commit scans the slots only when somebody waits).
    pub applied_waiters: AtomicU32,

    /// Until when (monotonic microseconds) nothing above `hold_csn` commits here; 0: no hold. See `pg/hold.rs`.
    pub hold_until_us: AtomicU64,
    /// Where the node is held.
    pub hold_csn: AtomicU64,
    /// The process that holds it.
    pub hold_pid: AtomicI32,

    /// Slots that the log worker has to look at: queued or given up. One bit each.
    pub marked: [AtomicU64; MAX_SLOTS / 64],
    /// The log worker leaves records in their slots until fewer own commits wait for their turn (see [`crate::pg::turn::GATE`]).
    pub gate_shut: AtomicBool,

    /// Where the group's DDL lock was given or last extended; 0: nobody has it. Changed with the other fields under `meta`.
    pub ddl_position: AtomicU64,
    /// Who has it: node.
    pub ddl_node: AtomicU32,
    /// Its incarnation.
    pub ddl_incarnation: AtomicU64,
    /// Its transaction.
    pub ddl_transaction: AtomicU64,
    /// It has all tables.
    pub ddl_all: AtomicBool,
    /// Number of tables in `ddl_tables`.
    pub ddl_table_count: AtomicU32,
    /// The tables that it has; more than fit are published as "all".
    pub ddl_tables: [AtomicU64; DDL_TABLES],
    /// Length of `ddl_expected`.
    pub ddl_expected_length: AtomicU32,
    /// The tables that it is about to replicate, encoded one after the other.
    pub ddl_expected: [AtomicU8; DDL_EXPECTED_BYTES],
    /// Relations that are about to be replicated by another node, as far as applied here: set and cleared by the apply worker. More than
    /// fit are all.
    pub expected_count: AtomicU32,
    /// Their numbers.
    pub expected: [AtomicU32; EXPECTED],

    /// Tables that are about to be replicated are locked here by the apply worker, as far as there are any. False: what stands in the
    /// node's file `expected` must not be written (`pg/expected.rs`).
    pub expected_guarded: AtomicBool,
    /// They are a transaction's of this very node, and not locked by the apply worker: the transaction itself holds the locks, as long as it
    /// runs.
    pub expected_own: AtomicBool,

    /// Local transaction id of a prepared transaction that apply waits for; 0: none. Set by the log worker, taken by the apply
    /// worker, whose wait is cancelled with it.
    pub blocking_prepared: AtomicU32,
    /// The last commits, for "does this snapshot cover that CSN".
    pub recent: crate::pg::recent::RecentCommits,
    /// Values of sequences that this node may give out.
    pub ranges: crate::pg::range_table::RangeTable,
    /// Numbers transactions of this incarnation, for `synod.current_transaction_id()`.
    pub transactions: AtomicU64,

    /// Numbers of own transactions that were proposed, have no verdict yet and whose backend has let go; 0: unused.
    pub orphans: [AtomicU64; ORPHANS],
    /// Orphans that found no room in `orphans`.
    pub more_orphans: AtomicU64,

    /// Own transactions committed through the log.
    pub committed: AtomicU64,
    /// Own transactions that lost certification (40001).
    pub conflicts: AtomicU64,
    /// Own transactions whose wait was given up (08007).
    pub detached: AtomicU64,
    /// Remote records applied.
    pub applied_records: AtomicU64,
    /// Rows applied from remote records.
    pub applied_rows: AtomicU64,
    /// Local transactions told to give way to apply.
    pub gave_way: AtomicU64,
    /// Those of them whose commit was decided already, which then happened as if they were remote (08007).
    pub gave_way_committed: AtomicU64,
    /// Those of them that got no verdict within `synod.lock_grace` (08007).
    pub gave_way_unknown: AtomicU64,
    /// Batches proposed, for the mean batch size.
    pub batches: AtomicU64,
    /// Records proposed by this node.
    pub proposals: AtomicU64,
    /// Bytes proposed by this node.
    pub proposed_bytes: AtomicU64,

    /// Number of the replication origin that carries the applied CSN; set by the apply worker.
    pub origin: AtomicU32,
    /// Per member (id, position known to be durable there); ids of 0 end the list.
    pub acknowledged: [(AtomicU32, AtomicU64); MAX_MEMBERS],

    /// Membership request: see `crate::membership::request`. Guarded by the `meta` lock.
    pub request_state: AtomicU32,
    /// PGPROC number of who asked.
    pub requester: AtomicI32,
    /// Length of `request`.
    pub request_length: AtomicU32,
    /// Encoded request, then its answer.
    pub request: [AtomicU8; REQUEST_BYTES],
    /// Length of `membership`. Guarded by the `meta` lock.
    pub membership_length: AtomicU32,
    /// Encoded membership (`crate::membership`).
    pub membership: [AtomicU8; MEMBERSHIP_BYTES],
    /// Why the log worker stopped. Guarded by the `meta` lock.
    pub log_reason: [AtomicU8; REASON_BYTES],
    /// Why apply stopped. Guarded by the `meta` lock.
    pub apply_reason: [AtomicU8; REASON_BYTES],

    /// Who commits after CSN x: entry x % NEXT_OF is `x << 16 | slot + 1`, or `x << 16` when the successor is remote.
    pub next_of: [AtomicU64; NEXT_OF],
}

impl NodeShared {
    /// Back to the state of an unused entry.
    pub fn clear(&self) {
        // SAFETY: NodeShared is made of atomics only; zero is valid for each. Nobody uses a cleared entry.
        unsafe {
            let start = std::ptr::from_ref(self).cast::<u8>().cast_mut();
            std::ptr::write_bytes(start, 0, std::mem::size_of::<Self>());
        }
        self.log_worker.store(-1, Ordering::Relaxed);
        self.apply_worker.store(-1, Ordering::Release);
    }

    /// The group's uuid.
    pub fn group(&self) -> [u8; 16] {
        let mut group = [0; 16];
        for (half, bytes) in self.group_id.iter().zip(group.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&half.load(Ordering::Acquire).to_be_bytes());
        }
        group
    }

    /// Set by the log worker when it begins.
    pub fn set_group(&self, group: [u8; 16]) {
        for (half, bytes) in self.group_id.iter().zip(group.as_chunks::<8>().0) {
            half.store(u64::from_be_bytes(*bytes), Ordering::Release);
        }
    }

    /// What the node is doing.
    pub fn state(&self) -> NodeState {
        match self.state.load(Ordering::Acquire) {
            1 => NodeState::Running,
            2 => NodeState::LogStopped,
            _ => NodeState::Starting,
        }
    }

    /// What its apply worker is doing.
    pub fn apply_state(&self) -> ApplyState {
        match self.apply_state.load(Ordering::Acquire) {
            1 => ApplyState::Running,
            2 => ApplyState::Stopped,
            _ => ApplyState::Starting,
        }
    }

    /// Why the log worker stopped; empty when it did not.
    pub fn log_reason(&self) -> String {
        let _lock = self.lock(NodeLock::Meta, false);
        read_text(&self.log_reason)
    }

    /// Why apply stopped; empty when it did not.
    pub fn apply_reason(&self) -> String {
        let _lock = self.lock(NodeLock::Meta, false);
        read_text(&self.apply_reason)
    }

    /// Publish why the log worker stopped.
    pub fn set_log_reason(&self, text: &str) {
        let _lock = self.lock(NodeLock::Meta, true);
        write_text(&self.log_reason, text);
    }

    /// Publish why apply stopped.
    pub fn set_apply_reason(&self, text: &str) {
        let _lock = self.lock(NodeLock::Meta, true);
        write_text(&self.apply_reason, text);
    }

    /// The encoded membership; empty before the first.
    pub fn membership_bytes(&self) -> Vec<u8> {
        let _lock = self.lock(NodeLock::Meta, false);
        let length = self.membership_length.load(Ordering::Relaxed) as usize;
        read_bytes(&self.membership, length)
    }

    /// Publish the membership. Refused (false) when it does not fit.
    pub fn set_membership_bytes(&self, bytes: &[u8]) -> bool {
        if bytes.len() > MEMBERSHIP_BYTES {
            return false;
        }
        let _lock = self.lock(NodeLock::Meta, true);
        write_bytes(&self.membership, bytes);
        self.membership_length.store(bytes.len() as u32, Ordering::Relaxed);
        true
    }

    /// Put bytes into the request slot. Under the `meta` lock.
    pub fn write_request(&self, bytes: &[u8]) {
        write_bytes(&self.request, bytes);
        self.request_length
            .store(bytes.len().min(REQUEST_BYTES) as u32, Ordering::Relaxed);
    }

    /// The bytes in the request slot. Under the `meta` lock.
    pub fn read_request(&self) -> Vec<u8> {
        read_bytes(&self.request, self.request_length.load(Ordering::Relaxed) as usize)
    }

    /// From here on these relations are about to be replicated.
    pub fn expect(&self, relations: &[u32]) {
        for (place, relation) in self.expected.iter().zip(relations) {
            place.store(*relation, Ordering::Relaxed);
        }
        self.expected_count.store(relations.len() as u32, Ordering::Release);
    }

    /// Whether this relation may be about to be replicated.
    pub fn expects(&self, relation: u32) -> bool {
        let count = self.expected_count.load(Ordering::Acquire) as usize;
        let known = self.expected.iter().take(count);
        count > EXPECTED || known.into_iter().any(|known| known.load(Ordering::Relaxed) == relation)
    }

    /// Publish the encoded names of expected tables; more than fit are none. Under the `meta` lock.
    pub fn write_expected(&self, bytes: &[u8]) {
        let bytes = if bytes.len() > DDL_EXPECTED_BYTES { &[] } else { bytes };
        write_bytes(&self.ddl_expected, bytes);
        self.ddl_expected_length.store(bytes.len() as u32, Ordering::Relaxed);
    }

    /// The encoded names of expected tables. Under the `meta` lock.
    pub fn read_expected(&self) -> Vec<u8> {
        read_bytes(
            &self.ddl_expected,
            self.ddl_expected_length.load(Ordering::Relaxed) as usize,
        )
    }

    /// Have the log worker look at this slot.
    pub fn mark_slot(&self, number: i32) {
        if let Some(word) = usize::try_from(number).ok().and_then(|at| self.marked.get(at / 64)) {
            word.fetch_or(1 << (number % 64), Ordering::SeqCst);
        }
        self.wake_log_worker();
    }

    /// Wake the log worker.
    pub fn wake_log_worker(&self) {
        crate::pg::latch::wake(self.log_worker.load(Ordering::Acquire));
    }

    /// Wake the apply worker.
    pub fn wake_apply_worker(&self) {
        crate::pg::latch::wake(self.apply_worker.load(Ordering::Acquire));
    }
}

fn read_bytes(from: &[AtomicU8], length: usize) -> Vec<u8> {
    from.iter()
        .take(length)
        .map(|byte| byte.load(Ordering::Relaxed))
        .collect()
}

fn write_bytes(to: &[AtomicU8], bytes: &[u8]) {
    for (to, byte) in to.iter().zip(bytes) {
        to.store(*byte, Ordering::Relaxed);
    }
}

fn read_text(from: &[AtomicU8]) -> String {
    let bytes: Vec<u8> = from
        .iter()
        .map(|byte| byte.load(Ordering::Relaxed))
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn write_text(to: &[AtomicU8], text: &str) {
    let room = to.len() - 1;
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    write_bytes(to, &text.as_bytes()[..end]);
    to[end].store(0, Ordering::Relaxed);
}
