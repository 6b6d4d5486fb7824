//! Rows out of `synod.record` messages: checked, taken apart, and what travelled received (`pg/told_row.rs` says what that is).
//!
//! Invariant: whatever the bytes are, nothing is read but them, and what is printed afterwards are values that the server made itself
//! or that no bytes can harm. Else it is an error.

use pgrx::pg_sys;
use synod_change::stream::stored_row::{self, StoredColumn};
use synod_change::{DecodeError, Value, Wire};

use super::values::{RowBuffer, is_on_disk};
use crate::pg::format::{FixedSettings, PlainEncoding};
use crate::pg::relcache::Relation;
use crate::pg::strong_table::{self, Column};
use crate::pg::{compat, definition, row, told_row, wire};

const _: () = {
    assert!(stored_row::FIXED_HEADER == std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits));
    assert!(stored_row::MAX_ALIGN == pg_sys::MAXIMUM_ALIGNOF as usize);
};

/// How a table's rows stand in messages. Lives in the memory context that it was made for.
pub struct MessageRows {
    descriptor: pg_sys::TupleDesc,
    stored: Vec<StoredColumn>,
    /// Those that are received.
    sent: Vec<Column>,
    /// Numerics, by attribute index.
    numerics: Vec<usize>,
    /// Texts of some depend on settings.
    fixed_settings: bool,
}

impl MessageRows {
    /// # Safety
    /// In a callback, with the catalog of the rows; `context` lives as long as the result.
    pub unsafe fn new(relation: &Relation, context: pg_sys::MemoryContext) -> Self {
        let live = definition::live_attributes(relation);
        // SAFETY: by contract; a copy, as the relation's own goes with it.
        unsafe {
            let columns = live.iter().map(|index| strong_table::column(relation, *index, context));
            let columns: Vec<Column> = columns.collect();
            let before = pg_sys::MemoryContextSwitchTo(context);
            let mut descriptor = told_row::descriptor(relation, &columns);
            if descriptor.is_null() {
                descriptor = pg_sys::CreateTupleDescCopy(relation.descriptor());
            }
            pg_sys::MemoryContextSwitchTo(before);
            let stored = (0..relation.attribute_count()).map(|index| StoredColumn {
                length: (*compat::tuple_attribute(descriptor, index)).attlen,
                alignment: told_row::alignment(descriptor, index),
            });
            let is_numeric = |column: &&Column| pg_sys::getBaseType(column.type_oid) == pg_sys::NUMERICOID;
            Self {
                descriptor,
                stored: stored.collect(),
                numerics: columns.iter().filter(is_numeric).map(|column| column.index).collect(),
                fixed_settings: columns
                    .iter()
                    .any(|column| column.sent && column.needs_fixed_settings()),
                sent: columns.into_iter().filter(|column| column.sent).collect(),
            }
        }
    }

    /// Take a row apart. `not_told`: values that did not change may be missing.
    ///
    /// # Safety
    /// In a callback; the buffer is used before the current memory context is reset.
    pub unsafe fn take_apart(&self, bytes: &[u8], not_told: bool, buffer: &mut RowBuffer) -> Result<(), DecodeError> {
        stored_row::check_row(bytes, &self.stored, not_told)?;
        // SAFETY: by contract, and what is read of the row has just been checked.
        unsafe {
            buffer.take_apart(tuple(bytes), self.descriptor);
            self.receive(buffer)?;
            for index in self.numerics.iter().filter(|index| !buffer.nulls[**index]) {
                if let Some(payload) = payload(&mut buffer.datums[*index]) {
                    stored_row::check_numeric(payload)?;
                }
            }
        }
        Ok(())
    }

    /// Replace what travelled by the values that it says. Raises for bytes that the type does not take.
    unsafe fn receive(&self, buffer: &mut RowBuffer) -> Result<(), DecodeError> {
        if self.sent.is_empty() {
            return Ok(());
        }
        let _settings = self.fixed_settings.then(FixedSettings::for_values);
        let _encoding = PlainEncoding::enter();
        for column in &self.sent {
            let at = column.index;
            if buffer.nulls[at] {
                continue;
            }
            // SAFETY: a bytea; the functions are those of the column's type.
            unsafe {
                let Some(bytes) = payload(&mut buffer.datums[at]) else {
                    if column.length == -1 {
                        continue;
                    }
                    return Err(DecodeError::corrupt(
                        "row of a record message",
                        "a short value is missing",
                    ));
                };
                let value = match column.wire {
                    Wire::Binary => Value::Binary(bytes),
                    Wire::Text => Value::Text(bytes),
                };
                (buffer.datums[at], buffer.nulls[at]) = row::decode(column, value);
            }
        }
        Ok(())
    }
}

/// What a varlena holds, which it is replaced by; `None`: it is not told.
unsafe fn payload(datum: &mut pg_sys::Datum) -> Option<&'static [u8]> {
    // SAFETY: a varlena of a row that was checked, whose memory lasts.
    unsafe {
        if is_on_disk(*datum) {
            return None;
        }
        *datum = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()).into();
        Some(wire::varlena_bytes(*datum))
    }
}

/// The row as the server's functions want it, in the current memory context.
///
/// # Safety
/// It was checked.
unsafe fn tuple(bytes: &[u8]) -> pg_sys::HeapTuple {
    let (head, rest) = bytes.split_at(stored_row::HEAD);
    let begin = size_of::<pg_sys::HeapTupleData>().next_multiple_of(stored_row::MAX_ALIGN);
    let fixed = stored_row::FIXED_HEADER;
    // SAFETY: memory for the tuple's own structure, then the header, of which only what follows is looked at, then the rest.
    unsafe {
        let tuple =
            pg_sys::MemoryContextAllocHuge(pg_sys::CurrentMemoryContext, begin + fixed + rest.len()).cast::<u8>();
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
