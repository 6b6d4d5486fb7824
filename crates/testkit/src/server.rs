//! One PostgreSQL server under test: its directory, its life and death, its log.
//!
//! Clients connect through a Unix socket in the server's directory, peers through TCP. The server is our child process
//! (`setpriv` and `ip netns exec` keep the process id), so its end is seen at once.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::{Client, NoTls};
use rustix::process::Signal;

use crate::disk::Disk;
use crate::ports::free_port;
use crate::run::{self, Run};
use crate::{account, crash, identifier, processes, try_wait_until, wait_until};

/// Starting includes crash recovery.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Stopping includes the checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// No statement of a test takes longer unless something hangs.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What may decode, where the server asks.
const OUTPUT_PLUGINS: &str = "pgoutput, test_decoding, wal2json, synod";

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnect clients, checkpoint, exit.
    Fast,
    /// Exit without a checkpoint, as after a crash.
    Immediate,
}

/// Where a server listens for its peers.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub host: String,
    pub port: u16,
    /// Words before the command line that put the server into its network namespace.
    pub prefix: Vec<String>,
}

/// One server and its directory.
#[derive(Debug)]
pub struct Server {
    directory: PathBuf,
    address: Address,
    child: Option<Child>,
    disk: Option<Disk>,
    crash_known: AtomicBool,
}

impl Server {
    /// A server on a free port of the loopback address, with the extension preloaded. Not started.
    pub fn new(label: &str, settings: &[(&str, &str)]) -> Self {
        let address = Address {
            host: "127.0.0.1".into(),
            port: free_port(),
            prefix: Vec::new(),
        };
        Self::at(label, address, settings, None)
    }

    /// A server at `address`. Not started.
    pub(crate) fn at(label: &str, address: Address, settings: &[(&str, &str)], disk_megabytes: Option<u32>) -> Self {
        let run = Run::current();
        let directory = run.new_directory(label);
        let disk = disk_megabytes.map(|megabytes| Disk::mount(&directory, megabytes));
        let server = Self {
            directory,
            address,
            child: None,
            disk,
            crash_known: AtomicBool::new(false),
        };
        copy_directory(run.template(), &server.data());
        identifier::renew(&server.data());
        server.write_configuration(settings);
        server
    }

    /// A server whose data directory is a copy of this one's, which must be stopped: what a restored backup or a cloned
    /// virtual machine is.
    pub fn clone_stopped(&self, label: &str) -> Self {
        assert!(self.child.is_none(), "only a stopped server's directory can be copied");
        let address = Address {
            port: free_port(),
            ..self.address.clone()
        };
        let twin = Self {
            directory: Run::current().new_directory(label),
            address,
            child: None,
            disk: None,
            crash_known: AtomicBool::new(false),
        };
        copy_directory(&self.data(), &twin.data());
        let mut lines = String::new();
        twin.write_address(&mut lines);
        append(&twin.data().join("postgresql.conf"), &lines);
        twin
    }

    /// A server on a base backup of this one, which runs. Not started.
    #[track_caller]
    pub fn base_backup(&self, label: &str) -> Self {
        let backup = Self {
            directory: Run::current().new_directory(label),
            address: Address {
                port: free_port(),
                ..self.address.clone()
            },
            child: None,
            disk: None,
            crash_known: AtomicBool::new(false),
        };
        let (from, to) = (
            self.directory.display().to_string(),
            backup.data().display().to_string(),
        );
        let port = self.address.port.to_string();
        let arguments = [
            "-h",
            &from,
            "-p",
            &port,
            "-U",
            "postgres",
            "-D",
            &to,
            "-c",
            "fast",
            "--no-sync",
        ];
        if let Err(error) = Run::current().program("pg_basebackup", &arguments) {
            panic!("pg_basebackup: {error}");
        }
        let mut lines = String::new();
        backup.write_address(&mut lines);
        append(&backup.data().join("postgresql.conf"), &lines);
        backup
    }

