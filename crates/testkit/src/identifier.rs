//! A system identifier of its own for each copy of the template directory.
//!
//! `initdb` takes seconds and a copy takes none, but copies are the same database system to everyone who asks. The
//! identifier is the first field of `global/pg_control`, which ends with a CRC-32C over what is before it
//! (`src/include/catalog/pg_control.h`); `pg_resetwal` then writes WAL that carries the new identifier.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::run::Run;

/// The checksum is found by trying: its place differs between major versions.
const CHECKSUM_PLACES: std::ops::Range<usize> = 128..512;

/// Gives the stopped, cleanly shut down server in `data` a new system identifier.
pub(crate) fn renew(data: &Path) {
    let path = data.join("global/pg_control");
    let mut control = std::fs::read(&path).expect("a data directory has a control file");
    let place = CHECKSUM_PLACES
        .step_by(4)
        .find(|place| checksum(&control[..*place]) == control[*place..*place + 4])
        .expect("the control file has a checksum");
    control[..8].copy_from_slice(&fresh().to_ne_bytes());
    let sum = checksum(&control[..place]);
    control[place..place + 4].copy_from_slice(&sum);
    std::fs::write(&path, control).expect("the control file can be written");
    let data = data.display().to_string();
    if let Err(message) = Run::current().program("pg_resetwal", &["-D", &data]) {
        panic!("pg_resetwal: {message}");
    }
}

/// Like PostgreSQL's own: seconds above, something that differs below.
fn fresh() -> u64 {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let number = u64::from(Run::current().next_number());
    (seconds << 32) | (u64::from(std::process::id() & 0xf_ffff) << 12) | (number & 0xfff)
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).to_ne_bytes()
}
