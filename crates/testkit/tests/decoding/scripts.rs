//! PostgreSQL's own tests of `test_decoding`, with our plugin's name in its place: the same scripts, the same expected output.
//!
//! They are fetched from Debian's source package; what is changed in them is all here:
//! - the name, and so the width of columns that hold it;
//! - three refusals of options carry a HINT of ours.
//!
//! Nothing is left out but the Perl test `t/`, which asks for slot statistics only.

use std::fs;
use std::path::Path;
use std::process::Command;

use synod_testkit::{PgInstall, Run, Server, fetch_source};

const NAME: &str = "test_decoding";

/// As `logical.conf` of the scripts, and one setting that minor releases of 2026 added after the expected output was written: a
/// library that is not there must get as far as being looked for.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", ""),
    ("wal_level", "logical"),
    ("max_replication_slots", "4"),
    ("logical_decoding_work_mem", "64kB"),
    ("autovacuum_naptime", "1d"),
    ("max_prepared_transactions", "4"),
    ("fsync", "off"),
];

#[test]
fn the_scripts_of_test_decoding_give_what_they_expect() {
    let install = PgInstall::from_environment();
    install.require_extension();
    let suite = match install.major() {
        15 => "bookworm",
        17 => "trixie",
        _ => "sid",
    };
    let package = format!("postgresql-{}", install.major());
    let source = match fetch_source(suite, &package, &format!("contrib/{NAME}")) {
        Ok(source) => source,
        // Mirrors lose the sources of a release now and then. `interface` compares with the plugin itself.
        Err(why) => return eprintln!("left out: {why}"),
    };
    let mut server = Server::new("scripts", SETTINGS);
    server.start();
    let mut client = server.client();
    if client
        .simple_query("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'synod', 'nonexistent'")
        .is_ok()
    {
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }
    let ours = Run::current().new_directory("ours");
    let hints = hints(&mut client);
    for folder in ["sql", "specs", "expected"] {
        fs::create_dir(ours.join(folder)).unwrap();
        for file in fs::read_dir(source.join(folder)).unwrap() {
            let file = file.unwrap();
            let text = fs::read_to_string(file.path()).unwrap();
            let text = if folder == "expected" {
                with_hints(&renamed_output(&text), &hints)
            } else {
                renamed(&text)
            };
            fs::write(ours.join(folder).join(file.file_name()), text).unwrap();
        }
    }
    let makefile = fs::read_to_string(source.join("Makefile"))
        .unwrap()
        .replace("\\\n", " ");
    for (program, list, least) in [
        ("regress/pg_regress", "REGRESS", 19),
        ("isolation/pg_isolation_regress", "ISOLATION", 13),
    ] {
        let tests = listed(&makefile, list);
        assert!(tests.len() >= least, "{list}: {tests:?}");
        run(&server, &install.test_program(program), &ours, &tests);
    }
}

fn listed<'a>(makefile: &'a str, list: &str) -> Vec<&'a str> {
    let line = makefile
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{list} = ")));
    line.expect("the Makefile lists its tests").split_whitespace().collect()
}

fn run(server: &Server, program: &Path, scripts: &Path, tests: &[&str]) {
    let socket = server.socket();
    let output = scripts.join(program.file_name().unwrap()).with_extension("out");
    let bin = PgInstall::from_environment().program("psql");
    let result = Command::new(program)
        .arg(format!("--inputdir={}", scripts.display()))
        .arg(format!("--outputdir={}", output.display()))
        .arg(format!("--bindir={}", bin.parent().unwrap().display()))
        .arg(format!("--host={}", socket.parent().unwrap().display()))
        .arg(format!("--port={}", server.port()))
        .args(["--user=postgres", "--dbname=regression_scripts"])
        .args(tests)
        .current_dir(scripts)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(
        result.status.success(),
        "{}\n{}\n{}",
        String::from_utf8_lossy(&result.stdout),
        String::from_utf8_lossy(&result.stderr),
        fs::read_to_string(output.join("regression.diffs")).unwrap_or_default()
    );
}

/// The name alone, not as a part of others (`regress_test_decoding`).
fn renamed(text: &str) -> String {
    let mut result = String::new();
    for (at, part) in text.split(NAME).enumerate() {
        if at > 0 {
            result += if result.ends_with('_') { NAME } else { "synod" };
        }
        result += part;
    }
    result
}

