//! Facts about this server and this session that never raise.

use std::ffi::CStr;

use pgrx::pg_sys;

/// The number that initdb gave this data directory; copies share it.
pub fn system_identifier() -> u64 {
    // SAFETY: reads the control file's copy in shared memory, attached in every process of the server.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// A secret that initdb made, of 32 bytes (`MOCK_AUTH_NONCE_LEN`): in the control file, which no SQL function shows, and the same in copies.
pub fn secret() -> [u8; 32] {
    // SAFETY: as above; a pointer to so many bytes.
    unsafe { pg_sys::GetMockAuthenticationNonce().cast::<[u8; 32]>().read_unaligned() }
}

/// Oid of this session's database; 0 in processes without one.
pub fn database() -> u32 {
    // SAFETY: reads a global of this process.
    u32::from(unsafe { pg_sys::MyDatabaseId })
}

/// Number of the server's version, e.g. 150020.
pub fn version_number() -> u32 {
    pg_sys::PG_VERSION_NUM
}

/// Encoding of this session's database, by PostgreSQL's name.
pub fn encoding() -> String {
    // SAFETY: returns a static string.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }
        .to_string_lossy()
        .into_owned()
}

/// Inside BEGIN, or with other statements in one string.
pub fn in_transaction_block() -> bool {
    // SAFETY: reads this session's transaction state.
    unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() }
}

/// The server replays WAL.
pub fn recovering() -> bool {
    // SAFETY: reads shared memory that exists since server start.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The setting that limits replication origins.
pub fn origin_setting() -> &'static str {
    if cfg!(feature = "pg18") {
        "max_active_replication_origins"
    } else {
        "max_replication_slots"
    }
}

/// How many replication origins can be active.
pub fn max_origins() -> i64 {
    // SAFETY: reads a setting that is fixed at server start.
    unsafe {
        #[cfg(feature = "pg18")]
        let limit = pg_sys::max_active_replication_origins;
        #[cfg(not(feature = "pg18"))]
        let limit = pg_sys::max_replication_slots;
        i64::from(limit)
    }
}

/// Free and all bytes of the file system that holds a path, as an ordinary process may use them.
pub fn disk_space(path: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs is valid when zeroed; the path is NUL-terminated.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut found) == 0).then_some(found)
    }?;
    Some((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
}

/// Microseconds of the clock that all processes share and nobody sets.
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct; CLOCK_MONOTONIC is the same for all processes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// This process' id.
pub fn my_pid() -> i32 {
    // SAFETY: reads a global of this process.
    unsafe { pg_sys::MyProcPid }
}

/// Whether a process of this server with this id exists; 0 is none.
pub fn alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    pid > 0 && unsafe { libc::kill(pid, 0) } == 0
}

/// Let two directories of one file system change places, in one step (renameat2(2), Linux 3.15).
pub fn exchange_directories(one: &std::path::Path, other: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let [one, other] = [one, other].map(|path| std::ffi::CString::new(path.as_os_str().as_bytes()));
    let (one, other) = (one?, other?);
    // SAFETY: both paths are C strings that live until the call returns.
    let outcome = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Ask a process of this server to end; 0 is none.
pub fn terminate(pid: i32) {
    if pid > 0 {
        // SAFETY: the pid is of a background worker that we registered, or of a link that holds a ring until it exits; a stale
        // one is of a process that has just ended.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}
