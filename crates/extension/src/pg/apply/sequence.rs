//! Advancing a sequence to at least a value that another node has used.
//!
//! `setval` could set it back under the hands of a session that draws from it; comparing and setting must be one step under
//! the page lock. Hence this is `do_setval` (commands/sequence.c) with a comparison in it.

use pgrx::pg_sys;

use crate::pg::definition::SysCacheRow;
use crate::pg::relcache::Relation;

/// `XLOG_SEQ_LOG` of commands/sequence.h.
const XLOG_SEQ_LOG: u8 = 0;

/// `FormData_pg_sequence_data` of commands/sequence.h.
#[repr(C)]
struct SequenceData {
    last_value: i64,
    log_count: i64,
    is_called: bool,
}

/// `FormData_pg_sequence` of catalog/pg_sequence.h, up to what is needed.
#[repr(C)]
struct Definition {
    relation: pg_sys::Oid,
    value_type: pg_sys::Oid,
    start: i64,
    increment: i64,
    max: i64,
    min: i64,
}

/// Make sure that the sequence never gives out `value`, or anything on this side of it. Not undone by abort, as with nextval.
pub fn advance(sequence: pg_sys::Oid, value: i64) {
    let Some(relation) = Relation::open_locked(sequence, pg_sys::RowExclusiveLock) else {
        return;
    };
    let Some(row) = SysCacheRow::find(pg_sys::SysCacheIdentifier::SEQRELID, sequence) else {
        return;
    };
    // SAFETY: SEQRELID holds pg_sequence rows.
    let form = unsafe { row.form::<Definition>() };
    if value < form.min || value > form.max {
        return;
    }
    let ascending = form.increment > 0;
    // SAFETY: a sequence has one page with one tuple of fixed-length columns. The page is pinned and exclusively locked; in
    // the critical section nothing raises. A transaction id makes the commit wait for the WAL record's flush, as in setval.
    unsafe {
        pg_sys::GetTopTransactionId();
        let buffer = pg_sys::ReadBuffer(relation.raw(), 0);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        let item = pg_sys::PageGetItemId(page, 1);
        let header = pg_sys::PageGetItem(page, item).cast::<pg_sys::HeapTupleHeaderData>();
        let data = header
            .cast::<u8>()
            .add(usize::from((*header).t_hoff))
            .cast::<SequenceData>();
        let last = (*data).last_value;
        let behind = if ascending { last < value } else { last > value };
        if behind || (last == value && !(*data).is_called) {
            pg_sys::CritSectionCount += 1;
            (*data).last_value = value;
            (*data).is_called = true;
            (*data).log_count = 0;
            pg_sys::MarkBufferDirty(buffer);
            let length = (*item).lp_len();
            log(&relation, buffer, page, header.cast(), length);
            pg_sys::CritSectionCount -= 1;
        }
        pg_sys::UnlockReleaseBuffer(buffer);
    }
}

/// # Safety
/// In a critical section, with the page locked; `tuple` is its only tuple.
unsafe fn log(relation: &Relation, buffer: pg_sys::Buffer, page: pg_sys::Page, tuple: *mut u8, length: u32) {
    // SAFETY: by contract; what is registered lives until the record is inserted.
    unsafe {
        if (*(*relation.raw()).rd_rel).relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
            return;
        }
        let mut location = crate::pg::compat::relation_location(relation.raw());
        pg_sys::XLogBeginInsert();
        pg_sys::XLogRegisterBuffer(0, buffer, pg_sys::REGBUF_WILL_INIT as u8);
        pg_sys::XLogRegisterData((&raw mut location).cast(), size_of_val(&location) as _);
        pg_sys::XLogRegisterData(tuple.cast(), length as _);
        let end = pg_sys::XLogInsert(pg_sys::RmgrIds::RM_SEQ_ID as u8, XLOG_SEQ_LOG);
        let header = page.cast::<pg_sys::PageHeaderData>();
        (*header).pd_lsn.xlogid = (end >> 32) as u32;
        (*header).pd_lsn.xrecoff = end as u32;
    }
}
