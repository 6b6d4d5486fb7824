//! The frame around every payload.

use super::WHAT;
use crate::DecodeError;

/// Kind, length, checksum.
const HEAD: usize = 9;

/// Begins a frame; [`end`] takes what this gives.
pub(super) fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.push(kind);
    out.extend_from_slice(&[0; HEAD - 1]);
    start
}

/// Ends the frame that begins at `start`: what was appended since is its payload. The server's limit of 1 GB on a message keeps the
/// length within its four bytes.
pub(super) fn end(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start - HEAD).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&out[start..start + 5], &out[start + HEAD..]);
    out[start + 5..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}

/// A frame taken off the front of bytes.
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) payload: &'a [u8],
    pub(super) rest: &'a [u8],
}

/// Line feeds before a frame are passed over (`pg_recvlogical` puts one after each message). `None`: nothing else is left.
pub(super) fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>, DecodeError> {
    let feeds = bytes.iter().take_while(|byte| **byte == b'\n').count();
    let bytes = &bytes[feeds..];
    if bytes.is_empty() {
        return Ok(None);
    }
    let early = || DecodeError::corrupt(WHAT, "a frame ends too early");
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(early)?;
    let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).map_err(|_| early())?;
    let (payload, rest) = rest.split_at_checked(length).ok_or_else(early)?;
    if checksum(&head[..5], payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(DecodeError::corrupt(WHAT, "the checksum of a frame is wrong"));
    }
    Ok(Some(Frame { kind, payload, rest }))
}

/// How many bytes the first frame takes with the line feeds before it, once its head is there; for a reader of a file, which has to
/// know when it has read enough.
pub(super) fn length(bytes: &[u8]) -> Option<u64> {
    let feeds = bytes.iter().take_while(|byte| **byte == b'\n').count();
    let length = bytes.get(feeds + 1..feeds + 5)?.try_into().ok()?;
    Some((feeds + HEAD) as u64 + u64::from(u32::from_le_bytes(length)))
}
