//! Hashes of key values in text form. Covers crates/change/src/key.rs.
#![no_main]

use synod_change::{KeyHasher, TableId};

fn hash(text: &str) -> u64 {
    KeyHasher::new(TableId(1), 1).numeric(text).finish()
}

synod_fuzz::target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && !text.is_empty() {
        assert_eq!(hash(text), hash(&format!("+00{text}.00")));
        assert_eq!(hash(&format!("-{text}")), hash(&format!(" -0{text}.0 ")));
    }
    let _ = hash(text);
});
