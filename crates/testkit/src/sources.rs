//! Other projects' own tests, fetched when they are to be run: none of their files is in this tree.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of a Debian source package, unpacked once per scratch directory.
///
/// # Panics
/// When it cannot be had.
#[track_caller]
pub fn fetch_source(suite: &str, package: &str, member: &str) -> PathBuf {
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
        .expect("scripts/fetch-source.sh starts");
    assert!(
        output.status.success(),
        "{package} of {suite} cannot be fetched: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    tree.join(member)
}
