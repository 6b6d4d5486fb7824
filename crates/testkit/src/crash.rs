//! A server that heals after a crash hides it from a test that only looks at the result: so its log is read for crashes that
//! no test asks for.

use crate::server::Server;

/// Failed assertions of a server built with them, aborts, and memory faults. Tests kill with SIGKILL.
const MARKS: [&str; 3] = ["TRAP: ", "was terminated by signal 6", "was terminated by signal 11"];

/// Fails the test when one of the servers has crashed. Not while the test is failing anyway.
#[track_caller]
pub(crate) fn assert_none<'a>(servers: impl IntoIterator<Item = &'a Server>) {
    for server in servers {
        let log = server.log();
        let crash: Vec<&str> = log
            .lines()
            .filter(|line| MARKS.iter().any(|mark| line.contains(mark)))
            .collect();
        assert!(
            crash.is_empty() || server.crash_is_known() || std::thread::panicking(),
            "a server has crashed:\n{}\nits log ends:\n{}",
            crash.join("\n"),
            server.log_tail(60)
        );
    }
}
