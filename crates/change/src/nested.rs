//! How values of arrays, composite types, ranges and multiranges travel whose parts must not pass through the types' own functions
//! (`pg/nested.rs` of the extension says which, and what a part is): [`MARK`], a version, then the value.
//!
//! - an array: the number of its dimensions, each with its length and lower bound, then the elements;
//! - a composite value: the number of its attributes, then these;
//! - a range: flags, then the bounds that it has;
//! - a multirange: the number of its ranges, then these.
//!
//! Each part is a length more by one and its bytes, or 0 for NULL; what is in it, its type says. Neither the text nor the binary form of
//! such a type begins with [`MARK`], so that values in these forms, which travelled before, are told apart.

use crate::wire::{DecodeError, Decoder, put_signed, put_varint};

/// The first byte.
pub const MARK: u8 = 0xC1;
const VERSION: u8 = 1;
/// `MAXDIM`.
const MAX_DIMENSIONS: usize = 6;
const WHAT: &str = "nested value";

/// Flags of a range: it is empty.
pub const RANGE_EMPTY: u8 = 1;
/// Its lower bound belongs to it.
pub const LOWER_INCLUSIVE: u8 = 2;
/// Its upper bound belongs to it.
pub const UPPER_INCLUSIVE: u8 = 4;
/// It has no lower bound.
pub const LOWER_INFINITE: u8 = 8;
/// It has no upper bound.
pub const UPPER_INFINITE: u8 = 16;

/// A dimension of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// How many elements.
    pub length: i32,
    /// The first one's index.
    pub lower_bound: i32,
}

/// The beginning of a value that travels in this form.
#[must_use]
pub fn begin() -> Vec<u8> {
    vec![MARK, VERSION]
}

/// Begin an array.
pub fn put_dimensions(out: &mut Vec<u8>, dimensions: impl ExactSizeIterator<Item = Dimension>) {
    put_varint(out, dimensions.len() as u64);
    for Dimension { length, lower_bound } in dimensions {
        put_signed(out, length.into());
        put_signed(out, lower_bound.into());
    }
}

/// Append an element, an attribute, a bound, a range of a multirange.
pub fn put_part(out: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        None => out.push(0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

/// Begin a composite value or a multirange.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u64);
}

/// Takes a value, or a part of one, apart.
#[derive(Debug)]
pub struct Nested<'a>(Decoder<'a>);

impl<'a> Nested<'a> {
    /// A whole value; `None` if it is in another form.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for a newer version.
    pub fn whole(bytes: &'a [u8]) -> Result<Option<Self>, DecodeError> {
        let Some(rest) = bytes.strip_prefix(&[MARK]) else {
            return Ok(None);
        };
        let mut decoder = Decoder::new(WHAT, rest);
        match decoder.u8()? {
            VERSION => Ok(Some(Self(decoder))),
            version => Err(DecodeError::Unknown {
                what: "version of a nested value",
                number: version.into(),
            }),
        }
    }

    /// A part, which is of such a type itself.
    #[must_use]
    pub const fn part_of(bytes: &'a [u8]) -> Self {
        Self(Decoder::new(WHAT, bytes))
    }

    /// The beginning of an array, and how many elements follow.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn dimensions(&mut self) -> Result<(Vec<Dimension>, usize), DecodeError> {
        let count = self.0.count(MAX_DIMENSIONS, 2)?;
        let mut dimensions = Vec::with_capacity(count);
        let mut elements = usize::from(count > 0);
        for _ in 0..count {
            let out_of_range = self.0.corrupt("a dimension is out of range");
            let mut number = || i32::try_from(self.0.signed()?).map_err(|_| out_of_range.clone());
            let (length, lower_bound) = (number()?, number()?);
            let size = usize::try_from(length).map_err(|_| out_of_range.clone())?;
            if length == 0 || lower_bound.checked_add(length).is_none() {
                return Err(out_of_range);
            }
            elements = elements.checked_mul(size).ok_or(out_of_range)?;
            dimensions.push(Dimension { length, lower_bound });
        }
        if elements > self.0.remaining() {
            return Err(self.0.corrupt("it ends too early"));
        }
        Ok((dimensions, elements))
    }

    /// The beginning of a composite value or a multirange: how many parts follow.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn count(&mut self) -> Result<usize, DecodeError> {
        self.0.count(usize::MAX, 1)
    }

    /// The beginning of a range.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn flags(&mut self) -> Result<u8, DecodeError> {
        self.0.u8()
    }

    /// The next part.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn part(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let length = usize::try_from(self.0.varint()?).map_err(|_| self.0.corrupt("a length is out of range"))?;
        length.checked_sub(1).map(|length| self.0.take(length)).transpose()
    }

    /// All that is left: a part that is not of such a type.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0.rest()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`].
    pub fn finish(self) -> Result<(), DecodeError> {
        self.0.finish()
    }
}
