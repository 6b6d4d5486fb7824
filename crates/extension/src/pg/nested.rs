//! Values that hold others, taken apart and put together by ourselves: arrays, composite types, ranges and multiranges.
//!
//! Their types' own functions call those of what is inside, which do too much: the receive and input functions of a domain make its
//! checks again, on a node where the functions that these call may find another setting, search path or table, or none; the send and output
//! functions of XML rewrite its declaration. So parts travel as columns do (`pg/row.rs`): by the functions of the type under all
//! domains, and XML by its bytes. `synod_change::nested` is the form.
//!
//! Composite types are always taken apart, as they may get an attribute of such a type later. What is allocated lies in the current
//! memory context; settings are as `pg/row.rs` says.

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DecodeError;
use synod_change::nested::{self, Dimension, Nested};

use super::format::{FixedSettings, PlainEncoding};
use super::wire::{self, varlena_bytes};
use crate::errors::UserError;

mod part;
mod ranges;

pub use part::is_taken_apart;
use part::{Layout, Part, Way};
pub use ranges::RangeBound;

/// A value as it travels, in the current memory context.
///
/// # Safety
/// `datum` is a value of this type, not NULL, whose values are taken apart; settings are as the module says.
pub unsafe fn encode<'a>(kind: pg_sys::Oid, datum: pg_sys::Datum) -> &'a [u8] {
    let mut out = nested::begin();
    // SAFETY: by contract; as many bytes are allocated as are copied.
    unsafe {
        write(&Part::of(kind, Way::Out), datum, &mut out);
        let copy = pg_sys::MemoryContextAllocHuge(pg_sys::CurrentMemoryContext, out.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(out.as_ptr(), copy, out.len());
        std::slice::from_raw_parts(copy, out.len())
    }
}

/// A value of any type as it travels, not NULL. Inside a transaction.
///
/// # Safety
/// `datum` is a value of this type.
pub unsafe fn travelling_form(kind: pg_sys::Oid, datum: pg_sys::Datum) -> Vec<u8> {
    let _settings = FixedSettings::for_values();
    let _encoding = PlainEncoding::enter();
    // SAFETY: by contract.
    unsafe {
        let mut out = if is_taken_apart(wire::base_type(kind)) {
            nested::begin()
        } else {
            Vec::new()
        };
        write(&Part::of(kind, Way::Out), datum, &mut out);
        out
    }
}

/// The value of any type that [`travelling_form`] gave. Inside a transaction; raises for bytes that do not make such a value.
pub fn of_travelling_form(kind: pg_sys::Oid, form: &[u8]) -> pg_sys::Datum {
    let _settings = FixedSettings::for_values();
    let _encoding = PlainEncoding::enter();
    let whole = if is_taken_apart(wire::base_type(kind)) {
        Nested::whole(form).and_then(|whole| whole.ok_or(DecodeError::corrupt("nested value", "its mark is missing")))
    } else {
        Ok(Nested::part_of(form))
    };
    // SAFETY: inside a transaction, with the settings as the module says.
    let value = whole.and_then(|whole| unsafe { read(&Part::of(kind, Way::In), whole) });
    value.unwrap_or_else(|error| misfit(&error))
}

/// A value of this type out of what travelled; `None` if that is in another form.
///
/// # Safety
/// Inside a transaction, with the settings as the module says. Raises for bytes that do not make such a value.
pub unsafe fn decode(kind: pg_sys::Oid, bytes: &[u8]) -> Option<pg_sys::Datum> {
    let decoded = Nested::whole(bytes).and_then(|whole| {
        // SAFETY: by contract.
        whole
            .map(|whole| unsafe { read(&Part::of(kind, Way::In), whole) })
            .transpose()
    });
    decoded.unwrap_or_else(|error| misfit(&error))
}

fn misfit(error: &DecodeError) -> ! {
    let code = PgSqlErrorCode::ERRCODE_DATA_CORRUPTED;
    let hint = "Compare the definitions of the type on the nodes.";
    UserError::new(code, error.to_string(), "", hint).raise()
}

unsafe fn write(part: &Part, datum: pg_sys::Datum, out: &mut Vec<u8>) {
    // SAFETY: by `encode`'s contract the datum is of the type that `part` was made of, as are what it holds and its parts.
    unsafe {
        pg_sys::check_stack_depth();
        match part {
            Part::Plain(_) => out.extend_from_slice(varlena_bytes(datum)),
            Part::Binary { function, .. } => {
                let sent = pg_sys::SendFunctionCall(function.get(), datum);
                out.extend_from_slice(varlena_bytes(pg_sys::Datum::from(sent)));
            }
            Part::Text { function, .. } => {
                let text = pg_sys::OutputFunctionCall(function.get(), datum);
                out.extend_from_slice(std::ffi::CStr::from_ptr(text).to_bytes());
            }
            Part::Array { element, oid, layout } => write_array(element, *oid, layout, datum, out),
            Part::Row { descriptor, attributes } => {
                let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
                let mut tuple = pg_sys::HeapTupleData {
                    t_len: pgrx::varlena::varsize_any(header.cast()) as u32,
                    t_data: header,
                    ..Default::default()
                };
                let (mut values, mut nulls) = empty(attributes.len());
                pg_sys::heap_deform_tuple(&mut tuple, *descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                nested::put_count(out, attributes.iter().flatten().count());
                for (at, attribute) in attributes.iter().enumerate() {
                    if let Some(attribute) = attribute {
                        write_part(attribute, values[at], nulls[at], out);
                    }
                }
            }
            Part::Range { bound, cache } => {
                let mut bounds = ranges::Bounds::of(*cache, datum);
                out.push(bounds.flags());
                for end in bounds.finite() {
                    write_part(bound, *end, false, out);
                }
            }
            Part::Multirange { range, cache, .. } => {
                let ranges = ranges::of_multirange(*cache, datum);
                nested::put_count(out, ranges.len());
                for one in ranges {
                    write_part(range, one, false, out);
                }
            }
        }
    }
}

unsafe fn write_part(part: &Part, datum: pg_sys::Datum, is_null: bool, out: &mut Vec<u8>) {
    if is_null {
        return nested::put_part(out, None);
    }
    let mut bytes = Vec::new();
    // SAFETY: as for `write`.
    unsafe { write(part, datum, &mut bytes) }
    nested::put_part(out, Some(&bytes));
}

unsafe fn write_array(element: &Part, oid: pg_sys::Oid, layout: &Layout, datum: pg_sys::Datum, out: &mut Vec<u8>) {
    // SAFETY: as for `write`; behind an array's header are its lengths, then its lower bounds (`ARR_DIMS`, `ARR_LBOUND`).
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            oid,
            layout.length.into(),
            layout.by_value,
            layout.alignment,
            &mut elements,
            &mut nulls,
            &mut count,
        );
        let dimensions = (*array).ndim as usize;
        let numbers = array.add(1).cast::<i32>();
        let dimension = |at| Dimension {
            length: *numbers.add(at),
            lower_bound: *numbers.add(dimensions + at),
        };
        nested::put_dimensions(out, (0..dimensions).map(dimension));
        for at in 0..count as usize {
            write_part(element, *elements.add(at), *nulls.add(at), out);
        }
    }
}

