//! Rows as `synod.record` messages hold them, checked before the server takes them apart: its functions trust a heap tuple, and whoever
//! knows the key of these messages (it is in the WAL, which a role with REPLICATION reads) writes what bytes he likes.
//!
//! ```text
//! infomask2 u16 | infomask u16 | offset of the data u8 | bitmap of what is not NULL, if any | padding | data
//! ```
//! little-endian, and but for the fixed part of the header what `heap_form_tuple` makes of it (heaptuple.c). Of a row that passes
//! [`check_row`], `heap_deform_tuple` reads nothing beyond its end, and no value points elsewhere. What is inside a value is another
//! matter: types whose output function trusts that, too, travel in the form that clients send them (`pg/told_row.rs`), but for numeric
//! ([`check_numeric`]).

use crate::DecodeError;

/// Of the server's header, up to the bitmap.
pub const FIXED_HEADER: usize = 23;
/// What the data is aligned to.
pub const MAX_ALIGN: usize = 8;
/// Infomasks and the offset of the data.
pub const HEAD: usize = 5;
/// Stands for a value that did not change and is not told: one that is stored out of line, nowhere in particular.
pub const NOT_TOLD: [u8; 18] = {
    let mut bytes = [0; 18];
    bytes[0] = if cfg!(target_endian = "little") { 0x01 } else { 0x80 };
    // VARTAG_ONDISK.
    bytes[1] = 18;
    bytes
};

const WHAT: &str = "row of a record message";
const HAS_NULLS: u16 = 0x0001;
const COLUMNS: u16 = 0x07ff;

/// How a column is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredColumn {
    /// `attlen`: bytes, or -1 for a varlena.
    pub length: i16,
    /// Bytes that `attalign` stands for.
    pub alignment: u8,
}

/// Whether the bytes are a row of these columns. `not_told`: values of variable length may be [`NOT_TOLD`].
///
/// # Errors
/// They are none.
pub fn check_row(row: &[u8], columns: &[StoredColumn], not_told: bool) -> Result<(), DecodeError> {
    let Some((&[mask2, mask2_high, mask, mask_high, offset], rest)) = row.split_first_chunk::<HEAD>() else {
        return Err(corrupt("it ends within its header"));
    };
    let (mask2, mask) = (
        u16::from_le_bytes([mask2, mask2_high]),
        u16::from_le_bytes([mask, mask_high]),
    );
    if usize::from(mask2 & COLUMNS) != columns.len() {
        return Err(corrupt("it has another number of columns than its table"));
    }
    let bitmap_bytes = if mask & HAS_NULLS == 0 {
        0
    } else {
        columns.len().div_ceil(8)
    };
    if usize::from(offset) != (FIXED_HEADER + bitmap_bytes).next_multiple_of(MAX_ALIGN) {
        return Err(corrupt("its data begins in the wrong place"));
    }
    let Some((bitmap, data)) = rest.split_at_checked(usize::from(offset) - FIXED_HEADER) else {
        return Err(corrupt("it ends before its data"));
    };
    let mut at = 0;
    for (number, column) in columns.iter().enumerate() {
        if bitmap_bytes > 0 && bitmap[number / 8] & (1 << (number % 8)) == 0 {
            continue;
        }
        at = match column.length {
            -1 => end_of_varlena(data, at, column.alignment, not_told)?,
            1.. => at.next_multiple_of(column.alignment.max(1).into()) + usize::from(column.length.unsigned_abs()),
            _ => return Err(corrupt("a column's type has no length")),
        };
        if at > data.len() {
            return Err(corrupt("a value ends beyond it"));
        }
    }
    if at != data.len() {
        return Err(corrupt("there is more behind its last value"));
    }
    Ok(())
}

/// Where a varlena ends that comes next. A length of one byte is never aligned to; longer headers are, behind zeros.
fn end_of_varlena(data: &[u8], at: usize, alignment: u8, not_told: bool) -> Result<usize, DecodeError> {
    let at = match data.get(at) {
        Some(0) => at.next_multiple_of(alignment.max(1).into()),
        _ => at,
    };
    let here = data.get(at..).unwrap_or_default();
    let Some(&first) = here.first() else {
        return Err(corrupt("a value begins at its end"));
    };
    if first == NOT_TOLD[0] {
        return match not_told && here.starts_with(&NOT_TOLD) {
            true => Ok(at + NOT_TOLD.len()),
            false => Err(corrupt("a value is stored elsewhere")),
        };
    }
    let (is_short, short) = match cfg!(target_endian = "little") {
        true => (first & 0x01 != 0, first >> 1),
        false => (first & 0x80 != 0, first & 0x7f),
    };
    if is_short {
        return Ok(at + usize::from(short));
    }
    let Some(header) = here.first_chunk::<4>() else {
        return Err(corrupt("it ends within the length of a value"));
    };
    let header = u32::from_ne_bytes(*header);
    let (length, is_compressed) = match cfg!(target_endian = "little") {
        true => (header >> 2, header & 0x03 == 0x02),
        false => (header & 0x3fff_ffff, header >> 30 == 0x01),
    };
    let least = if is_compressed { 8 } else { 4 };
    if length < least || !at.is_multiple_of(4) {
        return Err(corrupt("the length of a value is wrong"));
    }
    Ok(at + length as usize)
}

/// Whether the payload of a numeric, not compressed, is one (numeric.c): its header says where its digits begin.
///
/// # Errors
/// It is none.
pub fn check_numeric(payload: &[u8]) -> Result<(), DecodeError> {
    const SHORT_OR_SPECIAL: u16 = 0x8000;
    let Some((header, rest)) = payload.split_first_chunk::<2>() else {
        return Err(corrupt("a numeric ends within its header"));
    };
    let is_short = u16::from_ne_bytes(*header) & SHORT_OR_SPECIAL != 0;
    let digits = if is_short { Some(rest) } else { rest.get(2..) };
    let Some((digits, [])) = digits.map(<[u8]>::as_chunks::<2>) else {
        return Err(corrupt("a numeric ends within a digit"));
    };
    if digits
        .iter()
        .any(|digit| !(0..10_000).contains(&i16::from_ne_bytes(*digit)))
    {
        return Err(corrupt("a numeric has a digit that is none"));
    }
    Ok(())
}

const fn corrupt(why: &'static str) -> DecodeError {
    DecodeError::corrupt(WHAT, why)
}
