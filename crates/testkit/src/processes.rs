//! A server's processes, found by their working directory: every process of a PostgreSQL server has changed into its
//! data directory and stays there, also when its parent is gone.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Ids of all processes whose working directory is `directory`.
pub(crate) fn within(directory: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory))
        .collect()
}

/// Sends `signal`; a process that has ended meanwhile is no error.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Sends `signal` to all processes in `directory` until no unsignalled one is left, `first` before the others so that
/// it cannot start new ones meanwhile.
pub(crate) fn send_to_all(directory: &Path, first: Option<i32>, signal: Signal) {
    let mut done: Vec<i32> = first.into_iter().inspect(|pid| send(*pid, signal)).collect();
    loop {
        let fresh: Vec<i32> = within(directory)
            .into_iter()
            .filter(|pid| !done.contains(pid))
            .collect();
        if fresh.is_empty() {
            return;
        }
        for pid in &fresh {
            send(*pid, signal);
        }
        done.extend(fresh);
    }
}
