//! Values as Debezium's PostgreSQL connector tells them by default (`time.precision.mode=adaptive`, `interval.handling.mode=numeric`,
//! `binary.handling.mode=bytes`), but for numerics, which are strings (`decimal.handling.mode=string`), in JSON without schemas.
//!
//! From the text that PostgreSQL prints with `DateStyle=ISO`, `IntervalStyle=postgres` and `bytea_output=hex`. What cannot be read as
//! that is told as it is, as a string: nothing is lost, and nothing is an error. The page "Following the change stream" has the table.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use synod_change::stream::{Encoding, put_json_string};

use crate::calendar::{DAY_US, days, instant, time_of_day, zone};

/// What Debezium tells of a positive infinity, in microseconds; of a negative one below. The PostgreSQL JDBC driver has them so.
const INFINITY_US: i128 = 9_223_372_036_825_200_000;
const MINUS_INFINITY_US: i128 = -9_223_372_036_832_400_000;
/// A month of an interval: 365.25 / 12 days.
const MONTH_US: i128 = 2_629_800_000_000;
/// PostgreSQL's arrays have six.
const MAX_DIMENSIONS: usize = 8;

/// How values of a type are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As a string: PostgreSQL's text.
    Text,
    /// As a number, if it is one that JSON has.
    Number,
    /// As true or false.
    Boolean,
    /// As a string; what is no number has a name.
    Numeric,
    /// Days since 1970-01-01.
    Date,
    /// Since midnight: in milliseconds, if it has no more than three digits of a second, else in microseconds.
    Time(u8),
    /// A string, in UTC.
    ZonedTime,
    /// Since 1970-01-01, as [`Self::Time`].
    Timestamp(u8),
    /// A string, in UTC, with so many digits of a second.
    ZonedTimestamp(u8),
    /// In microseconds.
    Interval,
    /// One bit, as true or false.
    Bit,
    /// In base64, the last bits first.
    Bits,
    /// In base64.
    Bytes,
    /// Each of these; the character between them in PostgreSQL's text.
    Array(Box<Kind>, u8),
}

impl Kind {
    /// Of a type, by its name with its modifier as `format_type` gives it; of a domain, by that of what it is made of.
    #[must_use]
    pub fn of(type_name: &str) -> Self {
        if let Some(element) = type_name.strip_suffix("[]") {
            let between = if element == "box" { b';' } else { b',' };
            return Self::Array(Box::new(Self::of(element)), between);
        }
        // `timestamp(3) without time zone`
        let (before, rest) = type_name.split_once('(').unwrap_or((type_name, ""));
        let (modifier, after) = rest.split_once(')').unwrap_or(("", ""));
        let digits = modifier.parse().unwrap_or(6);
        match (before, after) {
            ("smallint" | "integer" | "bigint" | "oid" | "real" | "double precision", "") => Self::Number,
            ("boolean", "") => Self::Boolean,
            ("numeric", "") => Self::Numeric,
            ("date", "") => Self::Date,
            ("time without time zone", "") | ("time", " without time zone") => Self::Time(digits),
            ("time with time zone", "") | ("time", " with time zone") => Self::ZonedTime,
            ("timestamp without time zone", "") | ("timestamp", " without time zone") => Self::Timestamp(digits),
            ("timestamp with time zone", "") | ("timestamp", " with time zone") => Self::ZonedTimestamp(digits.min(6)),
            ("bit" | "bit varying", "") if modifier == "1" => Self::Bit,
            ("bit" | "\"bit\"" | "bit varying", "") => Self::Bits,
            ("bytea", "") => Self::Bytes,
            _ if before == "interval" || before.starts_with("interval ") => Self::Interval,
            _ => Self::Text,
        }
    }

