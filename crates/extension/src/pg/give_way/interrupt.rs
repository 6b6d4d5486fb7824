//! The cancel that ends a doomed transaction, and only that.
//!
//! SIGINT has no addressee but the process: between the watcher's look and the signal's arrival the transaction may have
//! ended, and the cancel would hit the next one; or its client may have sent ROLLBACK, which must not fail. So client
//! backends look at it when it arrives: a SIGINT of the log worker counts only while the doomed transaction runs a statement
//! (a hook of ours is on the stack) or waits for a lock. Otherwise it is dropped: the doom itself stops the next statement.
//! And one that counted, but was not taken up before its transaction ended, is dropped then. Every other sender's SIGINT is
//! the server's business as before. A signal may come to a process that has given its PGPROC back and is about to exit: such a
//! process is in no transaction.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use pgrx::{pg_guard, pg_sys};

use super::{is_doomed, watcher};
use crate::pg::shmem::{self, NodeShared};
use crate::pg::{capture, failpoint, latch};

/// Hooks of ours on the stack that run a statement. A process-wide atomic, because a signal handler reads it.
static RUNNING: AtomicU32 = AtomicU32::new(0);
/// A cancel of the watcher is pending, unless the server has taken it up.
static PENDING: AtomicBool = AtomicBool::new(false);
/// The node whose log worker's SIGINTs are looked at; null until the handler is in place.
static NODE: AtomicPtr<NodeShared> = AtomicPtr::new(std::ptr::null_mut());
/// The server's own handler.
static SERVERS: AtomicUsize = AtomicUsize::new(0);
/// The process that installed the handler: a child of it has the server's again.
static INSTALLED_IN: AtomicI32 = AtomicI32::new(0);

/// A statement begins. Returns what [`leave`] must be given, whether it ends well or not.
pub fn enter() -> u32 {
    install();
    RUNNING.fetch_add(1, Ordering::SeqCst)
}

/// It ended.
pub fn leave(before: u32) {
    RUNNING.store(before, Ordering::SeqCst);
}

/// The transaction has ended: what was meant for it must not hit the next one.
pub fn transaction_ended() {
    if PENDING.swap(false, Ordering::SeqCst) {
        // SAFETY: this process' own flag. A cancel by a user clears PENDING, so it is not lost here.
        unsafe { std::ptr::write_volatile(&raw mut pg_sys::QueryCancelPending, 0) }
    }
}

/// Look at SIGINTs from now on, if this is a client's backend in a member database.
fn install() {
    // SAFETY: reads globals of this process.
    let (pid, is_client) = unsafe {
        (
            pg_sys::MyProcPid,
            pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND && !capture::applying(),
        )
    };
    if INSTALLED_IN.load(Ordering::Relaxed) == pid || !is_client {
        return;
    }
    let Some(node) = shmem::my_node() else { return };
    NODE.store(std::ptr::from_ref(node).cast_mut(), Ordering::SeqCst);
    // SAFETY: both structures are plain data; the handler only does what is safe in one. The server never changes its
    // handler of SIGINT once a backend runs statements.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGINT, std::ptr::null(), &mut action) != 0
            || [libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction)
        {
            return;
        }
        SERVERS.store(action.sa_sigaction, Ordering::SeqCst);
        action.sa_sigaction = on_cancel as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags |= libc::SA_SIGINFO;
        if libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut()) == 0 {
            INSTALLED_IN.store(pid, Ordering::Relaxed);
            pg_sys::on_proc_exit(Some(at_exit), pg_sys::Datum::from(0));
        }
    }
}

/// The end of a process, after it has given its PGPROC back: a cancel may still come.
#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: i32, _argument: pg_sys::Datum) {
    failpoint::armed("exit");
}

/// In a signal handler: atomics, and the server's own handler.
extern "C" fn on_cancel(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: filled in by the kernel; NODE points at shared memory that lives as long as the process.
    let of_watcher = unsafe {
        let sender = if info.is_null() { 0 } else { (*info).si_pid() };
        let node = NODE.load(Ordering::SeqCst).as_ref();
        sender != 0 && node.is_some_and(|node| node.log_worker_pid.load(Ordering::SeqCst) == sender)
    };
    if of_watcher && !(is_doomed() && interruptible()) {
        return;
    }
    PENDING.store(of_watcher, Ordering::SeqCst);
    // SAFETY: the address of the handler that was installed before ours, of the one-argument kind that the server uses.
    unsafe {
        let servers: extern "C" fn(i32) = std::mem::transmute(SERVERS.load(Ordering::SeqCst));
        servers(signal);
    }
}

fn interruptible() -> bool {
    // SAFETY: own PGPROC.
    RUNNING.load(Ordering::SeqCst) > 0 || unsafe { watcher::waits_for_lock(latch::process(latch::my_number())) }
}
