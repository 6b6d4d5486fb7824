//! What proves that a message with a prefix of ours is ours: a key ahead of its content that SQL users do not know.
//!
//! Anybody may call `pg_logical_emit_message` with any prefix. A message that was forged would put words into the mouths of others, or
//! rows into tables, and its bytes would be taken for a heap tuple. So messages without the key are passed over.
//! The key is in a file of the server, made when first needed, and the same for all of its databases. Whoever can read raw WAL (a role with
//! REPLICATION, a superuser) can read it: these can read and write everything that it protects.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use pgrx::PgSqlErrorCode;

use crate::errors::UserError;
use crate::pg;

/// Bytes of the key.
pub const LENGTH: usize = 16;

thread_local! {
    static KEY: OnceCell<[u8; LENGTH]> = const { OnceCell::new() };
}

fn path() -> PathBuf {
    pg::data_directory().join("synod").join("stream_key")
}

/// The key, to be written ahead of a message. Made if there is none.
pub fn key() -> Result<[u8; LENGTH], UserError> {
    if let Some(known) = KEY.with(|key| key.get().copied()) {
        return Ok(known);
    }
    let bytes = match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fresh: [u8; LENGTH] = pg::random::bytes()?;
            make(&fresh).and_then(|()| read())
        }
        read => read,
    };
    let bytes = bytes.map_err(|error| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("could not read or write \"{}\": {error}", path().display()),
            "The key in this file marks the messages in the WAL that are synod's own.",
            "",
        )
    })?;
    Ok(KEY.with(|key| *key.get_or_init(|| bytes)))
}

/// The content of a message of ours, behind the key; `None`: somebody else wrote it.
pub fn content(message: &[u8]) -> Option<&[u8]> {
    let (first, content) = message.split_first_chunk::<LENGTH>()?;
    let known = KEY.with(|key| key.get().copied()).or_else(|| {
        let bytes = read().ok()?;
        Some(KEY.with(|key| *key.get_or_init(|| bytes)))
    })?;
    (*first == known).then_some(content)
}

fn read() -> io::Result<[u8; LENGTH]> {
    fs::read(path())?
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it has the wrong length"))
}

/// Whoever comes first makes it; a crash leaves it whole or not at all.
fn make(bytes: &[u8]) -> io::Result<()> {
    let path = path();
    let directory = path.parent().unwrap_or(&path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let temporary = directory.join(format!("stream_key.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let linked = fs::hard_link(&temporary, &path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(directory)?.sync_all()
}