unsafe fn read(part: &Part, mut from: Nested<'_>) -> Result<pg_sys::Datum, DecodeError> {
    // SAFETY: inside a transaction; what is made is of the type that `part` was made of.
    unsafe {
        pg_sys::check_stack_depth();
        let made = match part {
            Part::Plain(_) | Part::Binary { .. } | Part::Text { .. } => return read_leaf(part, from.rest()),
            Part::Array { element, oid, layout } => read_array(element, *oid, layout, &mut from)?,
            Part::Row { descriptor, attributes } => {
                if from.count()? != attributes.iter().flatten().count() {
                    return Err(DecodeError::corrupt(
                        "composite value",
                        "it has another number of attributes",
                    ));
                }
                let (mut values, mut nulls) = empty(attributes.len());
                for (at, attribute) in attributes.iter().enumerate() {
                    if let Some(attribute) = attribute {
                        (values[at], nulls[at]) = read_part(attribute, from.part()?)?;
                    }
                }
                let tuple = pg_sys::heap_form_tuple(*descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
            }
            Part::Range { bound, cache } => {
                let mut bounds = ranges::Bounds::of_flags(from.flags()?);
                for end in bounds.finite() {
                    *end = read_known(bound, from.part()?)?;
                }
                bounds.range(*cache)
            }
            Part::Multirange { range, cache, oid } => {
                let count = from.count()?;
                let mut ranges = Vec::with_capacity(count);
                for _ in 0..count {
                    ranges.push(read_known(range, from.part()?)?);
                }
                ranges::multirange(*oid, *cache, &ranges)
            }
        };
        from.finish()?;
        Ok(made)
    }
}

unsafe fn read_part(part: &Part, bytes: Option<&[u8]>) -> Result<(pg_sys::Datum, bool), DecodeError> {
    match bytes {
        // SAFETY: as for `read`.
        Some(bytes) => Ok((unsafe { read(part, Nested::part_of(bytes))? }, false)),
        None => Ok((pg_sys::Datum::from(0), true)),
    }
}

/// A part that cannot be NULL.
unsafe fn read_known(part: &Part, bytes: Option<&[u8]>) -> Result<pg_sys::Datum, DecodeError> {
    let bytes = bytes.ok_or(DecodeError::corrupt("range", "it has a NULL"))?;
    // SAFETY: as for `read`.
    unsafe { read(part, Nested::part_of(bytes)) }
}

unsafe fn read_leaf(part: &Part, bytes: &[u8]) -> Result<pg_sys::Datum, DecodeError> {
    // SAFETY: as for `read`; the functions are those of the type, and raise for bytes that it does not take. Values come as they were
    // stored, so that no type modifier is to be imposed again.
    unsafe {
        Ok(match part {
            Part::Binary { function, parameter } => {
                let mut buffer = super::row::terminated_copy(bytes);
                let value = pg_sys::ReceiveFunctionCall(function.get(), &mut buffer, *parameter, -1);
                if buffer.cursor != buffer.len {
                    return Err(DecodeError::corrupt("nested value", "bytes are left over in a part"));
                }
                value
            }
            Part::Text { function, parameter } => {
                pg_sys::pg_verifymbstr(bytes.as_ptr().cast(), bytes.len() as i32, false);
                let buffer = super::row::terminated_copy(bytes);
                pg_sys::InputFunctionCall(function.get(), buffer.data, *parameter, -1)
            }
            _ => {
                if matches!(part, Part::Plain(true)) {
                    pg_sys::pg_verifymbstr(bytes.as_ptr().cast(), bytes.len() as i32, false);
                }
                pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32).into()
            }
        })
    }
}

