//! Segment files: headers, records, the scan. Covers crates/log/src/segment.rs.
#![no_main]

use bytes::{Bytes, BytesMut};
use synod_fuzz::put_crc;
use synod_log::segment::{self, SegmentHeader, SegmentStart, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};

fn check(data: &[u8]) {
    let Ok(header) = SegmentHeader::decode(data) else {
        return;
    };
    assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    let scan = segment::scan(data, &header);
    let bytes = Bytes::copy_from_slice(data);
    for found in scan.records.iter().chain(&scan.beyond) {
        let offset = found.location.offset;
        let record = bytes.slice(offset as usize..(offset + found.location.length) as usize);
        let (again, payload) = segment::decode_record(&record, header.seed(), offset).expect("a record that was found");
        assert_eq!(again, found.header);
        let _ = SegmentStart::decode(payload);
        let _ = segment::decode_value(record.slice_ref(payload));
        if let Some(entry) = segment::decode_entry(&record, header.seed(), offset) {
            assert_eq!(entry.position, found.header.position);
        }
        // Written again, it is the same record.
        let mut output = BytesMut::new();
        let what = (again.kind, again.position, again.ballot);
        segment::append_record(&mut output, header.seed(), offset, again.durable, what, |out| {
            out.extend_from_slice(payload)
        });
        assert_eq!(
            segment::decode_record(&output, header.seed(), offset).map(|(_, bytes)| bytes),
            Some(payload)
        );
    }
}

/// Put the checksums of the header, and of records that follow each other, right.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return bytes;
    }
    bytes[..12].copy_from_slice(b"SYNODSEG\x01\0\0\0");
    let crc = crc32c::crc32c(&bytes[..60]);
    put_crc(&mut bytes, 60, crc);
    let Ok(header) = SegmentHeader::decode(&bytes) else {
        return bytes;
    };
    let mut at = SEGMENT_HEADER_BYTES;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        let word = [bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]];
        let body = at + RECORD_HEADER_BYTES;
        let room = bytes.len() - body;
        let length = segment::record_length(u32::from_le_bytes(word) as usize) - RECORD_HEADER_BYTES;
        let crc = crc32c::crc32c_append(header.seed(), &bytes[body..body + length.min(room)]);
        put_crc(&mut bytes, at + 32, crc);
        let crc = crc32c::crc32c_append(header.seed(), &(at as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &bytes[at + 4..body]);
        put_crc(&mut bytes, at, crc);
        at = body + length.min(room);
    }
    bytes
}

synod_fuzz::target!(|data: &[u8]| {
    check(data);
    check(&sealed(data));
});
