//! Utility commands at the barrier: those whose snapshot or lock comes before any query of theirs, and what each leaves for after it.
//!
//! COPY TO scans without the executor, COPY FROM finds keys taken without it, TRUNCATE and LOCK TABLE claim tables as a whole, and a REPEATABLE READ transaction takes its one
//! snapshot with the command behind BEGIN or SET TRANSACTION, before any of our hooks.
//!
//! Invariant: what [`before_utility`] notes of the session is taken back exactly once, by [`Utility::end`] or [`Utility::abandon`]; so it
//! raises only before that, and nothing that may raise stands between it and the command.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::{SESSION, cover_fixed, is_outermost, is_working, reach, snapshot, start};
use crate::errors::UserError;
use crate::pg::relcache::Relation;
use crate::pg::{compat, guard, list, relation, shmem};
use crate::settings::{self, ReadConsistency};

/// What is left to do after a utility command.
pub struct Utility {
    /// A snapshot was pushed for it.
    pushed: bool,
    /// A REPEATABLE READ transaction may have begun.
    may_fix_snapshot: bool,
    /// The transaction's snapshot is somebody else's.
    imports_snapshot: bool,
}

/// At the start of `ProcessUtility`.
///
/// # Safety
/// `statement` is the hook's argument.
pub unsafe fn before_utility(statement: *mut pg_sys::PlannedStmt) -> Utility {
    // SAFETY: by contract: a utility's PlannedStmt has a utilityStmt.
    unsafe {
        let node = (*statement).utilityStmt;
        let pushed = (*node).type_ == pg_sys::NodeTag::T_CopyStmt && before_copy(node.cast());
        match (*node).type_ {
            pg_sys::NodeTag::T_TruncateStmt => before_whole_tables((*node.cast::<pg_sys::TruncateStmt>()).relations),
            pg_sys::NodeTag::T_LockStmt => before_whole_tables((*node.cast::<pg_sys::LockStmt>()).relations),
            _ => {}
        }
        SESSION.with(|session| {
            if is_outermost() {
                session.command.set(session.command.get() + 1);
            }
            session.utilities.borrow_mut().push(!snapshot::is_taken_for(node));
        });
        Utility {
            pushed,
            may_fix_snapshot: fixes_snapshot(node),
            imports_snapshot: snapshot::is_imported_by(node),
        }
    }
}

impl Utility {
    /// The command failed.
    pub fn abandon(self) {
        SESSION.with(|session| session.utilities.borrow_mut().pop());
    }

    /// The command is done.
    pub fn end(self) {
        SESSION.with(|session| session.utilities.borrow_mut().pop());
        if self.pushed {
            // SAFETY: pushed in `before_copy`; COPY left the stack as it was.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
        if self.may_fix_snapshot {
            before_first_snapshot();
        }
        if self.imports_snapshot {
            // The barrier that BEGIN waited at says nothing about a snapshot taken earlier: the first read has to ask.
            SESSION.with(|session| session.covered_transaction.set(0));
        }
    }
}

/// Whether the command may be followed by the one snapshot of a REPEATABLE READ transaction.
///
/// # Safety
/// `node` is a utility statement.
unsafe fn fixes_snapshot(node: *mut pg_sys::Node) -> bool {
    // SAFETY: each tag tells the struct.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_TransactionStmt => {
                use pg_sys::TransactionStmtKind::{TRANS_STMT_BEGIN, TRANS_STMT_START};
                [TRANS_STMT_BEGIN, TRANS_STMT_START].contains(&(*node.cast::<pg_sys::TransactionStmt>()).kind)
            }
            pg_sys::NodeTag::T_VariableSetStmt => {
                let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
                !name.is_null()
                    && [c"TRANSACTION", c"transaction_isolation"]
                        .iter()
                        .any(|known| CStr::from_ptr(name) == *known)
            }
            _ => false,
        }
    }
}

/// After BEGIN or SET TRANSACTION: a REPEATABLE READ transaction takes its snapshot with its next command, before any of our
/// hooks. So the barrier comes now. Without a quorum the transaction may go on: it fails when it reads a strong table.
fn before_first_snapshot() {
    let consistency = settings::READ_CONSISTENCY.get();
    let exempt = SESSION.with(|session| session.exempt.get());
    if exempt || !snapshot::is_fixed() || consistency == ReadConsistency::Local || snapshot::is_taken() {
        return;
    }
    let Some(node) = shmem::my_node() else { return };
    if is_working(node) && reach(node, consistency).is_ok() {
        SESSION.with(|session| session.covered_transaction.set(compat::local_transaction_id()));
    }
}

