//! The temporary directory of this test process, and the guard that cleans up after it whatever happens.
//!
//! The guard is a shell that waits for the end of its standard input. The write end is held by this process only
//! (close-on-exec), so a test binary that panics, is killed or exits with live statics ends it all the same: the guard
//! then kills every process that works inside the directory, removes the network namespaces of the run,
//! unmounts and removes the directory itself. A parent-death signal would not do: it fires when the *thread* that started the server ends, and
//! each test is such a thread.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::account::Account;
use crate::install::PgInstall;
use crate::{account, processes};

/// Set to keep the directories (and their logs) of a run for reading.
const KEEP_VARIABLE: &str = "SYNOD_TEST_KEEP";

/// Seconds after which a test binary is hung rather than slow.
const WATCHDOG_VARIABLE: &str = "SYNOD_TEST_WATCHDOG_S";

/// Twice what the slowest binary takes on two busy cores.
const WATCHDOG_DEFAULT: Duration = Duration::from_secs(900);

/// $1 directory, $2 prefix of the namespaces, $3 "keep" or "remove".
const GUARD: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
for round in 1 2 3; do
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd")" in "$1"/*) kill -KILL "${process#/proc/}" ;; esac
    done
done 2>/dev/null
for pidfile in "$1"/*/data/postmaster.pid; do
    [ -f "$pidfile" ] && ipcrm -m "$(sed -n '7s/.* //p' "$pidfile")"
done 2>/dev/null
for namespace in /run/netns/"$2"*; do
    [ -e "$namespace" ] && ip netns del "${namespace#/run/netns/}"
done 2>/dev/null
for directory in "$1"/*; do
    mountpoint -q "$directory" && umount -l "$directory"
done 2>/dev/null
[ "$3" = keep ] || rm -rf "$1"
"#;

/// What one test process owns outside of itself.
#[derive(Debug)]
pub struct Run {
    directory: PathBuf,
    name: String,
    account: Account,
    install: PgInstall,
    counter: AtomicU32,
    template: OnceLock<PathBuf>,
    /// Held open until this process ends; its closing is the guard's signal.
    _guard: (Child, ChildStdin),
}

impl Run {
    /// The run of this process, begun at the first call.
    pub fn current() -> &'static Self {
        static RUN: OnceLock<Run> = OnceLock::new();
        RUN.get_or_init(Self::begin)
    }

    fn begin() -> Self {
        let pid = std::process::id();
        let name = format!("syn{pid}");
        let directory = std::env::temp_dir().join(format!("synod-test-{pid}"));
        std::fs::create_dir(&directory)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", directory.display()));
        let account = Account::for_servers();
        account.own(&directory);
        let keep = if keep_files() { "keep" } else { "remove" };
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "synod-test-guard"])
            .arg(&directory)
            .args([name.as_str(), keep])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .expect("a shell starts");
        let stdin = guard.stdin.take().expect("the guard's standard input is piped");
        start_watchdog();
        Self {
            directory,
            name,
            account,
            install: PgInstall::from_environment(),
            counter: AtomicU32::new(0),
            template: OnceLock::new(),
            _guard: (guard, stdin),
        }
    }

    /// The PostgreSQL under test.
    pub fn install(&self) -> &PgInstall {
        &self.install
    }

    /// Whom servers run as.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Prefix of everything named system-wide by this run.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A number that no other caller of this run gets.
    pub(crate) fn next_number(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A new directory of the servers' account. Short: a Unix socket's path has at most 107 bytes.
    pub fn new_directory(&self, label: &str) -> PathBuf {
        let path = self.directory.join(format!("{label}-{}", self.next_number()));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        self.account.own(&path);
        path
    }

    /// The data directory that `initdb` made once for this run; servers begin as copies of it.
    pub(crate) fn template(&self) -> &Path {
        self.template.get_or_init(|| {
            let directory = self.new_directory("template").join("data");
            let mut line = self.account.prefix();
            line.push(self.install.program("initdb").display().to_string());
            line.extend(
                [
                    "-U",
                    "postgres",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                    "--no-instructions",
                ]
                .map(String::from),
            );
            line.extend(["-D".into(), directory.display().to_string()]);
            run_quietly(&line, &self.directory);
            directory
        })
    }

    /// Whether the PostgreSQL under test has this setting.
    pub(crate) fn knows_setting(&self, name: &str) -> bool {
        let data = self.template().display().to_string();
        self.program("postgres", &["-C", name, "-D", &data]).is_ok()
    }

    /// Runs `program` of the PostgreSQL under test as the servers' account; its output when it succeeds.
    ///
    /// # Errors
    /// What it wrote to standard error when it fails.
    pub fn program(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let mut line = self.account.prefix();
        line.push(self.install.program(program).display().to_string());
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let output = account::clean_command(&line)
            .current_dir(&self.directory)
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }
}

/// Runs a command in `directory` and shows what it wrote only when it fails.
pub(crate) fn run_quietly(line: &[String], directory: &Path) {
    let output = account::clean_command(line)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {line:?}: {error}"));
    assert!(
        output.status.success(),
        "{line:?} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Ends a hung test binary, so that the guard can clean up and the caller sees a failure.
fn start_watchdog() {
    // The long form of a test takes as long as it is told to.
    if std::env::args().any(|argument| argument == "--ignored") {
        return;
    }
    let limit = std::env::var(WATCHDOG_VARIABLE)
        .ok()
        .and_then(|value| value.parse().ok())
        .map_or(WATCHDOG_DEFAULT, Duration::from_secs);
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!(
            "the test binary still runs after {limit:?}: it hangs; ending it ({WATCHDOG_VARIABLE} changes the limit)"
        );
        std::process::exit(101);
    });
}

/// Whether the directories of servers stay for reading.
pub(crate) fn keep_files() -> bool {
    std::env::var_os(KEEP_VARIABLE).is_some()
}

/// Kills every process that works inside `directory`.
pub(crate) fn sweep(directory: &Path) {
    processes::send_to_all(directory, None, rustix::process::Signal::KILL);
}
