//! Failpoints for tests: `SET synod.failpoint = 'name'` makes the named step fail in this session, `'kill name'` lets the
//! process die there as by SIGKILL, which is a crash of the server. Superusers only.

use pgrx::PgSqlErrorCode;

/// Fail, or die, when the session's failpoint has this name.
pub fn hit(name: &str) {
    let Some(wanted) = crate::settings::FAILPOINT.get() else {
        return;
    };
    if wanted.to_bytes().strip_prefix(b"kill ") == Some(name.as_bytes()) {
        // SAFETY: a signal to this very process, which does not survive it.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    if wanted.to_bytes() == name.as_bytes() {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("failpoint \"{name}\"")
        );
    }
}
