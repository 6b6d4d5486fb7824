//! DDL through the log: a statement that changes definitions runs here under the group's DDL lock, and its text travels in the
//! transaction's record to run on the other nodes at the same place of the group's history.
//!
//! ```text
//! ProcessUtility   plan (what, which tables)  -> DDL lock -> wait until applied -> the statement runs -> noted
//! PRE_COMMIT       statements and the rows between them are the record's body, its tables claimed -> the commit path of any strong transaction
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
use synod_change::DdlStatement;

use super::capture::{self, Section};
use super::shmem;
use super::teller::Teller;
use crate::errors::UserError;
use crate::settings::{self, DdlMode};

mod ahead;
mod checks;
mod create;
mod environment;
pub mod in_the_way;
mod index;
mod lock;
mod makes;
mod plan;
pub mod replaced;
pub mod replay;
mod rights;
mod session;
mod types;
mod unlike;

pub use lock::{
    forget as forget_lock, has as has_for_itself, incarnation as lock_incarnation, tables as locked_tables,
};
pub use makes::note as makes;
pub use plan::{Need, Plan};
pub use types::{redefined as redefined_types, users as tables_of_types};

/// A statement of this transaction.
struct Noted {
    subtransaction: pg_sys::SubTransactionId,
    /// Rows that the transaction wrote since the statement before.
    rows: Option<Section>,
    /// Events before this number are in `rows`, or in those of an earlier statement.
    until: u64,
    /// How many rows had been written when it began.
    written: u64,
    /// The command after the statement: what was made before it is no later section's.
    since: pg_sys::CommandId,
    /// The user's, not one that `replicate_table` made.
    given: bool,
    /// It is being executed, and counted in [`DEPTH`].
    runs: bool,
    statement: DdlStatement,
}

thread_local! {
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
    /// As [`sections_end`], once the statements were taken.
    static ENDED: Cell<(u64, pg_sys::CommandId)> = const { Cell::new((0, 0)) };
    /// Statements that write strong tables and are being executed.
    static WRITING: Cell<u32> = const { Cell::new(0) };
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
        refuse_inside_another()?;
        session::check(utility)?;
        let taken_over = session::settings_taken_over(utility)?;
        let text = environment::text(statement, source)?;
        ahead::check(node, utility, &need)?;
        // Once the lock is there a look again: what the statement names may have changed meanwhile.
        while !lock::covers(node, &need) {
            rights::check(utility, &need)?;
            lock::acquire(node, &need)?;
            match plan::of(utility)? {
                Plan::Group(again) => need = again,
                Plan::Local => return nothing,
            }
        }
        refuse_while_writing()?;
        checks::before(utility)?;
        types::keep_writers_off(utility)?;
        let rows = capture::section()?;
        if let Some(mut told) = Teller::start() {
            told.definitions_change(true);
        }
        let mut statement = environment::capture(text, need.of_group);
        statement.settings.extend(taken_over);
        statement.settings.extend(index::tables(utility));
        let number = note(statement, rows, true);
        begins(number);
        REACHED.set(false);
        makes::begin();
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
        ends(number);
        // SAFETY: inside a transaction.
        let since = unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::GetCurrentCommandId(false)
        };
        let made = makes::settings();
        NOTED.with_borrow_mut(|noted| {
            if let Some(noted) = noted.get_mut(number) {
                noted.statement.of_group |= REACHED.get();
                noted.since = since;
                // What concerns the group not at all may differ from node to node.
                if noted.statement.of_group {
                    noted.statement.settings.extend(made);
                }
            }
        });
        if NOTED.with_borrow(|noted| {
            noted
                .get(number)
                .is_some_and(|noted| noted.written < capture::rows_written())
        }) {
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot write a strong table while definitions of the group change",
                "An event trigger, or a function that the statement calls, has written rows.",
                "Write the rows in a statement of its own.",
            ));
        }
        // SAFETY: by contract.
        unsafe { checks::after(utility) }
    }

    /// The statement has failed.
    pub fn failed(&self) {
        if let Some(number) = self.number {
            ends(number);
        }
    }
}

fn begins(number: usize) {
    DEPTH.set(DEPTH.get() + 1);
    set_running(number, true);
}

fn ends(number: usize) {
    DEPTH.set(DEPTH.get().saturating_sub(1));
    set_running(number, false);
}

