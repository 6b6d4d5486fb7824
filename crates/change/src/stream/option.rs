//! Values of a reader's options.

/// An option that cannot be what it was given as. Becomes SQLSTATE 22023.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OptionError {
    /// Short, lower case.
    pub message: String,
    /// What would be right, a sentence; or empty.
    pub hint: String,
}

impl OptionError {
    /// `value` is nothing that `option` can be. In the words of `test_decoding`.
    #[must_use]
    pub fn invalid(option: &str, value: Option<&[u8]>, hint: impl Into<String>) -> Self {
        let message = match value {
            Some(value) => format!(
                "could not parse value \"{}\" for parameter \"{option}\"",
                String::from_utf8_lossy(value)
            ),
            None => format!("option \"{option}\" needs a value"),
        };
        Self {
            message,
            hint: hint.into(),
        }
    }
}

/// A Boolean as PostgreSQL reads one: true, yes, on, 1 and their opposites, in any case, shortened if unambiguous. The name of the
/// option alone means true.
///
/// # Errors
/// It is none of these.
pub fn boolean(option: &str, value: Option<&[u8]>) -> Result<bool, OptionError> {
    let Some(given) = value else { return Ok(true) };
    let lower = given.to_ascii_lowercase();
    let is = |word: &str, least: usize| lower.len() >= least && word.as_bytes().starts_with(&lower);
    if is("true", 1) || is("yes", 1) || is("on", 2) || is("1", 1) {
        Ok(true)
    } else if is("false", 1) || is("no", 1) || is("off", 2) || is("0", 1) {
        Ok(false)
    } else {
        Err(OptionError::invalid(option, value, "It is Boolean: on or off."))
    }
}

/// A whole number within `range`.
///
/// # Errors
/// It is not.
pub fn integer(option: &str, value: Option<&[u8]>, range: std::ops::RangeInclusive<u64>) -> Result<u64, OptionError> {
    value
        .and_then(|value| std::str::from_utf8(value).ok())
        .and_then(|value| value.parse().ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let hint = format!("It is a whole number from {} to {}.", range.start(), range.end());
            OptionError::invalid(option, value, hint)
        })
}

/// The number of the one that it is of `words`.
///
/// # Errors
/// It is none of them.
pub fn word(option: &str, value: Option<&[u8]>, words: &[&str]) -> Result<usize, OptionError> {
    let given = value.unwrap_or_default();
    words
        .iter()
        .position(|word| word.as_bytes() == given)
        .ok_or_else(|| OptionError::invalid(option, value, format!("It is {}.", words.join(" or "))))
}

/// The option `without-identity` of several formats: whether changes of which nothing says which row they are of are skipped.
///
/// # Errors
/// Neither `tell` nor `skip`.
pub fn without_identity(option: &str, value: Option<&[u8]>) -> Result<bool, OptionError> {
    Ok(word(option, value, &["tell", "skip"])? == 1)
}

#[cfg(test)]
mod tests {
    use super::{boolean, integer};

    #[test]
    fn booleans_are_read_as_the_server_reads_them() {
        for yes in ["t", "TRUE", "y", "yes", "on", "1"] {
            assert_eq!(boolean("x", Some(yes.as_bytes())), Ok(true), "{yes}");
        }
        for no in ["f", "False", "n", "no", "of", "off", "0"] {
            assert_eq!(boolean("x", Some(no.as_bytes())), Ok(false), "{no}");
        }
        assert_eq!(boolean("x", None), Ok(true));
        for neither in ["", "o", "2", "truer", "10"] {
            assert!(boolean("x", Some(neither.as_bytes())).is_err(), "{neither}");
        }
    }

    #[test]
    fn numbers_keep_their_range() {
        assert_eq!(integer("x", Some(b"2"), 1..=2), Ok(2));
        for wrong in [None, Some(&b"0"[..]), Some(b"3"), Some(b"-1"), Some(b"1.0"), Some(b"")] {
            assert!(integer("x", wrong, 1..=2).is_err(), "{wrong:?}");
        }
    }
}
