//! Rows of the WAL to values, without a look into the catalog and, for most types, without a call or a copy.
//!
//! Text and its like are borrowed from the row; numbers are written into a buffer that is large enough beforehand; all else is
//! printed by the type's own output function, into the memory context of the row, which callers reset.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use sha2::{Digest, Sha256};
use synod_change::Value;
use synod_change::stream::filters::Mask;

use super::environment::ExactText;
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
    #[link_name = "pg_server_to_any"]
    fn server_to_any_raw(text: *const c_char, length: i32, encoding: i32) -> *mut c_char;
}

/// How a type's values are told.
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
    /// In binary: so many bytes of a value passed as such.
    Bytes(u8),
    /// In binary: the 16 bytes of a uuid.
    UuidBytes,
    /// In binary: the payload of a varlena.
    PlainBytes,
}

impl Output {
    /// For this type. `binary`: those in binary that have a simple binary form.
    ///
    /// # Safety
    /// Inside a transaction; `context` lives as long as the result.
    pub unsafe fn of(oid: pg_sys::Oid, binary: bool, context: pg_sys::MemoryContext) -> Self {
        match oid {
            pg_sys::BOOLOID if binary => Self::Bytes(1),
            pg_sys::INT2OID if binary => Self::Bytes(2),
            pg_sys::INT4OID | pg_sys::OIDOID | pg_sys::FLOAT4OID | pg_sys::DATEOID if binary => Self::Bytes(4),
            pg_sys::INT8OID | pg_sys::FLOAT8OID | pg_sys::TIMEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID
                if binary =>
            {
                Self::Bytes(8)
            }
            pg_sys::UUIDOID if binary => Self::UuidBytes,
            pg_sys::BYTEAOID if binary => Self::PlainBytes,
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

impl Output {
    const fn is_varlena(&self) -> bool {
        matches!(self, Self::Plain | Self::PlainBytes | Self::Function(_, true))
    }
}

/// Room for the digits of one value (a uuid has the most: 36), and beside them for its hash in hex (64).
const DIGITS: usize = 36 + 64;

/// The buffers of one row, used again for the next.
#[derive(Default)]
pub struct RowBuffer {
    /// One for each attribute.
    pub datums: Vec<pg_sys::Datum>,
    /// Which are NULL.
    pub nulls: Vec<bool>,
    digits: Vec<u8>,
    values: Vec<Value<'static>>,
}

impl RowBuffer {
    /// Take a row apart. What it is taken into lives as long as the row.
    ///
    /// # Safety
    /// `tuple` is a row of `descriptor`.
    pub unsafe fn take_apart(&mut self, tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) {
        // SAFETY: by contract; the arrays are long enough.
        unsafe {
            let attributes = (*descriptor).natts as usize;
            self.datums.resize(attributes, pg_sys::Datum::from(0));
            self.nulls.resize(attributes, true);
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                heap_deform_tuple_raw(tuple, descriptor, self.datums.as_mut_ptr(), self.nulls.as_mut_ptr());
            });
        }
    }

    /// What did not change and is therefore not in this version, from the version `before`, if that has it.
    ///
    /// # Safety
    /// Both were rows of the relation that `shape` was made of.
    pub unsafe fn complete(&mut self, before: &Self, shape: &Shape) {
        for source in shape.sources.iter().filter(|source| source.output.is_varlena()) {
            let at = source.index;
            // SAFETY: by contract; a value that is not NULL is a varlena.
            if !self.nulls[at] && !before.nulls[at] && unsafe { is_on_disk(self.datums[at]) } {
                self.datums[at] = before.datums[at];
            }
        }
    }

    /// The values of the row that was taken apart. They live until the buffer is used again, the row freed, or the current memory
    /// context reset.
    ///
    /// # Safety
    /// It was a row of the relation that `shape` was made of.
    pub unsafe fn values(&mut self, shape: &Shape) -> &[Value<'_>] {
        let _settings = shape.exact_text.then(ExactText::begin);
        // The buffers have room for everything before the guarded calls, which may jump out: nothing in there allocates from Rust.
        self.digits.clear();
        self.digits.reserve(shape.sources.len() * DIGITS);
        self.values.clear();
        self.values.reserve(shape.sources.len());
        // SAFETY: by contract.
        unsafe {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                for source in &shape.sources {
                    let mut value = if self.nulls[source.index] {
                        Value::Null
                    } else {
                        value(source, self.datums[source.index], &mut self.digits)
                    };
                    if shape.to_utf8 {
                        value = in_utf8(value);
                    }
                    self.values.push(value);
                }
            });
            if shape.masked {
                self.mask(shape);
            }
        }
        &self.values
    }

    /// # Safety
    /// As for [`Self::values`], which this completes; the shape outlives the values.
    unsafe fn mask(&mut self, shape: &Shape) {
        for (source, value) in shape.sources.iter().zip(&mut self.values) {
            let Some(mask) = &source.mask else { continue };
            *value = match (mask, *value) {
                (_, Value::Null) | (Mask::Null, _) => Value::Null,
                // SAFETY: the shape is kept while its rows are told.
                (Mask::Text(text), _) => Value::Text(unsafe { lasting(text) }),
                (Mask::Hash, Value::Text(text) | Value::Binary(text)) => {
                    let hash = Sha256::new().chain_update(&shape.salt).chain_update(text).finalize();
                    let from = self.digits.len();
                    hash.iter().for_each(|byte| put_hex(*byte, &mut self.digits));
                    // SAFETY: within the reserved room.
                    Value::Text(unsafe { lasting(&self.digits[from..]) })
                }
                (Mask::Hash, Value::Same) => Value::Same,
            };
        }
    }
}

