//! Arguments of SQL functions that pgrx has no type for.

use pgrx::FromDatum;
use pgrx::pg_sys;

/// An argument, counted from 0; `None` when it is NULL or was not given.
pub fn get<T: FromDatum>(call: pg_sys::FunctionCallInfo, number: usize) -> Option<T> {
    // SAFETY: the server hands out `nargs` arguments of the declared types, which the caller knows.
    unsafe {
        if number >= (*call).nargs as usize {
            return None;
        }
        pgrx::fcinfo::pg_getarg::<T>(call, number)
    }
}

/// An argument of type jsonb, as text.
pub fn jsonb_text(call: pg_sys::FunctionCallInfo, number: usize) -> Option<Vec<u8>> {
    // SAFETY: as above; the output function returns a palloc'd C string.
    unsafe {
        let datum = pgrx::fcinfo::pg_getarg_datum(call, number)?;
        let text = pg_sys::OidOutputFunctionCall(pg_sys::F_JSONB_OUT.into(), datum);
        let bytes = std::ffi::CStr::from_ptr(text).to_bytes().to_vec();
        pg_sys::pfree(text.cast());
        Some(bytes)
    }
}
