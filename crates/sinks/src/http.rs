//! What HTTP endpoints answer.

use std::time::{Duration, SystemTime};

/// `Retry-After`: seconds, or a date.
#[must_use]
pub fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let until = || httpdate::parse_http_date(text).ok()?.duration_since(now).ok();
    text.parse().ok().map(Duration::from_secs).or_else(until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_header_panics(text: String) {
            let _ = parse_retry_after(&text, SystemTime::now());
        }
    }

    #[test]
    fn pauses_are_seconds_or_a_date_to_come() {
        let told = |text| parse_retry_after(text, SystemTime::now());
        assert_eq!(told(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(told("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert!(told("Fri, 21 Oct 2157 07:28:00 GMT") > Some(Duration::from_secs(1_000_000)));
        assert_eq!(told("-1"), None);
    }
}
