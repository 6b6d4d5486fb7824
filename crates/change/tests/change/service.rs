//! Ranges of sequences: inside the sequence's limits, on its steps, never twice.

use proptest::prelude::*;
use synod_change::{Grant, TableId};

use crate::made;

proptest! {
    #[test]
    fn a_range_is_new_and_within_the_limits(grant in made::grant(), granted in any::<Option<i64>>()) {
        let Some((first, last)) = grant.range(granted) else { return Ok(()) };
        let limits = grant.least..=grant.greatest;
        prop_assert!(limits.contains(&first) && limits.contains(&last));
        let (from, to, step) = (i128::from(first), i128::from(last), i128::from(grant.increment));
        prop_assert_eq!((to - from) % step, 0);
        prop_assert!((to - from) / step < i128::from(grant.count));
        prop_assert!((to - from) / step >= 0);
        if grant.exact {
            prop_assert_eq!(first, grant.first);
        }
        if let Some(granted) = granted.filter(|_| !grant.cycle) {
            let is_new = if step > 0 { first > granted } else { first < granted };
            prop_assert!(is_new);
        }
    }
}

fn ask(first: i64, count: u64, increment: i64) -> Grant {
    Grant {
        feeds: vec![(TableId(1), 0)],
        first,
        count,
        increment,
        least: 1,
        greatest: 32_767,
        cycle: false,
        exact: false,
    }
}

#[test]
fn ranges_follow_each_other() {
    assert_eq!(ask(1, 100, 1).range(None), Some((1, 100)));
    assert_eq!(ask(1, 100, 1).range(Some(100)), Some((101, 200)));
    assert_eq!(ask(5_000, 100, 1).range(Some(100)), Some((5_000, 5_099)));
    assert_eq!(ask(1, 100, 1).range(Some(32_700)), Some((32_701, 32_767)));
    assert_eq!(ask(1, 100, 1).range(Some(32_767)), None);
    assert_eq!(ask(5, 3, 10).range(Some(5)), Some((15, 35)));
    let down = Grant {
        least: -100,
        greatest: -1,
        ..ask(-1, 10, -1)
    };
    assert_eq!(down.range(None), Some((-1, -10)));
    assert_eq!(down.range(Some(-95)), Some((-96, -100)));
}

#[test]
fn exactly_there_or_not_at_all() {
    let exact = Grant {
        exact: true,
        ..ask(101, 10, 1)
    };
    assert_eq!(exact.range(Some(100)), Some((101, 110)));
    assert_eq!(exact.range(Some(101)), None);
}

#[test]
fn a_cycle_begins_again() {
    let cycle = Grant {
        cycle: true,
        ..ask(1, 10, 1)
    };
    assert_eq!(cycle.range(Some(32_767)), Some((1, 10)));
}
