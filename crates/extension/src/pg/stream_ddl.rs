//! Changes of definitions in the change stream: a logical message for each statement, right behind what it did to the catalogs,
//! and so ahead of the first row that has the new shape.
//!
//! ```text
//! ProcessUtility   before: which statement, its text, search path and the relation that it names
//! object access    what it makes, alters and drops
//! ProcessUtility   done: the message is written
//! ```
//! Rows may come before a statement is done: those of CREATE TABLE AS (the message is written when its table is made), and
//! those of event triggers and functions that it calls (when these begin to write). On a node that applies another one's
//! statement the replayed one passes through here as well.
//!
//! A message is a part of its (sub)transaction, and void with it. Parts of a statement (`PROCESS_UTILITY_SUBCOMMAND`, the script
//! of an extension) are its own business.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;
use synod_change::stream::own_message::DdlMessage;

use super::{capture, context, logical_message};
use crate::settings;

mod object;
mod statement;

pub use statement::text as text_of;

use object::Touched;
use statement::Kind;

/// A statement that runs.
struct Running {
    kind: Kind,
    message: DdlMessage,
    touched: Touched,
    /// Nobody reads the message, or it has been written.
    told: bool,
}

thread_local! {
    /// One inside the other.
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    /// How many, without a borrow: object access is frequent.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Returned by [`before`]: whether the statement is among those that run.
#[derive(Clone, Copy)]
pub struct Entered(Option<usize>);

/// Whether a statement that is told runs.
pub fn runs() -> bool {
    DEPTH.get() > 0
}

/// Before a utility statement runs.
///
/// # Safety
/// The arguments are those of `ProcessUtility_hook`.
pub unsafe fn before(
    planned: *mut pg_sys::PlannedStmt,
    source: *const core::ffi::c_char,
    context: pg_sys::ProcessUtilityContext::Type,
) -> Entered {
    // SAFETY: by contract.
    unsafe {
        if context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND || pg_sys::creating_extension {
            return Entered(None);
        }
        let utility = (*planned).utilityStmt;
        let Some(kind) = statement::kind(utility) else {
            return Entered(None);
        };
        let tells = settings::STREAM_DDL.get() && logical_message::wanted();
        if !tells && !context::may_matter() || !logical_message::possible() {
            return Entered(None);
        }
        let named = statement::named_relation(utility);
        let message = match tells {
            true => statement::describe(planned, source),
            false => DdlMessage::default(),
        };
        let running = Running {
            kind,
            message,
            touched: Touched::new(utility, named),
            told: !tells,
        };
        let depth = RUNNING.with_borrow_mut(|all| {
            all.push(running);
            all.len()
        });
        DEPTH.set(depth);
        Entered(Some(depth - 1))
    }
}

impl Entered {
    /// The statement has run.
    pub fn done(self) {
        let Some(running) = self.leave() else { return };
        // SAFETY: inside a transaction: what the statement did becomes visible to look-ups.
        unsafe { pg_sys::CommandCounterIncrement() };
        if running.kind.may_do_nothing() && running.touched.is_nothing() || running.touched.is_temporary() {
            return;
        }
        if !capture::applying() {
            context::before_change();
        }
        tell(running);
    }

    /// It has failed.
    pub fn failed(self) {
        self.leave();
    }

    fn leave(self) -> Option<Running> {
        let number = self.0?;
        DEPTH.set(number);
        RUNNING.with_borrow_mut(|all| {
            all.truncate(number + 1);
            all.pop()
        })
    }
}

/// Something is made, altered or dropped. From the object access hook.
pub fn touched(access: pg_sys::ObjectAccessType::Type, class: pg_sys::Oid, object: pg_sys::Oid, part: i32) {
    let Some(number) = DEPTH.get().checked_sub(1) else {
        return;
    };
    let makes_rows = RUNNING.with_borrow_mut(|all| {
        let Some(running) = all.get_mut(number) else {
            return false;
        };
        let first = running.touched.note(access, class, object, part);
        first && running.kind == Kind::CreateTableAs && !running.told
    });
    if makes_rows {
        tell_now(number);
    }
}

/// Rows are about to change: statements that have changed definitions already, and are still running, are told first.
pub fn before_rows() {
    for number in 0..DEPTH.get() {
        let changed = |running: &Running| !running.told && !running.touched.is_nothing();
        if RUNNING.with_borrow(|all| all.get(number).is_some_and(changed)) {
            tell_now(number);
        }
    }
}

fn tell_now(number: usize) {
    let running = RUNNING.with_borrow_mut(|all| {
        let running = all.get_mut(number)?;
        if running.touched.is_temporary() {
            return None;
        }
        running.told = true;
        Some(Running {
            kind: running.kind,
            message: running.message.clone(),
            touched: running.touched.clone(),
            told: false,
        })
    });
    if let Some(running) = running {
        if !capture::applying() {
            context::before_change();
        }
        tell(running);
    }
}

fn tell(running: Running) {
    if running.told {
        return;
    }
    let mut message = running.message;
    (message.object_type, message.object) = running.touched.main_object();
    message.tables = running.touched.tables();
    logical_message::write(c"synod.ddl", &message.encode());
}

/// Forget everything, when the transaction is rolled back. (Within one that commits, a statement such as CREATE INDEX CONCURRENTLY
/// goes on in the next.)
pub fn reset() {
    if DEPTH.replace(0) > 0 {
        RUNNING.with_borrow_mut(Vec::clear);
    }
}
