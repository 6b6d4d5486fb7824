//! The log worker's side: find who blocks the apply worker, and make him give way.
//!
//! Looks are cheap (one read of shared memory) while apply waits for nothing. While it waits, a look takes the lock
//! manager's partition locks in shared mode, at most every [`AGAIN`].

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::timer::PATIENCE_MS;
use crate::pg::shmem::{self, NodeShared};
use crate::pg::slot::{Slot, SlotState};
use crate::pg::{compat, latch};
use crate::settings;

/// Between two looks while apply waits: a blocker that catches its cancel is cancelled again.
const AGAIN: Duration = Duration::from_millis(10);
/// A transaction that waits for its verdict and blocks apply is given up after this.
const OVERDUE_US: u64 = 200_000;

/// A process that stands in apply's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocker {
    pid: i32,
    /// Its local transaction id; 0: any (the leader of a parallel query).
    transaction: u32,
}

/// What blocks apply.
enum Blockers {
    Processes(Vec<Blocker>),
    /// A prepared transaction with this local transaction id: nobody to signal.
    Prepared(u32),
}

/// Remembers who was told when. One per node, in its log worker.
#[derive(Default)]
pub struct Watcher {
    waiting_since: Option<Instant>,
    last_look: Option<Instant>,
    told: HashMap<i32, (u32, Instant)>,
}

impl Watcher {
    /// Look whether apply waits for a lock and act. Returns when to look again; `None`: when woken.
    pub fn look(&mut self, node: &NodeShared) -> Option<Duration> {
        let Some(pid) = waiting_apply_worker(node) else {
            if self.waiting_since.take().is_some() {
                node.apply_waits_since_us.store(0, Ordering::SeqCst);
                self.told.clear();
                self.last_look = None;
            }
            return None;
        };
        let now = Instant::now();
        let patience = Duration::from_millis(PATIENCE_MS.unsigned_abs().into());
        let since = *self.waiting_since.get_or_insert_with(|| {
            node.apply_waits_since_us.store(monotonic_us(), Ordering::SeqCst);
            // The timer fired, so it has waited for a while already.
            now.checked_sub(patience / 2).unwrap_or(now)
        });
        let due = self.last_look.map_or(since + patience, |last| last + AGAIN);
        if now < due {
            return Some(due - now);
        }
        self.last_look = Some(now);
        // SAFETY: this process has a PGPROC and a memory context.
        match unsafe { blockers_of(pid) } {
            Blockers::Processes(blockers) => {
                for blocker in blockers {
                    self.tell(node, blocker, now);
                }
            }
            Blockers::Prepared(transaction) => {
                node.blocking_prepared.store(transaction, Ordering::SeqCst);
                signal(pid, libc::SIGINT);
            }
        }
        Some(AGAIN)
    }

    fn tell(&mut self, node: &NodeShared, blocker: Blocker, now: Instant) {
        let Some((number, process)) = process_of(blocker.pid) else {
            return;
        };
        let Some(slot) = shmem::slot(number) else { return };
        let known = self
            .told
            .get(&blocker.pid)
            .filter(|told| told.0 == blocker.transaction)
            .copied();
        let since = known.map_or(now, |told| told.1);
        if known.is_none() {
            self.told.insert(blocker.pid, (blocker.transaction, now));
            node.gave_way.fetch_add(1, Ordering::Relaxed);
        }
        slot.doomed_pid.store(blocker.pid, Ordering::SeqCst);
        slot.doomed_transaction.store(blocker.transaction, Ordering::SeqCst);
        slot.doomed.store(true, Ordering::SeqCst);
        // SAFETY: a PGPROC in shared memory; what it says may be out of date, which the doom's addressee sorts out.
        let (gone, is_idle) = unsafe {
            let now_in = compat::local_transaction_id_of(process);
            (
                blocker.transaction != 0 && now_in != blocker.transaction,
                waits_for_client(process),
            )
        };
        if gone {
            return;
        }
        latch::wake(number);
        if commits(slot) || waits_in_barrier(slot) {
            return;
        }
        let grace = Duration::from_millis(settings::LOCK_GRACE_MS.get().unsigned_abs().into());
        if known.is_some() && now.duration_since(since) >= grace {
            terminate(blocker.pid);
        } else if !is_idle {
            slot.signalled_us.store(monotonic_us(), Ordering::SeqCst);
            signal(blocker.pid, libc::SIGINT);
        }
    }
}

/// Whether apply has waited so long that a blocker's undecided transaction must not be waited for.
pub fn overdue(node: &NodeShared) -> bool {
    let since = node.apply_waits_since_us.load(Ordering::SeqCst);
    since != 0 && monotonic_us().saturating_sub(since) > OVERDUE_US
}

fn commits(slot: &Slot) -> bool {
    use SlotState::{Committing, Proposed, Queued, Turn};
    [Queued, Proposed, Turn, Committing].contains(&slot.read().1)
}

