//! Files of a log directory: names, durable creation, the lock, the identity.
//!
//! Everything that must survive a crash under its name is written to a temporary file, synced, renamed, and its
//! directory synced, in this order: a name never shows half a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::StorageError;
use crate::segment::SegmentHeader;
use crate::{LogId, NodeId};

/// Zeros are written in pieces of this size: large enough to be quick, small enough not to matter as memory.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Path of segment `number`.
pub(crate) fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.seg"))
}

/// Numbers of the segments in a directory, ascending.
pub(crate) fn segment_numbers(directory: &Path) -> Result<Vec<u32>, StorageError> {
    numbered_files(directory, "seg")
}

/// Numbers of the files `N.extension` in a directory, ascending.
pub(crate) fn numbered_files<N: std::str::FromStr + Ord>(
    directory: &Path,
    extension: &str,
) -> Result<Vec<N>, StorageError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(StorageError::io("read", directory))? {
        let name = entry.map_err(StorageError::io("read", directory))?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(extension)?.strip_suffix('.'));
        numbers.extend(number.and_then(|number| number.parse::<N>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Make a directory's names durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StorageError> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(StorageError::io("sync", directory))
}

/// Build the segment file that `header` describes, and give it its name once it is whole and durable.
pub(crate) fn prepare_segment(directory: &Path, header: SegmentHeader, sync: bool) -> Result<(), StorageError> {
    let temporary = directory.join(format!("{:010}.tmp", header.number));
    let path = segment_path(directory, header.number);
    let built = build_segment(&temporary, &header, sync)
        .map_err(StorageError::io("create", &path))
        .and_then(|()| fs::rename(&temporary, &path).map_err(StorageError::io("rename", &temporary)));
    if built.is_err() {
        // Give the space back; that this fails, too, changes nothing: the next start removes the file.
        let _ = fs::remove_file(&temporary);
    }
    built?;
    if sync { sync_directory(directory) } else { Ok(()) }
}

fn build_segment(path: &Path, header: &SegmentHeader, sync: bool) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(&header.encode())?;
    let mut left = header.size as usize - crate::segment::SEGMENT_HEADER_BYTES;
    while left > 0 {
        let piece = left.min(ZEROS.len());
        file.write_all(&ZEROS[..piece])?;
        left -= piece;
    }
    if sync { file.sync_all() } else { Ok(()) }
}

/// Overwrite `from..to` of a file with zeros.
pub(crate) fn zero_range(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let piece = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}

/// Replace `name` in `directory` by `bytes`, durably.
pub(crate) fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let path = directory.join(name);
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary).map_err(StorageError::io("create", &temporary))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(StorageError::io("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(StorageError::io("rename", &temporary))?;
    sync_directory(directory)
}

/// Take the directory for this process. The lock goes when the file is closed, also by a crash.
pub(crate) fn lock_directory(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StorageError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(StorageError::io("lock", &path)(error)),
    }
}

const IDENTITY_NAME: &str = "identity";
const IDENTITY_MAGIC: [u8; 8] = *b"SYNODLID";
const IDENTITY_BYTES: usize = 40;

/// Who a log directory is: made once, when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub log: LogId,
    pub node: NodeId,
}

impl Identity {
    /// A new one, with a log id from the system's randomness.
    pub fn generate(node: NodeId) -> Result<Identity, StorageError> {
        let source = Path::new("/dev/urandom");
        let mut log = LogId::default();
        File::open(source)
            .and_then(|mut file| file.read_exact(&mut log.0))
            .map_err(StorageError::io("read", source))?;
        Ok(Identity { log, node })
    }

    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[0..8].copy_from_slice(&IDENTITY_MAGIC);
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log.0);
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Identity> {
        let bytes: &[u8; IDENTITY_BYTES] = bytes.try_into().ok()?;
        let crc = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
        if bytes[0..8] != IDENTITY_MAGIC || bytes[8..12] != 1u32.to_le_bytes() || crc != crc32c::crc32c(&bytes[..36]) {
            return None;
        }
        let mut log = LogId::default();
        log.0.copy_from_slice(&bytes[16..32]);
        Some(Identity {
            log,
            node: NodeId(u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]])),
        })
    }

    /// Write it down. Its presence says that the directory holds a log.
    pub fn store(&self, directory: &Path) -> Result<(), StorageError> {
        replace_file(directory, IDENTITY_NAME, &self.encode())
    }

    /// The identity of a directory; `None` if it holds no log.
    pub fn load(directory: &Path) -> Result<Option<Identity>, StorageError> {
        let path = directory.join(IDENTITY_NAME);
        match fs::read(&path) {
            Ok(bytes) => match Identity::decode(&bytes) {
                Some(identity) => Ok(Some(identity)),
                None => {
                    let reason = "the identity does not match its checksum".into();
                    Err(StorageError::Damaged {
                        path,
                        offset: 0,
                        reason,
                    })
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("read", &path)(error)),
        }
    }
}
