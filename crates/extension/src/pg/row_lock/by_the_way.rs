//! Rows that a statement locks by the way, and those that triggers of the user's see locked before they are captured.
//!
//! - `ON CONFLICT … DO UPDATE … WHERE` locks the row before it looks at the condition, and keeps it locked when that is false.
//! - An UPDATE or DELETE locks the row before its BEFORE triggers. They may turn it into nothing, and what they read of other rows
//!   they read under the lock: the capture trigger, which fires at the end of the statement, is too late to say since when the row
//!   was locked. So is an AFTER trigger that comes before it by its name.
//!
//! No hook is called there either. What the executor has prepared is replaced once it has started: the condition by one that calls it, the
//! triggers' functions by one that calls them. Invariant: a row is noted as [`RowLock::held`], from a base that was read while it was
//! locked, before any function of the user's could decide by it.
//!
//! Not reached: what the executor prepares only when it comes to a partition (its own triggers when `ON CONFLICT` meets a row of it,
//! and the condition where its columns are in another order).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgrx::pg_sys;
use synod_change::KeyMode;

use super::identity_hash;
use crate::pg::capture::{self, RowLock, Tid, trigger};
use crate::pg::protect::guarded;
use crate::pg::{compat, list, relation};

type TriggerFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// A lock that was noted: whoever fires next for the same row adds nothing.
#[derive(Clone, Copy, PartialEq)]
struct Noted {
    transaction: u32,
    command: pg_sys::CommandId,
    subtransaction: pg_sys::SubTransactionId,
    relation: pg_sys::Oid,
    row: Tid,
}

thread_local! {
    /// The functions of triggers that were replaced, by where each plan has its own: a trigger's may be altered while a plan runs, which goes
    /// on with the one that it began with, and with what that one keeps there.
    static FUNCTIONS: RefCell<HashMap<usize, TriggerFunction>> = RefCell::new(HashMap::new());
    static LAST: Cell<Option<Noted>> = const { Cell::new(None) };
}

/// After a plan has started: look at the strong tables that it writes.
///
/// # Safety
/// `query` was started by the executor.
pub unsafe fn after_executor_start(query: *const pg_sys::QueryDesc) {
    // SAFETY: by contract: the list holds the plan's result relations, open until it ends.
    unsafe {
        let state = (*query).estate;
        for target in list::pointers::<pg_sys::ResultRelInfo>((*state).es_opened_result_relations) {
            let (triggers, conflict) = ((*target).ri_TrigDesc, (*target).ri_onConflict);
            let has_condition = !conflict.is_null() && !(*conflict).oc_WhereClause.is_null();
            if (triggers.is_null() && !has_condition) || !relation::is_strong((*(*target).ri_RelationDesc).rd_id) {
                continue;
            }
            if has_condition {
                (*conflict).oc_WhereClause = around((*conflict).oc_WhereClause, (*state).es_query_cxt);
            }
            if !triggers.is_null() {
                for at in 0..(*triggers).numtriggers as usize {
                    let trigger = &*(*triggers).triggers.add(at);
                    if sees_locked_rows(trigger) {
                        wrap(
                            trigger.tgfoid,
                            (*target).ri_TrigFunctions.add(at),
                            (*state).es_query_cxt,
                        );
                    }
                }
            }
        }
    }
}

/// Whether a trigger of the user's fires for a row that was there, before it is captured.
fn sees_locked_rows(trigger: &pg_sys::Trigger) -> bool {
    let kind = trigger.tgtype as u32;
    let of_rows = kind & pg_sys::TRIGGER_TYPE_ROW != 0
        && kind & (pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE) != 0
        && kind & pg_sys::TRIGGER_TYPE_INSTEAD == 0;
    of_rows && !trigger.tgisinternal && (kind & pg_sys::TRIGGER_TYPE_BEFORE != 0 || trigger::comes_later(trigger))
}

/// # Safety
/// `function` is that of a trigger in a started plan; `context` lives as long as the plan.
unsafe fn wrap(oid: pg_sys::Oid, function: *mut pg_sys::FmgrInfo, context: pg_sys::MemoryContext) {
    // SAFETY: by contract: the executor fills in what nobody else has before the first call, as here.
    unsafe {
        if (*function).fn_oid == pg_sys::InvalidOid {
            pg_sys::fmgr_info_cxt(oid, function, context);
        }
        let known = (*function)
            .fn_addr
            .filter(|known| *known as usize != fire as *const () as usize);
        if let Some(known) = known {
            let size = std::mem::size_of::<pg_sys::MemoryContextCallback>();
            let end = pg_sys::MemoryContextAllocZero(context, size).cast::<pg_sys::MemoryContextCallback>();
            (*end).func = Some(forget);
            (*end).arg = function.cast();
            pg_sys::MemoryContextRegisterResetCallback(context, end);
            FUNCTIONS.with_borrow_mut(|functions| functions.insert(function as usize, known));
            (*function).fn_addr = Some(fire);
        }
    }
}

