//! The read barrier: a statement that reads a strong table first waits until everything committed anywhere in the group
//! before it began is visible here, and then runs under a snapshot taken after that.
//!
//! No hook runs before a statement's snapshot is taken, so the barrier sits in `ExecutorStart_hook` and replaces the
//! snapshot there. When it may not be replaced (REPEATABLE READ, or a snapshot shared with an enclosing query, which must
//! not see time move) the barrier proves that the snapshot covers the CSN, or fails with 40001. Invariants:
//!
//! - a query on a strong table runs under a snapshot that sees every CSN <= the group's tail at some moment after the
//!   top-level command began (`strong`), or this session's last CSN (`session`), or it fails;
//! - one quorum round per top-level command and transaction, however many queries it runs;
//! - a snapshot that is in use by a running query is never replaced.
//!
//! Called by `pg/hooks.rs` only. A crash here loses nothing: all state is this process'.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;

use super::protect::Failure;
use super::shmem::{self, ApplyState, NodeShared, NodeState};
use super::{compat, relation, xact};
use crate::errors::UserError;
use crate::settings::{self, ReadConsistency};

mod functions;
mod inserts;
mod points;
pub mod skip;
mod snapshot;
mod start;
mod utility;
pub mod wait;
mod workers;

pub use utility::before_utility;

/// What this process remembers between two calls of its hooks.
struct Session {
    /// Numbers top-level commands.
    command: Cell<u64>,
    /// The command, transaction and CSN of the last barrier.
    passed: Cell<Option<Passed>>,
    /// Transaction with a fixed snapshot taken after a barrier.
    covered_transaction: Cell<u32>,
    /// Utility commands being executed, the outermost first; true: its queries may run inside functions.
    utilities: RefCell<Vec<bool>>,
    /// Depth of planner calls: functions run there for estimates only.
    planning: Cell<u32>,
    /// This process maintains the tables, it does not read them for a client.
    exempt: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Passed {
    command: u64,
    transaction: u32,
    csn: u64,
}

thread_local! {
    static SESSION: Session = const {
        Session {
            command: Cell::new(0),
            passed: Cell::new(None),
            covered_transaction: Cell::new(0),
            utilities: RefCell::new(Vec::new()),
            planning: Cell::new(0),
            exempt: Cell::new(false),
        }
    };
}

/// From here on this process' queries pass no barrier: for workers that keep the tables up to date.
pub fn exempt_this_process() {
    SESSION.with(|session| session.exempt.set(true));
}

/// This session's transaction lost certification: what it is tried again with must see the winner.
pub fn lost_to_another() {
    skip::be_careful();
}

/// From `ExecutorStart_hook`, before the executor is started.
///
/// # Safety
/// `query` is the hook's argument.
pub unsafe fn before_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    skip::forget(query);
    // SAFETY: the hook's argument has a plan.
    unsafe {
        before_query(query, flags);
        workers::tell((*query).plannedstmt);
    }
}

/// # Safety
/// As for [`before_executor_start`].
unsafe fn before_query(query: *mut pg_sys::QueryDesc, flags: i32) {
    let session_ready = SESSION.with(|session| {
        if is_outermost() {
            session.command.set(session.command.get() + 1);
        }
        !session.exempt.get() && session.planning.get() == 0
    });
    let explain_only = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0;
    if !session_ready || explain_only {
        return;
    }
    if workers::is_one() {
        // SAFETY: by contract.
        unsafe { workers::before_executor_start(query) }.unwrap_or_else(|error| error.raise());
        return;
    }
    // SAFETY: the hook's argument has a plan.
    if let Err(error) = unsafe { start::before_write((*query).plannedstmt) } {
        error.raise();
    }
    let consistency = settings::READ_CONSISTENCY.get();
    if consistency == ReadConsistency::Local {
        return;
    }
    let node = match shmem::my_node() {
        Some(node) => node,
        // SAFETY: the hook's argument has a plan.
        None if unsafe { !reads_strong_table((*query).plannedstmt) } => return,
        // A member that has only just started must not answer from what it happens to have.
        None => crate::node::required().unwrap_or_else(|error| error.raise()),
    };
    // SAFETY: the hook's argument has a plan; the relations in it are locked.
    unsafe {
        if reads_strong_table((*query).plannedstmt) {
            functions::strong_table_read();
            let alone = snapshot::enclosing() == 0 && !snapshot::is_fixed() && consistency == ReadConsistency::Strong;
            if alone && skip::may_skip(node, query) {
                return;
            }
            if let Err(error) = pass(node, query, consistency) {
                error.raise();
            }
        } else if snapshot::enclosing() == 0 && functions::may_read((*query).plannedstmt) {
            pass_if_possible(node, query, consistency);
        }
    }
}

