//! Durable records of consensus, and the values in them. Covers crates/paxos/src/record.rs, crates/paxos/src/api.rs.
#![no_main]

use bytes::{Bytes, BytesMut};
use synod_fuzz::Pieces;
use synod_paxos::{
    get_entry, get_membership, get_value, put_entry, put_membership, put_value, DurableRecord, Recovered,
};

fn again<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug + PartialEq>(
    data: &[u8],
    get: impl Fn(&mut Bytes) -> Result<T, E>,
    put: impl Fn(&mut BytesMut, &T),
) {
    let mut input = Bytes::copy_from_slice(data);
    if let Ok(value) = get(&mut input) {
        let mut output = BytesMut::new();
        put(&mut output, &value);
        assert_eq!(&output[..], &data[..data.len() - input.len()]);
    }
}

synod_fuzz::target!(|data: &[u8]| {
    again(data, get_entry, put_entry);
    again(data, get_value, put_value);
    again(data, get_membership, put_membership);
    // A file's worth of records, whatever they say, folds into a state.
    let mut recovered = Recovered::default();
    let mut pieces = Pieces(data);
    while !pieces.is_empty() {
        let piece = pieces.bytes(usize::MAX);
        if let Ok(record) = DurableRecord::decode(Bytes::copy_from_slice(piece)) {
            let mut output = BytesMut::new();
            record.encode(&mut output);
            assert_eq!(&output[..], piece);
            recovered.replay(record);
        }
    }
    if let Ok(record) = DurableRecord::decode(Bytes::copy_from_slice(data)) {
        recovered.replay(record);
    }
});
