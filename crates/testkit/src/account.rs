//! The operating system user that servers run as: PostgreSQL refuses to run as root.

use std::path::Path;
use std::process::Command;

/// Variable that names the user for servers when the tests run as root.
const USER_VARIABLE: &str = "SYNOD_TEST_USER";

/// Whom servers run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The tests run as an ordinary user, and so do the servers.
    Own,
    /// The tests run as root; servers change to this user.
    Other {
        /// User id.
        uid: u32,
        /// Primary group id.
        gid: u32,
    },
}

impl Account {
    /// `$SYNOD_TEST_USER`, else `postgres`, else `nobody`, when we are root; ourselves otherwise.
    pub fn for_servers() -> Self {
        if !is_root() {
            return Self::Own;
        }
        let wanted = std::env::var(USER_VARIABLE).ok();
        let names = wanted.as_deref().map_or(vec!["postgres", "nobody"], |name| vec![name]);
        names
            .iter()
            .find_map(|name| {
                Some(Self::Other {
                    uid: id_of(name, "-u")?,
                    gid: id_of(name, "-g")?,
                })
            })
            .unwrap_or_else(|| {
                panic!("none of the users {names:?} exists; set {USER_VARIABLE} to one that servers may run as")
            })
    }

    /// Makes `path` this account's own.
    pub fn own(&self, path: &Path) {
        if let Self::Other { uid, gid } = self {
            std::os::unix::fs::chown(path, Some(*uid), Some(*gid))
                .unwrap_or_else(|error| panic!("cannot give {} to uid {uid}: {error}", path.display()));
        }
    }

    /// The words that make the command after them run as this account; it keeps its process id.
    pub fn prefix(&self) -> Vec<String> {
        match self {
            Self::Own => Vec::new(),
            Self::Other { uid, gid } => vec![
                "setpriv".into(),
                format!("--reuid={uid}"),
                format!("--regid={gid}"),
                "--clear-groups".into(),
                "--".into(),
            ],
        }
    }
}

/// Whether this process is root: what namespaces and changing users need.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The words of `line` as a command with a clean environment, so that no `PG*` variable and no `RUST_BACKTRACE` of the
/// tests reaches a server.
pub(crate) fn clean_command(line: &[String]) -> Command {
    let (program, arguments) = line.split_first().expect("a command line has a program");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC");
    command.env(
        "PATH",
        std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into()),
    );
    command
}

fn id_of(name: &str, flag: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
