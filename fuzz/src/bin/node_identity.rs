//! The small files of a node, what members know of each other, and other bytes of the extension. Covers
//! crates/extension/src/identity/codec.rs, crates/extension/src/local_key.rs, crates/extension/src/text.rs,
//! crates/extension/src/handshake.rs.
#![no_main]
#![allow(dead_code, reason = "the files are the extension's; not all of each is used here")]

#[path = "../../../crates/extension/src/identity/codec.rs"]
mod codec;
#[path = "../../../crates/extension/src/handshake.rs"]
mod handshake;
#[path = "../../../crates/extension/src/local_key.rs"]
mod local_key;
#[path = "../../../crates/extension/src/text.rs"]
mod text;

use codec::{decode_incarnation, encode_incarnation, ExpectedTables, Identity, MemberInfo};
use handshake::{Handshake, Role};

fn check(data: &[u8]) {
    if let Ok(identity) = Identity::decode(data) {
        assert_eq!(identity.encode(), data, "one identity, two encodings");
    }
    if let Ok(incarnation) = decode_incarnation(data) {
        assert_eq!(encode_incarnation(incarnation), data);
    }
    if let Ok(expected) = ExpectedTables::decode(data) {
        assert_eq!(expected.encode(), data);
    }
}

synod_fuzz::target!(|data: &[u8]| {
    check(data);
    if let Some((body, _)) = data.split_last_chunk::<4>() {
        for kind in [b"SYNODnod\0\0\0\x01", b"SYNODinc\0\0\0\x01", b"SYNODexp\0\0\0\x01"] {
            let mut sealed = body.to_vec();
            if let Some(start) = sealed.get_mut(..12) {
                start.copy_from_slice(kind);
            }
            sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_be_bytes());
            check(&sealed);
        }
    }
    if let Some(info) = MemberInfo::decode(data) {
        assert_eq!(info.encode(), data, "one member, two encodings");
    }
    let (count, keys) = data
        .split_first()
        .map_or((0, data), |(count, keys)| (usize::from(*count), keys));
    for count in [count, usize::MAX] {
        if let Some(found) = local_key::decode(keys, count) {
            assert_eq!(local_key::encode(&found), keys[..count * local_key::KEY_BYTES]);
        }
    }
    if let Ok(words) = std::str::from_utf8(data) {
        if let Some(bytes) = text::from_hex(words) {
            assert_eq!(text::hex(&bytes), words.to_ascii_lowercase());
        }
    }
    // Nobody proves what he does not know, whatever he sends.
    let (nonce, proof) = data.split_at(data.len().min(32));
    let of = |secret| Handshake {
        secret,
        group: &[1; 16],
        from: 1,
        to: 2,
        dialling_nonce: &[7; 32],
        called_nonce: nonce,
    };
    let (ours, another) = (of(&[3; 32]), of(&[4; 32]));
    for role in [Role::Dialling, Role::Called] {
        assert!(!ours.verify(role, proof));
        assert!(!ours.verify(role, &another.proof(role)));
        assert!(ours.verify(role, &ours.proof(role)));
    }
    assert!(!ours.verify(Role::Called, &ours.proof(Role::Dialling)));
});
