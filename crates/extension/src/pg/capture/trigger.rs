//! The capture triggers: an AFTER ROW and an AFTER TRUNCATE one on every strong table.
//!
//! Internal triggers (no pg_dump, no ALTER TRIGGER), enabled ALWAYS (also with `session_replication_role = replica`), with a
//! name that sorts before `RI_`. The function is called for each row of each write: it copies two row addresses.

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use super::events::{Event, Tid};
use super::{APPLYING, PENDING, REPAIRING, RESTART_IDENTITY, SEALED, TableChange};
use crate::errors::{self, UserError};
use crate::pg::hierarchy;
use crate::pg::relation::triggers;
use crate::pg::relcache::Relation;

/// Start of the names of our triggers; the server appends their oid.
const NAME: &std::ffi::CStr = c"A_synod_capture";

/// Version information that the server asks for before it calls [`synod_capture`].
#[unsafe(no_mangle)]
#[doc(hidden)]
pub extern "C" fn pg_finfo_synod_capture() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `synod.capture()`: the function of both triggers.
///
/// # Safety
/// Called by the server's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn synod_capture(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the context of a function call is null or a node; that of a trigger is TriggerData, whose tuples are valid
    // for the event's kind.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            not_a_trigger().raise();
        }
        let data = &*context.cast::<pg_sys::TriggerData>();
        if !APPLYING.get() {
            capture(data);
        }
    }
    pg_sys::Datum::from(0)
}

unsafe fn capture(data: &pg_sys::TriggerData) {
    if SEALED.get() {
        sealed_already().raise();
    }
    if crate::pg::shmem::shared().is_none() {
        // Without the library at the server's start nothing would come of what is noted, and the write would be this node's alone.
        errors::not_preloaded().raise();
    }
    // SAFETY: reads this process' own global; 0 is InvalidRepOriginId.
    if unsafe { pg_sys::replorigin_session_origin } != 0 {
        replays_elsewhere().raise();
    }
    // SAFETY: the relation is open while its triggers run.
    let relation = unsafe { (*data.tg_relation).rd_id };
    if relation == REPAIRING.get() {
        return;
    }
    let kind = data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
    if kind == pg_sys::TRIGGER_EVENT_TRUNCATE {
        super::note_table(
            relation,
            TableChange::Truncated {
                restart_identity: RESTART_IDENTITY.get(),
            },
        );
        return;
    }
    // SAFETY: tg_trigtuple is the inserted or the old version, tg_newtuple the new one of an update.
    let (old, new) = unsafe {
        let first = Tid::new((*data.tg_trigtuple).t_self);
        match kind {
            pg_sys::TRIGGER_EVENT_INSERT => (Tid::NONE, first),
            pg_sys::TRIGGER_EVENT_DELETE => (first, Tid::NONE),
            _ => (first, Tid::new((*data.tg_newtuple).t_self)),
        }
    };
    // Whose row this was before may be just about to say that he has committed.
    let base = crate::pg::shmem::visible();
    PENDING.with_borrow_mut(|pending| {
        let subtransaction = pending.current_subtransaction();
        pending.first_base.get_or_insert(base);
        pending.events.push(Event {
            relation,
            subtransaction,
            old,
            new,
            base,
        });
    });
}

fn not_a_trigger() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "synod.capture() can only be called as a trigger",
        "It notes what is written to the tables whose triggers call it.",
        "Call synod.replicate_table to have a table replicated.",
    )
}

/// Our commit needs the session's replication origin for the applied CSN.
fn replays_elsewhere() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot write a strong table in a session that replays another replication origin",
        "A subscription or a session with a replication origin of its own cannot take part in the group's log.",
        "Let the subscription write a table that is not replicated, and copy its rows from there.",
    )
}

fn sealed_already() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot write a strong table while the transaction is being committed",
        "Its changes were handed to the shared log already.",
        "Write it before COMMIT, not in what COMMIT itself runs.",
    )
}

