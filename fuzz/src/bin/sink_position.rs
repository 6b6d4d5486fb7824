//! The position that a sink keeps in a file, as it is and with the checksum put right; histories of timelines. Covers
//! crates/sinks/src/position.rs, crates/sinks/src/timeline.rs.
#![no_main]

use synod_sinks::position::{self, Position, LINE_BYTES};
use synod_sinks::timeline::left_at;

/// A line of what the input says, with the checksum that belongs to it.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(data).ok()?.lines().next()?;
    let text = text.split(" crc32c=").next()?.trim_end();
    let mut line = format!("{text} crc32c={:08x}", crc32c::crc32c(text.as_bytes())).into_bytes();
    line.resize(LINE_BYTES - 1, b' ');
    line.push(b'\n');
    Some(line)
}

fn sound(found: &Position, line: &[u8]) {
    assert_eq!(found.line(), line, "one position has one line");
    let next = Position {
        number: found.number.wrapping_add(1),
        ..found.clone()
    };
    let mut lines = [vec![0; LINE_BYTES], vec![0; LINE_BYTES]];
    for position in [found, &next] {
        lines[usize::from(position.place() != 0)] = position.line();
    }
    let newest = position::newest(&lines.concat());
    let expected = if next.number == 0 { found } else { &next };
    assert_eq!(newest.as_ref(), Some(expected));
}

synod_fuzz::target!(|data: &[u8]| {
    let _ = position::newest(data);
    if let Some(found) = position::parse(data) {
        sound(&found, data);
    }
    if let Some(line) = mended(data) {
        if let Some(found) = position::parse(&line) {
            sound(&found, &line);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = left_at(text, 1);
    }
});