    fn write_configuration(&self, settings: &[(&str, &str)]) {
        let mut lines = String::from("\n# written by the test harness\n");
        let defaults = [
            ("shared_preload_libraries", "synod"),
            ("max_connections", "100"),
            ("max_worker_processes", "32"),
            ("max_replication_slots", "10"),
            ("max_prepared_transactions", "4"),
            ("shared_buffers", "32MB"),
            ("dynamic_shared_memory_type", "mmap"),
            ("jit", "off"),
            ("log_line_prefix", "%m [%p] %b %d "),
            ("timezone", "UTC"),
        ];
        self.write_address(&mut lines);
        if Run::current().knows_setting("output_plugin_libraries") {
            setting(&mut lines, "output_plugin_libraries", OUTPUT_PLUGINS);
        }
        for (name, value) in defaults.iter().chain(settings) {
            setting(&mut lines, name, value);
        }
        append(&self.data().join("postgresql.conf"), &lines);
        // Peers and clients are trusted, except one role for tests of passwords.
        let access =
            "local all,replication all trust\nhost all with_password all scram-sha-256\nhost all all all trust\n";
        std::fs::write(self.data().join("pg_hba.conf"), access).expect("the data directory can be written");
    }

    fn write_address(&self, lines: &mut String) {
        setting(lines, "listen_addresses", &self.address.host);
        setting(lines, "port", &self.address.port.to_string());
        setting(lines, "unix_socket_directories", &self.directory.display().to_string());
    }

    /// Gives the stopped server another port.
    pub fn move_to_another_port(&mut self) {
        self.address.port = free_port();
        let mut lines = String::new();
        self.write_address(&mut lines);
        append(&self.data().join("postgresql.conf"), &lines);
    }

