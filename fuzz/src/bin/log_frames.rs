//! The frames of a link, however the stream is cut. Covers crates/log/src/frames.rs.
#![no_main]

use synod_fuzz::Pieces;
use synod_log::frames::{put, take, MAX_FRAME_BYTES};

synod_fuzz::target!(|data: &[u8]| {
    let mut whole = Vec::new();
    let mut stream = data.to_vec();
    let sound = take(&mut stream, |frame| {
        assert!(frame.len() <= MAX_FRAME_BYTES);
        whole.push(frame);
    });
    if sound {
        assert!(stream.len() <= data.len());
    }
    // Cut into pieces, the same frames come out.
    let mut pieces = Pieces(data);
    let (mut stream, mut found, mut fed) = (Vec::new(), Vec::new(), Vec::new());
    while !pieces.is_empty() {
        let length = usize::from(pieces.u8());
        let (piece, rest) = pieces.0.split_at(length.min(pieces.0.len()));
        pieces.0 = rest;
        stream.extend_from_slice(piece);
        fed.extend_from_slice(piece);
        if !take(&mut stream, |frame| found.push(frame)) {
            return;
        }
    }
    let mut again = Vec::new();
    found.iter().for_each(|frame: &Vec<u8>| put(&mut again, frame));
    assert!(fed.starts_with(&again));
});
