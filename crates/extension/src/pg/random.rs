//! Random bytes for identities, secrets and challenges.

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::errors::UserError;

/// Bytes from the server's cryptographic source.
pub fn bytes<const N: usize>() -> Result<[u8; N], UserError> {
    let mut bytes = [0u8; N];
    // SAFETY: the buffer has N bytes; the function reports failure and never raises.
    if unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) } {
        Ok(bytes)
    } else {
        Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "could not get random bytes",
            "The server's source of random numbers failed.",
            "",
        ))
    }
}
