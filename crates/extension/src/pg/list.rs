//! Reading the server's `List`s: the macros of `pg_list.h` that bindings cannot carry.

use pgrx::pg_sys;

/// `list_length`.
///
/// # Safety
/// `list` is null (NIL) or a valid list.
pub unsafe fn length(list: *const pg_sys::List) -> usize {
    // SAFETY: by contract.
    unsafe { list.as_ref().map_or(0, |list| list.length as usize) }
}

/// `list_nth_oid`.
///
/// # Safety
/// `list` is a list of oids with more than `at` elements.
pub unsafe fn oid(list: *const pg_sys::List, at: usize) -> pg_sys::Oid {
    // SAFETY: by contract.
    unsafe { (*(*list).elements.add(at)).oid_value }
}

/// `list_nth_int`.
///
/// # Safety
/// `list` is a list of integers with more than `at` elements.
pub unsafe fn int(list: *const pg_sys::List, at: usize) -> i32 {
    // SAFETY: by contract.
    unsafe { (*(*list).elements.add(at)).int_value }
}

/// `list_nth`.
///
/// # Safety
/// `list` is a list of pointers to `T` with more than `at` elements.
pub unsafe fn pointer<T>(list: *const pg_sys::List, at: usize) -> *mut T {
    // SAFETY: by contract.
    unsafe { (*(*list).elements.add(at)).ptr_value.cast() }
}

/// All pointers of a list.
///
/// # Safety
/// `list` is null (NIL) or a list of pointers to `T`.
pub unsafe fn pointers<T>(list: *const pg_sys::List) -> Vec<*mut T> {
    // SAFETY: by contract; `at` is below the length.
    unsafe { (0..length(list)).map(|at| pointer(list, at)).collect() }
}
