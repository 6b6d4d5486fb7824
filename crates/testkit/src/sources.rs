//! Other projects' own tests, fetched when they are to be run: none of their files is in this tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::PgInstall;

/// A directory of a Debian source package, unpacked once per scratch directory.
///
/// # Panics
/// When it cannot be had.
#[track_caller]
pub fn fetch_source(suite: &str, package: &str, member: &str) -> PathBuf {
    try_fetch_source(suite, package, member).unwrap_or_else(|why| panic!("{why}"))
}

/// The same, of a package that mirrors need not have the sources of.
///
/// # Errors
/// Why it cannot be had.
pub fn try_fetch_source(suite: &str, package: &str, member: &str) -> Result<PathBuf, String> {
    let scratch = std::env::var_os("SYNOD_SCRATCH").map_or_else(|| std::env::temp_dir().join("synod"), PathBuf::from);
    let tree = scratch
        .join("sources")
        .join(format!("{package}-{suite}-{}", member.replace('/', "-")));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fetch-source.sh");
    let output = Command::new(script)
        .args([suite, package])
        .arg(&tree)
        .arg(member)
        .output()
        .map_err(|error| format!("scripts/fetch-source.sh: {error}"))?;
    if output.status.success() {
        Ok(tree.join(member))
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{package} of {suite} cannot be fetched: {said}"))
    }
}

/// Puts wal2json's output plugin into the PostgreSQL under test; false: there is none for its version.
///
/// # Panics
/// When it cannot be had.
#[track_caller]
pub fn fetch_wal2json(install: &PgInstall) -> bool {
    if install.major() != 15 {
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fetch-wal2json.sh");
    let output = Command::new(script)
        .arg(install.program("pg_config"))
        .output()
        .expect("scripts/fetch-wal2json.sh starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}
