//! Holding a node at a CSN: so that all nodes of a group can show the state after the same one, and so that rows of one node
//! can be mended while nothing else changes them.
//!
//! A hold belongs to one transaction and ends with it, with its process, or at its deadline, whichever comes first. While it
//! lasts no record above `hold_csn` commits here (`turn` asks [`stops`] under the turn's lock); the log, verdicts and votes
//! go on, so the group as a whole does not wait. Invariant: `applied <= hold_csn` from [`begin`] to the end of the hold.
//!
//! Comparing: hold every node (each stops wherever it is), let each go on to the highest CSN among them ([`advance`]), take a
//! snapshot there, end the hold.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};

use super::server::monotonic_us;
use super::shmem::{NodeLock, NodeShared};
use super::{barrier, copy, server, turn};
use crate::errors::UserError;

/// No hold lasts longer: local commits wait behind it.
const LONGEST: Duration = Duration::from_secs(600);

thread_local! {
    /// This transaction holds its node.
    static MINE: Cell<bool> = const { Cell::new(false) };
    /// The CSN of the state that this transaction repairs.
    static REPAIRS: Cell<Option<u64>> = const { Cell::new(None) };
}

fn active(node: &NodeShared) -> bool {
    let until = node.hold_until_us.load(Ordering::SeqCst);
    until != 0 && monotonic_us() < until && server::alive(node.hold_pid.load(Ordering::SeqCst))
}

/// Whether the record at `csn` must not commit yet.
pub fn stops(node: &NodeShared, csn: u64) -> bool {
    node.hold_until_us.load(Ordering::SeqCst) != 0 && csn > node.hold_csn.load(Ordering::SeqCst) && active(node)
}

/// Stop this node where it is, until this transaction ends but at most for `time`. Returns the CSN.
pub fn begin(node: &NodeShared, time: Duration) -> Result<u64, UserError> {
    // Exclusive, so that of two who begin one sees the other.
    let _turn = node.lock(NodeLock::Turn, true);
    if active(node) && !MINE.get() {
        return Err(refused(
            "this node is held by another session",
            format!(
                "Process {} compares or repairs tables.",
                node.hold_pid.load(Ordering::SeqCst)
            ),
            "Try again when it has finished.",
        ));
    }
    let applied = node.applied.load(Ordering::SeqCst);
    node.hold_csn.store(applied, Ordering::SeqCst);
    node.hold_pid.store(server::my_pid(), Ordering::SeqCst);
    node.hold_until_us
        .store(monotonic_us() + time.min(LONGEST).as_micros() as u64, Ordering::SeqCst);
    MINE.set(true);
    Ok(applied)
}

/// Let the held node go on to `csn`, and no further, and wait until it is there.
pub fn advance(node: &NodeShared, csn: u64) -> Result<(), UserError> {
    required(node)?;
    if node.applied.load(Ordering::SeqCst) > csn {
        return Err(refused(
            "this node is past that CSN",
            format!("It has applied CSN {}.", node.applied.load(Ordering::SeqCst)),
            "Hold all nodes first, then choose the highest CSN among them.",
        ));
    }
    node.hold_csn.fetch_max(csn, Ordering::SeqCst);
    turn::wake_successor(node, node.applied.load(Ordering::SeqCst));
    let left = node.hold_until_us.load(Ordering::SeqCst).saturating_sub(monotonic_us());
    barrier::wait::applied(node, csn, Instant::now() + Duration::from_micros(left))?;
    at(node, csn)
}

/// Export a snapshot of exactly the state after `csn`, where this node is held.
pub fn export_snapshot(node: &NodeShared, csn: u64) -> Result<String, UserError> {
    at(node, csn)?;
    let (snapshot, found) = copy::export_snapshot(node);
    if found == csn { Ok(snapshot) } else { Err(over()) }
}

/// That this transaction holds the node, exactly at `csn`.
pub fn at(node: &NodeShared, csn: u64) -> Result<(), UserError> {
    required(node)?;
    if node.applied.load(Ordering::SeqCst) == csn {
        Ok(())
    } else {
        Err(over())
    }
}

/// End the hold of this transaction, if there is one. Also at its end. Never raises.
pub fn end() {
    REPAIRS.set(None);
    if !MINE.replace(false) {
        return;
    }
    let Some(node) = super::shmem::my_node() else { return };
    if node.hold_pid.load(Ordering::SeqCst) != server::my_pid() {
        return;
    }
    node.hold_until_us.store(0, Ordering::SeqCst);
    turn::wake_successor(node, node.applied.load(Ordering::SeqCst));
}

fn required(node: &NodeShared) -> Result<(), UserError> {
    if !MINE.get() {
        return Err(refused(
            "this transaction does not hold its node",
            "A CSN that stays is needed for this.".into(),
            "Call synod._hold in the same transaction; the command synod does.",
        ));
    }
    if active(node) { Ok(()) } else { Err(over()) }
}

fn over() -> UserError {
    refused(
        "the hold of this node is over",
        "It did not last until the CSN was reached and looked at.".into(),
        "Try again with a longer pause, or when the node is less behind.",
    )
}

fn refused(message: &str, detail: String, hint: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message,
        detail,
        hint,
    )
}

/// From here to the end of this transaction its writes to `table` are not captured: they mend rows of this node only. Neither
/// triggers nor foreign keys look at them.
pub fn begin_repair(node: &NodeShared, table: pg_sys::Oid, csn: u64) -> Result<(), UserError> {
    at(node, csn)?;
    if super::capture::pending() {
        return Err(refused(
            "a repair cannot begin in a transaction that has written replicated tables",
            String::new(),
            "Begin a transaction of its own for it.",
        ));
    }
    super::capture::set_repairing(table);
    REPAIRS.set(Some(csn));
    // What this node had to mend was told right already.
    if super::teller::is_read() {
        super::teller::nothing();
    }
    copy::write_as_replica_locally();
    Ok(())
}

/// Whether this transaction is a repair.
pub fn is_repair() -> bool {
    REPAIRS.get().is_some()
}

/// Before the commit: a repair has written what was right after its CSN. Had the hold ended before, it may have waited for a row that was
/// changed meanwhile, and written over that; from here on it has what it wrote locked.
pub fn check_repair() -> Result<(), UserError> {
    let (Some(csn), Some(node)) = (REPAIRS.get(), super::shmem::my_node()) else {
        return Ok(());
    };
    at(node, csn)
}
