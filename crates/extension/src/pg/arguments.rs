//! Arguments of SQL functions that pgrx has no type for.

use pgrx::pg_sys;
use pgrx::{AnyElement, FromDatum};

/// The arguments of a call.
pub struct Arguments(pg_sys::FunctionCallInfo);

impl Arguments {
    /// Of the call that the server has just made.
    pub fn of(call: pg_sys::FunctionCallInfo) -> Self {
        Self(call)
    }

    /// An argument, counted from 0; `None` when it is NULL or was not given.
    pub fn get<T: FromDatum>(&self, number: usize) -> Option<T> {
        // SAFETY: the server hands out `nargs` arguments of the declared types, which the caller knows.
        unsafe {
            if number >= (*self.0).nargs as usize {
                return None;
            }
            pgrx::fcinfo::pg_getarg::<T>(self.0, number)
        }
    }

    /// An argument as the server gave it; `None` when it is NULL.
    pub fn datum(&self, number: usize) -> Option<pg_sys::Datum> {
        // SAFETY: as above.
        unsafe {
            if number >= (*self.0).nargs as usize {
                return None;
            }
            pgrx::fcinfo::pg_getarg_datum(self.0, number)
        }
    }

    /// A polymorphic argument as it travels between nodes; `None` when it is NULL.
    pub fn travelling_form(&self, number: usize) -> Option<Vec<u8>> {
        let value = self.datum(number)?;
        // SAFETY: a call by the executor, which says what the argument is.
        unsafe {
            let kind = pg_sys::get_fn_expr_argtype((*self.0).flinfo, number as i32);
            (kind != pg_sys::InvalidOid).then(|| super::nested::travelling_form(kind, value))
        }
    }

    /// The value that an argument is the travelling form of, of another argument's type; `None` when it is NULL.
    pub fn of_travelling_form(&self, number: usize, of_type: i32) -> Option<AnyElement> {
        let form = self.get::<Vec<u8>>(number)?;
        // SAFETY: as above; the value is of the type that the executor expects.
        unsafe {
            let kind = pg_sys::get_fn_expr_argtype((*self.0).flinfo, of_type);
            if kind == pg_sys::InvalidOid {
                return None;
            }
            let value = super::nested::of_travelling_form(kind, &form);
            AnyElement::from_polymorphic_datum(value, false, kind)
        }
    }

    /// An argument of type jsonb, as text.
    pub fn jsonb_text(&self, number: usize) -> Option<Vec<u8>> {
        // SAFETY: as above; the output function returns a palloc'd C string.
        unsafe {
            let datum = pgrx::fcinfo::pg_getarg_datum(self.0, number)?;
            let text = pg_sys::OidOutputFunctionCall(pg_sys::F_JSONB_OUT.into(), datum);
            let bytes = std::ffi::CStr::from_ptr(text).to_bytes().to_vec();
            pg_sys::pfree(text.cast());
            Some(bytes)
        }
    }
}
