//! Growing pauses between attempts, with some chance in them so that many clients do not come back at the same moment.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use super::Stop;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// No pause is longer, unless the other side asks for it.
const LONGEST: Duration = Duration::from_secs(30);
/// What the other side may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

/// The pauses of one thing that is tried again and again.
#[derive(Debug)]
pub struct Pauses {
    next: Duration,
    chance: RandomState,
    made: u64,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            next: FIRST,
            chance: RandomState::new(),
            made: 0,
        }
    }
}

impl Pauses {
    /// It worked: the next pause is a short one again.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now; `asked`: what the other side wants.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        self.made += 1;
        // Between half of it and all of it.
        let mut hasher = self.chance.build_hasher();
        hasher.write_u64(self.made);
        let part = (hasher.finish() % 512) as u32;
        let pause = pause / 2 + pause / 1_024 * part;
        asked.map_or(pause, |asked| asked.min(LONGEST_ASKED).max(pause))
    }
}

/// Wait, unless we are to end. True: the time has passed.
pub fn wait(pause: Duration, stop: &Stop) -> bool {
    let until = Instant::now() + pause;
    loop {
        if stop.is_set() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_the_other_side_is_heard() {
        let mut pauses = Pauses::default();
        let first = pauses.next(None);
        assert!((FIRST / 2..=FIRST).contains(&first), "{first:?}");
        for _ in 0..20 {
            assert!(pauses.next(None) <= LONGEST);
        }
        assert!(pauses.next(None) >= LONGEST / 2);
        pauses.reset();
        assert!(pauses.next(None) <= FIRST);
        let asked = Duration::from_secs(7);
        assert_eq!(pauses.next(Some(asked)), asked);
        assert_eq!(pauses.next(Some(Duration::MAX)), LONGEST_ASKED);
    }
}
