//! Waking the auditing worker of a database: whoever commits looks whether it sleeps, and the first one wakes it.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use pgrx::pg_sys;

use crate::pg::latch;

/// Databases of a server whose workers are woken at once; others look every now and then.
const COUNT: usize = 16;

/// One worker.
#[repr(C)]
pub struct Sleeper {
    /// Its database; 0: unused.
    database: AtomicU32,
    /// Number of its PGPROC.
    process: AtomicI32,
    sleeps: AtomicBool,
}

/// All of them.
pub type Sleepers = [Sleeper; COUNT];

fn of(database: u32) -> Option<&'static Sleeper> {
    let known = |sleeper: &&Sleeper| sleeper.database.load(Ordering::Acquire) == database;
    super::shared()?.iter().find(known)
}

fn my_database() -> u32 {
    // SAFETY: reads this process' own global.
    unsafe { pg_sys::MyDatabaseId }.into()
}

/// A worker begins: its place, until its process ends and another takes it over.
pub fn register() {
    let database = my_database();
    let taken = of(database).or_else(|| {
        super::shared()?.iter().find(|sleeper| {
            let free = sleeper
                .database
                .compare_exchange(0, database, Ordering::AcqRel, Ordering::Relaxed);
            free.is_ok()
        })
    });
    if let Some(sleeper) = taken {
        sleeper.process.store(latch::my_number(), Ordering::Release);
    }
}

/// Databases whose workers have not said that auditing has ended.
pub fn registered() -> impl Iterator<Item = u32> {
    let sleepers = super::shared().into_iter().flatten();
    let databases = sleepers.map(|sleeper| sleeper.database.load(Ordering::Acquire));
    databases.filter(|database| *database != 0)
}

/// Auditing of this database has ended.
pub fn unregister() {
    forget(my_database());
}

/// It has, or its worker is gone.
pub fn forget(database: u32) {
    if let Some(sleeper) = of(database) {
        sleeper.process.store(-1, Ordering::Release);
        sleeper.database.store(0, Ordering::Release);
    }
}

/// From here on the next commit wakes this process. Look once more before sleeping.
pub fn will_sleep(sleeps: bool) {
    if let Some(sleeper) = of(my_database()) {
        sleeper.sleeps.store(sleeps, Ordering::SeqCst);
    }
}

/// This transaction has committed. Never raises.
pub fn wake_at_commit() {
    if let Some(sleeper) = of(my_database())
        && sleeper.sleeps.load(Ordering::Relaxed)
        && sleeper.sleeps.swap(false, Ordering::SeqCst)
    {
        latch::wake(sleeper.process.load(Ordering::Acquire));
    }
}
