//! Tables that another node (or this one, before it crashed) is about to make the group's: between the word that this node gave and
//! the record that it has yet to apply, nobody may write them here, or what he writes is nobody else's.
//!
//! While the apply worker runs, its locks see to that (`apply_worker/table_locks.rs`). They go with the process, and with the server;
//! the file `expected` does not. Invariants:
//! - a table that this node has confirmed stands in the file until the node has applied, durably, what became of it;
//! - `expected_guarded` is set only while the apply worker's session has locked all of them.
//!
//! So nothing but an atomic is looked at as long as the worker runs; from the start of the server until the worker is where it was, the
//! file is read by who writes a table that is not the group's. Such a write is refused at once: it has a lock that the worker needs.
//! Called by `written.rs` and the read barrier.

use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::relcache::{Relation, qualified};
use super::{capture, server, shmem};
use crate::errors::UserError;

/// Refuse to write a table that may be the group's already.
pub fn assert_writable(oid: pg_sys::Oid) -> Result<(), UserError> {
    if is_guarded() || !is_in_file(oid)? {
        return Ok(());
    }
    let name = Relation::open(oid).map_or_else(String::new, |relation| qualified(&relation.schema(), &relation.name()));
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        format!("cannot write table {name} before this node has caught up with its group"),
        "The table was about to be replicated when this node stopped: what is written before the node has followed would be nobody else's.",
        "Retry in a moment; synod.stat_apply says how far the node is.",
    ))
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
    let expected = crate::node::expected_tables(&crate::node::directory(server::database())).map_err(|error| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            "cannot tell which tables were about to be replicated when this node stopped",
            format!("{error}."),
            "Remove the file if synod.replicate_table was not running then; else call synod.rejoin_group().",
        )
    })?;
    Ok(expected.is_some_and(|expected| expected.relations.contains(&oid.into())))
}
