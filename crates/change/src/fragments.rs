//! A large body, put together again from its fragments without holding it in memory.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

/// crc32c of a body seen in pieces: start with 0, feed each piece with the result of the one before.
#[must_use]
pub fn body_crc(crc: u32, piece: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, piece)
}

/// The body named by [`crate::Body::Fragments`], as a reader. `pieces` yields the content of the
/// [`crate::Record::Fragment`] at each of its positions, in order. At the end the length and the checksum of the whole
/// are verified: a reader that was read to its end without an error gave the body as it was written.
pub struct AssembledBody<I> {
    pieces: I,
    piece: Bytes,
    missing: u64,
    crc: u32,
    expected_crc: u32,
    done: bool,
}

impl<I: Iterator<Item = io::Result<Bytes>>> AssembledBody<I> {
    /// `length` and `crc` from the record.
    pub const fn new(pieces: I, length: u64, crc: u32) -> Self {
        Self {
            pieces,
            piece: Bytes::new(),
            missing: length,
            crc: 0,
            expected_crc: crc,
            done: false,
        }
    }

    fn next_piece(&mut self) -> io::Result<()> {
        while self.piece.is_empty() && !self.done {
            let Some(piece) = self.pieces.next().transpose()? else {
                self.done = true;
                return self.verify();
            };
            self.missing = self
                .missing
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| damaged("its fragments hold more than its length"))?;
            self.crc = body_crc(self.crc, &piece);
            self.piece = piece;
        }
        Ok(())
    }

    fn verify(&self) -> io::Result<()> {
        if self.missing > 0 {
            Err(damaged("its fragments hold less than its length"))
        } else if self.crc != self.expected_crc {
            Err(damaged("the checksum over its fragments does not match"))
        } else {
            Ok(())
        }
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<I: Iterator<Item = io::Result<Bytes>>> Read for AssembledBody<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.next_piece()?;
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
