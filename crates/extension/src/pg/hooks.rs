//! The server's hooks, each chained to whoever was there before. What is done at each point lives in its own module.
//!
//! The functions here own nothing that needs dropping, so that errors jump over them as over C (see `pg/protect.rs`).

use std::mem::ManuallyDrop;

use pgrx::pg_sys;

use super::give_way::{self, interrupt};
use super::protect::{finally, guarded};
use super::service::{draws, restarts};
use super::{barrier, context, ddl, guard, stream_ddl, written, xact};

static mut PREVIOUS_PLANNER: pg_sys::planner_hook_type = None;
static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

type Query = *mut pg_sys::QueryDesc;

unsafe extern "C-unwind" {
    // The server's functions themselves: pgrx's wrappers would rewrite errors.
    #[link_name = "standard_planner"]
    fn plan_raw(
        parse: *mut pg_sys::Query,
        source: *const core::ffi::c_char,
        options: i32,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    #[link_name = "standard_ExecutorStart"]
    fn start_raw(query: Query, flags: i32);
    #[cfg(not(feature = "pg18"))]
    #[link_name = "standard_ExecutorRun"]
    fn run_raw(query: Query, direction: pg_sys::ScanDirection::Type, count: u64, once: bool);
    #[cfg(feature = "pg18")]
    #[link_name = "standard_ExecutorRun"]
    fn run_raw(query: Query, direction: pg_sys::ScanDirection::Type, count: u64);
    #[link_name = "standard_ExecutorFinish"]
    fn finish_raw(query: Query);
    #[link_name = "standard_ProcessUtility"]
    fn utility_raw(
        statement: *mut pg_sys::PlannedStmt,
        source: *const core::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        receiver: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Install the hooks.
pub fn init() {
    // SAFETY: called from _PG_init in the postmaster, single-threaded.
    unsafe {
        PREVIOUS_PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planner);
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
    guard::init();
    xact::init();
    super::error_rewrite::init();
}

unsafe extern "C-unwind" fn planner(
    parse: *mut pg_sys::Query,
    source: *const core::ffi::c_char,
    options: i32,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: called by the server with the hook's contract; no frame owns anything.
    unsafe {
        barrier::planning_begins();
        let before = interrupt::enter();
        let plan = finally(
            || match PREVIOUS_PLANNER {
                Some(previous) => previous(parse, source, options, parameters),
                None => plan_raw(parse, source, options, parameters),
            },
            |failure| {
                interrupt::leave(before);
                barrier::planning_ends();
                give_way::replacement(&failure)
            },
        );
        interrupt::leave(before);
        barrier::planning_ends();
        plan
    }
}

unsafe extern "C-unwind" fn executor_start(query: Query, flags: i32) {
    // SAFETY: as above.
    unsafe {
        guarded(|| {
            give_way::check_doomed();
            if let Err(error) = written::before_executor_start(query, flags) {
                error.raise();
            }
            barrier::before_executor_start(query, flags);
            if let Err(error) = draws::before_executor_start(query, flags) {
                error.raise();
            }
        });
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => start_raw(query, flags),
        }
        guarded(|| {
            draws::after_executor_start();
            super::row_lock::after_executor_start(query, flags);
            context::after_executor_start(query, flags);
        });
    }
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(query: Query, direction: pg_sys::ScanDirection::Type, count: u64, once: bool) {
    // SAFETY: as above.
    unsafe {
        around(query, true, || {
            match PREVIOUS_RUN {
                Some(previous) => previous(query, direction, count, once),
                None => run_raw(query, direction, count, once),
            }
            again_if_stale(query);
        });
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(query: Query, direction: pg_sys::ScanDirection::Type, count: u64) {
    // SAFETY: as above.
    unsafe {
        around(query, true, || {
            match PREVIOUS_RUN {
                Some(previous) => previous(query, direction, count),
                None => run_raw(query, direction, count),
            }
            again_if_stale(query);
        });
    }
}

unsafe extern "C-unwind" fn executor_finish(query: Query) {
    // SAFETY: as above.
    unsafe {
        // A SELECT is finished when its portal goes, which may be inside of COMMIT or ROLLBACK: those must not fail for it.
        let may_fail = (*query).operation != pg_sys::CmdType::CMD_SELECT;
        around(query, may_fail, || match PREVIOUS_FINISH {
            Some(previous) => previous(query),
            None => finish_raw(query),
        });
        guarded(draws::statement_ended);
    }
}

/// # Safety
/// `query` has run.
unsafe fn again_if_stale(query: Query) {
    // SAFETY: by contract.
    unsafe {
        let stale = guarded(|| barrier::skip::found_nothing(query).unwrap_or_else(|error| error.raise()));
        if stale {
            barrier::skip::run_again(query);
        }
    }
}

/// Run a query, or finish it; unless `gives_way`, even if its transaction is doomed.
///
/// # Safety
/// As for [`finally`]; `query` has been started.
unsafe fn around(query: Query, gives_way: bool, run: impl FnOnce()) {
    // SAFETY: by contract. `running` is taken exactly once, on either way out.
    unsafe {
        let (mut running, writes) = guarded(|| {
            if gives_way {
                give_way::check_doomed();
            }
            let writes = written::writes_strong_tables(query);
            if writes {
                ddl::writing_begins();
            }
            (ManuallyDrop::new(barrier::running(query)), writes)
        });
        let place = &raw mut running;
        let entered = gives_way.then(interrupt::enter);
        let ended = || {
            if let Some(before) = entered {
                interrupt::leave(before);
            }
        };
        finally(run, |failure| {
            ended();
            if writes {
                ddl::writing_ends();
            }
            let unconfirmed = ManuallyDrop::take(&mut *place).fail(&failure);
            give_way::replacement(&failure).or(unconfirmed)
        });
        ended();
        if writes {
            ddl::writing_ends();
        }
        ManuallyDrop::take(&mut *place).end();
    }
}

unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    source: *const core::ffi::c_char,
    read_only_tree: bool,
    within: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: as above.
    unsafe {
        let statement = guarded(|| guard::without_freeze(statement));
        let mut utility = guarded(|| {
            // A doomed transaction must still be able to end.
            if !ends_transaction((*statement).utilityStmt) {
                give_way::check_doomed();
            }
            let ddl = ddl::before(statement, source, within).unwrap_or_else(|error| error.raise());
            let utility = (*statement).utilityStmt;
            let checked = guard::check_utility(utility, ddl.travels())
                .and_then(|()| written::before_utility(utility, ddl.travels()))
                .and_then(|()| draws::before_utility(utility));
            if let Err(error) = checked {
                ddl.failed();
                error.raise();
            }
            restarts::before_utility(utility);
            context::before_utility(utility);
            let streamed = stream_ddl::before(statement, source, within);
            // Last: that the session is within this command is taken back only below.
            let barrier = ManuallyDrop::new(barrier::before_utility(statement));
            (barrier, ddl, streamed)
        });
        let place = &raw mut utility.0;
        let (ddl, streamed) = (&raw const utility.1, utility.2);
        let running = (!ends_transaction((*statement).utilityStmt)).then(interrupt::enter);
        let ended = || {
            if let Some(before) = running {
                interrupt::leave(before);
            }
        };
        finally(
            || match PREVIOUS_UTILITY {
                Some(previous) => previous(
                    statement,
                    source,
                    read_only_tree,
                    within,
                    parameters,
                    environment,
                    receiver,
                    completion,
                ),
                None => utility_raw(
                    statement,
                    source,
                    read_only_tree,
                    within,
                    parameters,
                    environment,
                    receiver,
                    completion,
                ),
            },
            |failure| {
                ended();
                ManuallyDrop::take(&mut *place).abandon();
                (*ddl).failed();
                streamed.failed();
                give_way::replacement(&failure)
            },
        );
        ended();
        guarded(|| {
            ManuallyDrop::take(&mut *place).end();
            streamed.done();
            if let Err(error) = std::ptr::read(ddl).done((*statement).utilityStmt) {
                error.raise();
            }
            guard::after_utility((*statement).utilityStmt);
            restarts::after_utility((*statement).utilityStmt);
            draws::statement_ended();
        });
    }
}

/// BEGIN, COMMIT, ROLLBACK and their like, savepoints included: a doomed transaction must still be able to end.
unsafe fn ends_transaction(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: a node of a valid plan.
    unsafe { (*statement).type_ == pg_sys::NodeTag::T_TransactionStmt }
}
