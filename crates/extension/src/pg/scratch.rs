//! Memory and snapshots of the server, held by scope.

use pgrx::pg_sys;

/// A memory context that is current as long as this lives, and reset between rows.
pub struct Scratch {
    context: pg_sys::MemoryContext,
    before: pg_sys::MemoryContext,
}

impl Scratch {
    /// Make one inside the current context, and enter it.
    pub fn enter() -> Self {
        // SAFETY: a child of the current context, deleted on drop or with its parent.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            let context = pg_sys::AllocSetContextCreateInternal(
                before,
                c"synod row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            pg_sys::CurrentMemoryContext = context;
            Self { context, before }
        }
    }

    /// Free everything allocated in it.
    pub fn reset(&self) {
        // SAFETY: ours; the borrow rules of what was read from it are those of one row.
        unsafe { pg_sys::MemoryContextReset(self.context) }
    }

    /// Run something in the surrounding context, for what must outlive a row.
    pub fn outside<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the surrounding context outlives us. On ERROR the server sets the current context itself.
        unsafe {
            pg_sys::CurrentMemoryContext = self.before;
            let result = work();
            pg_sys::CurrentMemoryContext = self.context;
            result
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: entered in `enter`; nothing borrowed from it is alive.
            unsafe {
                pg_sys::CurrentMemoryContext = self.before;
                pg_sys::MemoryContextDelete(self.context);
            }
        }
    }
}

/// An active snapshot as long as this lives: fetching toasted values and index functions need one.
pub struct ActiveSnapshot(());

impl ActiveSnapshot {
    /// Push a fresh one (in REPEATABLE READ: the transaction's).
    pub fn push() -> Self {
        // SAFETY: inside a transaction; popped on drop, or by the transaction's abort. CommandCounterIncrement makes
        // all of the transaction's own changes visible to it.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        Self(())
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pushed in `push`; scopes nest.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
    }
}
