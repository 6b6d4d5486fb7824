//! A row as `COPY ... TO STDOUT` sends it in text format: cells between tabs, sequences behind backslashes, `\N` for NULL.
//!
//! For rows that are copied between nodes past COPY FROM, which takes no values of generated columns (`pg/copy.rs` of the
//! extension). Any bytes are some row; how many cells it should have is known to who asked for it.

use crate::Row;
use crate::row::Cell;

/// Takes rows apart, one at a time, in memory that is used again.
#[derive(Debug, Default)]
pub struct CopyLine {
    data: Vec<u8>,
    cells: Vec<Cell>,
}

impl CopyLine {
    /// The row that a line is, with or without the line feed at its end. All values are text.
    pub fn read(&mut self, line: &[u8]) -> Row<'_> {
        self.data.clear();
        self.cells.clear();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        // A tab within a value is written as a sequence.
        for cell in line.split(|byte| *byte == b'\t') {
            if cell == b"\\N" {
                self.cells.push(Cell::Null);
                continue;
            }
            let start = self.data.len();
            unescape(&mut self.data, cell);
            let end = self.data.len();
            self.cells.push(Cell::Text { start, end });
        }
        Row::from_cells(&self.cells, &self.data)
    }
}

/// The sequences are those that the server writes; any other stands for what is behind the backslash.
fn unescape(out: &mut Vec<u8>, mut rest: &[u8]) {
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some(meant) = rest.get(at + 1) else {
            return out.push(b'\\');
        };
        out.push(match meant {
            b'b' => 0x08,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'r' => b'\r',
            other => *other,
        });
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
}
