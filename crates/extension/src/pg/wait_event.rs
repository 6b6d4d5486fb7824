//! What a process of ours waits for, as `pg_stat_activity.wait_event` names it. Before PostgreSQL 17 an extension has no
//! names of its own: there it is `Extension`.

use std::sync::atomic::{AtomicU32, Ordering};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEvent {
    /// `SynodGroup`: something in the group or another process, while its membership or definitions change.
    Group = 0,
    /// `SynodCommit`: the verdict on a transaction, and its turn.
    Commit = 1,
    /// `SynodRead`: everything committed before to be visible here.
    Read = 2,
    /// `SynodLog`: the log worker has nothing to do.
    Log = 3,
    /// `SynodApply`: the apply worker has nothing to do, or tries again later.
    Apply = 4,
    /// `SynodLink`: messages of another node.
    Link = 5,
    /// `SynodLauncher`: the launcher has nothing to do.
    Launcher = 6,
    /// `SynodNode`: another node's answer to a query.
    Node = 7,
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
const NAMES: [&std::ffi::CStr; 8] = [
    c"SynodGroup",
    c"SynodCommit",
    c"SynodRead",
    c"SynodLog",
    c"SynodApply",
    c"SynodLink",
    c"SynodLauncher",
    c"SynodNode",
];

/// Numbers that the server gave to the names; 0: not asked yet.
#[cfg(any(feature = "pg17", feature = "pg18"))]
static NUMBERS: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];

/// What this process waits for when nothing says otherwise.
static DEFAULT: AtomicU32 = AtomicU32::new(WaitEvent::Group as u32);

/// From here on waits of this process that are not named are such.
pub fn set_default(event: WaitEvent) {
    DEFAULT.store(event as u32, Ordering::Relaxed);
}

/// For the server's waiting functions.
pub fn number(event: WaitEvent) -> u32 {
    number_at(event as usize)
}

/// As [`number`], for what this process mostly waits for.
pub fn default_number() -> u32 {
    number_at(DEFAULT.load(Ordering::Relaxed) as usize)
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn number_at(index: usize) -> u32 {
    let known = NUMBERS[index].load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: in a process with shared memory; the same name gets the same number in every process.
    let number = unsafe { pgrx::pg_sys::WaitEventExtensionNew(NAMES[index].as_ptr()) };
    NUMBERS[index].store(number, Ordering::Relaxed);
    number
}

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
fn number_at(_index: usize) -> u32 {
    pgrx::pg_sys::PG_WAIT_EXTENSION
}
