//! The backend's side of the group's DDL lock: ask for it through the log, wait for it, and for everything before it.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{DdlLockRecord, ExpectedTable, Record, TableId};

use super::Need;
use crate::errors::{self, UserError};
use crate::pg::barrier::wait;
use crate::pg::shmem::{DDL_EXPECTED_BYTES, NodeShared, NodeState};
use crate::pg::slot::Outcome;
use crate::pg::submit::{self, Asked};
use crate::pg::{catalog, give_way, latch, xact};

/// Who waits is woken; this is only in case a wake-up gets lost, and how often a deadlock is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// More tables at once than this are all: the request must fit into a slot.
const MOST_TABLES: usize = 512;

/// The lock, as this transaction has it.
#[derive(Default)]
struct Held {
    /// 0: not held.
    incarnation: u64,
    all: bool,
    tables: Vec<TableId>,
    expected: Vec<ExpectedTable>,
}

thread_local! {
    static HELD: RefCell<Held> = RefCell::new(Held::default());
}

/// At the end of the transaction. The log worker gives it back.
pub fn forget() {
    HELD.with_borrow_mut(|held| *held = Held::default());
}

/// The incarnation under which this transaction took the lock; 0: it has none.
pub fn incarnation() -> u64 {
    HELD.with_borrow(|held| held.incarnation)
}

/// The tables that this transaction has for itself.
pub fn tables() -> Vec<TableId> {
    HELD.with_borrow(|held| {
        if held.all {
            catalog::all()
                .into_iter()
                .map(|(id, _)| id)
                .chain(held.tables.iter().copied())
                .collect()
        } else {
            held.tables.clone()
        }
    })
}

/// Whether this transaction has the table for itself.
pub fn has(table: TableId) -> bool {
    HELD.with_borrow(|held| held.all || held.tables.contains(&table))
}

/// Whether this transaction has what it needs.
pub fn covers(node: &NodeShared, need: &Need) -> bool {
    HELD.with_borrow(|held| {
        held.incarnation != 0
            && held.incarnation == node.incarnation.load(Ordering::Acquire)
            && (held.all || !need.all && need.tables.iter().all(|table| held.tables.contains(table)))
            && need.expected.iter().all(|table| held.expected.contains(table))
    })
}

/// Take the lock, or extend it, and wait until everything before it is here.
pub fn acquire(node: &'static NodeShared, need: &Need) -> Result<(), UserError> {
    let incarnation = node.incarnation.load(Ordering::Acquire);
    if ![0, incarnation].contains(&self::incarnation()) {
        return Err(errors::ddl_lock_lost());
    }
    if node.origin.load(Ordering::Acquire) == 0 {
        return Err(errors::starting());
    }
    check_room(need)?;
    let all = need.all || need.tables.len() > MOST_TABLES;
    let deadline = lock_deadline();
    let number = xact::current_number(node);
    let request = Record::DdlLock(DdlLockRecord {
        transaction: number,
        all,
        tables: if all { Vec::new() } else { need.tables.clone() },
        expected: need.expected.clone(),
    });
    let csn = loop {
        let asked = submit::ask_for_ddl_lock(node, number, &request.encode())?;
        match wait_for_answer(node, asked, deadline)? {
            Some(csn) => break csn,
            None => wait_until_free(node, deadline)?,
        }
    };
    let far = Instant::now() + Duration::from_secs(24 * 3600);
    wait::applied(node, csn, deadline.unwrap_or(far)).map_err(|error| match deadline {
        Some(deadline) if Instant::now() >= deadline => timed_out(),
        _ => error,
    })?;
    // What was looked up before the wait is looked up again by the callers, and not as it was.
    // SAFETY: inside a transaction, where the server itself does it whenever it locks a relation.
    unsafe { pg_sys::AcceptInvalidationMessages() }
    // Only now: who failed to wait, and goes on behind a savepoint, asks and waits again.
    HELD.with_borrow_mut(|held| {
        held.incarnation = incarnation;
        held.all |= all;
        held.tables.extend_from_slice(&need.tables);
        held.expected.extend_from_slice(&need.expected);
    });
    Ok(())
}

