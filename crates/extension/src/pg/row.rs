//! Rows of a local table to and from [`Value`]s, for capture and for apply.
//!
//! What is allocated on the way lives in the current memory context; callers reset one of their own per row. The
//! client encoding must be the database's ([`super::format::PlainEncoding`]), and, for tables that need it
//! ([`StrongTable::needs_fixed_settings`]), the settings fixed ([`super::format::FixedSettings`]).

use pgrx::pg_sys;
use synod_change::nested::MARK;
use synod_change::{Row, Value, Wire};

use super::nested;
use super::relation::{Column, StrongTable};
use super::wire::varlena_bytes;

/// Where the values of stored generated columns of a new row come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// The row has them, as they were stored where it was made.
    Given,
    /// They are computed here: records from before they travelled do not have them.
    Computed,
}

/// A row that does not fit the table. Only a defect or a definition that differs makes one.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// Another number of columns.
    #[error("the row has {found} columns, table {table} has {expected}")]
    ColumnCount {
        /// The local table.
        table: String,
        /// Columns here.
        expected: usize,
        /// Columns in the row.
        found: usize,
    },
    /// "Unchanged" without a row that it could be unchanged from.
    #[error("column \"{0}\" is marked as unchanged, but there is no earlier row")]
    NothingBefore(String),
}

/// Encode one value. What it borrows from lives as long as the datum and the current memory context.
///
/// # Safety
/// `datum` is a value of the column's type; the relation's locks and the settings are as the module says.
pub unsafe fn encode<'a>(column: &Column, datum: pg_sys::Datum, is_null: bool) -> Value<'a> {
    if is_null {
        return Value::Null;
    }
    // SAFETY: by contract; the function infos were made for this type's functions.
    unsafe {
        if column.plain_bytes {
            return Value::Binary(varlena_bytes(datum));
        }
        if column.taken_apart {
            return Value::Binary(nested::encode(column.type_oid, datum));
        }
        encode_by_type(column, datum)
    }
}

/// By the function of the column's type.
///
/// # Safety
/// As for [`encode`]; the value is not NULL.
unsafe fn encode_by_type<'a>(column: &Column, datum: pg_sys::Datum) -> Value<'a> {
    // SAFETY: by contract.
    unsafe {
        let output = column.output.get();
        match column.wire {
            Wire::Binary => Value::Binary(varlena_bytes(pg_sys::Datum::from(pg_sys::SendFunctionCall(
                output, datum,
            )))),
            Wire::Text => Value::Text(std::ffi::CStr::from_ptr(pg_sys::OutputFunctionCall(output, datum)).to_bytes()),
        }
    }
}

/// Decode one value to a datum in the current memory context, and whether it is NULL. `Same` gives NULL: callers that
/// allow it look for it first.
///
/// # Safety
/// Inside a transaction, with the settings as the module says. Raises for bytes that the type does not take.
pub unsafe fn decode(column: &Column, value: Value<'_>) -> (pg_sys::Datum, bool) {
    // SAFETY: the function infos were made for this type's functions; buffers are copies that they may write to.
    unsafe {
        if let (true, Value::Binary(bytes) | Value::Text(bytes)) = (column.taken_apart, value)
            && let Some(datum) = nested::decode(column.type_oid, bytes)
        {
            return (datum, false);
        }
        match value {
            Value::Null | Value::Same => (pg_sys::Datum::from(0), true),
            Value::Binary(bytes) if column.plain_bytes => {
                let text = pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32);
                (pg_sys::Datum::from(text), false)
            }
            Value::Binary(bytes) => {
                let mut buffer = terminated_copy(bytes);
                let datum = pg_sys::ReceiveFunctionCall(
                    column.input_binary.get(),
                    &mut buffer,
                    column.input_parameter,
                    column.typmod,
                );
                (datum, false)
            }
            Value::Text(bytes) => {
                let buffer = terminated_copy(bytes);
                let datum = pg_sys::InputFunctionCall(
                    column.input_text.get(),
                    buffer.data,
                    column.input_text_parameter,
                    column.typmod,
                );
                (datum, false)
            }
        }
    }
}

/// A palloc'd copy with a NUL behind it: array_recv and others write and read one byte past the end.
pub(super) unsafe fn terminated_copy(bytes: &[u8]) -> pg_sys::StringInfoData {
    // SAFETY: palloc gives len + 1 bytes or raises.
    unsafe {
        let data = pg_sys::palloc(bytes.len() + 1).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
        *data.add(bytes.len()) = 0;
        pg_sys::StringInfoData {
            data: data.cast(),
            len: bytes.len() as i32,
            maxlen: bytes.len() as i32 + 1,
            cursor: 0,
        }
    }
}