/// Put both triggers on a table; on a partitioned one, whose rows are its partitions', only that of TRUNCATE. The caller
/// holds SHARE ROW EXCLUSIVE on it.
pub fn create(relation: pg_sys::Oid) {
    let partitioned = Relation::open(relation).is_some_and(|relation| hierarchy::is_partitioned(&relation));
    let kinds = if partitioned { &[true][..] } else { &[false, true] };
    for truncate in kinds.iter().copied() {
        // SAFETY: inside a transaction, with the lock; a complete statement node, freed with the memory context. Internal
        // triggers need no privilege beyond what the caller checked.
        unsafe {
            let statement =
                pgrx::PgBox::<pg_sys::CreateTrigStmt>::alloc_node(pg_sys::NodeTag::T_CreateTrigStmt).into_pg();
            (*statement).trigname = pg_sys::pstrdup(NAME.as_ptr());
            (*statement).row = !truncate;
            (*statement).timing = pg_sys::TRIGGER_TYPE_AFTER as i16;
            (*statement).events = if truncate {
                pg_sys::TRIGGER_TYPE_TRUNCATE
            } else {
                pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE
            } as i16;
            pg_sys::CreateTriggerFiringOn(
                statement,
                std::ptr::null(),
                relation,
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                function(),
                pg_sys::InvalidOid,
                std::ptr::null_mut(),
                true,
                false,
                pg_sys::TRIGGER_FIRES_ALWAYS as std::ffi::c_char,
            );
        }
    }
    // SAFETY: inside a transaction; makes the triggers visible to what follows.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// `synod.capture()`.
fn function() -> pg_sys::Oid {
    // SAFETY: inside a transaction; raises when the function does not exist.
    unsafe {
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        for name in [c"synod", c"capture"] {
            let value = pg_sys::makeString(pg_sys::pstrdup(name.as_ptr()));
            names = pg_sys::lappend(names, value.cast());
        }
        pg_sys::LookupFuncName(names, 0, std::ptr::null(), false)
    }
}

/// Take our triggers off a table. The caller holds SHARE ROW EXCLUSIVE or more on it.
pub fn remove(relation: pg_sys::Oid) {
    let Some(open) = Relation::open(relation) else { return };
    let ours: Vec<pg_sys::Oid> = triggers(&open)
        .iter()
        .filter(|trigger| is_ours(trigger))
        .map(|t| t.tgoid)
        .collect();
    drop(open);
    for trigger in ours {
        // SAFETY: inside a transaction, with the lock; nothing depends on a trigger of ours. What it depends on is forgotten,
        // too: DROP TABLE would look for it.
        unsafe {
            pg_sys::RemoveTriggerById(trigger);
            pg_sys::deleteDependencyRecordsFor(pg_sys::TriggerRelationId, trigger, false);
        }
    }
    // SAFETY: inside a transaction.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// Whether a trigger is one of ours: internal, so that no user made it, and named like ours.
pub fn is_ours(trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: a trigger's name is NUL-terminated.
    trigger.tgisinternal && is_our_name(&unsafe { crate::pg::relcache::c_text(trigger.tgname) })
}

/// Whether a trigger is named like ours.
pub fn is_our_name(name: &str) -> bool {
    name.as_bytes().starts_with(NAME.to_bytes())
}

/// Whether ours come later than this trigger, if they fire for the same rows at the same time: triggers do so by their names.
pub fn comes_later(trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: a trigger's name is NUL-terminated.
    unsafe { std::ffi::CStr::from_ptr(trigger.tgname) < NAME }
}

/// Whether both triggers are there and fire always.
pub fn is_complete(relation: &Relation) -> bool {
    let armed = |wanted: u32| {
        triggers(relation).iter().any(|trigger| {
            is_ours(trigger)
                && trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS
                && trigger.tgtype as u32 & wanted == wanted
        })
    };
    let rows = pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE;
    (hierarchy::is_partitioned(relation) || armed(rows)) && armed(pg_sys::TRIGGER_TYPE_TRUNCATE)
}
