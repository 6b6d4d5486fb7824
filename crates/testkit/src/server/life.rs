//! The life and death of a server: it is our child process (`setpriv` and `ip netns exec` keep the process id), so its end is
//! seen at once. Faults come by signals, to all of its processes or to one.

use std::fs::OpenOptions;
use std::panic::AssertUnwindSafe;
use std::process::{Child, Stdio};
use std::time::Duration;

use postgres::{Client, NoTls};
use rustix::process::Signal;

use super::Server;
use crate::ports::free_port;
use crate::run::{self, Run};
use crate::{account, crash, processes, try_wait_until, wait_until};

/// Starting includes crash recovery.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Stopping includes the checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnect clients, checkpoint, exit.
    Fast,
    /// Exit without a checkpoint, as after a crash.
    Immediate,
}

impl Server {
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
        let line = self.command_line(arguments);
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

    /// Runs the server, as the account and in the network namespace that are its own.
    fn command_line(&self, arguments: &[&str]) -> Vec<String> {
        let run = Run::current();
        let mut line = self.address.prefix.clone();
        line.extend(run.account().prefix());
        line.push(run.install().program("postgres").display().to_string());
        line.extend(["-D".into(), self.data().display().to_string()]);
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        line
    }

    /// Tries to run a second server on the directory of this one; what it says before it gives up.
    pub fn start_again(&self) -> String {
        // A port of its own, so that only the directory is in dispute.
        let line = self.command_line(&["-p", &free_port().to_string()]);
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