/// The names of all expected tables are published in shared memory, by every node.
fn check_room(need: &Need) -> Result<(), UserError> {
    if need.expected.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    HELD.with_borrow(|held| held.expected.iter().for_each(|table| table.put(&mut names)));
    need.expected.iter().for_each(|table| table.put(&mut names));
    if names.len() <= DDL_EXPECTED_BYTES {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        "too many tables to replicate in one transaction",
        format!(
            "Their names take {} bytes, of at most {DDL_EXPECTED_BYTES}.",
            names.len()
        ),
        "Use several transactions.",
    ))
}

/// The position of the lock; nothing when another transaction has it.
fn wait_for_answer(
    node: &'static NodeShared,
    asked: Asked,
    deadline: Option<Instant>,
) -> Result<Option<u64>, UserError> {
    let patience = Instant::now() + submit::commit_timeout();
    loop {
        latch::reset();
        if let Some((outcome, position)) = asked.answer() {
            return match outcome {
                Outcome::DdlLockGranted => Ok(Some(position)),
                Outcome::DdlLocked => Ok(None),
                _ => Err(errors::log_stopped(&node.log_reason())),
            };
        }
        let reason = match give_way::check() {
            Err(error) => Some(error),
            Ok(()) if node.state() == NodeState::LogStopped => Some(errors::log_stopped(&node.log_reason())),
            Ok(()) if is_over(deadline) => Some(timed_out()),
            Ok(()) if Instant::now() >= patience => Some(errors::no_quorum()),
            Ok(()) if submit::interrupted() => Some(errors::canceled()),
            Ok(()) => None,
        };
        if let Some(error) = reason {
            // If it is given all the same, the log worker sees that nobody wants it.
            asked.let_go(node);
            latch::check_for_interrupts();
            return Err(error);
        }
        latch::wait(LOOK_AGAIN);
    }
}

/// Another transaction has the lock: wait until it is free, or until something else is up.
fn wait_until_free(node: &'static NodeShared, deadline: Option<Instant>) -> Result<(), UserError> {
    let waiting = submit::AwaitsDdlLock::announce(node);
    let since = Instant::now();
    while node.ddl_position.load(Ordering::SeqCst) != 0 {
        latch::reset();
        if node.ddl_position.load(Ordering::SeqCst) == 0 {
            break;
        }
        give_way::check()?;
        if node.state() == NodeState::LogStopped {
            return Err(errors::log_stopped(&node.log_reason()));
        }
        if is_over(deadline) {
            return Err(timed_out());
        }
        if since.elapsed() >= LOOK_AGAIN && in_the_owners_way(node) {
            return Err(deadlock());
        }
        if submit::interrupted() {
            drop(waiting);
            latch::check_for_interrupts();
            return Err(errors::canceled());
        }
        latch::wait(LOOK_AGAIN);
    }
    Ok(())
}

/// Whether the owner runs on this server and waits for a lock that this transaction has.
fn in_the_owners_way(node: &NodeShared) -> bool {
    if node.ddl_node.load(Ordering::SeqCst) != node.node_id.load(Ordering::SeqCst) {
        return false;
    }
    let Some(pid) = submit::process_of(node, node.ddl_transaction.load(Ordering::SeqCst)) else {
        return false;
    };
    let query = format!("SELECT pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids({pid}))");
    matches!(pgrx::Spi::get_one::<bool>(&query), Ok(Some(true)))
}

/// `lock_timeout`, from now on.
fn lock_deadline() -> Option<Instant> {
    // SAFETY: reads a setting of this process.
    let milliseconds = unsafe { pg_sys::LockTimeout };
    (milliseconds > 0).then(|| Instant::now() + Duration::from_millis(milliseconds as u64))
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn timed_out() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        "canceling statement due to lock timeout",
        "The group's DDL lock was not free in time: another transaction of the group changes definitions.",
        "See synod.stat_log for the nodes of the group; retry later or raise lock_timeout.",
    )
}

fn deadlock() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
        "deadlock detected",
        "The transaction that has the group's DDL lock waits for a lock that this transaction has.",
        "The transaction might succeed if retried.",
    )
}