    /// Append a value, given as PostgreSQL's text.
    pub fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        let told = std::str::from_utf8(text).ok().and_then(|text| self.tell(text, out));
        if told.is_none() {
            out.truncate(before);
            put_json_string(out, text, Encoding::Unknown);
        }
    }

    /// `None`, and anything written: it is not what values of this type look like.
    fn tell(&self, text: &str, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Text => return None,
            Self::Number => number(text, out)?,
            Self::Boolean | Self::Bit => put(out, boolean(text)?),
            Self::Numeric => string(out, numeric(text)),
            Self::Date => put(out, date(text)?),
            Self::Time(digits) => put(out, at(*digits, time_of_day(text)?.into())),
            Self::ZonedTime => string(out, &zoned_time(text)?),
            Self::Timestamp(digits) => put(out, at(*digits, timestamp(text)?)),
            Self::ZonedTimestamp(digits) => string(out, &zoned_timestamp(text, *digits)?),
            Self::Interval => put(out, interval(text)?),
            Self::Bits => string(out, &STANDARD.encode(bits(text)?)),
            Self::Bytes => string(out, &STANDARD.encode(from_hex(text)?)),
            Self::Array(element, between) => {
                let rest = array(element, *between, after_bounds(text)?, out, 0)?;
                return rest.is_empty().then_some(());
            }
        }
        Some(())
    }
}

fn put(out: &mut Vec<u8>, told: impl std::fmt::Display) {
    out.extend_from_slice(told.to_string().as_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    put_json_string(out, text.as_bytes(), Encoding::Unknown);
}

/// As JSON has it, and its readers: no NaN, no infinity, and nothing beyond a double.
fn number(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let leading = whole.len() > 1 && whole.starts_with('0');
    let readable = text.parse().is_ok_and(f64::is_finite);
    let is_one = readable && digits(whole) && !leading && digits(fraction) && digits(exponent);
    is_one.then(|| put(out, text))
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" | "1" => Some(true),
        "f" | "0" => Some(false),
        _ => None,
    }
}

fn numeric(text: &str) -> &str {
    match text {
        "NaN" => "NAN",
        "Infinity" => "POSITIVE_INFINITY",
        "-Infinity" => "NEGATIVE_INFINITY",
        number => number,
    }
}

/// Microseconds in the unit for so many digits.
fn at(digits: u8, us: i128) -> i128 {
    if digits <= 3 { us.div_euclid(1_000) } else { us }
}

fn date(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(i32::MAX.into()),
        "-infinity" => Some(i32::MIN.into()),
        date => days(date),
    }
}

fn timestamp(text: &str) -> Option<i128> {
    match text {
        "infinity" => Some(INFINITY_US),
        "-infinity" => Some(MINUS_INFINITY_US),
        text => instant(text),
    }
}

fn zoned_timestamp(text: &str, digits: u8) -> Option<String> {
    if matches!(text, "infinity" | "-infinity") {
        return Some(text.to_owned());
    }
    Some(crate::calendar::utc(instant(text)?, digits))
}

/// `13:51:30.12+02`
fn zoned_time(text: &str) -> Option<String> {
    let sign = text.rfind(['+', '-'])?;
    let offset = zone(&text[sign..])?;
    let us = time_of_day(&text[..sign])? - offset;
    let us = if us == DAY_US { us } else { us.rem_euclid(DAY_US) };
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let fraction = format!(".{fraction:06}");
    Some(format!(
        "{:02}:{:02}:{:02}{}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        fraction.trim_end_matches('0').trim_end_matches('.')
    ))
}

/// `1 year 2 mons -3 days +04:05:06.789`
fn interval(text: &str) -> Option<i128> {
    match text {
        "infinity" => return Some(i64::MAX.into()),
        "-infinity" => return Some(i64::MIN.into()),
        "" => return None,
        _ => {}
    }
    let (mut us, mut words) = (0_i128, text.split(' '));
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (sign, time) = match word.strip_prefix('-') {
                Some(time) => (-1, time),
                None => (1, word.strip_prefix('+').unwrap_or(word)),
            };
            us += sign * i128::from(time_of_day(time)?);
            continue;
        }
        let number: i32 = word.parse().ok()?;
        let unit = match words.next()?.trim_end_matches('s') {
            "year" => 12 * MONTH_US,
            "mon" => MONTH_US,
            "day" => DAY_US.into(),
            _ => return None,
        };
        us += i128::from(number) * unit;
    }
    Some(us)
}

/// As few bytes as the highest bit that is set needs, the last eight bits first.
fn bits(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_start_matches('0').as_bytes();
    text.rchunks(8)
        .map(|eight| {
            eight.iter().try_fold(0, |byte: u8, bit| match bit {
                b'0' => Some(byte << 1),
                b'1' => Some(byte << 1 | 1),
                _ => None,
            })
        })
        .collect()
}

