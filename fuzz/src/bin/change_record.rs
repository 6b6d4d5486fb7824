//! Records, the payload of the log. Covers crates/change/src/record.rs, crates/change/src/wire.rs.
#![no_main]

use bytes::Bytes;
use synod_change::{patch_base, Body, Record};
use synod_fuzz::put_crc;

const KIND_WRITE: u8 = 2;

fn check(data: &[u8]) {
    let Ok(record) = Record::decode(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let encoded = record.encode();
    assert_eq!(Record::decode(&Bytes::from(encoded.clone())).as_ref(), Ok(&record));
    assert_eq!(encoded, data, "one record, two encodings");
    let mut moved = encoded;
    if let Record::Write(write) = &record {
        assert!(patch_base(&mut moved, !write.base));
        let Ok(Record::Write(moved)) = Record::decode(&Bytes::from(moved)) else {
            panic!("a record with another base does not decode");
        };
        assert_eq!(moved.base, !write.base);
        if let Body::Fragments { positions, .. } = &write.body {
            assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}

synod_fuzz::target!(|data: &[u8]| {
    check(data);
    let mut sealed = data.to_vec();
    if sealed.len() < 20 {
        return;
    }
    sealed[0] = 1;
    sealed[2..4].fill(0);
    let content_at = if sealed[1] == KIND_WRITE { 20 } else { 8 };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&sealed[..4]), &sealed[content_at..]);
    put_crc(&mut sealed, 4, crc);
    if sealed[1] == KIND_WRITE {
        let crc = crc32c::crc32c_append(crc, &sealed[8..16]);
        put_crc(&mut sealed, 16, crc);
    }
    check(&sealed);
});
