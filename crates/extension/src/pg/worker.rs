//! What all background workers do at start and on signals.

use std::ffi::CStr;

use pgrx::pg_guard;
use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// tcop/postgres.c; pgrx binds it as a wrapper that is no C function pointer.
    #[link_name = "die"]
    fn die_raw(signal: i32);
    #[link_name = "SignalHandlerForConfigReload"]
    fn reload_raw(signal: i32);
    #[link_name = "SignalHandlerForShutdownRequest"]
    fn shutdown_raw(signal: i32);
    #[link_name = "procsignal_sigusr1_handler"]
    fn sigusr1_raw(signal: i32);
}

/// Unblock signals: TERM asks for an orderly end ([`shutdown_requested`]), HUP for a reload.
pub fn start() {
    // SAFETY: start of a background worker; the handlers are the server's own.
    unsafe {
        super::compat::on_signal(pg_sys::SIGTERM as i32, Some(shutdown_raw));
        super::compat::on_signal(pg_sys::SIGHUP as i32, Some(reload_raw));
        super::compat::on_signal(pg_sys::SIGUSR1 as i32, Some(sigusr1_raw));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// As [`start`] for a worker that runs transactions: TERM interrupts it like a backend.
pub fn start_with_interrupts() {
    // SAFETY: as above.
    unsafe {
        super::compat::on_signal(pg_sys::SIGTERM as i32, Some(die_raw));
        super::compat::on_signal(pg_sys::SIGHUP as i32, Some(reload_raw));
        super::compat::on_signal(pg_sys::SIGUSR1 as i32, Some(sigusr1_raw));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// A setting, and its value.
pub type Setting = (&'static CStr, &'static CStr);

/// What no worker leaves to the database or the role.
const ALWAYS: [Setting; 7] = [
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"DateStyle", c"ISO, YMD"),
    (c"TimeZone", c"UTC"),
];

/// Connect to a database as the bootstrap superuser, with these settings, and those of all workers, whatever the database or the role says.
pub fn connect(database: u32, settings: &[Setting]) {
    // SAFETY: start of a background worker with database access.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(database), pg_sys::InvalidOid, 0) }
    // What a worker does takes as long as it takes: begun anew for ever it would never be done.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    set(c"transaction_timeout", c"0");
    for (name, value) in ALWAYS.iter().chain(settings) {
        set(name, value);
    }
}

/// Change a setting of this worker for good.
pub fn set(name: &CStr, value: &CStr) {
    let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
    // SAFETY: a connected background worker; both are copied.
    unsafe { pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source) }
}

/// TERM arrived.
pub fn shutdown_requested() -> bool {
    // SAFETY: a flag set by the signal handler of this process.
    unsafe { std::ptr::read_volatile(&raw const pg_sys::ShutdownRequestPending) != 0 }
}

/// Reload the configuration if HUP arrived.
#[pg_guard]
pub extern "C-unwind" fn reload_if_asked() {
    // SAFETY: main loop of a background worker.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
