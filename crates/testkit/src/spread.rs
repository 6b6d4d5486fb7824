//! Median and extremes.

/// What repetitions of a measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The lowest.
    pub low: f64,
    /// The one in the middle.
    pub median: f64,
    /// The highest.
    pub high: f64,
}

/// Of these values; zeros if there are none.
pub fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    let (half, last) = (values.len() / 2, values.len().saturating_sub(1));
    let median = if values.len().is_multiple_of(2) && !values.is_empty() {
        f64::midpoint(at(half - 1), at(half))
    } else {
        at(half)
    };
    Spread {
        low: at(0),
        median,
        high: at(last),
    }
}

/// The median, and the ends of the middle half, for what varies more than it differs.
pub fn middle_half(mut values: Vec<f64>) -> Spread {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    let (low, high) = (
        at(values.len() / 4),
        at((values.len() * 3 / 4).min(values.len().saturating_sub(1))),
    );
    Spread {
        low,
        high,
        ..spread(values)
    }
}
