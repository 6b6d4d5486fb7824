//! The last whole line of a file, however long it is.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

/// Read backwards in pieces of this size.
const TAIL_BYTES: u64 = 1 << 16;
/// No line of ours is longer: PostgreSQL has no larger value than 1 GB, JSON escapes and both images make more of it.
const MAX_LINE_BYTES: u64 = 1 << 34;

/// The last line that ends with a line break, and the length of the file up to there.
pub fn last_line(file: &fs::File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let Some(end) = last_break(file, file.metadata()?.len())? else {
        return Ok((None, 0));
    };
    let begin = last_break(file, end)?.map_or(0, |at| at + 1);
    if end - begin > MAX_LINE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its last line has no end"));
    }
    let mut line = vec![0; (end - begin) as usize];
    file.read_exact_at(&mut line, begin)?;
    Ok((Some(line), end + 1))
}

/// Where the last line break before `end` is.
fn last_break(file: &fs::File, end: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; TAIL_BYTES as usize];
    let mut end = end;
    while end > 0 {
        let begin = end.saturating_sub(TAIL_BYTES);
        let piece = &mut buffer[..(end - begin) as usize];
        file.read_exact_at(piece, begin)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(begin + at as u64));
        }
        end = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(content: &[u8]) -> fs::File {
        let path = std::env::temp_dir().join(format!(
            "synod-last-line-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::write(&path, content).unwrap();
        let file = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file
    }

    #[test]
    fn the_last_whole_line_is_found_however_the_file_ends() {
        let long = vec![b'x'; 3 * TAIL_BYTES as usize];
        type Case<'a> = (&'a [u8], Option<&'a [u8]>, u64);
        let cases: [Case<'_>; 6] = [
            (b"", None, 0),
            (b"torn", None, 0),
            (b"one\n", Some(b"one"), 4),
            (b"one\ntwo\nto", Some(b"two"), 8),
            (b"\n", Some(b""), 1),
            (&[&long[..], b"\n", &long].concat(), Some(&long), long.len() as u64 + 1),
        ];
        for (content, line, length) in cases {
            let (found, end) = last_line(&file_with(content)).unwrap();
            assert_eq!((found.as_deref(), end), (line, length));
        }
    }
}
