//! Who this database is in its group: the file `node` of its directory.
//!
//! The file is written once, when the node is made, and replaced as a whole when its dsn changes: temporary file, fsync,
//! rename, fsync of the directory. It holds the system identifier and database oid it was made for, so that a copy of the
//! data directory under another database, or a directory moved to another server, is noticed and refused. A copy of a whole
//! server by PostgreSQL's own means (base backup, point in time, standby) marks itself when it starts
//! ([`mark_copies`]): its log lacks promises that the node has made since, so it must never vote. Any other full clone (same
//! identifier, same oid) is fenced by the log itself (incarnations and the log id).

mod codec;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pgrx::PgSqlErrorCode;

pub use self::codec::{ExpectedTables, Identity, MemberInfo, decode_incarnation, encode_incarnation};
use crate::errors::UserError;
use crate::pg::server;

/// Far above what names and a dsn can add up to.
const MAX_BYTES: u64 = 64 * 1024;
/// Name of the file in the node's directory.
pub const FILE_NAME: &str = "node";

/// The mark of a copy, in the node's directory; it says where the copy came from.
pub const COPIED: &str = "copied";

/// What only a server that is a copy of another one starts with, and what that means.
const SIGNS: [(&str, &str); 3] = [
    ("standby.signal", "This server was started as a standby."),
    ("recovery.signal", "This server was restored to a point in time."),
    ("backup_label", "This server was restored from a base backup."),
];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error("could not access \"{path}\": {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("\"{path}\" is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The whole server is a copy.
    #[error("{why}")]
    Copied {
        /// How it became one.
        why: String,
    },
    /// It was made for another server or database.
    #[error("\"{path}\" belongs to {owner}", path = path.display())]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// Whom it was made for.
        owner: String,
    },
}

impl From<IdentityError> for UserError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Io { .. } => Self::new(
                PgSqlErrorCode::ERRCODE_IO_ERROR,
                "could not access the identity of this node",
                format!("{error}."),
                "",
            ),
            IdentityError::Damaged { .. } => Self::new(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                "the identity of this node is damaged",
                format!("{error}."),
                "Remove this node from its group on another node, call synod.leave_group() here, and join anew.",
            ),
            IdentityError::Copied { why } => Self::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "this database is a copy of a member of a group, not the member itself",
                why,
                "Read it as it is with synod.read_consistency = local. To put it in the place of the member, take that out of \
                 the group (synod.remove_node), then call synod.leave_group(force => true) here, once out of recovery, \
                 and synod.join_group.",
            ),
            IdentityError::Elsewhere { .. } => Self::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "this database is a copy of a member of a group, not the member itself",
                format!("{error}."),
                "Call synod.leave_group() to forget the copied identity, then join the group as a new node.",
            ),
        }
    }
}

/// At server start, before recovery takes the signs away: mark the node directories of a server that is a copy.
pub fn mark_copies(data: &Path) -> Result<(), IdentityError> {
    let Some((_, why)) = SIGNS.iter().find(|(sign, _)| data.join(sign).exists()) else {
        return Ok(());
    };
    let Ok(entries) = fs::read_dir(data.join("synod")) else {
        return Ok(());
    };
    for directory in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if directory.join(FILE_NAME).exists() && !directory.join(COPIED).exists() {
            crate::node::replace_file(&directory, COPIED, why.as_bytes()).map_err(|source| IdentityError::Io {
                path: directory.join(COPIED),
                source,
            })?;
        }
    }
    Ok(())
}

impl Identity {
    /// The identity of this session's database; `None` when it is not a member.
    pub fn of_this_database() -> Result<Option<Self>, UserError> {
        Ok(Self::load(
            &crate::node::directory(server::database()),
            server::database(),
        )?)
    }

    /// The identity in a node's directory, checked against this server and the database it should belong to. `None` when
    /// there is no such directory or file.
    pub fn load(directory: &Path, database: u32) -> Result<Option<Self>, IdentityError> {
        match fs::read_to_string(directory.join(COPIED)) {
            Ok(why) => return Err(IdentityError::Copied { why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let path = directory.join(COPIED);
                return Err(IdentityError::Io { path, source });
            }
        }
        let path = directory.join(FILE_NAME);
        let identity = match Self::read(&path) {
            Ok(identity) => identity,
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if identity.system_identifier != server::system_identifier() || identity.database != database {
            let owner = format!(
                "database {} of server {}",
                identity.database, identity.system_identifier
            );
            return Err(IdentityError::Elsewhere { path, owner });
        }
        Ok(Some(identity))
    }

    fn read(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        if fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
            return Err(IdentityError::Damaged {
                path: path.to_owned(),
                what: "it is too long",
            });
        }
        let bytes = fs::read(path).map_err(io)?;
        Self::decode(&bytes).map_err(|what| IdentityError::Damaged {
            path: path.to_owned(),
            what,
        })
    }

    /// Write the file into a node's directory, durably.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        let temporary = directory.join("node.tmp");
        let path = directory.join(FILE_NAME);
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io {
            path: path.clone(),
            source,
        })
    }

    /// The group says how this node is reached (`synod.alter_node`); it is kept for the time when the group cannot be asked.
    pub fn follow(&mut self, info: &MemberInfo) {
        if self.dsn == info.dsn {
            return;
        }
        self.dsn.clone_from(&info.dsn);
        if let Err(error) = self.save(&crate::node::directory(self.database)) {
            pgrx::warning!("synod: could not note the new dsn of this node: {error}");
        }
    }
}
