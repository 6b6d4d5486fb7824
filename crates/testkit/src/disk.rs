//! A small file system for one server, so that a disk can be full.

use std::path::{Path, PathBuf};

use crate::account::{Account, is_root};
use crate::run::{self, Run};

/// Name of the file that takes up the space.
const FILLER: &str = "filler";

/// A file system in memory, mounted for one server and unmounted when dropped (or by the guard).
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

/// Whether file systems can be mounted.
pub(crate) fn possible() -> bool {
    is_root()
}

impl Disk {
    /// Mounts `megabytes` over the empty `directory`.
    pub(crate) fn mount(directory: &Path, megabytes: u32) -> Self {
        let mut options = format!("size={megabytes}m,mode=0755");
        if let Account::Other { uid, gid } = Run::current().account() {
            options.push_str(&format!(",uid={uid},gid={gid}"));
        }
        let words = ["mount", "-t", "tmpfs", "-o", &options, "synod-test"];
        let mut line: Vec<String> = words.map(String::from).to_vec();
        line.push(directory.display().to_string());
        run::run_quietly(&line, Path::new("/"));
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Takes up all space that is left.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.directory.join(FILLER)).expect("a file can be created");
        for size in [1 << 20, 1 << 12] {
            let block = vec![0_u8; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Gives the space back.
    pub fn free(&self) {
        std::fs::remove_file(self.directory.join(FILLER)).expect("the filler is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.directory)
            .status();
    }
}
