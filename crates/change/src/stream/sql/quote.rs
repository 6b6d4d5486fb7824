//! Names and literals that mean the same to every PostgreSQL, whatever its settings.
//!
//! Bytes above ASCII are copied: no encoding that a database can have uses the bytes of a quote or a backslash within another
//! character.

/// A name, always in quotes: which words are reserved differs from one version to the next.
pub(super) fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    put_doubled(out, name, b'"');
    out.push(b'"');
}

/// A string, the same whether `standard_conforming_strings` is on or off.
pub(super) fn put_literal(out: &mut Vec<u8>, text: &[u8]) {
    if memchr::memchr(b'\\', text).is_none() {
        out.push(b'\'');
        put_doubled(out, text, b'\'');
    } else {
        out.extend_from_slice(b"E'");
        let mut from = 0;
        for at in memchr::memchr2_iter(b'\\', b'\'', text) {
            out.extend_from_slice(&text[from..=at]);
            from = at;
        }
        out.extend_from_slice(&text[from..]);
    }
    out.push(b'\'');
}

fn put_doubled(out: &mut Vec<u8>, text: &[u8], quote: u8) {
    let mut from = 0;
    for at in memchr::memchr_iter(quote, text) {
        out.extend_from_slice(&text[from..=at]);
        from = at;
    }
    out.extend_from_slice(&text[from..]);
}

/// A comment to the end of the line: what would end it, or be no text, stands as `?`.
pub(super) fn put_comment(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(b"-- ");
    out.extend(
        text.iter()
            .map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }),
    );
    out.push(b'\n');
}
