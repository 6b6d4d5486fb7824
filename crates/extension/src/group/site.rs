//! The building site of a node: its directory beside the final place, and the move there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgrx::PgSqlErrorCode;
use synod_log::{Membership, NodeId, Transport};

use crate::errors::UserError;
use crate::pg::server;

/// A directory under construction. Not a node until [`Site::open_up`].
pub struct Site {
    path: PathBuf,
}

impl Site {
    /// Begin anew; what a crashed attempt left is removed.
    pub fn prepare() -> Result<Self, UserError> {
        let place = crate::node::directory(server::database());
        let path = place.with_extension("new");
        let make = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            remove_if_there(&path)?;
            remove_if_there(&place.with_extension("old"))?;
            DirBuilder::new().mode(0o700).create(&path)
        };
        make().map_err(|error| file_error(&path, &error))?;
        Ok(Self { path })
    }

    /// Where to build.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's log goes here.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Move to the final place, durably: the database is a node from here on.
    pub fn open_up(self) -> Result<(), UserError> {
        let place = crate::node::directory(server::database());
        let move_there = || -> io::Result<()> {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, &place)?;
            sync_parent(&place)
        };
        move_there().map_err(|error| file_error(&place, &error))?;
        crate::pg::launcher::wake();
        Ok(())
    }
}

impl Site {
    /// Put the new directory in the place of the node's present one, durably and in one step; the present one is removed.
    /// The node's workers have ended.
    pub fn replace(self) -> Result<(), UserError> {
        let place = crate::node::directory(server::database());
        let exchange = || -> io::Result<()> {
            File::open(&self.path)?.sync_all()?;
            crate::pg::server::exchange_directories(&self.path, &place)?;
            sync_parent(&place)
        };
        // The old one, now beside the place, goes when `self` is dropped.
        exchange().map_err(|error| file_error(&place, &error))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // After `open_up` there is nothing here any more. What cannot be removed now, the next attempt removes.
        let _ = remove_if_there(&self.path);
    }
}

/// Take a node's directory away: the database is no node from the rename on.
pub fn demolish(database: u32) -> Result<(), UserError> {
    let place = crate::node::directory(database);
    let old = place.with_extension("old");
    let remove = || -> io::Result<()> {
        remove_if_there(&old)?;
        match fs::rename(&place, &old) {
            Ok(()) => sync_parent(&place)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        remove_if_there(&old)
    };
    remove().map_err(|error| file_error(&place, &error))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// A file or directory of a node could not be made or removed.
pub fn file_error(path: &Path, error: &dyn std::fmt::Display) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_IO_ERROR,
        "could not access the files of this node",
        format!("\"{}\": {error}.", path.display()),
        "Check the space and the permissions in the data directory.",
    )
}

/// Where a log is made but not run, messages go nowhere.
pub struct Nowhere;

impl Transport for Nowhere {
    fn set_members(&mut self, _membership: &Membership) {}
    fn send(&mut self, _to: NodeId, _message: Bytes) {}
    fn receive(&mut self, _into: &mut Vec<(NodeId, Bytes)>) {}
}