/// As [`renamed`], and tables drawn as psql draws them with the new name.
fn renamed_output(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(renamed).collect();
    let before: Vec<&str> = text.lines().collect();
    for at in 1..before.len() {
        let is_rule = !before[at].is_empty() && before[at].chars().all(|it| it == '-' || it == '+');
        if !is_rule {
            continue;
        }
        let end = (at + 1..before.len())
            .find(|row| before[*row].starts_with('('))
            .unwrap_or(at);
        let table: Vec<&str> = before[at - 1..end].to_vec();
        if table[2..]
            .iter()
            .any(|row| cells(table[1], row).iter().any(|cell| cell.trim() == NAME))
        {
            for (row, drawn) in redrawn(&table).into_iter().enumerate() {
                lines[at - 1 + row] = drawn;
            }
        }
    }
    lines.join("\n") + "\n"
}

/// The cells of a table's row; `rule` is its line of dashes.
fn cells<'a>(rule: &str, row: &'a str) -> Vec<&'a str> {
    let mut from = 0;
    let mut cells = Vec::new();
    for width in rule.split('+').map(str::len) {
        cells.push(row.get(from..(from + width).min(row.len())).unwrap_or_default());
        from += width + 1;
    }
    cells
}

/// A table (head, rule, rows) with those columns narrower that hold the name.
fn redrawn(table: &[&str]) -> Vec<String> {
    let rule = table[1];
    let columns = rule.split('+').count();
    let mut result = vec![String::new(); table.len()];
    for column in 0..columns {
        let of: Vec<&str> = table.iter().map(|row| cells(rule, row)[column]).collect();
        let named = of[2..].iter().any(|cell| cell.trim() == NAME);
        let texts: Vec<String> = of.iter().map(|cell| renamed(cell.trim())).collect();
        let width = texts
            .iter()
            .enumerate()
            .filter(|(row, _)| *row != 1)
            .map(|(_, text)| text.len())
            .max()
            .unwrap_or(0);
        for (row, line) in result.iter_mut().enumerate() {
            let last = column + 1 == columns;
            let drawn = match row {
                _ if !named => of[row].to_owned(),
                0 => format!(" {:^width$} ", texts[0]),
                1 => "-".repeat(width + 2),
                _ if last => format!(" {}", texts[row]),
                _ => format!(" {:width$} ", texts[row]),
            };
            if column > 0 {
                line.push(if row == 1 { '+' } else { '|' });
            }
            line.push_str(&drawn);
        }
    }
    result
}

/// What our refusals say beyond `test_decoding`'s: (primary message, HINT).
fn hints(client: &mut postgres::Client) -> Vec<(String, String)> {
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('hints', 'synod')")
        .unwrap();
    let wrong = ["include-xids", "nonexistent-option"].map(|option| {
        let sql = format!("SELECT pg_logical_slot_get_changes('hints', NULL, NULL, '{option}', 'frakbar')");
        let error = client.batch_execute(&sql).expect_err(option);
        let error = error.as_db_error().expect("the server refuses").clone();
        (
            error.message().to_owned(),
            error.hint().expect("with a HINT").to_owned(),
        )
    });
    client
        .batch_execute("SELECT pg_drop_replication_slot('hints')")
        .unwrap();
    wrong.to_vec()
}

fn with_hints(text: &str, hints: &[(String, String)]) -> String {
    let mut result = String::new();
    for line in text.lines() {
        result += line;
        result.push('\n');
        if let Some((_, hint)) = hints.iter().find(|(message, _)| line == format!("ERROR:  {message}")) {
            result += &format!("HINT:  {hint}\n");
        }
    }
    result
}

#[test]
fn tables_are_redrawn_as_psql_draws_them() {
    let before = " a  |    plugin     | n \n----+---------------+---\n xy | test_decoding | 1\n(1 row)\n";
    let after = " a  | plugin | n \n----+--------+---\n xy | synod  | 1\n(1 row)\n";
    assert_eq!(renamed_output(before), after);
    assert_eq!(
        renamed("regress_test_decoding test_decoding"),
        "regress_test_decoding synod"
    );
}
