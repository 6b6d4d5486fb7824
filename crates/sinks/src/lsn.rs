//! Positions in the WAL, as PostgreSQL writes them: `16/B374D848`.

/// For people and for SQL.
#[must_use]
pub fn text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// The other way round.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| {
        let plausible = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        plausible.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some((part(high)? << 32) | part(low)?)
}

/// For the command line.
pub fn argument(text: &str) -> Result<u64, String> {
    parse(text).ok_or_else(|| "a position in the WAL looks like 16/B374D848".into())
}

#[cfg(test)]
mod tests {
    use super::{parse, text};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(lsn: u64) {
            prop_assert_eq!(parse(&text(lsn)), Some(lsn));
        }

        #[test]
        fn nothing_panics(text: String) {
            let _ = parse(&text);
        }
    }

    #[test]
    fn what_is_no_position_is_none() {
        for wrong in ["", "/", "0", "0/", "/0", "+1/0", "100000000/0", "0/G", "0/0/0", " 0/0"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
