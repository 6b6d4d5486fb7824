//! What proves that a message with a prefix of ours is ours: a key ahead of its content that SQL users do not know.
//!
//! Anybody may call `pg_logical_emit_message` with any prefix. A message that was forged would put words into the mouths of others, or
//! false rows into the stream. So messages without the key are passed over.
//!
//! The key is made of a secret that every cluster has from initdb on, in its control file: so it is there before the first message, the
//! same in all databases, and in every backup and standby, from whatever time. Whoever can read raw WAL (a role with REPLICATION) can read
//! the key. What he forges is checked like anything from outside (`pg/decode/message_row.rs`).

use std::cell::OnceCell;

use hmac::{Hmac, KeyInit, Mac};
use pgrx::PgSqlErrorCode;
use sha2::Sha256;

use crate::errors::UserError;
use crate::pg::server;

/// Bytes of the key.
pub const LENGTH: usize = 16;

/// Keyed by the secret. A plain hash of a text and the secret would be what the server tells, as a salt, to whoever tries to log in under
/// that text as a name (`mock_scram_secret` in auth-scram.c).
const PURPOSE: &[u8] = b"synod stream messages";

thread_local! {
    static KEY: OnceCell<Option<[u8; LENGTH]>> = const { OnceCell::new() };
}

/// The key, to be written ahead of a message.
pub fn key() -> Result<[u8; LENGTH], UserError> {
    known().ok_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            "the control file of this server holds no secret",
            "It marks the messages in the WAL that are synod's own. initdb makes it; pg_resetwal, where it had to guess, does not.",
            "Dump the databases and restore them into a new server.",
        )
    })
}

/// The content of a message of ours, behind the key; `None`: somebody else wrote it.
pub fn content(message: &[u8]) -> Option<&[u8]> {
    let (first, content) = message.split_first_chunk::<LENGTH>()?;
    (*first == known()?).then_some(content)
}

fn known() -> Option<[u8; LENGTH]> {
    KEY.with(|key| *key.get_or_init(|| derived(&server::secret())))
}

/// `None`: there is no secret.
fn derived(secret: &[u8]) -> Option<[u8; LENGTH]> {
    if secret.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mac = Hmac::<Sha256>::new_from_slice(secret).ok()?.chain_update(PURPOSE);
    mac.finalize().into_bytes().first_chunk().copied()
}
