//! Single processes of a server, to freeze one at a moment of the test's choosing.

use std::time::Duration;

use crate::server::Server;
use crate::{try_wait_until, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

impl Server {
    /// The process whose title contains `title` (`walwriter`, `synod log worker`, ...).
    #[track_caller]
    pub fn pid_of(&self, title: &str) -> i32 {
        wait_until(DEADLINE, &format!("a process \"{title}\""), || {
            self.processes_titled(title).into_iter().next()
        })
    }

    /// Waits until a process whose title contains `title` has frozen; its id.
    #[track_caller]
    pub fn frozen(&self, title: &str) -> i32 {
        let frozen = || self.processes_titled(title).into_iter().find(|pid| is_frozen(*pid));
        try_wait_until(DEADLINE, frozen)
            .unwrap_or_else(|| panic!("\"{title}\" did not freeze; the server said {}", self.log_tail(20)))
    }

    /// Waits until the process has frozen, as it does at a failpoint `stop name`.
    #[track_caller]
    pub fn wait_frozen(&self, pid: i32) {
        wait_until(DEADLINE, &format!("process {pid} to freeze"), || {
            is_frozen(pid).then_some(())
        });
    }

    /// Sets the failpoint of the server's workers, or takes it away (empty).
    #[track_caller]
    pub fn failpoint(&self, name: &str) {
        self.client()
            .batch_execute(&format!("ALTER SYSTEM SET synod.failpoint = '{name}'"))
            .expect("a superuser may");
        self.client()
            .batch_execute("SELECT pg_reload_conf()")
            .expect("a superuser may");
    }

    /// Names of the files with large write sets that wait to be handed to the log.
    pub fn spill_files(&self) -> Vec<String> {
        let directory = self.synod_directory("postgres").join("spill");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// The most memory that the process has had since `forget_memory_peak`, in kilobytes, without what it shares.
    pub fn private_memory_peak(&self, pid: i32) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let figure = |name: &str| -> u64 {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok())
                .unwrap_or(0)
        };
        figure("VmHWM:").saturating_sub(figure("RssShmem:") + figure("RssFile:"))
    }

    /// Begins to measure the peak anew, where the kernel allows it.
    pub fn forget_memory_peak(&self, pid: i32) {
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

fn is_frozen(pid: i32) -> bool {
    // The name, in parentheses, may contain anything; the state follows it.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}
