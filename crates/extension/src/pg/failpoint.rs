//! Failpoints for tests: `SET synod.failpoint = 'name'` makes the named step fail in this session. Superusers only.

use pgrx::PgSqlErrorCode;

/// Raise an error when the session's failpoint has this name.
pub fn hit(name: &str) {
    if let Some(wanted) = crate::settings::FAILPOINT.get()
        && wanted.to_bytes() == name.as_bytes()
    {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("failpoint \"{name}\"")
        );
    }
}
