//! Tables that another node (or this one, before it crashed) is about to make the group's: between the word that this node gave and
//! the record that it has yet to apply, nobody may write them here, or what he writes is nobody else's.
//!
//! While the apply worker runs, its locks see to that (`apply_worker/table_locks.rs`). They go with the process, and with the server;
//! the file `expected` does not. Invariants:
//! - a table that this node has confirmed stands in the file until the node has applied, durably, what became of it;
//! - `expected_guarded` is set only while the apply worker's session has locked all of them.
//!
//! On the node whose transaction replicates the table that transaction holds the locks; should it let go before it is decided, writers wait
//! until it is (`expected_own`).
//!
//! TRUNCATE ... CASCADE need not be looked at beyond the tables that it names: what refers to a table of the group is without rows until it is
//! the group's itself, and what refers to a table that is about to become it comes with that, or is without rows, too.
//!
//! So nothing but atomics is looked at as long as the worker runs; from the start of the server until the worker is where it was, the
//! file is read by who writes a table that is not the group's. Such a write is refused at once: it has a lock that the worker needs.
//! Called by `written.rs` and the read barrier. A subscription's worker writes past the executor: its transactions are looked at before
//! they commit.

use std::sync::atomic::Ordering;
use std::time::Instant;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::relcache::{Relation, qualified};
use super::{capture, ddl, give_way, server, shmem, submit};
use crate::errors::UserError;

/// Refuse to write a table that may be the group's already.
pub fn assert_writable(oid: pg_sys::Oid) -> Result<(), UserError> {
    if is_guarded() {
        return wait_for_own(oid);
    }
    if !is_in_file(oid)? {
        return Ok(());
    }
    Err(refused(
        oid,
        "The table was about to be replicated when this node stopped: what is written before the node has followed would be nobody else's.",
    ))
}

/// A transaction of this node that was to replicate the table has let go without knowing its outcome (08007): if the log has it, the rows
/// that it sent take the place of those that are here. Who waits for that is in its way, and gives way.
fn wait_for_own(oid: pg_sys::Oid) -> Result<(), UserError> {
    let Some(node) = shmem::my_node() else {
        return Ok(());
    };
    // Not the transaction itself: it may have gone back to a savepoint. Nor the apply worker, which would wait for itself.
    if !node.expected_own.load(Ordering::SeqCst) || ddl::lock_incarnation() != 0 || capture::applying() {
        return Ok(());
    }
    let deadline = Instant::now() + submit::commit_timeout();
    // More tables than shared memory has room for are all in the file.
    while node.expected_own.load(Ordering::SeqCst) && node.expects(oid.into()) && is_in_file(oid)? {
        give_way::check()?;
        if Instant::now() >= deadline {
            return Err(refused(
                oid,
                "A transaction of this node was to replicate the table, and its outcome is not known here within synod.commit_timeout.",
            ));
        }
        crate::group::wait::moment();
    }
    Ok(())
}

/// Before the commit of a subscription's worker: it must not have written a table that may be the group's already. The lock for that it
/// has still, so that the apply worker cannot have come to guard the table since.
pub fn check_subscription() -> Result<(), UserError> {
    unsafe extern "C-unwind" {
        // replication/logicalworker.h
        #[link_name = "IsLogicalWorker"]
        fn is_logical_worker_raw() -> bool;
    }
    // SAFETY: reads a global of this process.
    if !unsafe { is_logical_worker_raw() } || is_guarded() {
        return Ok(());
    }
    for oid in in_file()? {
        let written = Relation::open(oid).is_some_and(|relation| {
            // SAFETY: an open relation.
            unsafe {
                pg_sys::CheckRelationLockedByMe(relation.raw(), pg_sys::RowExclusiveLock as pg_sys::LOCKMODE, true)
            }
        });
        if written {
            return Err(refused(
                oid,
                "The table was about to be replicated when this node stopped: what a subscription writes before the node has followed would be nobody else's.",
            ));
        }
    }
    Ok(())
}

fn refused(oid: pg_sys::Oid, detail: &str) -> UserError {
    let name = Relation::open(oid).map_or_else(String::new, |relation| qualified(&relation.schema(), &relation.name()));
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        format!("cannot write table {name} before this node has caught up with its group"),
        detail,
        "Retry in a moment; synod.stat_apply and synod.stat_log say what the node is doing.",
    )
}

/// Whether a table may be the group's already, so that it is read like one.
pub fn is_expected(oid: pg_sys::Oid) -> bool {
    shmem::my_node().is_some_and(|node| node.expects(oid.into())) || !is_guarded() && is_in_file(oid).unwrap_or(true)
}

fn is_guarded() -> bool {
    let Some(shared) = shmem::shared() else {
        return true;
    };
    match shmem::my_node() {
        Some(node) => node.expected_guarded.load(Ordering::SeqCst) || capture::applying(),
        None => shared.members_known.load(Ordering::Acquire),
    }
}

fn is_in_file(oid: pg_sys::Oid) -> Result<bool, UserError> {
    Ok(in_file()?.contains(&oid))
}

fn in_file() -> Result<Vec<pg_sys::Oid>, UserError> {
    let expected = crate::node::expected_tables(&crate::node::directory(server::database())).map_err(|error| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            "cannot tell which tables were about to be replicated when this node stopped",
            format!("{error}."),
            "Remove the file if synod.replicate_table was not running then; else call synod.rejoin_group().",
        )
    })?;
    let relations = expected.map(|expected| expected.relations).unwrap_or_default();
    Ok(relations.into_iter().map(pg_sys::Oid::from).collect())
}
