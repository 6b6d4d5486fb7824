//! Reading a stored row as the server does, for what says that such a row is safe to read: the tests of this crate, and the fuzzer of its
//! rows.

use synod_change::stream::stored_row;

/// As heap_deform_tuple does it. Panics where that would read what is not of the row.
pub fn deform(row: &[u8], columns: &[stored_row::StoredColumn]) {
    let (has_nulls, offset, rest) = (row[2] & 1 != 0, usize::from(row[4]), &row[5..]);
    let data = &rest[offset - stored_row::FIXED_HEADER..];
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
            length => usize::from(length.unsigned_abs()),
        };
        assert!(at + length <= data.len(), "a value ends beyond the row");
        assert!(column.length != -1 || length > 0, "a value without a header");
        at += length;
    }
}
