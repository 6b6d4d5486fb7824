//! Shared-memory byte rings between link backends and log workers.

/// Bytes of shared memory that the rings need.
pub fn shmem_size() -> usize {
    64
}

/// Initialise the rings (`found`: another process did already).
///
/// # Safety
/// `base` points at `shmem_size()` bytes of shared memory.
pub unsafe fn shmem_init(base: *mut u8, found: bool) {
    let _ = (base, found);
}
