//! This database as a member: its directory, its membership, its transaction ids.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::errors::{self, UserError};
use crate::identity::Identity;
use crate::pg::shmem::{self, NodeShared};

/// `$PGDATA/synod/<database oid>`
pub fn directory(database: u32) -> PathBuf {
    crate::pg::data_directory().join("synod").join(database.to_string())
}

/// The node of this session's database, or the error to show.
pub fn required() -> Result<&'static NodeShared, UserError> {
    if shmem::shared().is_none() {
        return Err(errors::not_preloaded());
    }
    shmem::my_node().ok_or_else(|| match Identity::of_this_database() {
        Ok(None) => errors::not_a_member(),
        Ok(Some(_)) => errors::starting(),
        Err(error) => error,
    })
}

/// Text form of a transaction id: `node-incarnation-number`.
pub fn transaction_id(node: &NodeShared, number: u64) -> String {
    format!(
        "{}-{}-{number}",
        node.node_id.load(Ordering::Relaxed),
        node.incarnation.load(Ordering::Relaxed)
    )
}

/// Replace a small file so that a crash leaves the old or the new one.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
