//! Logical messages of ours in the WAL, each with the key ahead of its content that proves whose it is ([`crate::stream_key`]).
//!
//! Nothing is written unless somebody may read it: `wal_level = logical`, and a slot of ours in this database. The look at the
//! slots comes before the transaction has its number (`pg/stream_slots.rs`), so it may miss a slot that is being made this very
//! moment: a transaction that runs meanwhile may be told without these messages, never without its rows.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::{compat, stream_slots};
use crate::stream_key;

/// Whether anybody may read such messages.
pub fn wanted() -> bool {
    // SAFETY: a setting of the server, constant while it runs.
    let logical = unsafe { pg_sys::wal_level } >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32;
    logical && stream_slots::exist()
}

/// Whether this transaction may write WAL at all.
pub fn possible() -> bool {
    // SAFETY: state of this process.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() && !pg_sys::IsInParallelMode() }
}

/// Write a message as a part of this (sub)transaction, which gets a number by it.
pub fn write(prefix: &CStr, content: &[u8]) {
    write_with(
        prefix,
        &mut Vec::with_capacity(stream_key::LENGTH + content.len()),
        |buffer| {
            buffer.extend_from_slice(content);
        },
    );
}

/// As [`write()`], with the content as `fill` appends it, and a buffer to use again.
pub fn write_with(prefix: &CStr, buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let key = stream_key::key().unwrap_or_else(|error| error.raise());
    buffer.clear();
    buffer.extend_from_slice(&key);
    fill(buffer);
    // SAFETY: inside a transaction that may write.
    unsafe { compat::log_logical_message(prefix, buffer) }
}
