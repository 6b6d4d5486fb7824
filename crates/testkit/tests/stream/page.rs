//! The page of the documentation is true: its commands are run, in order.

use super::*;

const PAGE: &str = include_str!("../../../../docs/src/stream-command.md");

#[test]
fn the_page_does_what_it_says() {
    let server = server();
    for name in ["shop_page", "warehouse_page"] {
        database(&server, name, "SELECT 1");
    }
    let place = directory("page");
    let program = synod_testkit::command::synod_program();
    let psql = PgInstall::from_environment().program("psql");
    let path = [&program, &psql]
        .map(|it| it.parent().unwrap().display().to_string())
        .join(":");
    let (mut info, mut ran) = (None::<&str>, 0);
    let mut block = String::new();
    for line in PAGE.lines() {
        match (line.strip_prefix("```"), info) {
            (Some(words), None) => info = Some(words),
            (None, Some(_)) => block += &format!("{line}\n"),
            (None, None) => {}
            (Some(_), Some(words)) => {
                let text = std::mem::take(&mut block);
                info = None;
                match words.split_once(',') {
                    Some(("sql", name)) => {
                        let said = server.psql(&format!("{name}_page"), &["-v", "ON_ERROR_STOP=1"], &text);
                        assert!(!said.contains("ERROR:"), "{text}: {said}");
                    }
                    Some(("console", _)) => {
                        for line in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
                            run(&server, &place, &path, line);
                            ran += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(ran >= 8, "{ran} commands");
}

fn run(server: &Server, place: &Path, path: &str, line: &str) {
    let line = line
        .replace("--dsn shop", "--dsn shop_page")
        .replace("/warehouse", "/warehouse_page")
        .replace("-qd warehouse", "-qd warehouse_page")
        .replace("-Atd warehouse", "-Atd warehouse_page");
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .current_dir(place)
        .env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap_or_default()))
        .env("PGHOST", server.socket().parent().unwrap())
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", "postgres")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
