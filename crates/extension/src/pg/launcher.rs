//! The launcher: a static background worker without a database that keeps one log worker and one apply worker running for
//! every node found under `$PGDATA/synod/`.
//!
//! It owns the entries of [`super::shmem::Shared::nodes`]: it claims one per directory and clears it when the directory is
//! gone, and ends the workers that it started for one that went meanwhile. Workers that end are started again after
//! [`RESTART_DELAY`]. The end of the launcher is the end of nothing else: the postmaster starts it again, and it takes over what it
//! finds. The postmaster tells it of the end of workers that it has started itself; after those of the one before it looks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_guard;
use pgrx::pg_sys;

use super::audit::sleeper;
use super::shmem::{self, NodeShared};
use super::{failpoint, latch};

/// Pause before a worker that ended is started again.
pub const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Pause between two attempts to make a fresh copy: a failed one may have moved much data.
const REJOIN_DELAY: Duration = Duration::from_secs(30);

/// Pause before auditing is tried again after a failure.
const AUDIT_DELAY: Duration = Duration::from_secs(2);

/// Pause when everything runs.
const IDLE: Duration = Duration::from_secs(60);

/// Register the launcher with the postmaster. From `_PG_init` only.
pub fn register() {
    let mut worker = blank_worker(c"synod launcher", c"synod launcher", c"synod_launcher_main");
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_PostmasterStart;
    worker.bgw_restart_time = 1;
    // SAFETY: inside _PG_init in the postmaster; the struct is copied.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) }
}

fn blank_worker(name: &std::ffi::CStr, kind: &std::ffi::CStr, function: &std::ffi::CStr) -> pg_sys::BackgroundWorker {
    // SAFETY: a BackgroundWorker of zeros is valid.
    let mut worker: pg_sys::BackgroundWorker = unsafe { std::mem::zeroed() };
    copy_name(&mut worker.bgw_name, name);
    copy_name(&mut worker.bgw_type, kind);
    copy_name(&mut worker.bgw_library_name, c"synod");
    copy_name(&mut worker.bgw_function_name, function);
    worker.bgw_flags = pg_sys::BGWORKER_SHMEM_ACCESS as i32;
    worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
    worker
}

fn copy_name(to: &mut [core::ffi::c_char], from: &std::ffi::CStr) {
    let room = to.len() - 1;
    for (to, from) in to.iter_mut().zip(from.to_bytes().iter().take(room)) {
        *to = *from as core::ffi::c_char;
    }
}

/// Wake the launcher: a directory came or went.
pub fn wake() {
    if let Some(shared) = shmem::shared() {
        latch::wake(shared.launcher.load(Ordering::Acquire));
    }
}

/// Entry point of the launcher.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn synod_launcher_main(_argument: pg_sys::Datum) {
    super::worker::start();
    super::wait_event::set_default(super::wait_event::WaitEvent::Launcher);
    let Some(shared) = shmem::shared() else {
        return;
    };
    shared.launcher.store(latch::my_number(), Ordering::Release);
    // One that ended during a look did not count its end.
    shared
        .looks
        .fetch_add(shared.looks.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
    let mut inherited = running_workers(shared);
    while !super::worker::shutdown_requested() {
        latch::reset();
        super::worker::reload_if_asked();
        // The end of a worker of ours sets our latch, and so does `wake`.
        let complete = look(shared);
        inherited.retain(|pid| super::server::alive(*pid));
        let rests = complete && inherited.is_empty();
        latch::wait(if rests { IDLE } else { RESTART_DELAY });
    }
    shared.launcher.store(-1, Ordering::Release);
    // SAFETY: the end of a background worker. With 0 the postmaster would never start it again, and nobody the workers; as the server's
    // own launcher of logical replication does it.
    unsafe { pg_sys::proc_exit(1) }
}

/// Workers that the launcher before this one has started.
fn running_workers(shared: &shmem::Shared) -> Vec<i32> {
    let pids = shared
        .nodes
        .iter()
        .flat_map(|node| [&node.log_worker_pid, &node.apply_worker_pid, &node.rejoin_worker_pid]);
    pids.map(|pid| pid.load(Ordering::Acquire)).collect()
}

/// Compare directories and entries, start what is missing. True when nothing is to be looked at again soon.
fn look(shared: &'static shmem::Shared) -> bool {
    shared.looks.fetch_add(1, Ordering::SeqCst);
    let complete = look_at_nodes(shared);
    shared.looks.fetch_add(1, Ordering::SeqCst);
    complete & audit()
}