/// A query between the start and the end of its run.
pub struct Running {
    functions: functions::Watch,
    query: *const pg_sys::QueryDesc,
}

/// At the start of `ExecutorRun` and `ExecutorFinish`: the query's snapshot is in use until [`Running::end`].
///
/// # Safety
/// `query` is the hook's argument.
pub unsafe fn running(query: *mut pg_sys::QueryDesc) -> Running {
    // SAFETY: by contract; both only copy what they need.
    unsafe {
        let functions = functions::Watch::new((*query).plannedstmt);
        snapshot::enter((*query).snapshot);
        Running { functions, query }
    }
}

impl Running {
    /// The query returned.
    pub fn end(self) {
        snapshot::leave();
        self.functions.end(false);
    }

    /// The query failed: the error to raise in place of the one that it failed with, if that cannot stand.
    pub fn fail(self, failure: &Failure) -> Option<UserError> {
        snapshot::leave();
        self.functions.end(true);
        // SAFETY: the query failed just now.
        unsafe { skip::confirm(self.query, failure) }
    }
}

/// Whether nothing else is being executed around what calls this.
pub fn is_outermost() -> bool {
    snapshot::enclosing() == 0 && SESSION.with(|session| session.utilities.borrow().is_empty())
}

/// The planner begins: functions that it runs for its estimates read without a barrier.
pub fn planning_begins() {
    SESSION.with(|session| session.planning.set(session.planning.get() + 1));
}

/// The planner returned, or failed.
pub fn planning_ends() {
    SESSION.with(|session| session.planning.set(session.planning.get() - 1));
}

/// The barrier for a query that reads a strong table.
///
/// # Safety
/// `query` has not been started.
unsafe fn pass(
    node: &NodeShared,
    query: *mut pg_sys::QueryDesc,
    consistency: ReadConsistency,
) -> Result<(), UserError> {
    // SAFETY: by contract.
    unsafe {
        if snapshot::is_fixed() {
            return match cover_fixed(node, (*query).snapshot, consistency) {
                Err(Uncovered::TooOld) if stands_alone(query) && snapshot::replace_with_latest(query) => Ok(()),
                other => other.map_err(UserError::from),
            };
        }
        let csn = pass_command(node, consistency)?;
        let nested = SESSION.with(|session| {
            snapshot::enclosing() > 0 || session.utilities.borrow().iter().any(|runs_functions| *runs_functions)
        });
        if node.recent.covers(csn, (*query).snapshot) || snapshot::replace(query, nested) {
            return Ok(());
        }
    }
    Err(snapshot_too_old())
}

/// As [`pass`] for a query that may call functions that read strong tables. They fail themselves when this did not work.
///
/// # Safety
/// As for [`pass`].
unsafe fn pass_if_possible(node: &NodeShared, query: *mut pg_sys::QueryDesc, consistency: ReadConsistency) {
    if !snapshot::is_fixed() && is_working(node) {
        // SAFETY: by contract.
        let _ = unsafe { pass(node, query, consistency) };
    }
}

