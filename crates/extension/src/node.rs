//! This database as a member: its directory, its membership, its transaction ids.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::errors::{self, UserError};
use crate::pg::shmem::{self, NodeShared};

/// `$PGDATA/synod/<database oid>`
pub fn directory(database: u32) -> PathBuf {
    crate::pg::data_directory()
        .join("synod")
        .join(database.to_string())
}

/// The node of this session's database, or the error to show.
pub fn required() -> Result<&'static NodeShared, UserError> {
    if shmem::shared().is_none() {
        return Err(errors::not_preloaded());
    }
    shmem::my_node().ok_or_else(errors::not_a_member)
}

/// Text form of a transaction id: `node-incarnation-number`.
pub fn transaction_id(node: &NodeShared, number: u64) -> String {
    format!(
        "{}-{}-{number}",
        node.node_id.load(Ordering::Relaxed),
        node.incarnation.load(Ordering::Relaxed)
    )
}