fn look_at_nodes(shared: &'static shmem::Shared) -> bool {
    let found = match member_databases() {
        Ok(found) => found,
        Err(error) => {
            pgrx::warning!("synod: could not list the member databases of this server: {error}");
            return false;
        }
    };
    if !found.is_empty() {
        failpoint::armed("members-listed");
    }
    for node in &shared.nodes {
        give_back(node, &found);
    }
    let mut complete = shared.nodes.iter().all(|node| !node.leaving.load(Ordering::Acquire));
    let mut claimed = true;
    for database in found {
        let node = claim(shared, database);
        claimed &= node.is_some();
        complete &= node.is_some_and(|node| supervise(node, database));
    }
    shared.members_known.store(claimed, Ordering::Release);
    complete
}

/// Clear the entry of a database that is no member any more. Its directory may have gone just before its workers were started: they end
/// first, even if there is a new directory by then, which is not theirs.
fn give_back(node: &NodeShared, found: &[u32]) {
    let database = node.database.load(Ordering::Acquire);
    let me = super::server::my_pid();
    let ending = node.leaving.load(Ordering::SeqCst) && node.leaving_pid.load(Ordering::SeqCst) == me;
    if database == 0 || (found.contains(&database) && !ending) {
        return;
    }
    if !alive(&node.log_worker_pid) && !alive(&node.apply_worker_pid) {
        node.clear();
    } else if !node.leaving.load(Ordering::SeqCst) {
        node.leaving_pid.store(me, Ordering::SeqCst);
        node.leaving.store(true, Ordering::SeqCst);
        node.wake_log_worker();
        super::server::terminate(node.apply_worker_pid.load(Ordering::Acquire));
    }
}

/// Ask for a look that begins after this call; it is over when [`has_looked`] says so.
pub fn ask_for_a_look() -> u64 {
    let Some(shared) = shmem::shared() else {
        return 0;
    };
    let looks = shared.looks.load(Ordering::SeqCst);
    wake();
    // Odd: one is under way, which may have begun before.
    looks + 2 + looks % 2
}

/// Whether the look that was asked for is over.
pub fn has_looked(asked: u64) -> bool {
    shmem::shared().is_none_or(|shared| shared.looks.load(Ordering::SeqCst) >= asked)
}

thread_local! {
    /// Workers that audit, by database. Where one from before this launcher's start still runs, the next one ends at once.
    static AUDITORS: RefCell<HashMap<u32, AtomicI32>> = RefCell::new(HashMap::new());
}

/// Start workers for the databases whose audit slots have none. True when there were none to start.
fn audit() -> bool {
    // The startup process reads the slots from disk, and may not have come to that.
    // SAFETY: reads shared memory that exists since server start.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return false;
    }
    let mut databases = super::audit::databases();
    // Where the slot of a worker that did not end by itself is gone, one more says so.
    let left: Vec<u32> = sleeper::registered().filter(|it| !databases.contains(it)).collect();
    databases.extend(&left);
    AUDITORS.with_borrow_mut(|auditors| {
        auditors.retain(|database, _| databases.contains(database));
        let mut complete = true;
        for database in databases {
            let pid = auditors.entry(database).or_default();
            if alive(pid) {
                continue;
            }
            complete = false;
            if may_start(database, Kind::Audit) {
                if left.contains(&database) {
                    sleeper::forget(database);
                }
                let started = start_worker(
                    "audit",
                    c"synod audit worker",
                    c"synod_audit_worker_main",
                    database,
                    true,
                );
                pid.store(started, Ordering::Release);
            }
        }
        complete
    })
}

/// Databases with a complete node directory.
fn member_databases() -> io::Result<Vec<u32>> {
    let entries = match std::fs::read_dir(super::data_directory().join("synod")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let Some(database) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let directory = crate::node::directory(database);
        // A copy takes no part in anything: see `crate::identity`.
        if directory.join(crate::identity::FILE_NAME).try_exists()?
            && !directory.join(crate::identity::COPIED).try_exists()?
        {
            found.push(database);
        }
    }
    Ok(found)
}

fn claim(shared: &'static shmem::Shared, database: u32) -> Option<&'static NodeShared> {
    if let Some((_, node)) = shmem::node_of(database) {
        return Some(node);
    }
    let free = shared
        .nodes
        .iter()
        .find(|node| node.database.load(Ordering::Acquire) == 0)?;
    free.database.store(database, Ordering::Release);
    Some(free)
}

/// Workers that connect to the database, and so may end at once for reasons of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Apply,
    Rejoin,
    Audit,
}

