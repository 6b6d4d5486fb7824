//! The history of a server's timelines, as `TIMELINE_HISTORY` tells it: a line for each timeline that was left, with the position at which
//! it was.

use crate::lsn;

/// Where this timeline was left; `None`: the server never was on it. Positions up to there mean the same on both.
#[must_use]
pub fn left_at(history: &str, timeline: u32) -> Option<u64> {
    history.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let number: u32 = words.next()?.parse().ok()?;
        let position = lsn::parse(words.next()?)?;
        (number == timeline).then_some(position)
    })
}

#[cfg(test)]
mod tests {
    use super::left_at;
    use proptest::prelude::*;

    #[test]
    fn a_timeline_was_left_where_its_line_says() {
        let history = "1\t0/3000148\tno recovery target specified\n\n# made by hand\n2\t0/5000000\tbefore 2026-11-26 10:00:00+00\n";
        assert_eq!(left_at(history, 1), Some(0x300_0148));
        assert_eq!(left_at(history, 2), Some(0x500_0000));
        assert_eq!(left_at(history, 3), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(history: String, timeline: u32) {
            let _ = left_at(&history, timeline);
        }
    }
}