    /// Adds settings, which hold from the next start or reload.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let mut lines = String::new();
        for (name, value) in settings {
            setting(&mut lines, name, value);
        }
        append(&self.data().join("postgresql.conf"), &lines);
    }

    /// Sets the failpoint of the workers for the next start of the server (or reload). Where [`Server::failpoint`] sets it, which
    /// counts above the configuration file: what a test before had taken away there was not set by the file.
    pub fn failpoint_of_next_start(&self, name: &str) {
        let mut line = String::new();
        setting(&mut line, "synod.failpoint", name);
        append(&self.data().join("postgresql.auto.conf"), &line);
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The directory of the extension's files for the database named `database`.
    pub fn synod_directory(&self, database: &str) -> PathBuf {
        let oid: u32 = self
            .client()
            .query_one("SELECT oid FROM pg_database WHERE datname = $1", &[&database])
            .expect("the catalogue answers")
            .get(0);
        self.data().join("synod").join(oid.to_string())
    }

    /// The port, also part of the name of the Unix socket.
    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// The Unix socket that clients connect to.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", self.port()))
    }

    /// How peers reach `database` on this server.
    pub fn dsn_of(&self, database: &str) -> String {
        format!(
            "host={} port={} dbname={database} user=postgres",
            self.address.host, self.address.port
        )
    }

    /// How peers reach this server's database `postgres`.
    pub fn dsn(&self) -> String {
        self.dsn_of("postgres")
    }

    /// How clients reach `database`, from any network namespace.
    pub fn client_dsn(&self, database: &str) -> String {
        format!(
            "host={} port={} dbname={database} user=postgres options='-c statement_timeout={}'",
            self.directory.display(),
            self.address.port,
            STATEMENT_TIMEOUT.as_millis()
        )
    }

    /// Starts the server and waits until it takes connections.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`Self::start`], with more arguments.
    #[track_caller]
    pub fn start_with(&mut self, arguments: &[&str]) {
        self.launch_with(arguments);
        if let Err(reason) = self.wait_ready() {
            panic!(
                "{} did not start: {reason}; its log ends:\n{}",
                self.directory.display(),
                self.log_tail(30)
            );
        }
    }

    /// Starts the server without waiting, for when it is expected not to come up.
    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    fn launch_with(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.directory.display());
        let run = Run::current();
        let mut line = self.address.prefix.clone();
        line.extend(run.account().prefix());
        line.push(run.install().program("postgres").display().to_string());
        line.extend(["-D".into(), self.data().display().to_string()]);
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log can be opened");
        let errors = log.try_clone().expect("a descriptor can be duplicated");
        let child = account::clean_command(&line)
            // Whatever the environment: no backtrace may reach clients, and `refused` sees the DETAIL of many errors.
            .env("RUST_BACKTRACE", "1")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line:?}: {error}"));
        self.child = Some(child);
    }

    /// Tries to run a second server on the directory of this one; what it says before it gives up.
    pub fn start_again(&self) -> String {
        let run = Run::current();
        let mut line = self.address.prefix.clone();
        line.extend(run.account().prefix());
        line.push(run.install().program("postgres").display().to_string());
        // A port of its own, so that only the directory is in dispute.
        line.extend([
            "-D".into(),
            self.data().display().to_string(),
            "-p".into(),
            free_port().to_string(),
        ]);
        let mut child = account::clean_command(&line)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line:?}: {error}"));
        if try_wait_until(START_DEADLINE, || child.try_wait().ok().flatten()).is_none() {
            processes::send(pid_of(&child), Signal::KILL);
            let _ = child.wait();
            return "a second server runs".into();
        }
        let mut text = String::new();
        if let Some(mut errors) = child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut errors, &mut text);
        }
        text
    }

    /// Waits until the server takes connections.
    ///
    /// # Errors
    /// When it ends instead, or takes too long.
    pub fn wait_ready(&mut self) -> Result<(), String> {
        let client_dsn = self.client_dsn("postgres");
        let child = self.child.as_mut().ok_or("it was not launched")?;
        let outcome = try_wait_until(START_DEADLINE, || match child.try_wait() {
            Ok(None) => Client::connect(&client_dsn, NoTls).is_ok().then_some(Ok(())),
            Ok(Some(status)) => Some(Err(format!("it ended with {status}"))),
            Err(error) => Some(Err(error.to_string())),
        });
        let outcome = outcome.unwrap_or_else(|| Err(format!("it takes no connections after {START_DEADLINE:?}")));
        if outcome.is_err() && child.try_wait().is_ok_and(|status| status.is_some()) {
            self.child = None;
        }
        outcome
    }

    /// The file system of this server alone.
    #[track_caller]
    pub fn disk(&self) -> &Disk {
        self.disk
            .as_ref()
            .expect("this server was made without a file system of its own")
    }

    /// Whether the server has ended by itself; it can then be started again.
    pub fn has_ended(&mut self) -> bool {
        if self
            .child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
        {
            self.child = None;
        }
        self.child.is_none()
    }

    /// Whether the server's process is there.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Stops the server and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) {
        let Some(mut child) = self.child.take() else { return };
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        processes::send(pid_of(&child), signal);
        if try_wait_until(STOP_DEADLINE, || child.try_wait().ok().flatten()).is_none() {
            run::sweep(&self.data());
            let _ = child.wait();
            panic!(
                "{} did not stop ({mode:?}); its log ends:\n{}",
                self.directory.display(),
                self.log_tail(30)
            );
        }
    }

    /// SIGKILL to the postmaster and every child: the machine has lost its power, but its disk has not.
    pub fn kill9(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        processes::send_to_all(&self.data(), Some(pid_of(&child)), Signal::KILL);
        let _ = child.wait();
        let data = self.data();
        // A child forked just before may not be among the processes that a look finds.
        let mut found_none = 0;
        wait_until(STOP_DEADLINE, "the end of killed processes", || {
            let left = processes::within(&data);
            left.iter().for_each(|pid| processes::send(*pid, Signal::KILL));
            found_none = if left.is_empty() { found_none + 1 } else { 0 };
            (found_none >= 3).then_some(())
        });
    }

    /// SIGKILL to one process, such as a backend: the postmaster then restarts all others.
    pub fn kill9_process(&self, pid: i32) {
        processes::send(pid, Signal::KILL);
    }

    /// SIGTERM to one process.
    pub fn terminate_process(&self, pid: i32) {
        processes::send(pid, Signal::TERM);
    }

    /// SIGSTOP to every process: the server is there, and silent.
    pub fn pause(&self) {
        let first = self.child.as_ref().map(pid_of);
        processes::send_to_all(&self.data(), first, Signal::STOP);
    }

    /// Ids of the processes whose title contains `part`.
    pub fn processes_titled(&self, part: &str) -> Vec<i32> {
        let titled =
            |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.contains(part));
        processes::within(&self.data()).into_iter().filter(titled).collect()
    }

    /// SIGSTOP to one process.
    pub fn pause_process(&self, pid: i32) {
        processes::send(pid, Signal::STOP);
    }

    /// SIGCONT to one process.
    pub fn resume_process(&self, pid: i32) {
        processes::send(pid, Signal::CONT);
    }

    /// SIGCONT to every process.
    pub fn resume(&self) {
        processes::send_to_all(&self.data(), None, Signal::CONT);
    }

    /// Stops and starts.
    #[track_caller]
    pub fn restart(&mut self, mode: StopMode) {
        self.stop(mode);
        self.start();
    }

    /// A new connection to the database `postgres`.
    #[track_caller]
    pub fn client(&self) -> Client {
        self.client_to("postgres")
    }

    /// A new connection to `database`.
    #[track_caller]
    pub fn client_to(&self, database: &str) -> Client {
        match self.try_client(database) {
            Ok(client) => client,
            Err(error) => panic!(
                "no connection to {}: {error}; its log ends:\n{}",
                self.directory.display(),
                self.log_tail(30)
            ),
        }
    }

    /// A new connection to `database`.
    ///
    /// # Errors
    /// Whatever the server or the socket says.
    pub fn try_client(&self, database: &str) -> Result<Client, postgres::Error> {
        Client::connect(&self.client_dsn(database), NoTls)
    }

    /// Runs `psql` with `script` as its input, as a user would type it; what it prints, errors included.
    pub fn psql(&self, database: &str, arguments: &[&str], script: &str) -> String {
        use std::io::Write as _;
        let program = Run::current().install().program("psql").display().to_string();
        let mut child = account::clean_command(&[program])
            .args([
                "-X",
                "-U",
                "postgres",
                "-d",
                database,
                "-p",
                &self.address.port.to_string(),
                "-h",
            ])
            .arg(&self.directory)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut input = child.stdin.take().expect("psql's input is piped");
        input.write_all(script.as_bytes()).expect("psql reads its input");
        drop(input);
        let output = child.wait_with_output().expect("psql ends");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Whether somebody asked this before: a crash is reported once.
    pub(crate) fn crash_is_known(&self) -> bool {
        self.crash_known.swap(true, Ordering::Relaxed)
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                eprintln!(
                    "--- the log of {} ends:\n{}",
                    self.directory.display(),
                    self.log_tail(25)
                );
            }
            self.resume();
            processes::send(pid_of(&child), Signal::QUIT);
            if try_wait_until(Duration::from_secs(10), || child.try_wait().ok().flatten()).is_none() {
                run::sweep(&self.data());
                let _ = child.wait();
            }
        }
        let crashes = std::panic::catch_unwind(AssertUnwindSafe(|| crash::assert_none([&*self])));
        if !run::keep_files() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
        if let Err(crash) = crashes {
            std::panic::resume_unwind(crash);
        }
    }
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id fits in pid_t")
}

fn setting(lines: &mut String, name: &str, value: &str) {
    writeln!(lines, "{name} = '{}'", value.replace('\'', "''")).expect("writing to a string succeeds");
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = OpenOptions::new().append(true).open(path).expect("the file exists");
    file.write_all(text.as_bytes()).expect("the file can be written");
}

fn copy_directory(from: &Path, to: &Path) {
    run::run_quietly(
        &[
            "cp".into(),
            "-a".into(),
            from.display().to_string(),
            to.display().to_string(),
        ],
        Path::new("/"),
    );
}
