//! Certification keys on the way from a backend to its log worker: each with its own base.
//!
//! Fixed width, 17 bytes: hash u64, base u64, mode u8, little endian. Never leaves the server.

use synod_change::{Key, KeyMode};

/// A key and the applied CSN up to which its holder knows it to be free of conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalKey {
    /// What is claimed, and how strongly.
    pub key: Key,
    /// Conflicts at or below this position are excluded.
    pub base: u64,
}

/// Bytes of one key.
pub const KEY_BYTES: usize = 17;

/// All keys, one after the other.
pub fn encode(keys: &[LocalKey]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(keys.len() * KEY_BYTES);
    for local in keys {
        bytes.extend_from_slice(&local.key.hash.to_le_bytes());
        bytes.extend_from_slice(&local.base.to_le_bytes());
        bytes.push(local.key.mode as u8);
    }
    bytes
}

/// The first `count` keys of `bytes`; `None` when there are fewer or a mode is unknown.
pub fn decode(bytes: &[u8], count: usize) -> Option<Vec<LocalKey>> {
    let bytes = bytes.get(..count.checked_mul(KEY_BYTES)?)?;
    bytes.chunks_exact(KEY_BYTES).map(decode_one).collect()
}

fn decode_one(bytes: &[u8]) -> Option<LocalKey> {
    let hash = u64::from_le_bytes(bytes.get(0..8)?.try_into().ok()?);
    let base = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let mode = KeyMode::from_u8(*bytes.get(16)?)?;
    Some(LocalKey {
        key: Key { hash, mode },
        base,
    })
}