/// TRUNCATE and LOCK TABLE claim tables as a whole: what was committed elsewhere before they began must be here, or they
/// would lose to it.
///
/// # Safety
/// A list of RangeVars, inside a transaction.
unsafe fn before_whole_tables(relations: *mut pg_sys::List) {
    let consistency = settings::READ_CONSISTENCY.get();
    if consistency == ReadConsistency::Local || SESSION.with(|session| session.exempt.get()) {
        return;
    }
    // SAFETY: by contract.
    let strong = unsafe {
        list::pointers::<pg_sys::RangeVar>(relations)
            .into_iter()
            .any(|name| guard::named(name).is_some_and(|oid| reaches_strong_table(oid, &mut Vec::new())))
    };
    if strong {
        let reached = crate::node::required().and_then(|node| reach(node, consistency));
        if let Err(error) = reached {
            error.raise();
        }
    }
}

/// COPY into a table reads no row, but fails for keys that are taken, which nobody confirms afterwards.
fn before_copy_into(table: pg_sys::Oid, consistency: ReadConsistency) -> Result<(), UserError> {
    start::before_copy_into(table)?;
    if consistency == ReadConsistency::Local || !relation::is_strong(table) {
        return Ok(());
    }
    reach(crate::node::required()?, consistency).map(drop)
}

/// Whether a relation is a strong table, or a view that reads one: LOCK TABLE locks what a view reads.
fn reaches_strong_table(oid: pg_sys::Oid, seen: &mut Vec<pg_sys::Oid>) -> bool {
    if relation::is_strong(oid) {
        return true;
    }
    let view = Relation::open(oid).filter(|it| it.class().relkind as u8 == pg_sys::RELKIND_VIEW);
    let Some(view) = view.filter(|_| !seen.contains(&oid)) else {
        return false;
    };
    seen.push(oid);
    // SAFETY: an open view has a query; the lists live in the current memory context.
    let read: Vec<pg_sys::Oid> = unsafe {
        let (mut relations, mut items, mut row_security) = (std::ptr::null_mut(), std::ptr::null_mut(), false);
        let query = pg_sys::get_view_query(view.raw());
        pg_sys::extract_query_dependencies(query.cast(), &mut relations, &mut items, &mut row_security);
        (0..list::length(relations))
            .map(|at| list::oid(relations, at))
            .collect()
    };
    drop(view);
    read.into_iter().any(|oid| reaches_strong_table(oid, seen))
}

/// `COPY table TO` scans with the active snapshot and never calls the executor: push a snapshot taken after the barrier.
/// Returns whether one was pushed.
///
/// # Safety
/// `copy` is a CopyStmt, inside a transaction.
unsafe fn before_copy(copy: *mut pg_sys::CopyStmt) -> bool {
    let consistency = settings::READ_CONSISTENCY.get();
    let exempt = SESSION.with(|session| session.exempt.get());
    // SAFETY: by contract; the lock is the one COPY itself takes, and a missing relation is its business.
    unsafe {
        if (*copy).relation.is_null() || exempt {
            return false;
        }
        if (*copy).is_from {
            let into = guard::named((*copy).relation).map_or(Ok(()), |oid| before_copy_into(oid, consistency));
            if let Err(error) = into {
                error.raise();
            }
            return false;
        }
        if consistency == ReadConsistency::Local {
            return false;
        }
        let oid = pg_sys::RangeVarGetRelidExtended(
            (*copy).relation,
            pg_sys::AccessShareLock as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        if oid == pg_sys::InvalidOid || !relation::is_read_strongly(oid) {
            return false;
        }
        let node = crate::node::required().unwrap_or_else(|error| error.raise());
        let passed = if snapshot::is_fixed() {
            cover_fixed(node, pg_sys::GetTransactionSnapshot(), consistency).map_err(UserError::from)
        } else {
            reach(node, consistency).map(drop)
        };
        if let Err(error) = passed {
            error.raise();
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    true
}
