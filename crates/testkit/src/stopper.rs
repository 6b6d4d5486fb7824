//! The end of a test's clients.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells the threads of a scope to end, also when the test panics: the scope waits for them.
pub struct Stopper<'a>(pub &'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
