//! Failpoints for tests: `synod.failpoint = 'name'` makes the named step fail, `'kill name'` lets the process die there as by
//! SIGKILL, which is a crash of the server, and `'stop name'` freezes it there (SIGSTOP) until somebody lets it go on (SIGCONT):
//! so a test can put any two processes into any order. For a session by `SET`, for a worker by the configuration file.
//! Superusers only.

use pgrx::PgSqlErrorCode;

/// Fail, die or freeze, when the failpoint has this name.
pub fn hit(name: &str) {
    if armed(name) {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("failpoint \"{name}\"")
        );
    }
}

/// Whether the step of this name must fail, for steps with a way of their own to do so. Dies or freezes when that is what was
/// asked for.
pub fn armed(name: &str) -> bool {
    let Some(wanted) = crate::settings::FAILPOINT.get() else {
        return false;
    };
    let (signal, wanted) = match wanted.to_bytes() {
        [b'k', b'i', b'l', b'l', b' ', rest @ ..] => (Some(libc::SIGKILL), rest),
        [b's', b't', b'o', b'p', b' ', rest @ ..] => (Some(libc::SIGSTOP), rest),
        all => (None, all),
    };
    match signal {
        _ if wanted != name.as_bytes() => false,
        None => true,
        Some(signal) => {
            // SAFETY: a signal to this very process: it does not survive it, or goes on behind this line.
            unsafe { libc::kill(libc::getpid(), signal) };
            false
        }
    }
}
