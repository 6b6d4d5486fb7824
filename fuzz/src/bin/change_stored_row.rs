//! Rows that messages of our own hold: of one that passes, nothing is read beyond its end. Covers
//! crates/change/src/stream/stored_row.rs.
#![no_main]

use synod_change::stream::stored_row::{check_numeric, check_row, StoredColumn, FIXED_HEADER};
use synod_fuzz::Pieces;

const KINDS: [(i16, u8); 8] = [(1, 1), (2, 2), (4, 4), (8, 8), (12, 4), (64, 1), (-1, 4), (-1, 8)];

/// As heap_deform_tuple does it. Panics where that would read what is not of the row.
fn deform(row: &[u8], columns: &[StoredColumn]) {
    let (has_nulls, offset, rest) = (row[2] & 1 != 0, usize::from(row[4]), &row[5..]);
    let data = &rest[offset - FIXED_HEADER..];
    let mut at = 0;
    for (number, column) in columns.iter().enumerate() {
        if has_nulls && rest[number / 8] & (1 << (number % 8)) == 0 {
            continue;
        }
        if column.length != -1 || data[at] == 0 {
            at = at.next_multiple_of(column.alignment.into());
        }
        let length = match column.length {
            -1 if data[at] == 1 => 18,
            -1 if data[at] & 1 == 1 => usize::from(data[at] >> 1),
            -1 => u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]) as usize >> 2,
            length => length as usize,
        };
        assert!(at + length <= data.len(), "a value ends beyond the row");
        assert!(column.length != -1 || length > 0, "a value without a header");
        at += length;
    }
}

synod_fuzz::target!(|data: &[u8]| {
    let _ = check_numeric(data);
    let mut pieces = Pieces(data);
    let columns: Vec<StoredColumn> = (0..pieces.u8() % 20)
        .map(|_| KINDS[usize::from(pieces.u8() % 8)])
        .map(|(length, alignment)| StoredColumn { length, alignment })
        .collect();
    let mut row = pieces.0.to_vec();
    if row.len() >= 5 {
        // The count of columns is right, so that what is behind it is reached.
        row[..2].copy_from_slice(&(columns.len() as u16).to_le_bytes());
    }
    for not_told in [false, true] {
        if check_row(&row, &columns, not_told).is_ok() {
            deform(&row, &columns);
        }
    }
});
