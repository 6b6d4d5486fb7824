//! Bytes in and out: varints, lengths, strings. Shared by every codec of this crate and of `synod-rules`.
//!
//! Invariant: a [`Decoder`] never allocates more than the bytes it was given, and never reads past them.

/// Why bytes could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are damaged: a checksum, a length or a tag is wrong.
    #[error("corrupt {what}: {why}")]
    Corrupt {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The bytes are whole, and of a kind or version that this release does not know: a newer node wrote them.
    #[error("unknown {what} {number}: written by a newer release")]
    Unknown {
        /// "record version", "record kind", ...
        what: &'static str,
        /// The number found.
        number: u32,
    },
    /// A part is larger than the reader accepts.
    #[error("{what} of {length} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// Its length.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// The source of a streamed body failed.
    #[error("could not read a write set: {message}")]
    Read {
        /// The kind of the error from the source.
        kind: std::io::ErrorKind,
        /// Its message.
        message: String,
    },
}

impl DecodeError {
    /// Shorthand for [`DecodeError::Corrupt`].
    #[must_use]
    pub const fn corrupt(what: &'static str, why: &'static str) -> Self {
        Self::Corrupt { what, why }
    }
}

impl From<std::io::Error> for DecodeError {
    fn from(error: std::io::Error) -> Self {
        Self::Read {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

/// LEB128, at most ten bytes.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_varint`] writes.
pub const fn varint_length(value: u64) -> u64 {
    let bits = 64 - (value | 1).leading_zeros() as u64;
    bits.div_ceil(7)
}

/// The length as a varint, then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Zigzag, so that small negative numbers stay short.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Takes values off the front of a slice.
#[derive(Debug)]
pub struct Decoder<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// `what` is the subject of its error messages.
    #[must_use]
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// An error about the thing being decoded.
    pub const fn corrupt(&self, why: &'static str) -> DecodeError {
        DecodeError::corrupt(self.what, why)
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(self.corrupt("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(self.corrupt("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Only the shortest form of a number is accepted, so that equal values have equal bytes.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.corrupt("a number is out of range"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.corrupt("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(self.corrupt("a number is out of range"))
    }

    /// A varint that fits.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| self.corrupt("a number is out of range"))
    }

    /// A varint that fits.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn varint_u16(&mut self) -> Result<u16, DecodeError> {
        u16::try_from(self.varint()?).map_err(|_| self.corrupt("a number is out of range"))
    }

    /// The counterpart of [`put_signed`].
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn signed(&mut self) -> Result<i64, DecodeError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things of which each takes at least `each` bytes of what remains.
    pub fn count(&mut self, limit: usize, each: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| self.corrupt("a count is out of range"))?;
        if count > limit {
            return Err(self.corrupt("a count exceeds its limit"));
        }
        if count.saturating_mul(each) > self.rest.len() {
            return Err(self.corrupt("it ends too early"));
        }
        Ok(count)
    }

    /// The counterpart of [`put_bytes`].
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.varint()?).map_err(|_| self.corrupt("a length is out of range"))?;
        self.take(length)
    }

    /// As [`bytes`](Self::bytes), and UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("a text is not UTF-8"))
    }

    /// As [`text`](Self::text), to keep.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn string(&mut self) -> Result<String, DecodeError> {
        self.text().map(str::to_owned)
    }

    /// A byte 0 or 1.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt("a truth value is neither 0 nor 1")),
        }
    }

    /// What is left.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Fails if anything is left.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.corrupt("bytes are left over"))
        }
    }
}
