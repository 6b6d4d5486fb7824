//! Transaction callbacks: seal and submit the record before commit, commit in turn, clean up.

/// Register the callbacks. From `_PG_init` in the postmaster: backends inherit them.
pub fn init() {}
