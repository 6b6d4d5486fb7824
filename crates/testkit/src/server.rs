//! One PostgreSQL server under test: its directory, its settings, its clients, its log; its life and death are in `life`.
//!
//! Clients connect through a Unix socket in the server's directory, peers through TCP.

mod life;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use life::StopMode;
use postgres::{Client, NoTls};

use crate::disk::Disk;
use crate::ports::free_port;
use crate::run::{self, Run};
use crate::{account, identifier};

/// No statement of a test takes longer unless something hangs.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What may decode, where the server asks.
const OUTPUT_PLUGINS: &str = "pgoutput, test_decoding, wal2json, synod";

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

    /// The file system of this server alone.
    #[track_caller]
    pub fn disk(&self) -> &Disk {
        self.disk
            .as_ref()
            .expect("this server was made without a file system of its own")
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
