//! Whether this session has Synod's replication origin set up. A process has one main thread that asks.

use std::sync::atomic::{AtomicBool, Ordering};

static SET_UP: AtomicBool = AtomicBool::new(false);

/// Remember.
pub fn set(value: bool) {
    SET_UP.store(value, Ordering::Relaxed);
}

/// Ask and forget.
pub fn take() -> bool {
    SET_UP.swap(false, Ordering::Relaxed)
}
