//! Dates and times as PostgreSQL prints them (`DateStyle=ISO`), and as numbers.
//!
//! The Gregorian calendar reaches back without a gap, as PostgreSQL has it, and ISO 8601: 1 BC is the year 0.

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Days from 0000-03-01, by which leap days come last, to 1970-01-01.
const TO_1970: i64 = 719_468;
/// Of 400 years.
const ERA_DAYS: i64 = 146_097;

/// Days since 1970-01-01 of `2026-11-26` or `0044-03-15 BC`.
#[must_use]
pub fn days(text: &str) -> Option<i64> {
    let (text, bc) = era(text);
    date(text, bc)
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Hinnant, "chrono-compatible low-level date algorithms".
fn date(text: &str, bc: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let mut part = |digits: std::ops::RangeInclusive<usize>| {
        let part = parts.next()?;
        let plain = digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| part.parse::<i64>().ok()).flatten()
    };
    let (year, month, day) = (part(4..=7)?, part(2..=2)?, part(2..=2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if bc { 1 - year } else { year } - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - TO_1970)
}

/// Microseconds of `13:51:30.12`; hours may be any number, for an interval.
#[must_use]
pub fn time_of_day(text: &str) -> Option<i64> {
    let (text, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = text.split(':');
    let mut part = |most: i64, long: usize| {
        let part = parts.next()?;
        let plain = (2..=long).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        plain
            .then(|| part.parse::<i64>().ok())
            .flatten()
            .filter(|number| *number <= most)
    };
    // As many hours as an interval can have.
    let (hours, minutes, seconds) = (part(2_562_047_788, 10)?, part(59, 2)?, part(60, 2)?);
    let plain = (1..=6).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if parts.next().is_some() || !plain {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction)
}

/// Microseconds east of Greenwich of `+02`, `-05:30` or `+00:01:15`.
#[must_use]
pub fn zone(text: &str) -> Option<i64> {
    let (sign, text) = match text.split_at_checked(1)? {
        ("+", text) => (1, text),
        ("-", text) => (-1, text),
        _ => return None,
    };
    let mut seconds = 0;
    let mut unit = 3_600;
    for part in text.split(':') {
        if part.len() != 2 || unit == 0 {
            return None;
        }
        seconds += part.parse::<u8>().map(i64::from).ok()? * unit;
        unit /= 60;
    }
    Some(sign * seconds * 1_000_000)
}

/// Microseconds since 1970-01-01 UTC of `2026-11-26 15:04:05.123456+02 BC`; without a zone it is taken for UTC.
#[must_use]
pub fn instant(text: &str) -> Option<i128> {
    let (text, bc) = era(text);
    let (day, time) = text.split_once(' ')?;
    let (time, offset) = match time.find(['+', '-']) {
        Some(sign) => (&time[..sign], zone(&time[sign..])?),
        None => (time, 0),
    };
    let time = time_of_day(time).filter(|time| *time <= DAY_US)?;
    Some(i128::from(date(day, bc)?) * i128::from(DAY_US) + i128::from(time - offset))
}

/// ISO 8601, with so many digits of a second, from microseconds since 1970-01-01 UTC.
#[must_use]
pub fn utc(us: i128, digits: u8) -> String {
    let day = us.div_euclid(DAY_US.into());
    let rest = i64::try_from(us.rem_euclid(DAY_US.into())).unwrap_or_default();
    let day = i64::try_from(day).unwrap_or_default().saturating_add(TO_1970);
    let (era, of_era) = (day.div_euclid(ERA_DAYS), day.rem_euclid(ERA_DAYS));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        10_000.. => format!("+{year}"),
        _ => format!("-{:04}", -year),
    };
    let seconds = rest / 1_000_000;
    let fraction = format!(".{:06}", rest % 1_000_000);
    let fraction = if digits == 0 {
        ""
    } else {
        &fraction[..=usize::from(digits.min(6))]
    };
    format!(
        "{year}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}{fraction}Z",
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
        const TO_2000_US: i128 = 946_684_800_000_000;
        for (us, expected) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (60 * 86_400_000_000, "2000-03-01T00:00:00.000000Z"),
            (59 * 86_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (846_810_123_000_000, "2026-11-01T01:02:03.000000Z"),
        ] {
            assert_eq!(utc(us + TO_2000_US, 6), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(us in -200_000_000_000_000_000_i64..200_000_000_000_000_000) {
            let text = utc(us.into(), 6).replace('T', " ").replace('Z', "+00");
            if !text.starts_with(['+', '-']) {
                prop_assert_eq!(instant(&text), Some(us.into()));
            }
        }

        #[test]
        fn nothing_panics(text: String, likely in "[-+0-9:. BC]{0,30}", us: i64, digits: u8) {
            for text in [&text, &likely] {
                let _ = (days(text), time_of_day(text), zone(text), instant(text));
            }
            let _ = utc(us.into(), digits);
            let _ = utc(i128::MAX, digits);
        }
    }
}
