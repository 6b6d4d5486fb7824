//! JSON, written straight into bytes.

use synod_change::stream::{Encoding, put_json_string};
use synod_sinks::calendar;

/// From 1970 to 2000.
const EPOCH_US: i128 = 946_684_800_000_000;

/// A string; bytes that are not UTF-8 are told by their digits.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    put_json_string(out, text, Encoding::Unknown);
}

/// `"name":`, after a comma unless it is the first.
pub fn member(out: &mut Vec<u8>, name: &str) {
    if !matches!(out.last(), Some(b'{' | b'[') | None) {
        out.push(b',');
    }
    string(out, name.as_bytes());
    out.push(b':');
}

/// `"name":"text"`
pub fn text(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    member(out, name);
    string(out, text);
}

/// `"name":1`
pub fn number(out: &mut Vec<u8>, name: &str, number: impl std::fmt::Display) {
    member(out, name);
    out.extend_from_slice(number.to_string().as_bytes());
}

/// RFC 3339, from microseconds since 2000-01-01.
pub fn time(us: i64) -> String {
    calendar::utc(i128::from(us) + EPOCH_US, 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_are_what_they_were(text: String) {
            let mut out = Vec::new();
            string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
