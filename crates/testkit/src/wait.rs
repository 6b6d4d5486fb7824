//! Waiting on events with a deadline. Tests never sleep for a fixed time and hope.

use std::time::{Duration, Instant};

/// How often a condition is looked at again: short beside any event waited for, long beside a query.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Calls `condition` until it gives a value.
///
/// # Panics
/// When the deadline passes first, naming `what` was waited for.
#[track_caller]
pub fn wait_until<T>(deadline: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match try_wait_until(deadline, condition) {
        Some(value) => value,
        None => panic!("waited {deadline:?} in vain for: {what}"),
    }
}

/// Like [`wait_until`], with `None` when the deadline passes.
pub fn try_wait_until<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Lets time pass while others work or a fault lasts. Never a wait for an event: that is [`wait_until`].
pub fn let_pass(duration: Duration) {
    std::thread::sleep(duration);
}
