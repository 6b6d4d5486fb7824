//! Bytes to the reader.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    #[link_name = "OutputPluginPrepareWrite"]
    fn prepare_write(context: *mut pg_sys::LogicalDecodingContext, last: bool);
    #[link_name = "OutputPluginWrite"]
    fn finish_write(context: *mut pg_sys::LogicalDecodingContext, last: bool);
    #[link_name = "appendBinaryStringInfo"]
    fn append(out: pg_sys::StringInfo, bytes: *const std::ffi::c_char, length: i32);
}

/// Send one message. `last`: nothing follows in this call of the plugin.
///
/// Raises 54000 for a message above 1 GB.
///
/// # Safety
/// In a callback that may write; the calling frames own nothing that an ERROR must drop.
pub unsafe fn send(context: *mut pg_sys::LogicalDecodingContext, bytes: &[u8], last: bool) {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: by contract; one guard around three calls, as each costs a sigsetjmp. appendBinaryStringInfo refuses what does not fit
    // before it reads.
    unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            prepare_write(context, last);
            append((*context).out, bytes.as_ptr().cast(), length);
            finish_write(context, last);
        });
    }
}
