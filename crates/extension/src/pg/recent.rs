//! The last commits of a node, so that a process can tell whether a snapshot covers a CSN.
//!
//! Commits happen in CSN order, so a snapshot that sees the transaction of one CSN sees all CSNs before it. An entry is
//! written by the holder of the turn only, after its transaction left the list of running ones and before `applied`
//! moves. Hence: `applied >= x` implies that x is in here (or has been overtaken by `COMMITS` later ones).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

/// Commits remembered. A snapshot older than that many commits is taken for one that lacks the CSN (the reader then gets
/// 40001), so this only has to outlast the time between a snapshot and the barrier.
const COMMITS: usize = 256;

#[repr(C)]
struct Commit {
    /// 0 while the entry is written.
    csn: AtomicU64,
    /// 0: visible to every snapshot of this server's life.
    xid: AtomicU32,
}

/// A ring in shared memory. Zeroed memory is an empty one.
#[repr(C)]
pub struct RecentCommits {
    written: AtomicU64,
    /// The commit of who has the turn; 0: nobody, or it is over.
    current: AtomicU64,
    current_xid: AtomicU32,
    commits: [Commit; COMMITS],
}

impl RecentCommits {
    /// This process' transaction is about to commit as `csn`. By the holder of the turn.
    pub fn begin_current(&self, csn: u64, xid: pg_sys::TransactionId) {
        self.current.store(0, Ordering::SeqCst);
        self.current_xid.store(u32::from(xid), Ordering::SeqCst);
        self.current.store(csn, Ordering::SeqCst);
    }

    /// `applied` says so, or it failed.
    pub fn end_current(&self, csn: u64) {
        // Whoever has the turn by now may have announced another one.
        let _ = self
            .current
            .compare_exchange(csn, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Up to where everything is visible, which `applied` says a moment later: a commit is visible, and its row locks are gone for who
    /// looks at the rows, before it moves `applied`.
    pub fn visible(&self, applied: &AtomicU64) -> u64 {
        let csn = self.current.load(Ordering::SeqCst);
        // Only now: whose commit is not current any more has moved it.
        let applied = applied.load(Ordering::SeqCst);
        if csn <= applied {
            return applied;
        }
        let xid = pg_sys::TransactionId::from(self.current_xid.load(Ordering::SeqCst));
        if self.current.load(Ordering::SeqCst) != csn {
            return applied;
        }
        // SAFETY: in a transaction of a connected process; this order, as in `HeapTupleSatisfiesUpdate`.
        let committed = unsafe { !pg_sys::TransactionIdIsInProgress(xid) && pg_sys::TransactionIdDidCommit(xid) };
        if committed { csn } else { applied }
    }

    /// Note the commit that is ending in this process. By the holder of the turn, before `applied` moves.
    pub fn note_current(&self, csn: u64) {
        // SAFETY: in XACT_EVENT_COMMIT the transaction's id is still known to its process.
        let xid = unsafe { pg_sys::GetTopTransactionIdIfAny() };
        self.note(csn, u32::from(xid));
    }

    /// Everything up to `csn` was there before this server began to serve.
    pub fn note_start(&self, csn: u64) {
        if self.written.load(Ordering::SeqCst) == 0 {
            self.note(csn, 0);
        }
    }

    fn note(&self, csn: u64, xid: u32) {
        let count = self.written.load(Ordering::SeqCst);
        // A record that changed nothing here has no transaction id: it is visible to whoever sees the one before it.
        let xid = match (xid, count.checked_sub(1)) {
            (0, Some(last)) => self.commits[last as usize % COMMITS].xid.load(Ordering::SeqCst),
            (xid, _) => xid,
        };
        let commit = &self.commits[count as usize % COMMITS];
        commit.csn.store(0, Ordering::SeqCst);
        commit.xid.store(xid, Ordering::SeqCst);
        commit.csn.store(csn, Ordering::SeqCst);
        self.written.store(count + 1, Ordering::SeqCst);
    }

    /// Whether `snapshot` certainly sees everything up to `csn`.
    ///
    /// # Safety
    /// `snapshot` is a valid MVCC snapshot.
    pub unsafe fn covers(&self, csn: u64, snapshot: pg_sys::Snapshot) -> bool {
        csn == 0
            || self.commits.iter().any(|commit| {
                let noted = commit.csn.load(Ordering::SeqCst);
                let xid = commit.xid.load(Ordering::SeqCst);
                noted >= csn
                    && commit.csn.load(Ordering::SeqCst) == noted
                    // SAFETY: by contract; the transaction has committed, so "not running for this snapshot" is "visible".
                    && (xid == 0 || unsafe { !pg_sys::XidInMVCCSnapshot(pg_sys::TransactionId::from(xid), snapshot) })
            })
    }
}
