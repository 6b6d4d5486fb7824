//! The server's hooks, each chained to whoever was there before. What is done at each point lives in its own module.

use pgrx::pg_guard;
use pgrx::pg_sys::{self, submodules::ffi::pg_guard_ffi_boundary};

static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

/// Install the hooks.
pub fn init() {
    // SAFETY: called from _PG_init in the postmaster, single-threaded.
    unsafe {
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: called by the executor with a valid QueryDesc; the previous hook has the same contract.
    unsafe {
        match PREVIOUS_START {
            Some(previous) => pg_guard_ffi_boundary(|| previous(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
}

#[cfg(not(feature = "pg18"))]
#[pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: as above.
    unsafe {
        match PREVIOUS_RUN {
            Some(previous) => pg_guard_ffi_boundary(|| previous(query, direction, count, once)),
            None => pg_sys::standard_ExecutorRun(query, direction, count, once),
        }
    }
}

#[cfg(feature = "pg18")]
#[pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: as above.
    unsafe {
        match PREVIOUS_RUN {
            Some(previous) => pg_guard_ffi_boundary(|| previous(query, direction, count)),
            None => pg_sys::standard_ExecutorRun(query, direction, count),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as above.
    unsafe {
        match PREVIOUS_FINISH {
            Some(previous) => pg_guard_ffi_boundary(|| previous(query)),
            None => pg_sys::standard_ExecutorFinish(query),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    source: *const core::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: as above.
    unsafe {
        match PREVIOUS_UTILITY {
            Some(previous) => pg_guard_ffi_boundary(|| {
                previous(
                    statement,
                    source,
                    read_only_tree,
                    context,
                    parameters,
                    environment,
                    receiver,
                    completion,
                );
            }),
            None => pg_sys::standard_ProcessUtility(
                statement,
                source,
                read_only_tree,
                context,
                parameters,
                environment,
                receiver,
                completion,
            ),
        }
    }
}