/// Wait, once per top-level command and transaction.
fn pass_command(node: &NodeShared, consistency: ReadConsistency) -> Result<u64, UserError> {
    let transaction = compat::local_transaction_id();
    let command = SESSION.with(|session| session.command.get());
    let passed = SESSION.with(|session| session.passed.get());
    if let Some(passed) = passed.filter(|it| it.command == command && it.transaction == transaction) {
        return Ok(passed.csn);
    }
    let csn = reach(node, consistency)?;
    SESSION.with(|session| {
        session.passed.set(Some(Passed {
            command,
            transaction,
            csn,
        }))
    });
    Ok(csn)
}

/// Why a fixed snapshot does not do.
enum Uncovered {
    /// It lacks a CSN.
    TooOld,
    /// What is needed could not be found out, or waited for.
    Failed(UserError),
}

impl From<Uncovered> for UserError {
    fn from(uncovered: Uncovered) -> Self {
        match uncovered {
            Uncovered::TooOld => snapshot_too_old(),
            Uncovered::Failed(error) => error,
        }
    }
}

/// Whether a query is all there is to its transaction (`default_transaction_isolation` outside of a block), and only reads:
/// then nobody can tell which snapshot the transaction had.
///
/// # Safety
/// `query` is valid.
unsafe fn stands_alone(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: by contract.
    unsafe {
        let plan = (*query).plannedstmt;
        pg_sys::XactIsoLevel == pg_sys::XACT_REPEATABLE_READ as i32
            && !pg_sys::IsTransactionBlock()
            && snapshot::enclosing() == 0
            && SESSION.with(|session| session.utilities.borrow().is_empty())
            && (*query).operation == pg_sys::CmdType::CMD_SELECT
            && !(*plan).hasModifyingCTE
            && (*plan).rowMarks.is_null()
            && !functions::calls_any(plan)
    }
}

/// A REPEATABLE READ transaction has one snapshot: it covers what is needed, or the transaction cannot go on.
///
/// # Safety
/// `snapshot` is the transaction's snapshot.
unsafe fn cover_fixed(
    node: &NodeShared,
    snapshot: pg_sys::Snapshot,
    consistency: ReadConsistency,
) -> Result<(), Uncovered> {
    let transaction = compat::local_transaction_id();
    if SESSION.with(|session| session.covered_transaction.get()) == transaction {
        return Ok(());
    }
    let csn = reach(node, consistency).map_err(Uncovered::Failed)?;
    // SAFETY: by contract.
    if unsafe { !node.recent.covers(csn, snapshot) } {
        return Err(Uncovered::TooOld);
    }
    SESSION.with(|session| session.covered_transaction.set(transaction));
    Ok(())
}

/// Wait until what this level of consistency asks for is visible here. Returns up to where.
fn reach(node: &NodeShared, consistency: ReadConsistency) -> Result<u64, UserError> {
    let deadline = wait::read_deadline();
    let csn = match consistency {
        ReadConsistency::Strong => wait::caught_up(node, deadline)?,
        ReadConsistency::Session => {
            wait::applied(node, xact::last_csn(), deadline)?;
            xact::last_csn()
        }
        ReadConsistency::Local => 0,
    };
    xact::saw(csn);
    Ok(csn)
}

/// Whether waiting has a chance to end well.
fn is_working(node: &NodeShared) -> bool {
    node.quorum.load(Ordering::SeqCst)
        && node.state() == NodeState::Running
        && node.apply_state() == ApplyState::Running
}

/// # Safety
/// `plan` is the plan of a query about to start: its relations are locked.
unsafe fn reads_strong_table(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract.
    unsafe {
        let relations = (*plan).relationOids;
        (0..super::list::length(relations)).any(|at| relation::is_read_strongly(super::list::oid(relations, at)))
    }
}

fn snapshot_too_old() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not read a strong table because of a concurrent commit on another node",
        "The snapshot in use is older than a transaction that committed before this read began.",
        "The transaction might succeed if retried.",
    )
}
