//! Which PostgreSQL is under test, and whether the extension has been installed into it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where to look when no variable says anything.
const DEFAULT_PG_CONFIG: &str = "/usr/lib/postgresql/15/bin/pg_config";

/// One installation of PostgreSQL, found through its `pg_config`.
#[derive(Clone, Debug)]
pub struct PgInstall {
    bin: PathBuf,
    library: PathBuf,
    share: PathBuf,
    major: u32,
    ssl: bool,
    icu: bool,
}

impl PgInstall {
    /// From `$SYNOD_PG_CONFIG`, else `$PGRX_PG_CONFIG_PATH`, else Debian's PostgreSQL 15.
    ///
    /// # Panics
    /// When there is no such `pg_config`.
    pub fn from_environment() -> Self {
        let pg_config = ["SYNOD_PG_CONFIG", "PGRX_PG_CONFIG_PATH"]
            .iter()
            .find_map(std::env::var_os)
            .map_or_else(|| PathBuf::from(DEFAULT_PG_CONFIG), PathBuf::from);
        let major = ask(&pg_config, "--version")
            .trim_start_matches("PostgreSQL ")
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>();
        Self {
            bin: ask(&pg_config, "--bindir").into(),
            library: ask(&pg_config, "--pkglibdir").into(),
            share: ask(&pg_config, "--sharedir").into(),
            major: major
                .parse()
                .expect("pg_config --version begins with the major version"),
            ssl: ask(&pg_config, "--configure").contains("ssl"),
            icu: ask(&pg_config, "--configure").contains("--with-icu"),
        }
    }

    /// The path of one of PostgreSQL's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// One of the programs that run PostgreSQL's own tests: `regress/pg_regress`. A copy of Debian's server lacks them.
    pub fn test_program(&self, name: &str) -> PathBuf {
        let part = Path::new("pgxs/src/test").join(name);
        let own = self.library.join(&part);
        if own.is_file() {
            return own;
        }
        Path::new("/usr/lib/postgresql")
            .join(self.major.to_string())
            .join("lib")
            .join(part)
    }

    /// 15, 18, ...
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether it was built with SSL.
    pub fn has_ssl(&self) -> bool {
        self.ssl
    }

    /// Whether it was built with ICU, and says so.
    pub fn has_icu(&self) -> bool {
        self.icu
    }

    /// What is missing of the extension's files, or nothing.
    pub fn missing_extension_files(&self) -> Vec<PathBuf> {
        let files = [
            self.library.join("synod.so"),
            self.share.join("extension/synod.control"),
        ];
        files.into_iter().filter(|file| !file.is_file()).collect()
    }

    /// # Panics
    /// When the extension is not installed, saying how to install it.
    #[track_caller]
    pub fn require_extension(&self) {
        let missing = self.missing_extension_files();
        assert!(
            missing.is_empty(),
            "the extension is not installed in the PostgreSQL under {}: {missing:?} missing; run `make install`",
            self.bin.display()
        );
    }
}

fn ask(pg_config: &Path, what: &str) -> String {
    let output = Command::new(pg_config)
        .arg(what)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}; set SYNOD_PG_CONFIG", pg_config.display()));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