fn set_running(number: usize, runs: bool) {
    NOTED.with_borrow_mut(|noted| {
        if let Some(noted) = noted.get_mut(number) {
            noted.runs = runs;
        }
    });
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

fn note(statement: DdlStatement, rows: Option<Section>, given: bool) -> usize {
    let (until, since) = sections_end();
    let until = rows.as_ref().map_or(until, |rows| rows.until);
    // SAFETY: inside a transaction.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    NOTED.with_borrow_mut(|noted| {
        noted.push(Noted {
            subtransaction,
            rows,
            until,
            written: capture::rows_written(),
            since,
            given,
            runs: false,
            statement,
        });
        noted.len() - 1
    })
}

/// What the other nodes need to have a table that is about to be replicated. Takes the DDL lock ([`take_lock_for`]) for granted.
pub fn add_table(relation: &super::relcache::Relation) -> Result<(), UserError> {
    for statement in create::statements(relation)? {
        note(statement, None, false);
    }
    Ok(())
}

/// Take the group's DDL lock for a table that is about to be replicated: from then on nobody writes it, on any node that has
/// heard of the lock.
pub fn take_lock_for(node: &'static shmem::NodeShared, oid: pg_sys::Oid) -> Result<(), UserError> {
    loop {
        // Once the lock is there a look again: who had it may have given the table another name.
        let mut need = Need::default();
        need.expect(oid);
        if lock::covers(node, &need) {
            return Ok(());
        }
        lock::acquire(node, &need)?;
    }
}

/// Take the group's DDL lock for no table: nobody changes definitions until the transaction ends.
pub fn take_lock(node: &'static shmem::NodeShared) -> Result<(), UserError> {
    let need = Need::default();
    if !lock::covers(node, &need) {
        lock::acquire(node, &need)?;
    }
    Ok(())
}

/// Whether the transaction has DDL for the log.
pub fn pending() -> bool {
    NOTED.with_borrow(|noted| !noted.is_empty())
}

/// Whether the user has changed definitions in it, which the other nodes are yet to hear of.
pub fn given() -> bool {
    NOTED.with_borrow(|noted| noted.iter().any(|noted| noted.given))
}

/// Whether any of it concerns tables of the group.
pub fn concerns_group() -> bool {
    NOTED.with_borrow(|noted| noted.iter().any(|noted| noted.statement.of_group))
}

/// The statements in the order in which they ran, each with the rows written before it.
pub fn take() -> Vec<(Option<Section>, DdlStatement)> {
    let noted = NOTED.take();
    // Where the last section ends is still asked for.
    if let Some(last) = noted.last() {
        ENDED.set((last.until, last.since));
    }
    noted.into_iter().map(|noted| (noted.rows, noted.statement)).collect()
}

/// Up to which event rows have travelled with a statement, and the command after the last one.
pub fn sections_end() -> (u64, pg_sys::CommandId) {
    NOTED.with_borrow(|noted| noted.last().map_or(ENDED.get(), |last| (last.until, last.since)))
}

/// From the subtransaction callback.
pub fn on_subxact(event: pg_sys::SubXactEvent::Type, mine: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    NOTED.with_borrow_mut(|noted| match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => noted
            .iter_mut()
            .filter(|noted| noted.subtransaction == mine)
            .for_each(|noted| noted.subtransaction = parent),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => noted.retain(|noted| {
            let stays = noted.subtransaction != mine;
            // Some other module's hook, or one of ours, has failed before or behind it.
            if !stays && noted.runs {
                DEPTH.set(DEPTH.get().saturating_sub(1));
            }
            stays
        }),
        _ => {}
    });
}

/// Forget everything, at the end of the transaction.
pub fn reset() {
    NOTED.with_borrow_mut(Vec::clear);
    DEPTH.set(0);
    WRITING.set(0);
    ENDED.set((0, 0));
    REACHED.set(false);
    lock::forget();
}

/// A statement that writes strong tables begins, or goes on.
pub fn writing_begins() {
    WRITING.set(WRITING.get() + 1);
}

/// It pauses, or ends.
pub fn writing_ends() {
    WRITING.set(WRITING.get().saturating_sub(1));
}

/// What a statement does by itself is done by it on every node: if its inner statements travelled, too, they would run twice.
fn refuse_inside_another() -> Result<(), UserError> {
    if DEPTH.get() == 0 {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot change definitions of the group inside a statement that changes definitions",
        "The statement is in an event trigger, or in a function that the outer statement calls.",
        "Give it by itself; or enable the event trigger ALWAYS and add SET synod.ddl = local to its function, so that each node runs it.",
    ))
}

/// Rows that a running statement has written already are captured when it ends: they could not travel ahead.
fn refuse_while_writing() -> Result<(), UserError> {
    if WRITING.get() == 0 {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot change definitions of the group inside a statement that writes a strong table",
        "The statement is in a function or trigger that is called while rows are written.",
        "Change the definition in a statement of its own, before or after.",
    ))
}