unsafe fn read_array(
    element: &Part,
    oid: pg_sys::Oid,
    layout: &Layout,
    from: &mut Nested<'_>,
) -> Result<pg_sys::Datum, DecodeError> {
    let (dimensions, count) = from.dimensions()?;
    // SAFETY: as for `read`; there are as many elements as the dimensions say.
    unsafe {
        if dimensions.is_empty() {
            return Ok(pg_sys::Datum::from(pg_sys::construct_empty_array(oid)));
        }
        let (mut elements, mut nulls) = empty(count);
        for at in 0..count {
            (elements[at], nulls[at]) = read_part(element, from.part()?)?;
        }
        let mut lengths: Vec<i32> = dimensions.iter().map(|dimension| dimension.length).collect();
        let mut bounds: Vec<i32> = dimensions.iter().map(|dimension| dimension.lower_bound).collect();
        Ok(pg_sys::Datum::from(pg_sys::construct_md_array(
            elements.as_mut_ptr(),
            nulls.as_mut_ptr(),
            dimensions.len() as i32,
            lengths.as_mut_ptr(),
            bounds.as_mut_ptr(),
            oid,
            layout.length.into(),
            layout.by_value,
            layout.alignment,
        )))
    }
}

fn empty(count: usize) -> (Vec<pg_sys::Datum>, Vec<bool>) {
    (vec![pg_sys::Datum::from(0); count], vec![true; count])
}
