//! SELECT ... FOR UPDATE and its weaker forms: a row that a transaction locks counts as touched, so that what it decided by
//! looking at the row does not come true beside a change of the row on another node.
//!
//! No hook is called when a row is locked. The plan node that locks is found once its executor has started, and its
//! function replaced by one that calls it and then notes which rows are locked.

use std::cell::Cell;

use pgrx::pg_sys;
use synod_change::KeyMode;

use super::capture::{self, RowLock, Version};
use super::format::PlainEncoding;
use super::keys::{RowKey, plain_key, whole_row_key};
use super::protect::guarded;
use super::relation::{self, StrongTable};
use super::relcache::Relation;
use super::scratch::Scratch;
use super::{compat, list, row};
use crate::errors::UserError;

mod by_the_way;

thread_local! {
    /// What the node's function was before: the server's, which is one for all plans.
    static ORIGINAL: Cell<pg_sys::ExecProcNodeMtd> = const { Cell::new(None) };
}

/// After a plan has started: wrap its row-locking nodes, if it has any, and what locks rows by the way.
///
/// # Safety
/// `query` was started by the executor.
pub unsafe fn after_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: by contract.
    unsafe {
        let without_rows = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0;
        if without_rows || capture::applying() {
            return;
        }
        by_the_way::after_executor_start(query);
        if locks_strong_rows((*query).plannedstmt) {
            wrap((*query).planstate, std::ptr::null_mut());
        }
    }
}

unsafe fn locks_strong_rows(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: row marks name range table entries, counted from 1.
    unsafe {
        list::pointers::<pg_sys::PlanRowMark>((*plan).rowMarks)
            .into_iter()
            .any(|mark| {
                if !locks((*mark).markType) || (*mark).isParent {
                    return false;
                }
                let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, (*mark).rti as usize - 1);
                relation::is_strong((*entry).relid)
            })
    }
}

fn locks(mark: pg_sys::RowMarkType::Type) -> bool {
    mark <= pg_sys::RowMarkType::ROW_MARK_KEYSHARE
}

/// A walker of plan states: never ends the walk, owns nothing.
unsafe extern "C-unwind" fn wrap(node: *mut pg_sys::PlanState, context: *mut std::ffi::c_void) -> bool {
    // SAFETY: called by the server's walker with valid nodes.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_LockRowsState {
            let before = (*node).ExecProcNodeReal;
            if before.map(|function| function as usize) != Some(lock_rows as *const () as usize) {
                ORIGINAL.set(before);
                pg_sys::ExecSetExecProcNode(node, Some(lock_rows));
            }
        }
        compat::planstate_tree_walker(node, wrap, context)
    }
}

/// In place of `ExecLockRows`. Owns nothing that needs dropping: errors of the server pass through.
unsafe extern "C-unwind" fn lock_rows(node: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the node is a LockRowsState whose function was ORIGINAL; a row that comes out of it is locked.
    unsafe {
        let Some(original) = ORIGINAL.get() else {
            return std::ptr::null_mut();
        };
        let slot = original(node);
        if !slot.is_null() && u32::from((*slot).tts_flags) & pg_sys::TTS_FLAG_EMPTY == 0 {
            guarded(|| {
                if let Err(error) = note(&*node.cast::<pg_sys::LockRowsState>()) {
                    error.raise();
                }
            });
        }
        slot
    }
}

unsafe fn note(node: &pg_sys::LockRowsState) -> Result<(), UserError> {
    // SAFETY: the lists and marks belong to the running plan; `curCtid` is the version that was locked last.
    unsafe {
        for auxiliary in list::pointers::<pg_sys::ExecAuxRowMark>(node.lr_arowMarks) {
            let mark = &*(*auxiliary).rowmark;
            if mark.relation.is_null() || !mark.ermActive || !locks(mark.markType) || mark.curCtid.ip_posid == 0 {
                continue;
            }
            if let Some(table) = relation::by_oid(mark.relid) {
                let mode = match mark.markType {
                    pg_sys::RowMarkType::ROW_MARK_EXCLUSIVE => KeyMode::Update,
                    pg_sys::RowMarkType::ROW_MARK_NOKEYEXCLUSIVE => KeyMode::NoKeyUpdate,
                    pg_sys::RowMarkType::ROW_MARK_SHARE => KeyMode::Share,
                    _ => KeyMode::KeyShare,
                };
                let hash = identity_hash(&table, mark.curCtid)?;
                let lock = RowLock {
                    hash,
                    mode,
                    held: false,
                };
                capture::note_row_lock(table.oid, lock);
            }
        }
    }
    Ok(())
}

/// The key that identifies the row at `tid`; `None` when the table has none that can be hashed.
fn identity_hash(table: &StrongTable, tid: pg_sys::ItemPointerData) -> Result<Option<u64>, UserError> {
    let Some(relation) = Relation::open(table.oid) else {
        return Ok(None);
    };
    let _scratch = Scratch::enter();
    let mut version = Version::fetch_at(&relation, tid)?;
    let image = version.image(&relation);
    // SAFETY: the image is of this table.
    unsafe {
        let Some(key) = table.keys.iter().find(|key| key.identity) else {
            if table.needs_fixed_settings {
                return Ok(None);
            }
            let _encoding = PlainEncoding::enter();
            let values: Vec<_> = table
                .identity
                .iter()
                .map(|column| {
                    let column = &table.columns[*column];
                    row::encode(column, image.values[column.index], image.nulls[column.index])
                })
                .collect();
            return Ok(Some(whole_row_key(table.id, &values)));
        };
        let Some(hashing) = key.hashing.as_deref() else {
            return Ok(None);
        };
        Ok(match plain_key(key, hashing, &image) {
            RowKey::Hash(hash) => Some(hash),
            RowKey::Absent => None,
        })
    }
}
