//! What the fuzzers share: bounded memory, and bytes that pass a checksum.
//!
//! A fuzzer that has to guess a checksum never gets past it. So each target looks at its input twice: as it is, and with
//! the checksum put right, as a hostile member or an old bug would have written it. What holds for both:
//! - no panic, and no overflow (debug assertions and overflow checks are on);
//! - memory stays below [`MOST_BYTES`], however long the lengths are that the input claims: see [`bounded`];
//! - what decodes encodes to bytes that decode to the same, and equal values have equal bytes from then on.

use std::alloc::System;

use cap::Cap;

/// Live bytes of the process beyond which an allocation fails, and with it the fuzzer: far below what a length that
/// nobody checked would ask for.
const MOST_BYTES: usize = 512 << 20;
/// What one input may take: so many bytes for each of its own, and a little for the fixed parts.
const BYTES_PER_BYTE: usize = 64;
const FIXED_BYTES: usize = 16 << 20;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, MOST_BYTES);

/// Run `body` on an input of `length` bytes with a limit on what it may allocate.
pub fn bounded(length: usize, body: impl FnOnce()) {
    let limit = MEMORY.allocated() + FIXED_BYTES + length * BYTES_PER_BYTE;
    // A limit below what is in use is refused; then the process's own holds.
    let _ = MEMORY.set_limit(limit.min(MOST_BYTES));
    body();
    let _ = MEMORY.set_limit(MOST_BYTES);
}

/// A fuzz target: a function of bytes, in bounded memory.
#[macro_export]
macro_rules! target {
    ($run:expr) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $crate::bounded(data.len(), || $run(data));
        });
    };
}

/// Put a little-endian crc32c into `bytes` at `at`, as far as there is room.
pub fn put_crc(bytes: &mut [u8], at: usize, crc: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Takes pieces off the front of an input; zeros when it has ended.
pub struct Pieces<'a>(pub &'a [u8]);

impl<'a> Pieces<'a> {
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let count = N.min(self.0.len());
        let (head, rest) = self.0.split_at(count);
        array[..count].copy_from_slice(head);
        self.0 = rest;
        array
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Eight bytes: any number, often one at the edge of its range.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            0xff => u64::MAX,
            0xfe => u64::MAX - 1,
            0xfd => u64::from_le_bytes(self.array()),
            small => u64::from(small),
        }
    }

    /// At most `most` bytes, as many as the next two say.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes(self.array()))
            .min(most)
            .min(self.0.len());
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        head
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
