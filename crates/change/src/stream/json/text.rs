//! Strings of JSON: always valid, whatever the bytes.

use crate::stream::Encoding;
use crate::stream::digits::put_hex;

/// A string, quotes included. Bytes that are not UTF-8 (names in a database in SQL_ASCII) become `\x` and two digits each.
pub fn put_string(out: &mut Vec<u8>, text: &[u8], encoding: Encoding) {
    out.push(b'"');
    match encoding {
        Encoding::Utf8 => put_escaped(out, text),
        Encoding::Other => put_ascii(out, text),
        Encoding::Unknown | Encoding::UnknownHere => {
            for chunk in text.utf8_chunks() {
                match encoding {
                    Encoding::UnknownHere => put_escaped(out, chunk.valid().as_bytes()),
                    _ => put_ascii(out, chunk.valid().as_bytes()),
                }
                for byte in chunk.invalid() {
                    out.extend_from_slice(br"\\x");
                    put_hex(out, &[*byte]);
                }
            }
        }
    }
    out.push(b'"');
}

/// JSON as it is.
pub(crate) fn put_json(out: &mut Vec<u8>, json: &[u8], encoding: Encoding) {
    match encoding {
        Encoding::Utf8 => out.extend_from_slice(json),
        Encoding::UnknownHere => out.extend_from_slice(String::from_utf8_lossy(json).as_bytes()),
        // What is not ASCII can only stand in its strings.
        Encoding::Other | Encoding::Unknown => put_non_ascii(out, &String::from_utf8_lossy(json)),
    }
}

/// Quotes, backslashes and control characters escaped.
fn put_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let clean = clean_length(text);
        let (run, rest) = text.split_at(clean);
        out.extend_from_slice(run);
        let Some((byte, rest)) = rest.split_first() else {
            return;
        };
        put_escape(out, *byte);
        text = rest;
    }
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;

/// How many bytes at the front need no escape; eight are looked at at a time.
fn clean_length(text: &[u8]) -> usize {
    let (chunks, rest) = text.as_chunks::<8>();
    for (number, chunk) in chunks.iter().enumerate() {
        let bytes = u64::from_le_bytes(*chunk);
        // Bit 7 of each byte that is below 0x20, equal to a quote or to a backslash. A borrow may set that of a byte above one that
        // is, so only the lowest counts.
        let below = bytes.wrapping_sub(ONES * 0x20) & !bytes;
        let zero_if = |byte: u8| bytes ^ (ONES * u64::from(byte));
        let is_zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let found = (below | is_zero(zero_if(b'"')) | is_zero(zero_if(b'\\'))) & HIGHS;
        if found != 0 {
            return number * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let dirty = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    text.len() - rest.len() + rest.iter().position(dirty).unwrap_or(rest.len())
}

fn put_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        control => {
            out.extend_from_slice(br"\u00");
            return put_hex(out, &[control]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// As [`put_escaped`], and everything that is not ASCII as `\uXXXX`.
fn put_ascii(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_ascii() {
        return put_escaped(out, text);
    }
    for piece in String::from_utf8_lossy(text).split_inclusive(|character: char| !character.is_ascii()) {
        let end = piece.len()
            - piece
                .chars()
                .next_back()
                .filter(|last| !last.is_ascii())
                .map_or(0, char::len_utf8);
        put_escaped(out, &piece.as_bytes()[..end]);
        put_non_ascii(out, &piece[end..]);
    }
}

fn put_non_ascii(out: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        if character.is_ascii() {
            out.push(character as u8);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(br"\u");
                put_hex(out, &unit.to_be_bytes());
            }
        }
    }
}
