//! Rows of record messages: what `heap_form_tuple` makes passes, and of what passes nothing is read beyond its end.

use proptest::prelude::*;
use synod_change::stream::stored_row::{FIXED_HEADER, MAX_ALIGN, NOT_TOLD, StoredColumn, check_numeric, check_row};

use crate::deform::deform;

const fn column(length: i16, alignment: u8) -> StoredColumn {
    StoredColumn { length, alignment }
}

/// A bool, an int4, a text, an int8.
const COLUMNS: [StoredColumn; 4] = [column(1, 1), column(4, 4), column(-1, 4), column(8, 8)];

/// A row with this data, and a bitmap if there is one.
fn row(columns: u16, bitmap: Option<u8>, data: &[u8]) -> Vec<u8> {
    let offset = (FIXED_HEADER + usize::from(bitmap.is_some())).next_multiple_of(MAX_ALIGN);
    let mut row = columns.to_le_bytes().to_vec();
    row.extend_from_slice(&u16::from(bitmap.is_some()).to_le_bytes());
    row.push(u8::try_from(offset).unwrap());
    let at = row.len();
    row.extend(bitmap);
    row.resize(at + offset - FIXED_HEADER, 0);
    row.extend_from_slice(data);
    row
}

/// true, 7, 'ab' with a short header, 9.
fn sound() -> Vec<u8> {
    let mut data = vec![1, 0, 0, 0, 7, 0, 0, 0, 3 << 1 | 1, b'a', b'b', 0, 0, 0, 0, 0];
    data.extend_from_slice(&9u64.to_ne_bytes());
    row(4, None, &data)
}

fn reason(row: &[u8], columns: &[StoredColumn]) -> String {
    check_row(row, columns, true).unwrap_err().to_string()
}

#[test]
fn rows_as_the_server_forms_them_pass() {
    check_row(&sound(), &COLUMNS, false).unwrap();
    check_row(&row(4, Some(0b0001), &[1]), &COLUMNS, false).unwrap();
    check_row(&row(0, None, &[]), &[], false).unwrap();
    // A long header, aligned behind zeros; a compressed value.
    let long = |bytes: u32, tag: u32| (bytes << 2 | tag).to_ne_bytes();
    let mut data = vec![1, 0, 0, 0];
    data.extend_from_slice(&long(5, 0));
    data.push(b'x');
    check_row(&row(2, None, &data), &[column(1, 1), column(-1, 4)], false).unwrap();
    data[4..8].copy_from_slice(&long(8, 2));
    data.extend_from_slice(&[0; 3]);
    check_row(&row(2, None, &data), &[column(1, 1), column(-1, 4)], false).unwrap();
}

#[test]
fn a_value_that_is_stored_elsewhere_never_passes() {
    let columns = [column(-1, 4)];
    let row = |pointer: &[u8]| row(1, None, pointer);
    check_row(&row(&NOT_TOLD), &columns, true).unwrap();
    assert!(check_row(&row(&NOT_TOLD), &columns, false).is_err());
    for at in 1..NOT_TOLD.len() {
        let mut pointer = NOT_TOLD;
        pointer[at] ^= 1;
        assert_eq!(
            reason(&row(&pointer), &columns),
            "corrupt row of a record message: a value is stored elsewhere"
        );
    }
}

#[test]
fn what_is_wrong_with_a_row_is_told() {
    let sound = sound();
    let mut wrong = sound.clone();
    wrong[0] = 5;
    assert!(reason(&wrong, &COLUMNS).ends_with("another number of columns than its table"));
    wrong = sound.clone();
    wrong[4] = 32;
    assert!(reason(&wrong, &COLUMNS).ends_with("its data begins in the wrong place"));
    assert!(reason(&row(1, None, &[200 << 1 | 1, 0]), &[column(-1, 4)]).ends_with("a value ends beyond it"));
    let endless = (u32::MAX << 2).to_ne_bytes();
    assert!(reason(&row(1, None, &endless), &[column(-1, 4)]).ends_with("a value ends beyond it"));
    let negative = (3u32 << 2).to_ne_bytes();
    assert!(reason(&row(1, None, &negative), &[column(-1, 4)]).ends_with("the length of a value is wrong"));
    assert!(reason(&row(1, None, &[1]), &[column(-2, 1)]).ends_with("type has no length"));
    wrong = sound.clone();
    wrong.push(0);
    assert!(reason(&wrong, &COLUMNS).ends_with("more behind its last value"));
    for length in 0..sound.len() {
        assert!(check_row(&sound[..length], &COLUMNS, true).is_err(), "{length} bytes");
    }
}

#[test]
fn numerics_have_digits_where_their_header_says() {
    let digits = |words: &[u16]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    for sound in [&[0x8000, 1][..], &[0x8000], &[0xc000], &[0x4000, 0, 9999]] {
        check_numeric(&digits(sound)).unwrap();
    }
    for wrong in [&[][..], &[0x4000], &[0x8000, 10_000], &[0x8000, 0xffff]] {
        assert!(check_numeric(&digits(wrong)).is_err(), "{wrong:x?}");
    }
    assert!(check_numeric(&digits(&[0x8000])[..1]).is_err());
    assert!(check_numeric(&[&digits(&[0x8000])[..], &[0]].concat()).is_err());
}

fn columns() -> impl Strategy<Value = Vec<StoredColumn>> {
    let kinds = [
        column(1, 1),
        column(2, 2),
        column(4, 4),
        column(8, 8),
        column(12, 4),
        column(-1, 4),
        column(-1, 8),
    ];
    prop::collection::vec(prop::sample::select(kinds.to_vec()), 0..12)
}

proptest! {
    /// Small bytes, so that some rows pass.
    #[test]
    fn nothing_is_read_beyond_a_row_that_passes(
        columns in columns(),
        bitmap in any::<Option<u8>>(),
        data in prop::collection::vec(prop_oneof![Just(0u8), 1..40u8, any::<u8>()], 0..80),
    ) {
        let count = u16::try_from(columns.len()).unwrap();
        let row = row(count, bitmap.filter(|_| count <= 8), &data);
        if check_row(&row, &columns, true).is_ok() {
            deform(&row, &columns);
        }
    }
}
