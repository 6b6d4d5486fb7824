//! Where a record body goes: memory while it is small, then a spill file.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::PgSqlErrorCode;
use synod_change::{BodyWriter, Change, FRAGMENT_BYTES, MAX_FRAGMENTS_PER_RECORD, MAX_ITEM_BYTES, body_crc};

use super::{SealedBody, SpillFile};
use crate::errors::UserError;

/// Bodies above this many bytes go to a file.
const MEMORY_BYTES: usize = 256 * 1024;

// What is written behind the last look at the size has to fit, too.
const _: () = assert!(
    (crate::settings::MOST_TRANSACTION_SIZE_MB as usize) << 20
        <= MAX_FRAGMENTS_PER_RECORD * FRAGMENT_BYTES - 2 * MEMORY_BYTES
);

/// Bodies that this process has spilled: several of a transaction may be on disk at a time.
static SPILLED: AtomicU64 = AtomicU64::new(0);

fn my_database() -> u32 {
    // SAFETY: reads this process' own global.
    unsafe { pgrx::pg_sys::MyDatabaseId.into() }
}

/// A body being written.
pub(super) struct Sink {
    writer: BodyWriter,
    spill: Option<Spill>,
}

struct Spill {
    file_name: SpillFile,
    file: File,
    length: u64,
    crc: u32,
}

impl Sink {
    pub(super) fn new() -> Self {
        Self {
            writer: BodyWriter::new(),
            spill: None,
        }
    }

    pub(super) fn write(&mut self, change: &Change<'_>) -> Result<(), UserError> {
        self.writer.write(change);
        if self.writer.buffered() > MEMORY_BYTES {
            check_size(self.writer.length())?;
            let bytes = self.writer.take_buffer();
            if bytes.len() as u64 > MAX_ITEM_BYTES {
                // No node could read it, and none would get past it.
                return Err(row_too_large());
            }
            self.spill()?.append(&bytes)?;
        }
        Ok(())
    }

    pub(super) fn changes(&self) -> u64 {
        self.writer.changes()
    }

    pub(super) fn finish(mut self) -> Result<SealedBody, UserError> {
        let rest = std::mem::take(&mut self.writer).finish();
        let Some(mut spill) = self.spill else {
            return Ok(SealedBody::Inline(rest));
        };
        spill.append(&rest)?;
        Ok(SealedBody::Spilled {
            file: spill.file_name,
            length: spill.length,
            crc: spill.crc,
        })
    }

    fn spill(&mut self) -> Result<&mut Spill, UserError> {
        if self.spill.is_none() {
            self.spill = Some(Spill::create()?);
        }
        // Just put there; the alternative cannot happen but must not panic.
        self.spill
            .as_mut()
            .ok_or_else(|| failed(&PathBuf::new(), &std::io::Error::other("no spill file")))
    }
}

impl Spill {
    fn create() -> Result<Self, UserError> {
        let directory = crate::node::directory(my_database()).join("spill");
        let number = SPILLED.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{}-{number}.sealing", std::process::id()));
        let file = fs::create_dir_all(&directory)
            .and_then(|()| File::create(&path))
            .map_err(|error| failed(&path, &error))?;
        Ok(Self {
            file_name: SpillFile(path),
            file,
            length: 0,
            crc: 0,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), UserError> {
        self.crc = body_crc(self.crc, bytes);
        self.length += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| failed(self.file_name.path(), &error))
    }
}

fn check_size(length: u64) -> Result<(), UserError> {
    let limit = crate::settings::MAX_TRANSACTION_SIZE_MB.get().max(1) as u64 * (1 << 20);
    if length <= limit {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        "the transaction's changes to strong tables are larger than synod.max_transaction_size",
        format!("The limit is {limit} bytes."),
        "Use smaller transactions or raise synod.max_transaction_size.",
    ))
}

fn row_too_large() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        "a row is too large to be replicated",
        format!("All of its values together can have {MAX_ITEM_BYTES} bytes."),
        "Use several rows.",
    )
}

fn failed(path: &std::path::Path, error: &std::io::Error) -> UserError {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => PgSqlErrorCode::ERRCODE_DISK_FULL,
        _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
    };
    UserError::new(
        code,
        format!("could not write \"{}\": {error}", path.display()),
        "The changes of a large transaction are kept in this file until the shared log has them.",
        "",
    )
}
