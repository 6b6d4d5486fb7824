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

const PATIENCE: Duration = Duration::from_millis(PATIENCE_MS as u64);
/// Between two looks while apply waits: a blocker that catches its cancel is cancelled again.
const AGAIN: Duration = Duration::from_millis(10);

/// A process that stands in apply's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Blocker {
    pid: i32,
    /// Its local transaction id.
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
    next_look: Option<Instant>,
    told: HashMap<Blocker, Instant>,
}

impl Watcher {
    /// Look whether apply waits for a lock and act. `abort_if_lost` is called with the slot of a blocker that waits for its
    /// verdict. Returns when to look again; `None`: when woken.
    pub fn look(&mut self, node: &NodeShared, abort_if_lost: &mut dyn FnMut(i32)) -> Option<Duration> {
        let Some(pid) = waiting_apply_worker(node) else {
            if self.next_look.take().is_some() {
                self.told.clear();
            }
            return None;
        };
        let now = Instant::now();
        // The timer fired, so it has waited for a while already.
        let due = *self.next_look.get_or_insert(now + PATIENCE / 2);
        if now < due {
            return Some(due - now);
        }
        let mut again = AGAIN;
        // SAFETY: this process has a PGPROC and a memory context.
        match unsafe { blockers_of(pid) } {
            Blockers::Processes(blockers) => {
                for blocker in blockers {
                    if self.tell(node, blocker, now, abort_if_lost) {
                        // It will be gone in a moment: who is behind it?
                        again = PATIENCE;
                    }
                }
            }
            Blockers::Prepared(transaction) => {
                node.blocking_prepared.store(transaction, Ordering::SeqCst);
                signal(pid, libc::SIGINT);
            }
        }
        self.next_look = Some(now + again);
        Some(again)
    }

    /// Doom the transaction and see to it that its process notices. Returns whether this was news.
    fn tell(&mut self, node: &NodeShared, blocker: Blocker, now: Instant, abort_if_lost: &mut dyn FnMut(i32)) -> bool {
        let Some((number, process)) = process_of(blocker.pid) else {
            return false;
        };
        let Some(slot) = shmem::slot(number) else { return false };
        crate::pg::failpoint::armed("doom");
        let doom = super::doom(blocker.pid, blocker.transaction);
        let is_news = slot.doomed.swap(doom, Ordering::SeqCst) != doom;
        if is_news {
            node.gave_way.fetch_add(1, Ordering::Relaxed);
        }
        let since = *self.told.entry(blocker).or_insert(now);
        // SAFETY: a PGPROC in shared memory; what it says may be out of date, which the doom's addressee sorts out.
        let (gone, is_idle) = unsafe {
            (
                compat::local_transaction_id_of(process) != blocker.transaction,
                waits_for_client(process),
            )
        };
        if gone {
            return is_news;
        }
        if slot.read().1 == SlotState::Proposed {
            abort_if_lost(number);
        }
        latch::wake(number);
        if commits(slot) || waits_in_barrier(slot) {
            return is_news;
        }
        let grace = Duration::from_millis(settings::LOCK_GRACE_MS.get().unsigned_abs().into());
        if now.duration_since(since) >= grace && !is_news {
            terminate(blocker.pid);
        } else if !is_idle {
            crate::pg::failpoint::armed("cancel");
            signal(blocker.pid, libc::SIGINT);
        }
        is_news
    }
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
            let Some(own) = locks
                .iter()
                .find(|lock| lock.pid == waiter.pid)
                .filter(|lock| !is_brief(lock))
            else {
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
                    found.extend(blocker(lock));
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

/// Whether the lock is one that nobody keeps to the end of his transaction: it will be free in a moment, whatever becomes of that. (Many
/// that insert at the same time queue for the next page of a table: none of them is in the way.)
fn is_brief(lock: &pg_sys::LockInstanceData) -> bool {
    use pg_sys::LockTagType as Kind;
    [
        Kind::LOCKTAG_RELATION_EXTEND,
        Kind::LOCKTAG_PAGE,
        Kind::LOCKTAG_SPECULATIVE_TOKEN,
        Kind::LOCKTAG_DATABASE_FROZEN_IDS,
    ]
    .contains(&lock.locktag.locktag_type.into())
}

/// Who must end for the lock to be free; `None` if it is free by now.
fn blocker(lock: &pg_sys::LockInstanceData) -> Option<Blocker> {
    if lock.pid == lock.leaderPid {
        return Some(Blocker {
            pid: lock.pid,
            transaction: compat::transaction_of_lock(lock),
        });
    }
    // A parallel worker: its leader waits for it before it ends its transaction, so what the leader is in while the worker is
    // still in its own is the one.
    let (_, leader) = process_of(lock.leaderPid)?;
    let (_, worker) = process_of(lock.pid)?;
    // SAFETY: PGPROCs in shared memory.
    unsafe {
        let transaction = compat::local_transaction_id_of(leader);
        let still = compat::local_transaction_id_of(worker) == compat::transaction_of_lock(lock);
        (still && transaction != 0).then_some(Blocker {
            pid: lock.leaderPid,
            transaction,
        })
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
