//! The state of certification as bytes, and the verdicts of a certifier that starts from it. Covers
//! crates/rules/src/checkpoint.rs.
#![no_main]

use bytes::Bytes;
use synod_change::Record;
use synod_fuzz::put_crc;
use synod_rules::{Certifier, Input};

fn check(data: &[u8]) {
    let Ok(mut certifier) = Certifier::decode(data) else {
        return;
    };
    let encoded = certifier.encode();
    let again = Certifier::decode(&encoded).expect("what was encoded");
    assert_eq!(again.encode(), encoded, "one state, two encodings");
    let start = Record::Start {
        postgres_version: 150_000,
        synod_version: 100,
    };
    let fragment = Record::Fragment(Bytes::from_static(b"x"));
    for (sequence, record) in (1..).zip([&start, &fragment, &fragment]) {
        let position = certifier.position() + 1;
        let id = (3, u64::MAX, sequence).into();
        certifier.apply(position, Input::Command { id, record });
    }
    let position = certifier.position() + 1;
    certifier.apply(position, Input::Members(&[1, 2]));
    assert!(
        Certifier::decode(&certifier.encode()).is_ok(),
        "its own state does not decode"
    );
}

synod_fuzz::target!(|data: &[u8]| {
    check(data);
    let mut sealed = data.to_vec();
    if sealed.len() > 5 {
        sealed[0] = 1;
        let crc = crc32c::crc32c(&sealed[5..]);
        put_crc(&mut sealed, 1, crc);
        check(&sealed);
    }
});