/// The plan goes, and what `wrap` replaced in it. Makes no call of the server.
unsafe extern "C-unwind" fn forget(function: *mut std::ffi::c_void) {
    // At the end of the process there may be nothing left to forget it in.
    let _ = FUNCTIONS.try_with(|functions| functions.borrow_mut().remove(&(function as usize)));
}

/// In place of a trigger's function. Owns nothing that needs dropping: errors of the server pass through.
unsafe extern "C-unwind" fn fire(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the context of a trigger's call is TriggerData, whose old tuple is valid; the function was noted in `wrap`.
    unsafe {
        let function = guarded(|| {
            let data = &*(*call).context.cast::<pg_sys::TriggerData>();
            let mode = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_UPDATE => Some(KeyMode::NoKeyUpdate),
                pg_sys::TRIGGER_EVENT_DELETE => Some(KeyMode::Update),
                _ => None,
            };
            if let Some(mode) = mode {
                note((*data.tg_relation).rd_id, (*data.tg_trigtuple).t_self, mode);
            }
            FUNCTIONS.with_borrow(|functions| functions.get(&((*call).flinfo as usize)).copied())
        });
        match function {
            Some(function) => function(call),
            None => pg_sys::Datum::from(0),
        }
    }
}

/// A condition that is evaluated by another one, [`condition`].
///
/// # Safety
/// `inner` is a prepared condition of a started plan; `context` lives as long as the plan.
unsafe fn around(inner: *mut pg_sys::ExprState, context: pg_sys::MemoryContext) -> *mut pg_sys::ExprState {
    // SAFETY: by contract; whoever evaluates it looks at its flags and calls its function.
    unsafe {
        let size = std::mem::size_of::<pg_sys::ExprState>();
        let outer = pg_sys::MemoryContextAllocZero(context, size).cast::<pg_sys::ExprState>();
        (*outer).type_ = pg_sys::NodeTag::T_ExprState;
        (*outer).flags = (*inner).flags;
        (*outer).evalfunc = Some(condition);
        (*outer).evalfunc_private = inner.cast();
        outer
    }
}

/// Evaluates the condition of `ON CONFLICT … DO UPDATE`. Owns nothing that needs dropping: errors of the server pass through.
unsafe extern "C-unwind" fn condition(
    outer: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    is_null: *mut bool,
) -> pg_sys::Datum {
    // SAFETY: made in `around`; the scanned tuple is the row that is there, and locked.
    unsafe {
        let inner = (*outer).evalfunc_private.cast::<pg_sys::ExprState>();
        let Some(evaluate) = (*inner).evalfunc else {
            return pg_sys::Datum::from(0);
        };
        let result = evaluate(inner, context, is_null);
        if *is_null || result.value() == 0 {
            let row = (*context).ecxt_scantuple;
            guarded(|| note((*row).tts_tableOid, (*row).tts_tid, KeyMode::NoKeyUpdate));
        }
        result
    }
}

/// A row is locked.
fn note(relation: pg_sys::Oid, row: pg_sys::ItemPointerData, mode: KeyMode) {
    // SAFETY: inside a transaction.
    let (command, subtransaction) =
        unsafe { (pg_sys::GetCurrentCommandId(false), pg_sys::GetCurrentSubTransactionId()) };
    let noted = Some(Noted {
        transaction: compat::local_transaction_id(),
        command,
        subtransaction,
        relation,
        row: Tid::new(row),
    });
    if Tid::new(row).is_none() || LAST.get() == noted {
        return;
    }
    let Some(table) = relation::by_oid(relation) else {
        return;
    };
    match identity_hash(&table, row) {
        // Of a table without a key: it would have to stand for the row as a whole, which no write of it needs.
        Ok(None) if !table.keys.iter().any(|key| key.identity) => {}
        Ok(hash) => {
            let lock = RowLock { hash, mode, held: true };
            capture::note_row_lock(relation, lock);
        }
        Err(error) => error.raise(),
    }
    LAST.set(noted);
}