/// The bytes of `\x00ff`.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = digits.chunks(2).map(|two| match two {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// `[0:1]={1,2}` is told as `{1,2}`.
fn after_bounds(text: &str) -> Option<&str> {
    if text.starts_with('[') {
        text.split_once('=').map(|(_, rest)| rest)
    } else {
        Some(text)
    }
}

/// An array at the beginning of the text; what follows it.
fn array<'a>(element: &Kind, between: u8, text: &'a str, out: &mut Vec<u8>, depth: usize) -> Option<&'a str> {
    let mut rest = text.strip_prefix('{').filter(|_| depth < MAX_DIMENSIONS)?;
    out.push(b'[');
    if let Some(rest) = rest.strip_prefix('}') {
        out.push(b']');
        return Some(rest);
    }
    loop {
        rest = if rest.starts_with('{') {
            array(element, between, rest, out, depth + 1)?
        } else {
            one(element, between, rest, out)?
        };
        match *rest.as_bytes().first()? {
            b'}' => {
                out.push(b']');
                return Some(&rest[1..]);
            }
            byte if byte == between => {
                out.push(b',');
                rest = &rest[1..];
            }
            _ => return None,
        }
    }
}

/// An element at the beginning of the text.
fn one<'a>(element: &Kind, between: u8, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['}', between as char])?;
        match &text[..end] {
            "NULL" => out.extend_from_slice(b"null"),
            plain => element.write(plain.as_bytes(), out),
        }
        return Some(&text[end..]);
    };
    let (mut value, mut letters) = (String::new(), quoted.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                element.write(value.as_bytes(), out);
                return Some(&quoted[at + 1..]);
            }
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(type_name: &str, text: &str) -> String {
        let mut out = Vec::new();
        Kind::of(type_name).write(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Values that Debezium's own tests and pages have, where they have one.
    #[test]
    fn values_are_what_a_consumer_of_debezium_reads() {
        for (type_name, text, expected) in [
            ("integer", "-7", "-7"),
            ("oid", "4294967295", "4294967295"),
            ("double precision", "1e+300", "1e+300"),
            ("real", "NaN", "\"NaN\""),
            ("double precision", "1e311", "\"1e311\""),
            ("real", "-Infinity", "\"-Infinity\""),
            ("boolean", "t", "true"),
            ("numeric", "1.10", "\"1.10\""),
            ("numeric(20,4)", "-12345678901234.5000", "\"-12345678901234.5000\""),
            ("numeric", "NaN", "\"NAN\""),
            ("numeric", "Infinity", "\"POSITIVE_INFINITY\""),
            ("date", "2016-11-04", "17109"),
            ("date", "1969-12-31", "-1"),
            ("date", "0001-01-01 BC", "-719528"),
            ("date", "infinity", "2147483647"),
            ("date", "-infinity", "-2147483648"),
            ("time without time zone", "13:51:30.123789", "49890123789"),
            ("time(3) without time zone", "13:51:30.123", "49890123"),
            ("time without time zone", "24:00:00", "86400000000"),
            ("time with time zone", "13:51:30.123789+02", "\"11:51:30.123789Z\""),
            ("time with time zone", "13:51:30-05:30", "\"19:21:30Z\""),
            ("time with time zone", "24:00:00+00", "\"24:00:00Z\""),
            ("time(1) with time zone", "00:30:00.5+01", "\"23:30:00.5Z\""),
            (
                "timestamp without time zone",
                "2016-11-04 13:51:30.123456",
                "1478267490123456",
            ),
            (
                "timestamp(3) without time zone",
                "2016-11-04 13:51:30.123",
                "1478267490123",
            ),
            ("timestamp(0) without time zone", "2016-11-04 13:51:30", "1478267490000"),
            (
                "timestamp without time zone",
                "21016-11-04 13:51:30.123456",
                "601060312290123456",
            ),
            (
                "timestamp without time zone",
                "1936-10-25 22:10:12.608",
                "-1047174587392000",
            ),
            ("timestamp without time zone", "infinity", "9223372036825200000"),
            ("timestamp without time zone", "-infinity", "-9223372036832400000"),
            ("timestamp(3) without time zone", "infinity", "9223372036825200"),
            (
                "timestamp with time zone",
                "2016-11-04 13:51:30.123456+02",
                "\"2016-11-04T11:51:30.123456Z\"",
            ),
            (
                "timestamp with time zone",
                "2016-11-04 13:51:30+00",
                "\"2016-11-04T13:51:30.000000Z\"",
            ),
            (
                "timestamp(3) with time zone",
                "2016-11-04 13:51:30.1+00",
                "\"2016-11-04T13:51:30.100Z\"",
            ),
            (
                "timestamp(0) with time zone",
                "2016-11-04 13:51:30+00",
                "\"2016-11-04T13:51:30Z\"",
            ),
            (
                "timestamp with time zone",
                "21016-11-04 13:51:30+02",
                "\"+21016-11-04T11:51:30.000000Z\"",
            ),
            (
                "timestamp with time zone",
                "0044-03-15 12:00:00+00 BC",
                "\"-0043-03-15T12:00:00.000000Z\"",
            ),
            ("timestamp with time zone", "infinity", "\"infinity\""),
            ("interval", "1 year 2 mons 3 days 04:05:06.00078", "37091106000780"),
            ("interval", "-1 mons +1 day -00:00:01", "-2543401000000"),
            ("interval", "00:00:00", "0"),
            ("interval(3)", "1 day", "86400000000"),
            ("interval day to second(3)", "1 day", "86400000000"),
            ("bit(1)", "1", "true"),
            ("bit(8)", "00000101", "\"BQ==\""),
            ("bit varying(40)", "100000000", "\"AAE=\""),
            ("bit varying", "", "\"\""),
            ("bytea", "\\x00ff", "\"AP8=\""),
            (
                "uuid",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
            ),
            ("jsonb", "{\"a\": 1}", "\"{\\\"a\\\": 1}\""),
            ("money", "$1.00", "\"$1.00\""),
            ("integer[]", "{1,NULL,3}", "[1,null,3]"),
            ("integer[]", "{}", "[]"),
            ("integer[]", "[0:1]={1,2}", "[1,2]"),
            ("integer[]", "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
            (
                "text[]",
                "{a,\"b,c\",\"d\\\"\\\\e\",\"NULL\",NULL}",
                "[\"a\",\"b,c\",\"d\\\"\\\\e\",\"NULL\",null]",
            ),
            ("date[]", "{2016-11-04,infinity}", "[17109,2147483647]"),
            (
                "timestamp(3) without time zone[]",
                "{\"2016-11-04 13:51:30.123\"}",
                "[1478267490123]",
            ),
            (
                "box[]",
                "{(2,2),(1,1);(4,4),(3,3)}",
                "[\"(2,2),(1,1)\",\"(4,4),(3,3)\"]",
            ),
        ] {
            assert_eq!(told(type_name, text), expected, "{type_name} {text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_as_it_is() {
        for (type_name, text) in [
            ("date", "26.11.2026"),
            ("date", "2026-13-01"),
            ("timestamp without time zone", "Thu Nov 26 15:04:05 2026"),
            ("time without time zone", "25:00"),
            ("interval", "@ 1 day"),
            ("bytea", "a\\\\b"),
            ("bytea", "\\xf"),
            ("integer[]", "{1"),
            ("integer[]", "{1}}"),
        ] {
            let expected = serde_json::to_string(text).unwrap();
            assert_eq!(told(type_name, text), expected, "{type_name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_told_as_json(kind in 0usize..14, text: String, likely in "[-+0-9:. \\[\\]{},=\"BCinfty]{0,30}") {
            let names = [
                "integer", "boolean", "numeric", "date", "time without time zone", "time with time zone", "timestamp without time zone",
                "timestamp(2) with time zone", "interval", "bit(1)", "bit varying", "bytea", "integer[]", "timestamp with time zone[]",
            ];
            for text in [text, likely] {
                let told = told(names[kind], &text);
                prop_assert!(serde_json::from_str::<serde_json::Value>(&told).is_ok(), "{}", told);
            }
        }
    }
}
