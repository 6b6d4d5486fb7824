//! This database as a member: its directory, its membership, its transaction ids.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::errors::{self, UserError};
use crate::identity::{ExpectedTables, Identity, decode_incarnation, encode_incarnation};
use crate::pg::server;
use crate::pg::shmem::{self, NodeShared, NodeState};

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

/// Whether this database's log worker runs, and waits for a majority since its start.
pub fn starts_without_majority() -> bool {
    shmem::my_node().is_some_and(|node| {
        node.state() == NodeState::Starting
            && !node.quorum.load(Ordering::Acquire)
            && server::alive(node.log_worker_pid.load(Ordering::Acquire))
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

/// The number of the node's last start.
const INCARNATION: &str = "incarnation";
/// The tables that this node has confirmed, and that are not known to be the group's yet.
const EXPECTED: &str = "expected";
/// Far above what any small file can be.
const MAX_BYTES: u64 = 1 << 20;

/// The number of the last start; 0: there was none.
pub fn last_incarnation(directory: &Path) -> io::Result<u64> {
    Ok(read_file(directory, INCARNATION, decode_incarnation)?.unwrap_or(0))
}

/// This start has this number.
pub fn note_incarnation(directory: &Path, incarnation: u64) -> io::Result<()> {
    replace_file(directory, INCARNATION, &encode_incarnation(incarnation))
}

/// The tables that were about to become the group's; see `pg/expected.rs`.
pub fn expected_tables(directory: &Path) -> io::Result<Option<ExpectedTables>> {
    read_file(directory, EXPECTED, ExpectedTables::decode)
}

/// These tables are about to become the group's.
pub fn note_expected_tables(directory: &Path, expected: &ExpectedTables) -> io::Result<()> {
    replace_file(directory, EXPECTED, &expected.encode())
}

/// They are the group's now, or will not become it. Should a crash bring the file back, it is found to be out of date.
pub fn forget_expected_tables(directory: &Path) {
    let _ = fs::remove_file(directory.join(EXPECTED));
}

/// Read a small file; `None`: there is none. What cannot be decoded is never guessed over.
fn read_file<T>(
    directory: &Path,
    name: &str,
    decode: impl FnOnce(&[u8]) -> Result<T, &'static str>,
) -> io::Result<Option<T>> {
    let path = directory.join(name);
    let damaged = |what| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("\"{}\" is damaged: {what}", path.display()),
        )
    };
    let bytes = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(damaged("it is too long")),
        Ok(_) => fs::read(&path),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => decode(&bytes).map(Some).map_err(damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("could not read \"{}\": {error}", path.display()),
        )),
    }
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
