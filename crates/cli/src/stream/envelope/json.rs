//! JSON, written straight into bytes.

use synod_change::Value;
use synod_change::stream::{Column, Encoding, TypeClass, put_json_string};

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

/// A value of a column. Numbers that JSON has are numbers, booleans booleans, everything else its text; `same`: what stands for a
/// value that did not change and is not told.
pub fn value(out: &mut Vec<u8>, column: &Column, value: Value<'_>, same: &str) {
    let text = match value {
        Value::Null => return out.extend_from_slice(b"null"),
        Value::Same => return string(out, same.as_bytes()),
        Value::Text(text) | Value::Binary(text) => text,
    };
    match column.class {
        TypeClass::Integer | TypeClass::Number if is_number(text) => out.extend_from_slice(text),
        TypeClass::Boolean if text == b"t" => out.extend_from_slice(b"true"),
        TypeClass::Boolean if text == b"f" => out.extend_from_slice(b"false"),
        _ => string(out, text),
    }
}

/// As JSON has it: no NaN, no infinity, nothing before the digits but a minus.
fn is_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    digits.first().is_some_and(u8::is_ascii_digit)
        && digits
            .iter()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
}

/// RFC 3339, from microseconds since 2000-01-01.
pub fn time(us: i64) -> String {
    const DAY_US: i64 = 86_400_000_000;
    let (day, rest) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    // Days since 0000-03-01, by which leap days come last (Hinnant, "chrono-compatible low-level date algorithms").
    let day = day + 730_425;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{micros:06}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (us, expected) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (60 * 86_400_000_000, "2000-03-01T00:00:00.000000Z"),
            (59 * 86_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (846_810_123_000_000, "2026-11-01T01:02:03.000000Z"),
        ] {
            assert_eq!(time(us), expected);
        }
    }

    proptest! {
        #[test]
        fn strings_are_what_they_were(text: String) {
            let mut out = Vec::new();
            string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn any_text_of_a_number_is_json(bytes in "[-+0-9.eENaInfity]{0,12}") {
            let column = Column { class: TypeClass::Number, ..Column::default() };
            // The server writes numbers; what it never writes need only not be taken for one without a digit.
            if is_number(bytes.as_bytes()) && bytes.parse::<f64>().is_ok() && !bytes.starts_with("0") && !bytes.starts_with("-0") {
                let mut out = Vec::new();
                value(&mut out, &column, Value::Text(bytes.as_bytes()), "");
                prop_assert!(!out.starts_with(b"\""));
            }
        }

        #[test]
        fn no_time_panics(us in -210_000_000_000_000_000_i64..9_000_000_000_000_000_000) {
            let _ = time(us);
        }
    }
}
