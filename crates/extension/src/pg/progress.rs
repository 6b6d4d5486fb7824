//! How far databases of this server are in becoming members: shown by `synod.stat_progress_join`.
//!
//! An entry belongs to the session that runs `join_group` or `rejoin_group` (`database` is claimed with a compare-and-swap);
//! the session that copies, on behalf of the same database, only counts. A crash of any of them is a crash restart, which
//! clears shared memory.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::{server, shmem};

/// What a joining node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Asking the group to keep its log from here on.
    Admission = 1,
    /// Making the tables that are missing here.
    Schema = 2,
    /// Copying rows.
    Copy = 3,
    /// Waiting for the records that were decided in the meantime.
    CatchUp = 4,
    /// Waiting for its vote.
    Vote = 5,
    /// Not joining: a new group is being made, which is not shown.
    Creation = 6,
}

impl Phase {
    /// As the view shows it.
    pub fn text(number: u32) -> &'static str {
        match number {
            1 => "waiting for admission",
            2 => "creating tables",
            3 => "copying tables",
            4 => "catching up",
            5 => "waiting for vote",
            _ => "initializing",
        }
    }
}

/// One database that is becoming a member.
#[repr(C)]
pub struct Join {
    /// Its oid; 0: the entry is free.
    pub database: AtomicU32,
    /// Process id of the session that runs it.
    pub pid: AtomicI32,
    /// Process id of the session that works on its behalf in the same database; 0: none. See [`works_for_it`].
    pub helper: AtomicI32,
    /// A [`Phase`].
    pub phase: AtomicU32,
    /// The table being copied.
    pub table: AtomicU32,
    /// Tables of the group.
    pub tables_total: AtomicU64,
    /// Tables copied.
    pub tables_done: AtomicU64,
    /// Size of the tables at the source, in bytes: what is copied may be more or less, for it is text.
    pub bytes_total: AtomicU64,
    /// Bytes received.
    pub bytes_done: AtomicU64,
    /// Where catching up ends.
    pub csn_target: AtomicU64,
}

/// Ends the showing when the attempt ends, however it does.
pub struct Shown(Option<&'static Join>);

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(join) = self.0 {
            join.database.store(0, Ordering::Release);
        }
    }
}

/// Show this database as one that is becoming a member. Without a free entry it is not shown.
pub fn begin() -> Shown {
    let database = server::database();
    let free = all().iter().find(|join| {
        let before = join.database.load(Ordering::Acquire);
        // A session that was terminated did not come to give its entry back.
        let unused = before == 0 || !server::alive(join.pid.load(Ordering::Acquire));
        unused
            && join
                .database
                .compare_exchange(before, database, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    });
    if let Some(join) = free {
        for figure in [
            &join.tables_total,
            &join.tables_done,
            &join.bytes_total,
            &join.bytes_done,
            &join.csn_target,
        ] {
            figure.store(0, Ordering::Relaxed);
        }
        join.phase.store(0, Ordering::Relaxed);
        join.table.store(0, Ordering::Relaxed);
        join.helper.store(0, Ordering::Relaxed);
        join.pid.store(server::my_pid(), Ordering::Release);
    }
    Shown(free)
}

/// The entry of this session's database.
pub fn mine() -> Option<&'static Join> {
    let database = server::database();
    all()
        .iter()
        .find(|join| join.database.load(Ordering::Acquire) == database)
}

/// Let a session of this database do what only an attempt to become a member may do; the one before it may no more.
pub fn let_help(pid: i32) {
    if let Some(join) = mine() {
        join.helper.store(pid, Ordering::Release);
    }
}

/// Whether this session works on behalf of an attempt that is under way.
pub fn works_for_it() -> bool {
    mine().is_some_and(|join| {
        server::alive(join.pid.load(Ordering::Acquire)) && join.helper.load(Ordering::Acquire) == server::my_pid()
    })
}

/// Say what this database's attempt is doing now.
pub fn enter(phase: Phase) {
    if let Some(join) = mine() {
        join.phase.store(phase as u32, Ordering::Release);
    }
}

/// Every entry, used or not.
pub fn all() -> &'static [Join] {
    shmem::shared().map_or(&[], |shared| &shared.joins)
}
