//! The worker `synod rejoin worker for database N`: started by the launcher for a node that cannot go on from its own log,
//! or that lacks its vote; does one attempt and ends. What it does is `crate::group::rejoin`.

use pgrx::bgworkers::BackgroundWorker;
use pgrx::{pg_guard, pg_sys};

use super::{barrier, worker};

/// Entry point; the argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn synod_rejoin_worker_main(argument: pg_sys::Datum) {
    worker::start_with_interrupts();
    // SAFETY: start of a background worker with database access.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(argument.value() as u32),
            pg_sys::InvalidOid,
            0,
        );
        pg_sys::SetConfigOption(
            c"application_name".as_ptr(),
            c"synod rejoin".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
    barrier::exempt_this_process();
    BackgroundWorker::transaction(crate::group::rejoin::see_to_it);
}
