//! Other projects' own tests, fetched when they are to be run: none of their files is in this tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::PgInstall;

/// A directory of a Debian source package, unpacked once per scratch directory. Mirrors need not have the sources of a package.
///
/// # Errors
/// Why it cannot be had.
pub fn fetch_source(suite: &str, package: &str, member: &str) -> Result<PathBuf, String> {
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

/// Puts wal2json's output plugin into the PostgreSQL under test; false: there is none for its version, or it cannot be had.
///
/// # Panics
/// When the script is not there.
pub fn fetch_wal2json(install: &PgInstall) -> bool {
    if install.major() != 15 {
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fetch-wal2json.sh");
    let output = Command::new(script)
        .arg(install.program("pg_config"))
        .output()
        .expect("scripts/fetch-wal2json.sh starts");
    if !output.status.success() {
        eprintln!("left out: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}