/// Put a whole new row into `slot` as a virtual tuple. Dropped and virtual columns are NULL, generated ones, too, if they are
/// to be computed; `Same` comes from `old`, which must be deformed already and outlive the slot's contents.
///
/// # Safety
/// `slot` and `old` (or null) are slots of the table's row type; see the module.
pub unsafe fn fill_slot(
    table: &StrongTable,
    row: Row<'_>,
    old: *mut pg_sys::TupleTableSlot,
    slot: *mut pg_sys::TupleTableSlot,
    generated: Generated,
) -> Result<(), RowError> {
    check_count(table, table.columns.len(), row.len())?;
    // SAFETY: the slots have one value and flag per attribute.
    unsafe {
        clear(table, slot);
        for (column, value) in table.columns.iter().zip(row.iter()) {
            if column.is_virtual || column.generated && generated == Generated::Computed {
                continue;
            }
            let (datum, is_null) = match value {
                Value::Same if old.is_null() => return Err(RowError::NothingBefore(column.name.clone())),
                Value::Same => (
                    *(*old).tts_values.add(column.index),
                    *(*old).tts_isnull.add(column.index),
                ),
                value => decode(column, value),
            };
            *(*slot).tts_values.add(column.index) = datum;
            *(*slot).tts_isnull.add(column.index) = is_null;
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
    Ok(())
}

/// Put a row's values into `slot` as a virtual tuple, but those of dropped and virtual columns.
///
/// # Safety
/// `slot` is one of the table's row type; values and flags are those of its attributes, and outlive its contents.
pub unsafe fn fill_stored(
    table: &StrongTable,
    values: &[pg_sys::Datum],
    nulls: &[bool],
    slot: *mut pg_sys::TupleTableSlot,
) {
    // SAFETY: the slot has one value and flag per attribute.
    unsafe {
        clear(table, slot);
        for column in table.columns.iter().filter(|column| !column.is_virtual) {
            *(*slot).tts_values.add(column.index) = values[column.index];
            *(*slot).tts_isnull.add(column.index) = nulls[column.index];
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
}

/// Put the identity of a row into `slot` as a virtual tuple: the identity columns, or the whole row for a table without
/// a key; everything else is NULL.
///
/// # Safety
/// As for [`fill_slot`].
pub unsafe fn fill_identity(
    table: &StrongTable,
    key: Row<'_>,
    slot: *mut pg_sys::TupleTableSlot,
) -> Result<(), RowError> {
    check_count(table, table.identity.len(), key.len())?;
    // SAFETY: the slot has one value and flag per attribute.
    unsafe {
        clear(table, slot);
        for (column, value) in table.identity.iter().zip(key.iter()) {
            let column = &table.columns[*column];
            let (datum, is_null) = decode(column, value);
            *(*slot).tts_values.add(column.index) = datum;
            *(*slot).tts_isnull.add(column.index) = is_null;
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
    Ok(())
}

/// Whether the row in `slot` has this identity, byte by byte in wire form. For tables without a key, whose types need not
/// have an equality.
///
/// # Safety
/// As for [`fill_slot`]; the slot holds a tuple.
pub unsafe fn has_identity(table: &StrongTable, key: Row<'_>, slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: slot_getallattrs fills one value and flag per attribute.
    unsafe {
        pg_sys::slot_getallattrs(slot);
        key.len() == table.identity.len()
            && table.identity.iter().zip(key.iter()).all(|(column, value)| {
                let column = &table.columns[*column];
                let datum = *(*slot).tts_values.add(column.index);
                let is_null = *(*slot).tts_isnull.add(column.index);
                match value {
                    // Records from before such values were taken apart have them so.
                    Value::Text(bytes) | Value::Binary(bytes)
                        if column.taken_apart && !is_null && bytes.first() != Some(&MARK) =>
                    {
                        encode_by_type(column, datum) == value
                    }
                    value => encode(column, datum, is_null) == value,
                }
            })
    }
}

unsafe fn clear(table: &StrongTable, slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: by the callers' contract; ExecClearTuple leaves the arrays for us to fill.
    unsafe {
        pg_sys::ExecClearTuple(slot);
        for index in 0..table.attribute_count {
            *(*slot).tts_values.add(index) = pg_sys::Datum::from(0);
            *(*slot).tts_isnull.add(index) = true;
        }
    }
}

fn check_count(table: &StrongTable, expected: usize, found: usize) -> Result<(), RowError> {
    if expected == found {
        Ok(())
    } else {
        Err(RowError::ColumnCount {
            table: table.name.clone(),
            expected,
            found,
        })
    }
}
