//! DDL through the log: a statement that changes definitions runs here under the group's DDL lock, and its text travels in the
//! transaction's record to run on the other nodes at the same place of the group's history.
//!
//! ```text
//! ProcessUtility   plan (what, which tables)  -> DDL lock -> wait until applied -> the statement runs -> noted
//! PRE_COMMIT       statements first in the record's body, its tables claimed -> the commit path of any strong transaction
//! elsewhere        the apply worker keeps writers off the tables from the lock's record on, then runs the statements (`replay`)
//! ```
//!
//! Invariants:
//! - a record with DDL commits only while its transaction has the DDL lock (certified);
//! - from the lock's record until the DDL's nothing that another node wrote to the tables commits, so that what the statement
//!   sees and locks here is what it meets everywhere, and it never loses to a write;
//! - a statement that was rolled back with its subtransaction does not travel.

use std::cell::{Cell, RefCell};

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{DdlStatement, TableId};

use super::capture;
use super::shmem;
use crate::errors::UserError;
use crate::settings::{self, DdlMode};

mod checks;
mod environment;
mod lock;
mod plan;
pub mod replay;

pub use lock::{forget as forget_lock, incarnation as lock_incarnation, tables as locked_tables};
pub use plan::{Need, Plan};

/// A statement of this transaction.
struct Noted {
    subtransaction: pg_sys::SubTransactionId,
    statement: DdlStatement,
}

thread_local! {
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
    /// Statements of the group that are being executed, one inside the other.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What is executed reached a table of the group that its text does not name.
    static REACHED: Cell<bool> = const { Cell::new(false) };
}

/// A statement that runs, between [`before`] and [`Running::done`].
pub struct Running {
    number: Option<usize>,
}

/// Before a utility statement runs: what concerns the group takes its lock and is noted.
///
/// # Safety
/// The arguments are those of `ProcessUtility_hook`.
pub unsafe fn before(
    statement: *mut pg_sys::PlannedStmt,
    source: *const core::ffi::c_char,
    context: pg_sys::ProcessUtilityContext::Type,
) -> Result<Running, UserError> {
    let nothing = Ok(Running { number: None });
    // SAFETY: by contract.
    unsafe {
        let utility = (*statement).utilityStmt;
        if context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND
            || capture::applying()
            || pg_sys::creating_extension
            || !plan::may_concern_group(utility)
        {
            return nothing;
        }
        let Some(node) = shmem::my_node() else { return nothing };
        let Plan::Group(mut need) = plan::of(utility)? else {
            return nothing;
        };
        let text = environment::text(statement, source)?;
        // Once the lock is there a look again: what the statement names may have changed meanwhile.
        while !lock::covers(node, &need) {
            refuse_if_written(&need)?;
            lock::acquire(node, &need)?;
            match plan::of(utility)? {
                Plan::Group(again) => need = again,
                Plan::Local => return nothing,
            }
        }
        refuse_if_written(&need)?;
        checks::before(utility)?;
        let statement = environment::capture(text, need.of_group);
        let number = note(statement);
        DEPTH.set(DEPTH.get() + 1);
        REACHED.set(false);
        Ok(Running { number: Some(number) })
    }
}

impl Running {
    /// Whether the statement travels.
    pub fn travels(&self) -> bool {
        self.number.is_some()
    }

    /// The statement has run.
    ///
    /// # Safety
    /// `utility` is the statement that [`before`] was given.
    pub unsafe fn done(self, utility: *mut pg_sys::Node) -> Result<(), UserError> {
        let Some(number) = self.number else { return Ok(()) };
        DEPTH.set(DEPTH.get().saturating_sub(1));
        if REACHED.get() {
            NOTED.with_borrow_mut(|noted| {
                if let Some(noted) = noted.get_mut(number) {
                    noted.statement.of_group = true;
                }
            });
        }
        // SAFETY: by contract.
        unsafe { checks::after(utility) }
    }

    /// The statement has failed.
    pub fn failed(&self) {
        if self.number.is_some() {
            DEPTH.set(DEPTH.get().saturating_sub(1));
        }
    }
}

/// Whether a change of a definition that happens now is the group's: in a statement that travels, or while applying one.
pub fn changes_group() -> bool {
    DEPTH.get() > 0 || capture::applying()
}

/// A table of the group is changed by the statement that runs.
pub fn reached_group() {
    REACHED.set(true);
}

/// Whether this session keeps its DDL to this node.
pub fn is_local() -> bool {
    settings::DDL.get() == DdlMode::Local
}

fn note(statement: DdlStatement) -> usize {
    // SAFETY: inside a transaction.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    NOTED.with_borrow_mut(|noted| {
        noted.push(Noted {
            subtransaction,
            statement,
        });
        noted.len() - 1
    })
}

/// A statement that the server does not run now but that the other nodes must, before what follows.
pub fn add(statement: DdlStatement) {
    note(statement);
}

/// Whether the transaction has DDL for the log.
pub fn pending() -> bool {
    NOTED.with_borrow(|noted| !noted.is_empty())
}

/// Whether any of it concerns tables of the group.
pub fn concerns_group() -> bool {
    NOTED.with_borrow(|noted| noted.iter().any(|noted| noted.statement.of_group))
}

/// The statements, in the order in which they ran.
pub fn statements() -> Vec<DdlStatement> {
    NOTED.with_borrow(|noted| noted.iter().map(|noted| noted.statement.clone()).collect())
}

/// From the subtransaction callback.
pub fn on_subxact(event: pg_sys::SubXactEvent::Type, mine: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    NOTED.with_borrow_mut(|noted| match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => noted
            .iter_mut()
            .filter(|noted| noted.subtransaction == mine)
            .for_each(|noted| noted.subtransaction = parent),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => noted.retain(|noted| noted.subtransaction != mine),
        _ => {}
    });
}

/// Forget everything, at the end of the transaction.
pub fn reset() {
    NOTED.with_borrow_mut(Vec::clear);
    DEPTH.set(0);
    REACHED.set(false);
    lock::forget();
}

/// The other nodes run a record's statements before its row changes: what was written before the statement must not be of
/// a table that it changes.
fn refuse_if_written(need: &Need) -> Result<(), UserError> {
    let written = |id: &TableId| super::relation::by_id(*id).filter(|table| capture::pending_on(table.oid));
    let table = if need.all && capture::pending() {
        Some("a table".to_owned())
    } else {
        need.tables
            .iter()
            .find_map(written)
            .map(|table| format!("table {}", table.name))
    };
    match table {
        None => Ok(()),
        Some(table) => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot change the definition of {table} in a transaction that has written its rows"),
            "The other nodes change definitions before they change the rows of a transaction.",
            "Change the definition first, or use two transactions.",
        )),
    }
}
