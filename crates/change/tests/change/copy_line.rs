//! Rows in COPY's text format.

use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::{CopyLine, Value};

/// As the server writes it (`CopyAttributeOutText` in copyto.c).
fn written(cells: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut line = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            line.push(b'\t');
        }
        let Some(cell) = cell else {
            line.extend(b"\\N");
            continue;
        };
        for byte in cell {
            let letter = match byte {
                0x08 => b'b',
                b'\t' => b't',
                b'\n' => b'n',
                0x0b => b'v',
                0x0c => b'f',
                b'\r' => b'r',
                b'\\' => b'\\',
                plain => {
                    line.push(*plain);
                    continue;
                }
            };
            line.extend([b'\\', letter]);
        }
    }
    line.push(b'\n');
    line
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        rows in vec(vec(proptest::option::of(vec(prop_oneof![1u8..16, Just(b'\\'), Just(b'N'), any::<u8>()], 0..12)), 1..6), 1..4),
    ) {
        let mut reader = CopyLine::default();
        for cells in &rows {
            let line = written(cells);
            let values: Vec<Value<'_>> = cells
                .iter()
                .map(|cell| cell.as_deref().map_or(Value::Null, Value::Text))
                .collect();
            prop_assert_eq!(reader.read(&line).iter().collect::<Vec<_>>(), values.clone());
            // The last line of a stream may lack its end, but then an empty one is no row.
            prop_assert_eq!(reader.read(&line[..line.len() - 1]).iter().collect::<Vec<_>>(), values);
        }
    }

    #[test]
    fn any_bytes_are_some_row(bytes in vec(prop_oneof![Just(b'\\'), Just(b'\t'), Just(b'\n'), any::<u8>()], 0..40)) {
        let cells = CopyLine::default().read(&bytes).len();
        prop_assert_eq!(cells, bytes.iter().filter(|byte| **byte == b'\t').count() + 1);
    }
}

#[test]
fn text_that_looks_like_null_is_text() {
    let mut reader = CopyLine::default();
    let row = reader.read(b"\\\\N\t\\N\t\tN\\\n");
    let expected = [Value::Text(b"\\N"), Value::Null, Value::Text(b""), Value::Text(b"N\\")];
    assert_eq!(row.iter().collect::<Vec<_>>(), expected);
}
