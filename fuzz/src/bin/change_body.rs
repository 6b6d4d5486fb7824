//! The stream of changes in a record, in one piece and in fragments. Covers crates/change/src/body/reader.rs,
//! crates/change/src/ddl.rs, crates/change/src/fragments.rs. Rows that are copied, crates/change/src/copy_line.rs, as well.
#![no_main]

use bytes::Bytes;
use synod_change::{body_crc, AssembledBody, BodyReader, BodyWriter, Change, CopyLine};

/// What a change is, without what it borrows.
fn written(data: &[u8]) -> Option<Vec<u8>> {
    let mut reader = BodyReader::new(data);
    let mut writer = BodyWriter::new();
    while let Some(change) = reader.next().ok()? {
        if let Change::Insert { new, .. } | Change::Update { new, .. } | Change::Replace { new, .. } = &change {
            assert_eq!(new.iter().count(), new.len());
        }
        writer.write(&change);
    }
    assert_eq!(reader.next(), Ok(None));
    Some(writer.finish())
}

synod_fuzz::target!(|data: &[u8]| {
    if let Some(bytes) = written(data) {
        assert_eq!(
            written(&bytes).as_ref(),
            Some(&bytes),
            "what was written reads differently"
        );
    }
    let cells = data.iter().filter(|byte| **byte == b'\t').count() + 1;
    assert_eq!(CopyLine::default().read(data).iter().count(), cells);
    // Through fragments: the same, or an error; never more than was promised.
    let size = usize::from(data.first().copied().unwrap_or(1)).max(1);
    let pieces = data.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let mut assembled = Vec::new();
    let mut body = AssembledBody::new(pieces, data.len() as u64, body_crc(0, data));
    std::io::Read::read_to_end(&mut body, &mut assembled).expect("whole fragments");
    assert_eq!(assembled, data);
    let pieces = data.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let mut reader = BodyReader::with_limit(AssembledBody::new(pieces, u64::MAX, 0), 1 << 20);
    while let Ok(Some(_)) = reader.next() {}
});
