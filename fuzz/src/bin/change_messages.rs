//! Messages of our own in the WAL. Covers crates/change/src/stream/own_message.rs, crates/change/src/stream/record_message.rs.
#![no_main]

use synod_change::stream::own_message::{decode_context, encode_context, DdlMessage};
use synod_change::stream::record_message::{ItemReader, RecordMessage};

fn items(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let mut reader = ItemReader::default();
    let mut found = Vec::new();
    for piece in pieces {
        let read = reader.read(piece, |item| {
            let mut bytes = Vec::new();
            item.encode(&mut bytes);
            let _ = item.ordinals();
            found.push(bytes);
        });
        if read.is_err() {
            return (found, false);
        }
    }
    (found, reader.finish().is_ok())
}

synod_fuzz::target!(|data: &[u8]| {
    if let Ok(context) = decode_context(data) {
        assert_eq!(encode_context(context), data);
    }
    if let Ok(message) = DdlMessage::decode(data) {
        assert_eq!(message.encode(), data, "one message, two encodings");
    }
    if let Ok(message) = RecordMessage::decode(data) {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        assert_eq!(encoded, data, "one message, two encodings");
    }
    // Items come out alike, however they are cut.
    let (whole, sound) = items(&[data]);
    if sound {
        assert_eq!(whole.concat(), data, "one item, two encodings");
        let at = usize::from(data.first().copied().unwrap_or(0)).min(data.len());
        let (one, other) = data.split_at(at);
        assert_eq!(items(&[one, other]), (whole, true));
    }
});
