//! A transaction as the server decodes it, as formats are told of it.

use std::ffi::CStr;

use pgrx::pg_sys;
use synod_change::stream::Transaction;

/// The transaction. `ended`: it has committed or been prepared.
///
/// # Safety
/// Inside a callback that was passed `txn`, and, if it has ended, inside the server's transaction around it (the name of its origin
/// is looked up). The result lives as long as the callback.
pub unsafe fn of<'a>(txn: *mut pg_sys::ReorderBufferTXN, ended: bool) -> Transaction<'a> {
    // SAFETY: by contract.
    unsafe {
        let txn = &*txn;
        Transaction {
            xid: txn.xid.into_inner(),
            commit_lsn: ended.then_some(txn.final_lsn),
            end_lsn: ended.then_some(txn.end_lsn),
            commit_time_us: ended.then_some(txn.xact_time.commit_time),
            origin: if ended { origin_name(txn.origin_id) } else { None },
            origin_id: txn.origin_id,
            origin_lsn: txn.origin_lsn,
            csn: None,
            previous_csn: None,
            gid: (!txn.gid.is_null()).then(|| CStr::from_ptr(txn.gid).to_bytes()),
            context: None,
        }
    }
}

/// A transaction of the server, for a callback that is called outside of any: names of origins are looked up and text is converted,
/// which is a crash or an error there.
///
/// A walsender has none around the last word on a transaction that was told in blocks or prepared, and around messages that
/// belong to none.
pub struct Surrounding {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Surrounding {
    /// `None`: there is one.
    ///
    /// # Safety
    /// In a callback.
    pub unsafe fn ensure() -> Option<Self> {
        // SAFETY: as the reorder buffer does it, to which the callback returns; nothing is written.
        unsafe {
            if pg_sys::IsTransactionState() {
                return None;
            }
            let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
            pg_sys::StartTransactionCommand();
            Some(Self { memory, owner })
        }
    }
}

impl Drop for Surrounding {
    fn drop(&mut self) {
        // An ERROR ends it by itself.
        if !std::thread::panicking() {
            // SAFETY: begun in `ensure`.
            unsafe {
                pg_sys::AbortCurrentTransaction();
                pg_sys::CurrentMemoryContext = self.memory;
                pg_sys::CurrentResourceOwner = self.owner;
            }
        }
    }
}

/// The topmost transaction above this one, or itself.
///
/// # Safety
/// Inside a callback that was passed `txn`.
pub unsafe fn top(txn: *mut pg_sys::ReorderBufferTXN) -> *mut pg_sys::ReorderBufferTXN {
    // SAFETY: by contract.
    unsafe { if (*txn).toptxn.is_null() { txn } else { (*txn).toptxn } }
}

unsafe fn origin_name<'a>(origin: pg_sys::RepOriginId) -> Option<&'a [u8]> {
    if u32::from(origin) == pg_sys::InvalidRepOriginId {
        return None;
    }
    let mut name = std::ptr::null_mut();
    // SAFETY: inside a transaction; a palloc'd name, if the origin still exists.
    unsafe { pg_sys::replorigin_by_oid(origin, true, &mut name).then(|| CStr::from_ptr(name).to_bytes()) }
}

/// Print a time as `test_decoding` does.
pub fn append_time(time_us: i64, out: &mut Vec<u8>) {
    // SAFETY: returns a static buffer.
    out.extend_from_slice(unsafe { CStr::from_ptr(pg_sys::timestamptz_to_str(time_us)) }.to_bytes());
}