fn waits_in_barrier(slot: &Slot) -> bool {
    slot.awaits_applied.load(Ordering::SeqCst) != 0 || slot.awaits_tail.load(Ordering::SeqCst) != 0
}

fn waiting_apply_worker(node: &NodeShared) -> Option<i32> {
    let number = node.apply_worker.load(Ordering::SeqCst);
    if number < 0 {
        return None;
    }
    // SAFETY: the number is one of `latch::my_number`; PGPROCs live as long as the server.
    unsafe {
        let process = latch::process(number);
        waits_for_lock(process).then_some((*process).pid).filter(|pid| *pid > 0)
    }
}

/// Whether a process sleeps in the lock manager (`ProcSleep`).
///
/// # Safety
/// `process` is a PGPROC.
pub(super) unsafe fn waits_for_lock(process: *const pg_sys::PGPROC) -> bool {
    const CLASS: u32 = 0xff00_0000;
    // SAFETY: by contract; a 4-byte value that is read whole.
    unsafe { std::ptr::read_volatile(&raw const (*process).wait_event_info) & CLASS == pg_sys::PG_WAIT_LOCK }
}

/// Whether a process waits for its client. A cancel would not interrupt that; it could only hit what comes next, where some
/// drivers do not look for errors (the closing of a statement). The doom is enough: the next command fails with it.
///
/// # Safety
/// `process` is a PGPROC.
unsafe fn waits_for_client(process: *const pg_sys::PGPROC) -> bool {
    // SAFETY: by contract.
    let event = unsafe { std::ptr::read_volatile(&raw const (*process).wait_event_info) };
    event == pg_sys::WaitEventClient::WAIT_EVENT_CLIENT_READ
}

fn process_of(pid: i32) -> Option<(i32, *mut pg_sys::PGPROC)> {
    // SAFETY: returns null or an element of allProcs.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if process.is_null() {
            return None;
        }
        Some((latch::number_of(process), process))
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: a process of this server; at worst it is gone.
    unsafe {
        libc::kill(pid, signal);
    }
}

fn terminate(pid: i32) {
    pgrx::ereport!(
        LOG,
        pgrx::PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("terminating process {pid}: it holds a lock that replication needs"),
        "It did not end its transaction within synod.lock_grace."
    );
    signal(pid, libc::SIGTERM);
}

pub(super) fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct; CLOCK_MONOTONIC is the same for all processes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Who blocks the process: those who hold a conflicting lock, and those who wait for one in front of it. The rules of
/// `pg_blocking_pids` (utils/adt/lockfuncs.c), which does not tell the transactions.
///
/// # Safety
/// In a process with a PGPROC.
unsafe fn blockers_of(pid: i32) -> Blockers {
    // SAFETY: GetBlockerStatusData copies everything into the current memory context.
    unsafe {
        let data = pg_sys::GetBlockerStatusData(pid);
        let mut found = Vec::new();
        let mut prepared = None;
        for index in 0..(*data).nprocs {
            let waiter = &*(*data).procs.add(index as usize);
            let locks =
                std::slice::from_raw_parts((*data).locks.add(waiter.first_lock as usize), waiter.num_locks as usize);
            let ahead = std::slice::from_raw_parts(
                (*data).waiter_pids.add(waiter.first_waiter as usize),
                waiter.num_waiters as usize,
            );
            let Some(own) = locks.iter().find(|lock| lock.pid == waiter.pid) else {
                continue;
            };
            let table = pg_sys::GetLockTagsMethodTable(&own.locktag);
            let conflicts = *(*table).conflictTab.add(own.waitLockMode as usize);
            for lock in locks
                .iter()
                .filter(|lock| lock.leaderPid != own.leaderPid || lock.pid == 0)
            {
                let holds = conflicts & lock.holdMask != 0;
                let waits = lock.waitLockMode != 0 && conflicts & (1 << lock.waitLockMode) != 0;
                if lock.pid == 0 && holds {
                    prepared = Some(compat::transaction_of_lock(lock));
                } else if holds || (waits && ahead.contains(&lock.pid)) {
                    found.push(blocker(lock));
                }
            }
        }
        free(data);
        match prepared {
            Some(transaction) if found.is_empty() => Blockers::Prepared(transaction),
            _ => Blockers::Processes(found),
        }
    }
}

fn blocker(lock: &pg_sys::LockInstanceData) -> Blocker {
    if lock.pid == lock.leaderPid {
        Blocker {
            pid: lock.pid,
            transaction: compat::transaction_of_lock(lock),
        }
    } else {
        Blocker {
            pid: lock.leaderPid,
            transaction: 0,
        }
    }
}

unsafe fn free(data: *mut pg_sys::BlockedProcsData) {
    // SAFETY: four palloc'd pieces, not used any more.
    unsafe {
        pg_sys::pfree((*data).procs.cast());
        pg_sys::pfree((*data).locks.cast());
        pg_sys::pfree((*data).waiter_pids.cast());
        pg_sys::pfree(data.cast());
    }
}
