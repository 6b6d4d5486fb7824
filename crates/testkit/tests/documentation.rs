//! The documentation is true: the blocks of the quick start and of what follows it are run in order and their output is compared; the page of
//! settings names each one with its default.

use std::path::Path;
use std::process::Command;

use synod_testkit::{PgInstall, Server};

/// The second goes on where the first ends.
const PAGES: [&str; 2] = [
    include_str!("../../../docs/src/quick-start.md"),
    include_str!("../../../docs/src/services.md"),
];

const SETTINGS: &str = include_str!("../../../docs/src/settings.md");

/// A fenced block: the words after the fence, and what is inside.
struct Block {
    line: usize,
    info: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(_), true) => open = false,
            (Some(info), false) => {
                open = true;
                found.push(Block {
                    line: number + 1,
                    info: info.into(),
                    text: String::new(),
                });
            }
            (None, true) => {
                let block = found.last_mut().expect("a block is open");
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, false) => {}
        }
    }
    found
}

/// A shell's line, with this server in place of the default one.
fn run_console(install: &PgInstall, server: &Server, socket: &Path, line: &str) {
    let programs = [install.program("psql"), synod_testkit::command::synod_program()];
    let directories = programs.iter().filter_map(|program| program.parent());
    let path = std::env::var("PATH").unwrap_or_default();
    let path = directories.fold(path, |path, directory| format!("{}:{path}", directory.display()));
    let output = Command::new("sh")
        .args(["-c", line])
        .env("PATH", path)
        .env("PGHOST", socket)
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", "postgres")
        .output()
        .expect("the program starts");
    assert!(
        output.status.success(),
        "{line}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_quick_start_does_what_it_says() {
    let server = server("quick", &[("max_worker_processes", "16")]);
    run_pages(&server, &PAGES, 7);
    assert_settings_are_described(&server);
}

#[test]
fn the_page_on_who_changed_what_does_what_it_says() {
    let server = server("audited", &[("wal_level", "logical")]);
    server
        .client()
        .batch_execute("CREATE DATABASE audited")
        .expect("a database can be created");
    run_pages(&server, &[include_str!("../../../docs/src/audit.md")], 6);
}

fn server(label: &str, settings: &[(&str, &str)]) -> Server {
    PgInstall::from_environment().require_extension();
    let mut server = Server::new(label, settings);
    server.start();
    server
}

/// Runs the blocks of pages in their order; there must be at least so many.
fn run_pages(server: &Server, pages: &[&str], at_least: usize) {
    let install = PgInstall::from_environment();
    let socket = server.data().parent().expect("data lies in a directory").to_path_buf();
    let mut ran = 0;
    let mut printed = String::new();
    for block in pages.iter().flat_map(|page| blocks(page)) {
        let text = block
            .text
            .replace("/var/run/postgresql", &socket.display().to_string())
            .replace("port=5432", &format!("port={}", server.port()));
        match block.info.split_once(',') {
            Some(("console", "run")) => {
                for line in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
                    run_console(&install, server, &socket, line);
                }
                ran += 1;
            }
            Some(("sql", database)) => {
                printed = server.psql(database, &["-v", "ON_ERROR_STOP=1"], &text);
                assert!(
                    !printed.contains("ERROR:"),
                    "the block at line {}: {printed}\n{}",
                    block.line,
                    server.log_tail(20)
                );
                ran += 1;
            }
            _ if block.info == "output" => {
                assert_eq!(printed, block.text, "after the block before line {}", block.line)
            }
            _ => {}
        }
    }
    assert!(ran >= at_least, "only {ran} blocks were found to run");
}

/// The page of settings names each one, with its default.
fn assert_settings_are_described(server: &Server) {
    let rows = server
        .client_to("a")
        .query(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name LIKE 'synod.%'",
            &[],
        )
        .expect("settings are readable");
    assert!(!rows.is_empty(), "the extension has settings");
    for row in rows {
        let (name, default): (String, String) = (row.get(0), row.get(1));
        let described = SETTINGS
            .lines()
            .any(|line| line.starts_with(&format!("| `{name}` | `{default}` |")));
        assert!(described, "docs/src/settings.md does not describe {name} = {default}");
    }
}
