//! Rows as a `synod.record` message has them: what the heap would hold, with nothing stored elsewhere, and without the part of
//! the header that says who may see it (as `xl_heap_header` in heapam_xlog.h leaves it out). `pg/told_row.rs` says which values stand
//! there otherwise.

use std::borrow::Cow;

use pgrx::pg_sys;
use synod_change::stream::stored_row;

use crate::pg::relation::{Column, StrongTable};
use crate::pg::relcache::Relation;
use crate::pg::row;

/// An unchanged value longer than this, as it travels, is not told. About where the server starts to store values out of line.
const LONG: usize = 2000;
/// What takes at most as many bytes as stored is no longer than [`LONG`] as it travels, whatever its type.
const SURELY_SHORT: usize = 256;
/// What takes as many bytes as stored is longer than [`LONG`] as it travels.
const SURELY_LONG: usize = 64 << 10;
/// A row above this is too large for any message to a reader (`MaxAllocSize`).
const ROW_BYTES: usize = 1_000_000_000;

/// A row version's columns by attribute index.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// Datums.
    pub values: &'a [pg_sys::Datum],
    /// NULL flags.
    pub nulls: &'a [bool],
}

impl Columns<'_> {
    /// What a slot holds.
    ///
    /// # Safety
    /// All attributes of the slot are there, and stay as long as the result.
    pub unsafe fn of_slot(slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: the arrays have one element per attribute.
        unsafe {
            let count = (*(*slot).tts_tupleDescriptor).natts as usize;
            Self {
                values: std::slice::from_raw_parts((*slot).tts_values, count),
                nulls: std::slice::from_raw_parts((*slot).tts_isnull, count),
            }
        }
    }
}

/// What is told of the version before of a row that changes or goes: as the WAL would have it (`ExtractReplicaIdentity` in
/// heapam.c).
pub(super) enum Identity {
    /// Nothing says which row it was.
    Nothing,
    /// These columns, by attribute index.
    Columns(Vec<usize>),
    /// All.
    Full,
}

impl Identity {
    /// Inside a transaction.
    pub(super) fn of(relation: &Relation) -> Self {
        if relation.class().relreplident as u8 == pg_sys::REPLICA_IDENTITY_FULL {
            return Self::Full;
        }
        // SAFETY: an open relation; the set is a copy in the current memory context.
        unsafe {
            let kind = pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_IDENTITY_KEY;
            let set = pg_sys::RelationGetIndexAttrBitmap(relation.raw(), kind);
            let columns: Vec<usize> = (0..relation.attribute_count())
                .filter(|at| {
                    let member = *at as i32 + 1 - pg_sys::FirstLowInvalidHeapAttributeNumber;
                    pg_sys::bms_is_member(member, set)
                })
                .collect();
            pg_sys::bms_free(set);
            if columns.is_empty() {
                Self::Nothing
            } else {
                Self::Columns(columns)
            }
        }
    }

    /// The NULL flags of a version before as it is told, of which these are its own.
    pub(super) fn hidden<'a>(&self, nulls: &'a [bool]) -> Cow<'a, [bool]> {
        match self {
            Self::Full => Cow::Borrowed(nulls),
            Self::Nothing => Cow::Owned(vec![true; nulls.len()]),
            Self::Columns(columns) => {
                let hidden = |(at, null): (usize, &bool)| *null || !columns.contains(&at);
                Cow::Owned(nulls.iter().enumerate().map(hidden).collect())
            }
        }
    }
}

/// The row is too large to be told.
#[derive(Debug)]
pub(super) struct TooLarge;

