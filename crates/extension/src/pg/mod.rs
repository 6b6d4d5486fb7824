//! Everything that calls into the server. The only place in the extension with `unsafe`.
#![allow(
    static_mut_refs,
    reason = "the server's globals are process-local and used from its one main thread"
)]

use std::os::unix::ffi::OsStrExt;

pub mod apply;
pub mod apply_worker;
pub mod arguments;
pub mod audit;
pub mod barrier;
pub mod capture;
pub mod catalog;
pub mod client;
pub mod clock;
pub mod compat;
pub mod context;
pub mod copy;
pub mod ddl;
pub mod decode;
pub mod definition;
pub mod encoding;
pub mod error_rewrite;
pub mod expected;
pub mod failpoint;
pub mod format;
pub mod give_way;
pub mod guard;
pub mod hierarchy;
pub mod hold;
pub mod hooks;
pub mod keys;
pub mod latch;
pub mod latest;
pub mod launcher;
pub mod link;
pub mod list;
pub mod log_worker;
pub mod logical_message;
pub mod mixed;
pub mod nested;
pub mod origin_state;
pub mod own_tables;
pub mod owner;
pub mod peers;
pub mod poller;
pub mod portable;
pub mod progress;
pub mod protect;
pub mod random;
pub mod range_table;
pub mod recent;
pub mod rejoin_worker;
pub mod relation;
pub mod relcache;
pub mod repair;
pub mod replicable;
pub mod replicate;
pub mod ring;
pub mod row;
pub mod row_lock;
pub mod scratch;
pub mod sequence;
pub mod server;
pub mod service;
pub mod shmem;
pub mod slot;
pub mod stream_ddl;
pub mod stream_slots;
pub mod strong_table;
pub mod submit;
pub mod teller;
pub mod threads;
pub mod told_row;
pub mod turn;
pub mod wait_event;
pub mod wait_set;
pub mod wire;
pub mod worker;
pub mod written;
pub mod xact;

pub use synod_libpq as libpq;

/// True while `shared_preload_libraries` is being loaded.
pub fn preloading() -> bool {
    // SAFETY: reads a global of this process.
    unsafe { pgrx::pg_sys::process_shared_preload_libraries_in_progress }
}

/// True in a server that `pg_upgrade` runs.
pub fn upgrading() -> bool {
    // SAFETY: a global that is set before libraries are loaded.
    unsafe { pgrx::pg_sys::IsBinaryUpgrade }
}

/// Make misspelt `synod.*` settings an error.
pub fn reserve_prefix() {
    // SAFETY: called once from _PG_init, after our settings are defined.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(c"synod".as_ptr()) }
}

/// Where RUST_BACKTRACE is set for the server, pgrx would put a backtrace into the DETAIL of each error that passes it, for clients to
/// read. The standard library looks at its variables once, at the first backtrace that is asked for: that is now.
pub fn keep_backtraces_from_clients() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(VARIABLE);
    // SAFETY: inside _PG_init, in a process with one thread.
    unsafe { std::env::set_var(VARIABLE, "0") };
    drop(std::backtrace::Backtrace::capture());
    // SAFETY: as above.
    unsafe {
        match before {
            Some(before) => std::env::set_var(VARIABLE, before),
            None => std::env::remove_var(VARIABLE),
        }
    }
}

/// The server's data directory.
pub fn data_directory() -> std::path::PathBuf {
    // SAFETY: DataDir is set once at server start.
    let directory = unsafe { std::ffi::CStr::from_ptr(pgrx::pg_sys::DataDir) };
    std::path::PathBuf::from(std::ffi::OsStr::from_bytes(directory.to_bytes()))
}

/// `PG_VERSION_NUM` of the server this was built for.
pub fn server_version() -> u32 {
    pgrx::pg_sys::PG_VERSION_NUM
}

/// When this server (not this process) started.
pub fn server_start() -> std::time::SystemTime {
    // SAFETY: set once in the postmaster; microseconds since 2000-01-01, which is 946,684,800 s after the epoch of Unix.
    let microseconds = unsafe { pgrx::pg_sys::PgStartTime } + 946_684_800_000_000;
    std::time::UNIX_EPOCH + std::time::Duration::from_micros(microseconds.unsigned_abs())
}