/// # Safety
/// The bytes neither move nor go while the values of a row are in use.
unsafe fn lasting(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
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
            Output::Plain => payload(datum).map_or(Value::Same, Value::Text),
            Output::PlainBytes => payload(datum).map_or(Value::Same, Value::Binary),
            Output::UuidBytes => Value::Binary(std::slice::from_raw_parts(datum.cast_mut_ptr(), 16)),
            Output::Bytes(length) => {
                let from = digits.len();
                digits.extend_from_slice(&datum.value().to_be_bytes()[8 - usize::from(*length)..]);
                Value::Binary(lasting(&digits[from..]))
            }
            Output::Function(function, is_varlena) => {
                let mut datum = datum;
                if *is_varlena {
                    if is_on_disk(datum) {
                        return Value::Same;
                    }
                    datum = pg_sys::Datum::from(detoast_raw(datum.cast_mut_ptr()));
                }
                Value::Text(CStr::from_ptr(output_function_call_raw(function.get(), datum)).to_bytes())
            }
        }
    }
}

/// What a varlena holds; `None`: it did not change and is not in the WAL.
unsafe fn payload(datum: pg_sys::Datum) -> Option<&'static [u8]> {
    // SAFETY: a varlena; inside the guard.
    unsafe {
        if is_on_disk(datum) {
            return None;
        }
        let varlena = detoast_packed_raw(datum.cast_mut_ptr());
        Some(std::slice::from_raw_parts(
            pgrx::vardata_any(varlena).cast(),
            pgrx::varsize_any_exhdr(varlena),
        ))
    }
}

/// `VARATT_IS_EXTERNAL_ONDISK`: what the WAL has of it is a pointer into the TOAST table, as it did not change.
///
/// # Safety
/// A varlena.
pub unsafe fn is_on_disk(datum: pg_sys::Datum) -> bool {
    let varlena: *const pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: an external one has its tag behind the first byte.
    unsafe {
        pgrx::varatt_is_1b_e(varlena.cast())
            && (*varlena.cast::<pg_sys::varattrib_1b_e>()).va_tag as u32 == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// Text in the database's encoding as UTF-8. Inside the guard.
unsafe fn in_utf8(value: Value<'static>) -> Value<'static> {
    let Value::Text(text) = value else { return value };
    if text.is_ascii() {
        return value;
    }
    // SAFETY: inside a transaction; returns its argument or a palloc'd string.
    unsafe {
        let source = text.as_ptr().cast();
        let converted = server_to_any_raw(source, text.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        if std::ptr::eq(converted, source) {
            return value;
        }
        Value::Text(CStr::from_ptr(converted).to_bytes())
    }
}

unsafe fn number(number: i64, digits: &mut Vec<u8>) -> Value<'static> {
    let from = digits.len();
    digits.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    // SAFETY: within the reserved room, which does not move until the next row.
    Value::Text(unsafe { lasting(&digits[from..]) })
}

unsafe fn uuid(uuid: &[u8; 16], digits: &mut Vec<u8>) -> Value<'static> {
    let from = digits.len();
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            digits.push(b'-');
        }
        put_hex(*byte, digits);
    }
    // SAFETY: as in `number`.
    Value::Text(unsafe { lasting(&digits[from..]) })
}

fn put_hex(byte: u8, digits: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    digits.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}
