//! The writer in the hands of two threads: the storage thread, which takes what is queued, and the log's owner.
//!
//! Invariant: the owner writes only while nothing is queued or being written, so everything reaches the files in the order in
//! which the owner gave it. A panic in the middle of a write ends the writing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{Job, Next, Writer};

/// After this much quiet a mark says durably that all before it was synced, so that from then on damage anywhere is
/// told from a torn tail.
const MARK_AFTER: Duration = Duration::from_millis(100);

/// The writer, and how many jobs are queued for the storage thread or in its hands.
#[derive(Clone)]
pub(crate) struct Shared {
    writer: Arc<Mutex<Writer>>,
    queued: Arc<AtomicUsize>,
}

impl Shared {
    pub fn new(mut writer: Writer) -> Shared {
        // Before either writes: what follows no beginning is taken for an unused segment.
        writer.begin();
        Shared {
            writer: Arc::new(Mutex::new(writer)),
            queued: Arc::default(),
        }
    }

    /// A job is about to be queued.
    pub fn queue(&self) {
        self.queued.fetch_add(1, Ordering::SeqCst);
    }

    /// The writer, for its owner: only while the thread has nothing to do, so that the order of the writes is kept.
    pub fn idle(&self) -> Option<MutexGuard<'_, Writer>> {
        if self.queued.load(Ordering::SeqCst) != 0 {
            return None;
        }
        self.writer.try_lock().ok()
    }

    /// The storage thread: work until the queue is closed or an error ends the log's writing.
    pub fn run(&self, queue: &Receiver<Job>) {
        while self.step(queue) {}
        let mut writer = self.lock();
        if let Next::Preparing(thread) = std::mem::replace(&mut writer.next, Next::Absent) {
            // Half a segment is removed at the next start.
            let _ = thread.join();
        }
    }

    /// One group, or a mark when it has been quiet. False: it is over.
    fn step(&self, queue: &Receiver<Job>) -> bool {
        let job = queue.recv_timeout(MARK_AFTER);
        let closed = matches!(job, Err(RecvTimeoutError::Disconnected));
        let mut writer = self.lock();
        if writer.failed {
            return false;
        }
        let done = match job {
            Ok(job) => writer.group(job, queue),
            Err(RecvTimeoutError::Timeout) if std::mem::take(&mut writer.is_active) => Ok(0),
            Err(_) => writer.mark().map(|()| 0),
        };
        match done {
            Ok(jobs) => {
                self.queued.fetch_sub(jobs, Ordering::SeqCst);
                writer.prepare_ahead();
            }
            Err(error) => writer.fail(&error),
        }
        if writer.failed {
            (writer.options.waker)();
        }
        !closed && !writer.failed
    }

    /// A panic in the middle of a write leaves it in no known state: nothing is written again.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            let mut writer = poisoned.into_inner();
            writer.failed = true;
            writer
        })
    }
}
