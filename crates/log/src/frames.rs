//! Messages on a stream of bytes: each is a 4-byte little-endian length, then that many bytes.

/// The longest message: the longest value ([`crate::MAX_PAYLOAD_BYTES`]) several times over.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// Append a message.
pub fn put(stream: &mut Vec<u8>, message: &[u8]) {
    debug_assert!(message.len() <= MAX_FRAME_BYTES, "a message of {} bytes", message.len());
    stream.extend_from_slice(&(message.len() as u32).to_le_bytes());
    stream.extend_from_slice(message);
}

/// Cut the messages that have arrived entirely off the front of a stream. False when the bytes cannot be messages.
pub fn take(stream: &mut Vec<u8>, mut message: impl FnMut(Vec<u8>)) -> bool {
    let mut at = 0;
    while let Some((header, rest)) = stream[at..].split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            return false;
        }
        let Some(body) = rest.get(..length) else { break };
        message(body.to_vec());
        at += 4 + length;
    }
    stream.drain(..at);
    true
}

#[cfg(test)]
mod tests {
    use super::{put, take};

    fn taken(stream: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        take(stream, |message| found.push(message)).then_some(found)
    }

    #[test]
    fn messages_arrive_however_the_stream_is_cut() {
        let messages: Vec<Vec<u8>> = vec![b"ab".to_vec(), Vec::new(), vec![7; 300], b"c".to_vec()];
        let mut whole = Vec::new();
        for message in &messages {
            put(&mut whole, message);
        }
        for first in 0..whole.len() {
            let mut stream = whole[..first].to_vec();
            let mut found = taken(&mut stream).unwrap();
            stream.extend_from_slice(&whole[first..]);
            found.extend(taken(&mut stream).unwrap());
            assert_eq!(found, messages, "cut at {first}");
            assert!(stream.is_empty(), "cut at {first}");
        }
    }

    #[test]
    fn an_absurd_length_is_refused() {
        assert_eq!(taken(&mut vec![255, 255, 255, 255, 0]), None);
    }
}
