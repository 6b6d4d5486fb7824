//! The command `synod`, as built beside the tests.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::account;

/// One run of the command: what it said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit status.
    pub code: i32,
}

/// Where the command is: the test binaries lie one directory below it.
///
/// # Panics
/// When it was not built.
#[track_caller]
pub fn synod_program() -> PathBuf {
    let here = std::env::current_exe().expect("a process knows its program");
    let found = here
        .ancestors()
        .skip(1)
        .take(3)
        .map(|above| above.join("synod"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the command synod is not built: cargo build -p synod-cli"))
}

/// The command with these arguments, with nothing of the caller's environment that libpq reads.
pub fn synod_command(arguments: &[&str]) -> Command {
    let mut command = account::clean_command(&[synod_program().display().to_string()]);
    command.args(arguments).current_dir("/").stdin(Stdio::null());
    command
}

/// Runs it to its end.
#[track_caller]
pub fn synod(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = synod_command(arguments).output().expect("the command synod starts");
    Ran {
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
        code: status.code().unwrap_or(-1),
    }
}