impl Kind {
    fn delay(self) -> Duration {
        match self {
            Kind::Apply => RESTART_DELAY,
            Kind::Audit => AUDIT_DELAY,
            Kind::Rejoin => REJOIN_DELAY,
        }
    }
}

thread_local! {
    /// When a worker was last started, by database and kind: one that ends at once is not started in a loop.
    static STARTED: RefCell<HashMap<(u32, Kind), Instant>> = RefCell::new(HashMap::new());
}

/// Whether its delay has passed since the last start; if so, this is the next one.
fn may_start(database: u32, kind: Kind) -> bool {
    STARTED.with_borrow_mut(|started| {
        let early = started
            .get(&(database, kind))
            .is_some_and(|last| last.elapsed() < kind.delay());
        if !early {
            started.insert((database, kind), Instant::now());
        }
        !early
    })
}

/// Start workers that do not run. True when both ran already.
fn supervise(node: &'static NodeShared, database: u32) -> bool {
    if node.leaving.load(Ordering::Acquire) {
        if !alive(&node.leaving_pid) {
            // Its session was terminated half-way: the node is still there.
            node.leaving.store(false, Ordering::Release);
        }
        return false;
    }
    let mut complete = start_rejoin_if_due(node, database);
    if !alive(&node.log_worker_pid) {
        let pid = start_worker("log", c"synod log worker", c"synod_log_worker_main", database, false);
        node.log_worker_pid.store(pid, Ordering::Release);
        complete = false;
    }
    // SAFETY: reads shared memory that exists since server start.
    let recovering = unsafe { pg_sys::RecoveryInProgress() };
    if !recovering && !alive(&node.apply_worker_pid) {
        if !may_start(database, Kind::Apply) {
            return false;
        }
        let pid = start_worker(
            "apply",
            c"synod apply worker",
            c"synod_apply_worker_main",
            database,
            true,
        );
        node.apply_worker_pid.store(pid, Ordering::Release);
        complete = false;
    }
    complete && !recovering
}

/// A node that cannot follow any more, or that has no vote yet for longer than joining takes, gets a worker that sees to
/// it (`crate::group::rejoin`). True when none is needed.
fn start_rejoin_if_due(node: &'static NodeShared, database: u32) -> bool {
    let copy = node.needs_copy.load(Ordering::Acquire) && crate::settings::AUTO_REJOIN.get();
    let needed = copy || crate::group::rejoin::lacks_vote(node);
    // SAFETY: reads shared memory that exists since server start.
    if !needed || alive(&node.rejoin_worker_pid) || unsafe { pg_sys::RecoveryInProgress() } {
        return !needed;
    }
    if may_start(database, Kind::Rejoin) {
        let pid = start_worker(
            "rejoin",
            c"synod rejoin worker",
            c"synod_rejoin_worker_main",
            database,
            true,
        );
        node.rejoin_worker_pid.store(pid, Ordering::Release);
    }
    false
}

/// Only the launcher writes the pids: a worker that ended (even before we noted it) is told by its pid being gone.
fn alive(pid: &AtomicI32) -> bool {
    let pid = pid.load(Ordering::Acquire);
    // SAFETY: signal 0 only asks whether the process exists.
    pid > 0 && unsafe { libc::kill(pid, 0) } == 0
}

fn start_worker(what: &str, kind: &std::ffi::CStr, function: &std::ffi::CStr, database: u32, connects: bool) -> i32 {
    let Ok(name) = CString::new(format!("synod {what} worker for database {database}")) else {
        return 0;
    };
    let mut worker = blank_worker(&name, kind, function);
    worker.bgw_main_arg = pg_sys::Datum::from(database);
    // SAFETY: reads this process' own pid.
    worker.bgw_notify_pid = unsafe { pg_sys::MyProcPid };
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_PostmasterStart;
    if connects {
        worker.bgw_flags |= pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION as i32;
        worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    }
    let mut handle = std::ptr::null_mut();
    // SAFETY: the struct is copied; the handle is allocated in the worker's top context.
    unsafe {
        if !pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) {
            pgrx::warning!(
                "could not start the {what} worker for database {database}: max_worker_processes is too low"
            );
            return 0;
        }
        let mut pid = 0;
        pg_sys::WaitForBackgroundWorkerStartup(handle, &mut pid);
        pg_sys::pfree(handle.cast());
        pid
    }
}
