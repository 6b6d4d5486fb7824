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
    worker::connect(argument.value() as u32, &[(c"application_name", c"synod rejoin")]);
    barrier::exempt_this_process();
    BackgroundWorker::transaction(crate::group::rejoin::see_to_it);
}
