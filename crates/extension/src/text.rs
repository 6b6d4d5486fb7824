//! Binary values as SQL literals write them.

use std::fmt::Write;

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The text form of a uuid.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    )
}

/// Bytes from hexadecimal digits; `None` when they are none.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

/// A connection string without its password, for views. Both forms that libpq takes: `key=value` and URI.
pub fn without_password(dsn: &str) -> String {
    if let Some((scheme, rest)) = dsn.split_once("://") {
        let host_at = rest.find('/').unwrap_or(rest.len());
        let Some(at) = rest[..host_at].rfind('@') else {
            return dsn.to_owned();
        };
        let user = rest[..at].split(':').next().unwrap_or_default();
        return format!("{scheme}://{user}{}", &rest[at..]);
    }
    let mut kept = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let end = setting_end(rest);
        let (setting, after) = rest.split_at(end);
        if setting.split('=').next().is_none_or(|key| key.trim() != "password") {
            kept.push(setting.trim_end());
        }
        rest = after.trim_start();
    }
    kept.join(" ")
}

/// Where the `key = value` at the start of `text` ends; values may be quoted, with backslashes.
fn setting_end(text: &str) -> usize {
    let Some(equals) = text.find('=') else {
        return text.len();
    };
    let value = text[equals + 1..].trim_start();
    let start = text.len() - value.len();
    let (mut quoted, mut escaped) = (false, false);
    for (offset, character) in value.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            _ if character.is_whitespace() && !quoted => return start + offset,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn passwords_are_not_shown() {
        for (dsn, shown) in [
            ("host=a password=secret dbname=b", "host=a dbname=b"),
            ("password = 'a \\' b' host=c", "host=c"),
            ("host=a", "host=a"),
            (
                "postgresql://user:secret@host:5432/db",
                "postgresql://user@host:5432/db",
            ),
            ("postgres://host/db", "postgres://host/db"),
        ] {
            assert_eq!(without_password(dsn), shown);
        }
    }
}
