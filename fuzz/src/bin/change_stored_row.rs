//! Rows that messages of our own hold: of one that passes, nothing is read beyond its end. Covers
//! crates/change/src/stream/stored_row.rs.
#![no_main]

use synod_change::stream::stored_row::{check_numeric, check_row, StoredColumn};
use synod_fuzz::Pieces;

#[path = "../../../crates/change/tests/change/deform.rs"]
mod deform;

const KINDS: [(i16, u8); 8] = [(1, 1), (2, 2), (4, 4), (8, 8), (12, 4), (64, 1), (-1, 4), (-1, 8)];

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
            deform::deform(&row, &columns);
        }
    }
});
