//! Lets the cluster outlive the demonstration: its servers are stopped, moved out of the temporary directory that is
//! swept at our end, and started again as daemons.

use std::path::{Path, PathBuf};
use std::process::Command;

use synod_testkit::{Cluster, Run, StopMode};

use crate::screen;

/// Moves and starts the servers; says how to connect and how to end them.
pub fn keep(mut cluster: Cluster, names: &[String]) {
    cluster.stop_all(StopMode::Fast);
    let home = std::env::temp_dir().join(format!("synod-demo-{}", std::process::id()));
    create(&home);
    let run = Run::current();
    run.account().own(&home);

    let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.server.port()).collect();
    let mut data = Vec::new();
    for node in cluster.nodes() {
        let target = home.join(&node.name);
        node.server
            .configure(&[("unix_socket_directories", &home.display().to_string())]);
        if let Err(error) = std::fs::rename(node.server.data(), &target) {
            panic!("cannot move {} to {}: {error}", node.name, target.display());
        }
        data.push(target);
    }
    let control = run.install().program("pg_ctl");
    for directory in &data {
        run_pg_ctl(&control, directory, "start");
    }

    screen::title("The cluster keeps running");
    for (name, port) in names.iter().zip(ports) {
        println!("  {name}:  psql -h 127.0.0.1 -p {port} -U postgres postgres");
    }
    let stop = home.join("stop");
    write_stop_script(&stop, &control, &data, &home);
    println!("\n  Stop and remove it:  {}", stop.display());
}

fn create(directory: &Path) {
    if let Err(error) = std::fs::create_dir(directory) {
        panic!("cannot create {}: {error}", directory.display());
    }
}

fn command_line(control: &Path, directory: &Path, what: &str) -> Vec<String> {
    let mut line = Run::current().account().prefix();
    line.push(control.display().to_string());
    line.extend(["-D".into(), directory.display().to_string()]);
    line.extend(["-l".into(), format!("{}.log", directory.display())]);
    line.extend(["-s".into(), "-w".into(), "-m".into(), "fast".into(), what.into()]);
    line
}

fn run_pg_ctl(control: &Path, directory: &Path, what: &str) {
    let line = command_line(control, directory, what);
    let status = Command::new(&line[0])
        .args(&line[1..])
        .env_remove("RUST_BACKTRACE")
        .current_dir("/")
        .status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        panic!("{line:?}: {status:?}");
    }
}

fn write_stop_script(path: &Path, control: &Path, data: &[PathBuf], home: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut script = String::from("#!/bin/sh\n");
    for directory in data {
        script.push_str(&command_line(control, directory, "stop").join(" "));
        script.push('\n');
    }
    script.push_str(&format!("rm -rf {}\n", home.display()));
    let written = std::fs::write(path, script)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)));
    if let Err(error) = written {
        panic!("cannot write {}: {error}", path.display());
    }
}
