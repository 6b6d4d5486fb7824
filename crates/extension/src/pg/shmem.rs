//! Shared memory: what the backends, the log worker and the apply worker of a node know in common.
//!
//! Everything here is atomics over zeroed memory, so that no reader can see a torn value and a crash of one process
//! leaves nothing locked. The segment is laid out as [`Shared`], then one [`Slot`] per PGPROC, then their payloads; the link rings (`pg/ring.rs`) have
//! a segment of their own.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::slot::{INLINE_BYTES, Slot};

mod node;

pub use node::{
    ApplyState, DDL_EXPECTED_BYTES, DDL_TABLES, MAX_MEMBERS, MEMBERSHIP_BYTES, NEXT_OF, NodeShared, NodeState, ORPHANS,
    REASON_BYTES, REQUEST_BYTES,
};

/// Databases of one server that can be members at the same time.
pub const MAX_NODES: usize = 8;
/// Processes of a server that can have a slot: [`NodeShared::next_of`] has 16 bits for one.
pub const MAX_SLOTS: usize = 1 << 16;

/// The root of Synod's shared memory.
#[repr(C)]
pub struct Shared {
    /// PGPROC number of the launcher, or -1.
    pub launcher: AtomicI32,
    /// Beginnings and ends of the launcher's looks at the directories: odd during one.
    pub looks: AtomicU64,
    /// Since the server started the launcher has found every member database: who has no entry is none.
    pub members_known: AtomicBool,
    /// Number of [`Slot`]s that follow.
    pub slots: AtomicU32,
    /// Member databases.
    pub nodes: [NodeShared; MAX_NODES],
    /// Databases that are becoming members.
    pub joins: [super::progress::Join; MAX_NODES],
    /// Workers that audit.
    pub auditors: super::audit::sleeper::Sleepers,
}

static mut SHARED: *mut Shared = std::ptr::null_mut();
static mut SLOTS: *mut Slot = std::ptr::null_mut();
static mut PAYLOADS: *mut AtomicU8 = std::ptr::null_mut();
static mut LOCKS: *mut pg_sys::LWLockPadded = std::ptr::null_mut();
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

fn slot_count() -> usize {
    // SAFETY: MaxBackends is set before the shared memory hooks run and constant from then on.
    unsafe { pg_sys::MaxBackends as usize }
}

/// Ask for memory and locks at server start.
pub fn init() {
    // SAFETY: called from _PG_init in the postmaster, single-threaded; hooks are chained.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: runs in the postmaster inside the request hook, where requests are allowed.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(core_size() + super::ring::shmem_size());
        pg_sys::RequestNamedLWLockTranche(c"synod".as_ptr(), 2 * MAX_NODES as i32);
    }
}

fn core_size() -> usize {
    std::mem::size_of::<Shared>() + slot_count() * (std::mem::size_of::<Slot>() + INLINE_BYTES) + 128
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: runs in the postmaster (or a backend under EXEC_BACKEND) inside the startup hook; AddinShmemInitLock
    // serialises it. All our types are valid when zeroed, apart from the fields set below.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let mut found = false;
        let base = pg_sys::ShmemInitStruct(c"synod".as_ptr(), core_size(), &mut found).cast::<u8>();
        SHARED = base.cast();
        let after = base.add(std::mem::size_of::<Shared>());
        SLOTS = after.add(after.align_offset(64)).cast();
        PAYLOADS = SLOTS.add(slot_count()).cast();
        if !found {
            std::ptr::write_bytes(base, 0, core_size());
            (*SHARED).launcher.store(-1, Ordering::Relaxed);
            (*SHARED).slots.store(slot_count() as u32, Ordering::Relaxed);
            for node in &(*SHARED).nodes {
                node.clear();
            }
        }
        let mut rings_found = false;
        let rings = pg_sys::ShmemInitStruct(c"synod rings".as_ptr(), super::ring::shmem_size(), &mut rings_found);
        super::ring::shmem_init(rings.cast::<u8>(), rings_found);
        LOCKS = pg_sys::GetNamedLWLockTranche(c"synod".as_ptr());
    }
}

