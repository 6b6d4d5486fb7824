//! The current value of a sequence that feeds a column.
//!
//! The value is the sequence's, not the transaction's: other sessions may have gone further. Receivers advance theirs to at
//! least that, so more is harmless.

use pgrx::pg_sys;

use crate::pg::relcache::Relation;

/// `FormData_pg_sequence_data` of commands/sequence.h.
#[repr(C)]
struct SequenceData {
    last_value: i64,
    log_count: i64,
    is_called: bool,
}

/// The last value given out; `None` when none was, or when the sequence is gone.
pub(super) fn last_value(sequence: pg_sys::Oid) -> Option<i64> {
    let relation = Relation::open_locked(sequence, pg_sys::AccessShareLock)?;
    // SAFETY: a sequence has one page with one tuple whose columns are fixed-length and not null (sequence.c); the page is
    // pinned and share-locked while it is read.
    unsafe {
        let buffer = pg_sys::ReadBuffer(relation.raw(), 0);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        let item = pg_sys::PageGetItemId(page, 1);
        let header = pg_sys::PageGetItem(page, item).cast::<pg_sys::HeapTupleHeaderData>();
        let data = header
            .cast::<u8>()
            .add(usize::from((*header).t_hoff))
            .cast::<SequenceData>();
        let value = (*data).is_called.then_some((*data).last_value);
        pg_sys::UnlockReleaseBuffer(buffer);
        value
    }
}
