//! Rows that `pg/teller/tuple.rs` wrote into a message, as the server's functions want them.

use pgrx::pg_sys;

use super::session::Session;

/// Infomasks and the offset of the data.
const HEAD: usize = 5;

/// A row in the session's memory for one row; null for none. Of a row that is cut short, too: its header says more than there is.
///
/// # Safety
/// In a callback; `bytes` are what `teller/tuple.rs` made.
pub unsafe fn in_scratch(session: &Session, bytes: Option<&[u8]>) -> pg_sys::HeapTuple {
    let Some((head, rest)) = bytes.and_then(|bytes| bytes.split_at_checked(HEAD)) else {
        return std::ptr::null_mut();
    };
    let fixed = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits);
    let begin = size_of::<pg_sys::HeapTupleData>().next_multiple_of(pg_sys::MAXIMUM_ALIGNOF as usize);
    // SAFETY: memory for the tuple's own structure, then the header, of which only what follows is looked at, then the rest.
    unsafe {
        let tuple = pg_sys::MemoryContextAllocHuge(session.scratch, begin + fixed + rest.len()).cast::<u8>();
        std::ptr::write_bytes(tuple, 0, begin + fixed);
        let header = tuple.add(begin).cast::<pg_sys::HeapTupleHeaderData>();
        (*header).t_infomask2 = u16::from_le_bytes([head[0], head[1]]);
        (*header).t_infomask = u16::from_le_bytes([head[2], head[3]]);
        (*header).t_hoff = head[4];
        std::ptr::copy_nonoverlapping(rest.as_ptr(), header.cast::<u8>().add(fixed), rest.len());
        let tuple = tuple.cast::<pg_sys::HeapTupleData>();
        (*tuple).t_len = (fixed + rest.len()) as u32;
        (*tuple).t_data = header;
        tuple
    }
}
