//! Reading and writing the rows of a table by its access method, without the executor. Those of its functions that are inline in C are not
//! bound by pgrx; some have other arguments in other versions.

use pgrx::pg_sys;

/// Which indexes a new row version needs entries in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexUpdate {
    /// None: the update was heap-only.
    None,
    /// Those that summarise blocks (16 and later).
    Summarizing,
    /// All.
    All,
}

impl IndexUpdate {
    /// The one with this number (`as u32`).
    pub fn from_number(number: u32) -> Self {
        [Self::None, Self::Summarizing]
            .into_iter()
            .find(|known| *known as u32 == number)
            .unwrap_or(Self::All)
    }
}

/// `ExecInsertIndexTuples` for a row that was inserted or updated just now.
///
/// # Safety
/// The indexes of `target` are open, `slot` holds the stored row; inside a transaction with an active snapshot.
pub unsafe fn insert_index_entries(
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    state: *mut pg_sys::EState,
    is_update: bool,
    which: IndexUpdate,
) {
    let (conflict, arbiters) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: forwarded.
    unsafe {
        #[cfg(feature = "pg15")]
        let _ = (
            which,
            pg_sys::ExecInsertIndexTuples(target, slot, state, is_update, false, conflict, arbiters),
        );
        #[cfg(not(feature = "pg15"))]
        pg_sys::ExecInsertIndexTuples(
            target,
            slot,
            state,
            is_update,
            false,
            conflict,
            arbiters,
            which == IndexUpdate::Summarizing,
        );
    }
}

/// `table_tuple_update`, waiting for whoever holds the row.
///
/// # Safety
/// The relation is open and locked, `slot` holds the new row, `tid` names a row version of it.
pub unsafe fn tuple_update(
    relation: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    slot: *mut pg_sys::TupleTableSlot,
) -> (pg_sys::TM_Result::Type, IndexUpdate) {
    let mut failure = pg_sys::TM_FailureData::default();
    let mut mode: pg_sys::LockTupleMode::Type = 0;
    #[cfg(feature = "pg15")]
    let mut indexes = false;
    #[cfg(not(feature = "pg15"))]
    let mut indexes: pg_sys::TU_UpdateIndexes::Type = 0;
    // SAFETY: by contract; the access method's functions are set for every table. They raise, hence the boundary.
    let result = unsafe {
        let command = pg_sys::GetCurrentCommandId(true);
        let snapshot = pg_sys::GetActiveSnapshot();
        let (failure, mode, indexes) = (&raw mut failure, &raw mut mode, &raw mut indexes);
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| match (*(*relation).rd_tableam).tuple_update {
            Some(update) => update(
                relation,
                tid,
                slot,
                command,
                snapshot,
                std::ptr::null_mut(),
                true,
                failure,
                mode,
                indexes,
            ),
            None => pg_sys::TM_Result::TM_Invisible,
        })
    };
    #[cfg(feature = "pg15")]
    let which = if indexes { IndexUpdate::All } else { IndexUpdate::None };
    #[cfg(not(feature = "pg15"))]
    let which = match indexes {
        pg_sys::TU_UpdateIndexes::TU_All => IndexUpdate::All,
        pg_sys::TU_UpdateIndexes::TU_Summarizing => IndexUpdate::Summarizing,
        _ => IndexUpdate::None,
    };
    (result, which)
}

/// `table_tuple_delete`, waiting for whoever holds the row.
///
/// # Safety
/// As for [`tuple_update`]. `moved`: who has found the row fails (40001), because it is a row of another partition now.
pub unsafe fn tuple_delete(
    relation: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    moved: bool,
) -> pg_sys::TM_Result::Type {
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: as in `tuple_update`.
    unsafe {
        let command = pg_sys::GetCurrentCommandId(true);
        let snapshot = pg_sys::GetActiveSnapshot();
        let failure = &raw mut failure;
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| match (*(*relation).rd_tableam).tuple_delete {
            Some(delete) => {
                let none = std::ptr::null_mut();
                delete(relation, tid, command, snapshot, none, true, failure, moved)
            }
            None => pg_sys::TM_Result::TM_Invisible,
        })
    }
}

/// `table_tuple_fetch_row_version` with `SnapshotAny`.
///
/// # Safety
/// The relation is open and locked, `slot` one of its storage's kind; the version is not removed meanwhile.
pub unsafe fn fetch_version(
    relation: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: as in `tuple_update`; SnapshotAnyData is a constant of the server.
    unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| match (*(*relation).rd_tableam).tuple_fetch_row_version {
            Some(fetch) => fetch(relation, tid, &raw mut pg_sys::SnapshotAnyData, slot),
            None => false,
        })
    }
}

/// `table_scan_getnextslot`, forward.
///
/// # Safety
/// A scan of `table_beginscan`, a slot of its relation.
pub unsafe fn scan_next(scan: pg_sys::TableScanDesc, slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: by contract; see `tuple_update`.
    unsafe {
        let direction = pg_sys::ScanDirection::ForwardScanDirection;
        let methods = (*(*scan).rs_rd).rd_tableam;
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| match (*methods).scan_getnextslot {
            Some(next) => next(scan, direction, slot),
            None => false,
        })
    }
}

/// `ExecuteTruncateGuts`.
///
/// # Safety
/// `relations` are open and locked with ACCESS EXCLUSIVE, `oids` are theirs, `logged` those that logical decoding sees.
pub unsafe fn truncate(
    relations: *mut pg_sys::List,
    oids: *mut pg_sys::List,
    logged: *mut pg_sys::List,
    cascade: bool,
    restart: bool,
) {
    let behaviour = if cascade {
        pg_sys::DropBehavior::DROP_CASCADE
    } else {
        pg_sys::DropBehavior::DROP_RESTRICT
    };
    // SAFETY: forwarded.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::ExecuteTruncateGuts(relations, oids, logged, behaviour, restart);
        #[cfg(not(feature = "pg15"))]
        pg_sys::ExecuteTruncateGuts(relations, oids, logged, behaviour, restart, false);
    }
}
