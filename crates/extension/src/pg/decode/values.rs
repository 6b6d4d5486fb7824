//! Rows of the WAL to values, without a look into the catalog and, for most types, without a call or a copy.
//!
//! Text and its like are borrowed from the row; numbers are written into a buffer that is large enough beforehand; all else is
//! printed by the type's own output function, into the memory context of the row, which callers reset.

use std::ffi::{CStr, c_char};
use std::io::Write as _;

use pgrx::pg_sys;
use synod_change::Value;

use super::shape::{Shape, Source};
use crate::pg::strong_table::Function;

unsafe extern "C-unwind" {
    #[link_name = "heap_deform_tuple"]
    fn heap_deform_tuple_raw(
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    );
    #[link_name = "OutputFunctionCall"]
    fn output_function_call_raw(function: *mut pg_sys::FmgrInfo, value: pg_sys::Datum) -> *mut c_char;
    #[link_name = "pg_detoast_datum"]
    fn detoast_raw(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    #[link_name = "pg_detoast_datum_packed"]
    fn detoast_packed_raw(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
}

/// How a type's values become text.
pub enum Output {
    /// int2.
    Int16,
    /// int4.
    Int32,
    /// int8.
    Int64,
    /// oid.
    Oid,
    /// bool.
    Bool,
    /// Text is the payload of the varlena.
    Plain,
    /// uuid.
    Uuid,
    /// By its output function; whether it is a varlena.
    Function(Box<Function>, bool),
}

impl Output {
    /// For this type.
    ///
    /// # Safety
    /// Inside a transaction; `context` lives as long as the result.
    pub unsafe fn of(oid: pg_sys::Oid, context: pg_sys::MemoryContext) -> Self {
        match oid {
            pg_sys::INT2OID => Self::Int16,
            pg_sys::INT4OID => Self::Int32,
            pg_sys::INT8OID => Self::Int64,
            pg_sys::OIDOID => Self::Oid,
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::JSONOID => Self::Plain,
            pg_sys::UUIDOID => Self::Uuid,
            _ => {
                let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
                // SAFETY: by contract; raises for a type that is gone.
                unsafe {
                    pg_sys::getTypeOutputInfo(oid, &mut function, &mut is_varlena);
                    Self::Function(Box::new(Function::new(function, context)), is_varlena)
                }
            }
        }
    }
}

/// Room for the digits of one value.
const DIGITS: usize = 40;

/// The buffers of one row, used again for the next.
#[derive(Default)]
pub struct RowBuffer {
    datums: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    digits: Vec<u8>,
    values: Vec<Value<'static>>,
}

impl RowBuffer {
    /// The values of a row. They live until the buffer is used again, the row freed, or the current memory context reset.
    ///
    /// # Safety
    /// `tuple` is a row of `descriptor`, of which `shape` was made.
    pub unsafe fn read(
        &mut self,
        shape: &Shape,
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    ) -> &[Value<'_>] {
        // SAFETY: by contract. The buffers have room for everything before the guarded calls, which may jump out: nothing in there
        // allocates from Rust.
        unsafe {
            let attributes = (*descriptor).natts as usize;
            self.datums.resize(attributes, pg_sys::Datum::from(0));
            self.nulls.resize(attributes, true);
            self.digits.clear();
            self.digits.reserve(shape.sources.len() * DIGITS);
            self.values.clear();
            self.values.reserve(shape.sources.len());
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                heap_deform_tuple_raw(tuple, descriptor, self.datums.as_mut_ptr(), self.nulls.as_mut_ptr());
                for source in &shape.sources {
                    let value = if self.nulls[source.index] {
                        Value::Null
                    } else {
                        value(source, self.datums[source.index], &mut self.digits)
                    };
                    self.values.push(value);
                }
            });
        }
        &self.values
    }
}

/// One value, not NULL. Inside the guard.
unsafe fn value(source: &Source, datum: pg_sys::Datum, digits: &mut Vec<u8>) -> Value<'static> {
    // SAFETY: the datum is of the source's type; what is written to `digits` fits.
    unsafe {
        match &source.output {
            Output::Int16 => number(i64::from(datum.value() as i16), digits),
            Output::Int32 => number(i64::from(datum.value() as i32), digits),
            Output::Int64 => number(datum.value() as i64, digits),
            Output::Oid => number(i64::from(datum.value() as u32), digits),
            Output::Bool => Value::Text(if datum.value() as u8 == 0 { b"f" } else { b"t" }),
            Output::Uuid => uuid(&*datum.cast_mut_ptr::<[u8; 16]>(), digits),
            Output::Plain => {
                let varlena: *mut pg_sys::varlena = datum.cast_mut_ptr();
                if is_on_disk(varlena) {
                    return Value::Same;
                }
                let varlena = detoast_packed_raw(varlena);
                Value::Text(std::slice::from_raw_parts(
                    pgrx::vardata_any(varlena).cast(),
                    pgrx::varsize_any_exhdr(varlena),
                ))
            }
            Output::Function(function, is_varlena) => {
                let mut datum = datum;
                if *is_varlena {
                    if is_on_disk(datum.cast_mut_ptr()) {
                        return Value::Same;
                    }
                    datum = pg_sys::Datum::from(detoast_raw(datum.cast_mut_ptr()));
                }
                Value::Text(CStr::from_ptr(output_function_call_raw(function.get(), datum)).to_bytes())
            }
        }
    }
}

/// `VARATT_IS_EXTERNAL_ONDISK`: what the WAL has of it is a pointer into the TOAST table, as it did not change.
unsafe fn is_on_disk(varlena: *const pg_sys::varlena) -> bool {
    // SAFETY: a varlena; an external one has its tag behind the first byte.
    unsafe {
        pgrx::varatt_is_1b_e(varlena.cast())
            && (*varlena.cast::<pg_sys::varattrib_1b_e>()).va_tag as u32 == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

unsafe fn number(number: i64, digits: &mut Vec<u8>) -> Value<'static> {
    let from = digits.len();
    // Fits, and a Vec does not fail.
    let _ = write!(digits, "{number}");
    // SAFETY: within the reserved room, which does not move until the next row.
    Value::Text(unsafe { std::slice::from_raw_parts(digits.as_ptr().add(from), digits.len() - from) })
}

unsafe fn uuid(uuid: &[u8; 16], digits: &mut Vec<u8>) -> Value<'static> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let from = digits.len();
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            digits.push(b'-');
        }
        digits.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    // SAFETY: as in `number`.
    Value::Text(unsafe { std::slice::from_raw_parts(digits.as_ptr().add(from), digits.len() - from) })
}
