//! What can go wrong below the log, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the storage below a log.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused; nothing is known to be wrong with what is stored.
    #[error("could not {action} \"{}\": {source}", path.display())]
    Io {
        /// What was tried: "open", "write", ...
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has this directory open.
    #[error("log directory \"{}\" is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A log is to be created where there is one already.
    #[error("log directory \"{}\" already holds a log", .0.display())]
    Exists(PathBuf),
    /// There is no log in this directory.
    #[error("directory \"{}\" holds no log", .0.display())]
    Missing(PathBuf),
    /// The directory belongs to another node.
    #[error("log directory \"{}\" belongs to node {found}, not to node {expected}", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Who wants to open it.
        expected: u32,
    },
    /// Stored bytes are not what was written: bit rot, a lost file, or a foreign one. Nothing was changed.
    #[error("log file \"{}\" is damaged at offset {offset}: {reason}; remove this node from the group and add it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// The owner asks for entries that are gone.
    #[error("the log begins at position {first}, but position {wanted} is needed; copy the data from a peer")]
    Trimmed {
        /// The first position that is needed.
        wanted: u64,
        /// The first position there is.
        first: u64,
    },
    /// A setting makes no sense.
    #[error("invalid log option: {0}")]
    Options(&'static str),
}

impl StorageError {
    /// For `map_err`: what was tried, and on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError + use<> {
        let path = path.to_path_buf();
        move |source| StorageError::Io { action, path, source }
    }

    /// True when the cause is a full disk or quota: free space, then open the log again.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, StorageError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