/// The root, or `None` when the library is not in `shared_preload_libraries`.
pub fn shared() -> Option<&'static Shared> {
    // SAFETY: set once at startup to memory that lives as long as the process; all fields are atomics.
    unsafe { SHARED.as_ref() }
}

/// All slots.
pub fn slots() -> &'static [Slot] {
    // SAFETY: as for `shared`; the length was fixed at startup.
    unsafe {
        match SHARED.as_ref() {
            Some(shared) => std::slice::from_raw_parts(SLOTS, shared.slots.load(Ordering::Relaxed) as usize),
            None => &[],
        }
    }
}

/// The payload of one of [`slots`].
pub fn payload(slot: &Slot) -> &'static [AtomicU8] {
    // SAFETY: `slot` is an element of the array at SLOTS, whose payloads follow it in the same order.
    unsafe {
        let number = std::ptr::from_ref(slot).offset_from(SLOTS) as usize;
        std::slice::from_raw_parts(PAYLOADS.add(number * INLINE_BYTES), INLINE_BYTES)
    }
}

/// The slot of the PGPROC with this number.
pub fn slot(number: i32) -> Option<&'static Slot> {
    usize::try_from(number).ok().and_then(|number| slots().get(number))
}

/// The node whose log worker a slot was handed to last.
pub fn slot_node(slot: &Slot) -> Option<&'static NodeShared> {
    shared()?.nodes.get(slot.node.load(Ordering::Relaxed) as usize)
}

/// Index and entry of a member database.
pub fn node_of(database: u32) -> Option<(usize, &'static NodeShared)> {
    if database == 0 {
        return None;
    }
    shared()?
        .nodes
        .iter()
        .enumerate()
        .find(|(_, node)| node.database.load(Ordering::Acquire) == database)
}

/// The node that this process' database is, if it is one.
pub fn my_node() -> Option<&'static NodeShared> {
    // SAFETY: reads this process' own global.
    let database = unsafe { pg_sys::MyDatabaseId };
    node_of(u32::from(database)).map(|(_, node)| node)
}

/// Applied CSN of this database's node; 0 when it is none.
pub fn applied() -> u64 {
    my_node().map_or(0, |node| node.applied.load(Ordering::Acquire))
}

/// The same, with the commit that is visible already and has not said so yet.
pub fn visible() -> u64 {
    my_node().map_or(0, |node| node.recent.visible(&node.applied))
}

/// Which of a node's two locks.
#[derive(Clone, Copy)]
pub enum NodeLock {
    /// Held by whoever commits at his turn; shared by who exports a snapshot between two commits.
    Turn = 0,
    /// Guards membership, request and reasons.
    Meta = 1,
}

/// A held LWLock, released on drop; PostgreSQL releases it on error (LWLockReleaseAll).
pub struct LockGuard(*mut pg_sys::LWLock);

impl NodeShared {
    /// Position of this entry in [`Shared::nodes`].
    pub fn index(&self) -> usize {
        shared().map_or(0, |shared| {
            (std::ptr::from_ref(self) as usize - shared.nodes.as_ptr() as usize) / std::mem::size_of::<Self>()
        })
    }

    /// Take one of the node's locks; interrupts are held until it is dropped.
    pub fn lock(&self, which: NodeLock, exclusive: bool) -> LockGuard {
        let mode = if exclusive {
            pg_sys::LWLockMode::LW_EXCLUSIVE
        } else {
            pg_sys::LWLockMode::LW_SHARED
        };
        // SAFETY: LOCKS has 2 * MAX_NODES elements; the process has a PGPROC.
        unsafe {
            let lock = &raw mut (*LOCKS.add(2 * self.index() + which as usize)).lock;
            pg_sys::LWLockAcquire(lock, mode);
            LockGuard(lock)
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The server's error handling releases all LWLocks.
            return;
        }
        // SAFETY: we hold it: acquired in `lock`, and an ERROR in between unwinds with `panicking`.
        unsafe { pg_sys::LWLockRelease(self.0) }
    }
}
