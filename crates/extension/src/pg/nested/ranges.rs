//! Ranges and multiranges taken apart and put together. The functions are those of utils/rangetypes.h and utils/multirangetypes.h,
//! which pgrx does not bind.

use pgrx::pg_sys;
use synod_change::nested::{LOWER_INCLUSIVE, LOWER_INFINITE, RANGE_EMPTY, UPPER_INCLUSIVE, UPPER_INFINITE};

use crate::pg::compat;

/// `RangeBound`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RangeBound {
    value: pg_sys::Datum,
    infinite: bool,
    inclusive: bool,
    lower: bool,
}

unsafe extern "C-unwind" {
    #[link_name = "range_deserialize"]
    fn range_deserialize_raw(
        cache: *mut pg_sys::TypeCacheEntry,
        range: *const pg_sys::RangeType,
        lower: *mut RangeBound,
        upper: *mut RangeBound,
        empty: *mut bool,
    );
    #[link_name = "multirange_deserialize"]
    fn multirange_deserialize_raw(
        cache: *mut pg_sys::TypeCacheEntry,
        multirange: *const pg_sys::varlena,
        count: *mut i32,
        ranges: *mut *mut *mut pg_sys::RangeType,
    );
    #[link_name = "make_multirange"]
    fn make_multirange_raw(
        kind: pg_sys::Oid,
        cache: *mut pg_sys::TypeCacheEntry,
        count: i32,
        ranges: *mut *mut pg_sys::RangeType,
    ) -> *mut pg_sys::varlena;
}

/// What a range is.
pub struct Bounds {
    lower: RangeBound,
    upper: RangeBound,
    empty: bool,
}

impl Bounds {
    /// Those of a range.
    ///
    /// # Safety
    /// A range of the type of `cache`, which has what is known of ranges.
    pub unsafe fn of(cache: *mut pg_sys::TypeCacheEntry, range: pg_sys::Datum) -> Self {
        let mut bounds = Self::of_flags(0);
        // SAFETY: by contract.
        unsafe {
            let range = pg_sys::pg_detoast_datum(range.cast_mut_ptr()).cast::<pg_sys::RangeType>();
            let Self { lower, upper, empty } = &mut bounds;
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                range_deserialize_raw(cache, range, lower, upper, empty);
            });
        }
        bounds
    }

    /// A range with these flags, whose finite bounds are still to be set.
    pub fn of_flags(flags: u8) -> Self {
        let bound = |infinite, inclusive, lower| RangeBound {
            value: pg_sys::Datum::from(0),
            infinite: flags & infinite != 0,
            // An infinite bound is never inclusive.
            inclusive: flags & inclusive != 0 && flags & infinite == 0,
            lower,
        };
        Self {
            lower: bound(LOWER_INFINITE, LOWER_INCLUSIVE, true),
            upper: bound(UPPER_INFINITE, UPPER_INCLUSIVE, false),
            empty: flags & RANGE_EMPTY != 0,
        }
    }

    /// As they travel.
    pub fn flags(&self) -> u8 {
        if self.empty {
            return RANGE_EMPTY;
        }
        [
            (self.lower.inclusive, LOWER_INCLUSIVE),
            (self.upper.inclusive, UPPER_INCLUSIVE),
            (self.lower.infinite, LOWER_INFINITE),
            (self.upper.infinite, UPPER_INFINITE),
        ]
        .iter()
        .filter(|(is, _)| *is)
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    /// The bounds that are values, the lower one first.
    pub fn finite(&mut self) -> impl Iterator<Item = &mut pg_sys::Datum> {
        let empty = self.empty;
        [&mut self.lower, &mut self.upper]
            .into_iter()
            .filter(move |bound| !empty && !bound.infinite)
            .map(|bound| &mut bound.value)
    }

    /// The range. Raises when its bounds are in the wrong order.
    ///
    /// # Safety
    /// As for [`Bounds::of`]; the bounds are values of what it is a range of.
    pub unsafe fn range(mut self, cache: *mut pg_sys::TypeCacheEntry) -> pg_sys::Datum {
        // SAFETY: by contract; allocated in the current memory context.
        unsafe { compat::range_serialize(cache, &mut self.lower, &mut self.upper, self.empty) }
    }
}

/// The ranges of a multirange.
///
/// # Safety
/// `cache`: of the type of its ranges, with what is known of ranges.
pub unsafe fn of_multirange(cache: *mut pg_sys::TypeCacheEntry, multirange: pg_sys::Datum) -> Vec<pg_sys::Datum> {
    let (mut count, mut ranges) = (0, std::ptr::null_mut());
    // SAFETY: by contract; the array is palloc'd, and has `count` elements.
    unsafe {
        let multirange = pg_sys::pg_detoast_datum(multirange.cast_mut_ptr());
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            multirange_deserialize_raw(cache, multirange, &mut count, &mut ranges);
        });
        (0..count as usize)
            .map(|at| pg_sys::Datum::from(*ranges.add(at)))
            .collect()
    }
}

/// A multirange of type `kind`.
///
/// # Safety
/// As for [`of_multirange`]; the datums are ranges of that type, not toasted.
pub unsafe fn multirange(
    kind: pg_sys::Oid,
    cache: *mut pg_sys::TypeCacheEntry,
    ranges: &[pg_sys::Datum],
) -> pg_sys::Datum {
    let mut pointers: Vec<*mut pg_sys::RangeType> = ranges.iter().map(|range| range.cast_mut_ptr()).collect();
    let (count, first) = (pointers.len() as i32, pointers.as_mut_ptr());
    // SAFETY: by contract; it sorts the array that it is given.
    let made =
        unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| make_multirange_raw(kind, cache, count, first)) };
    pg_sys::Datum::from(made)
}