/// Write a row: infomasks, offset of its data, and what follows the fixed header.
///
/// # Safety
/// Values and flags are those of the relation's attributes, and it is this table; the current memory context is for this row, and settings
/// are as `pg/row.rs` says.
pub(super) unsafe fn form(
    out: &mut Vec<u8>,
    relation: &Relation,
    table: &StrongTable,
    values: &[pg_sys::Datum],
    nulls: &[bool],
) -> Result<(), TooLarge> {
    // Dropped columns are NULL, whatever an old row has there.
    let (mut inline, mut absent) = (vec![pg_sys::Datum::from(0); values.len()], vec![true; values.len()]);
    let mut bytes = 0;
    // SAFETY: by contract; a value of a type of variable length points to a varlena.
    unsafe {
        for column in table.columns.iter().filter(|column| !nulls[column.index]) {
            let (at, mut value) = (column.index, values[column.index]);
            if column.length == -1 && value.value() != not_told().value() {
                bytes += pg_sys::toast_raw_datum_size(value);
                if bytes > ROW_BYTES {
                    return Err(TooLarge);
                }
                if !column.sent && is_elsewhere(value) {
                    value = pg_sys::Datum::from(pg_sys::detoast_external_attr(value.cast_mut_ptr()));
                }
            }
            if column.sent && value.value() != not_told().value() {
                value = sent(column, value);
                bytes += pg_sys::toast_raw_datum_size(value);
            }
            (inline[at], absent[at]) = (value, false);
        }
        if bytes > ROW_BYTES {
            return Err(TooLarge);
        }
        let descriptor = if table.told.is_null() {
            relation.descriptor()
        } else {
            table.told
        };
        let tuple = pg_sys::heap_form_tuple(descriptor, inline.as_mut_ptr(), absent.as_mut_ptr());
        let header = &*(*tuple).t_data;
        let fixed = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits);
        let length = (*tuple).t_len as usize - fixed;
        let rest = std::slice::from_raw_parts((*tuple).t_data.cast::<u8>().add(fixed), length);
        out.clear();
        out.extend_from_slice(&header.t_infomask2.to_le_bytes());
        out.extend_from_slice(&header.t_infomask.to_le_bytes());
        out.push(header.t_hoff);
        out.extend_from_slice(rest);
        pg_sys::heap_freetuple(tuple);
    }
    Ok(())
}

/// What travels of a value, as a bytea.
unsafe fn sent(column: &Column, value: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: as for `form`; a value that is not NULL.
    unsafe {
        let (synod_change::Value::Text(bytes) | synod_change::Value::Binary(bytes)) = row::encode(column, value, false)
        else {
            return value;
        };
        pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32).into()
    }
}

/// Whether a varlena is stored in the table's TOAST table (`VARATT_IS_EXTERNAL_ONDISK`).
unsafe fn is_elsewhere(value: pg_sys::Datum) -> bool {
    // SAFETY: a varlena; one that is external has a tag behind its first byte.
    unsafe {
        let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
        let tag = *pointer.cast::<u8>().add(1);
        pgrx::varlena::varatt_is_1b_e(pointer) && u32::from(tag) == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// [`stored_row::NOT_TOLD`] as a value.
#[repr(C, align(8))]
struct Pointer([u8; stored_row::NOT_TOLD.len()]);

static NOT_TOLD: Pointer = {
    assert!(stored_row::NOT_TOLD.len() == 2 + size_of::<pg_sys::varatt_external>());
    assert!(stored_row::NOT_TOLD[1] as u32 == pg_sys::vartag_external::VARTAG_ONDISK);
    Pointer(stored_row::NOT_TOLD)
};

pub(super) fn not_told() -> pg_sys::Datum {
    pg_sys::Datum::from((&raw const NOT_TOLD).cast_mut().cast::<std::ffi::c_void>())
}

/// Whether a value that did not change is too long to be told again. It must not depend on how this node stores it: neither on
/// whether it is compressed or out of line, nor on what a type allows to be stored in two ways.
///
/// # Safety
/// A value of this column, not NULL; the current memory context is for this row, and settings are as `pg/row.rs` says.
pub(super) unsafe fn is_long(column: &Column, value: pg_sys::Datum) -> bool {
    if column.length != -1 {
        return false;
    }
    // SAFETY: by contract.
    unsafe {
        let stored = pg_sys::toast_raw_datum_size(value);
        if column.plain_bytes {
            return stored > LONG;
        }
        match stored {
            ..=SURELY_SHORT => false,
            SURELY_LONG.. => true,
            _ => match row::encode(column, value, false) {
                synod_change::Value::Text(bytes) | synod_change::Value::Binary(bytes) => bytes.len() > LONG,
                synod_change::Value::Null | synod_change::Value::Same => false,
            },
        }
    }
}
