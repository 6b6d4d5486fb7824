//! Messages between nodes. Covers crates/paxos/src/wire.rs, crates/paxos/src/codec.rs.
#![no_main]

use bytes::Bytes;
use synod_fuzz::put_crc;
use synod_paxos::Message;

fn check(data: &[u8]) {
    if let Ok(message) = Message::decode(Bytes::copy_from_slice(data)) {
        let encoded = message.encode();
        assert_eq!(Message::decode(encoded.clone()).as_ref(), Ok(&message));
        assert_eq!(&encoded[..], data, "one message, two encodings");
    }
}

synod_fuzz::target!(|data: &[u8]| {
    check(data);
    let mut sealed = data.to_vec();
    if sealed.len() >= 8 {
        sealed[..3].copy_from_slice(&[0x53, 0x59, 1]);
        let crc = crc32c::crc32c_append(u32::from(sealed[3]), &sealed[8..]);
        put_crc(&mut sealed, 4, crc);
        check(&sealed);
    }
});
