//! The clock that leases go by.

use std::time::Duration;

/// Time since some moment in the past. It goes on while a process is stopped and while the machine sleeps, and nobody sets
/// it. `None` where the system has no such clock.
pub fn awake_and_asleep() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes the struct that it is given.
        let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) } == 0;
        done.then(|| Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
    }
    #[cfg(not(target_os = "linux"))]
    None
}
