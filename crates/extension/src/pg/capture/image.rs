//! Row versions read back from the heap.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::events::Tid;
use crate::errors::UserError;
use crate::pg::relcache::Relation;
use crate::pg::teller::Columns;

/// A row version on its pinned page. Read with `SnapshotAny`: whether it is visible is not the question.
pub struct Version {
    tuple: pg_sys::HeapTupleData,
    buffer: pg_sys::Buffer,
}

impl Version {
    /// The version at this place.
    pub fn fetch_at(relation: &Relation, pointer: pg_sys::ItemPointerData) -> Result<Self, UserError> {
        Self::fetch(relation, Tid::new(pointer))
    }

    /// The version at this place. It must be there: versions that a running transaction made or replaced are not removed.
    pub(super) fn fetch(relation: &Relation, tid: Tid) -> Result<Self, UserError> {
        let mut version = Self {
            tuple: pg_sys::HeapTupleData::default(),
            buffer: 0,
        };
        version.tuple.t_self = tid.pointer();
        version.tuple.t_tableOid = relation.oid();
        // SAFETY: an open, locked heap relation; on success the tuple points into the pinned buffer.
        let found =
            unsafe { super::super::compat::heap_fetch_any(relation.raw(), &mut version.tuple, &mut version.buffer) };
        if found {
            return Ok(version);
        }
        version.buffer = 0;
        Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!(
                "captured row version ({},{}) of table {} is gone",
                tid.block,
                tid.offset,
                relation.name()
            ),
            "The table was rewritten, or its rows were removed, in the transaction that wrote it.",
            "",
        ))
    }

    /// Whether this transaction made it (in a subtransaction that stands), in this command or a later one.
    pub fn is_own(&self, since: pg_sys::CommandId) -> bool {
        let mut header = self.header();
        if u32::from(header.t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN {
            return false;
        }
        // SAFETY: a heap tuple has t_heap; looks at this transaction's own ids.
        unsafe {
            pg_sys::TransactionIdIsCurrentTransactionId(header.t_choice.t_heap.t_xmin)
                && (since == 0 || pg_sys::HeapTupleHeaderGetCmin(&raw mut header) >= since)
        }
    }

    /// What this transaction did with it.
    pub(super) fn successor(&self) -> Successor {
        let mut header = self.header();
        let mask = u32::from(header.t_infomask);
        // HEAP_XMAX_IS_LOCKED_ONLY of htup_details.h.
        let locked_only = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0
            || mask & (pg_sys::HEAP_XMAX_IS_MULTI | pg_sys::HEAP_XMAX_SHR_LOCK) == pg_sys::HEAP_XMAX_EXCL_LOCK;
        if mask & pg_sys::HEAP_XMAX_INVALID != 0 || locked_only {
            return Successor::None;
        }
        // SAFETY: a multixact that is not only locks has an updater; only fixed fields of the header are read.
        unsafe {
            let xid = if mask & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
                pg_sys::HeapTupleGetUpdateXid(&raw mut header)
            } else {
                header.t_choice.t_heap.t_xmax
            };
            if !pg_sys::TransactionIdIsCurrentTransactionId(xid) {
                return Successor::None;
            }
        }
        // ItemPointerIndicatesMovedPartitions: the row went on in another table, which has an event of its own.
        if u32::from(header.t_ctid.ip_posid) == pg_sys::MovedPartitionsOffsetNumber {
            return Successor::Moved;
        }
        let (next, this) = (Tid::new(header.t_ctid), Tid::new(self.tuple.t_self));
        // A delete leaves the version pointing at itself.
        if next == this {
            Successor::Deleted
        } else {
            Successor::Updated(next)
        }
    }

    /// A copy of the header, without what follows its fixed part. The pin keeps the tuple in its place, but another session
    /// that locks the row, or sets hint bits, changes xmax and the infomask together under the page's lock.
    fn header(&self) -> pg_sys::HeapTupleHeaderData {
        // SAFETY: fetched, and the page is pinned as long as `self` lives; nothing between lock and unlock raises.
        unsafe {
            pg_sys::LockBuffer(self.buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let header = std::ptr::read(self.tuple.t_data);
            pg_sys::LockBuffer(self.buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            header
        }
    }

    /// Split into columns. They borrow from the page.
    pub fn image(&mut self, relation: &Relation) -> Image<'_> {
        let count = relation.attribute_count();
        let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); count], vec![true; count]);
        // SAFETY: the arrays have one element per attribute of the relation that the tuple is of.
        unsafe {
            pg_sys::heap_deform_tuple(
                &mut self.tuple,
                relation.descriptor(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
        Image {
            values,
            nulls,
            _page: std::marker::PhantomData,
        }
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        // When an ERROR unwinds, the resource owner releases the pin.
        if self.buffer != 0 && !std::thread::panicking() {
            // SAFETY: pinned by heap_fetch.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) }
        }
    }
}

/// What became of a row version in this transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// Nothing: it is the last one.
    None,
    /// It was deleted.
    Deleted,
    /// It went on as a row of another partition.
    Moved,
    /// This version follows.
    Updated(Tid),
}

/// A row version's columns by attribute index, dropped ones included.
pub struct Image<'page> {
    /// Datums; what is passed by reference lies in the page (or in the memory context of whoever made the image).
    pub values: Vec<pg_sys::Datum>,
    /// NULL flags.
    pub nulls: Vec<bool>,
    _page: std::marker::PhantomData<&'page ()>,
}

impl Image<'_> {
    /// Of columns that somebody else keeps alive as long as the image.
    pub fn new(values: Vec<pg_sys::Datum>, nulls: Vec<bool>) -> Self {
        Self {
            values,
            nulls,
            _page: std::marker::PhantomData,
        }
    }

    /// All of them, for the change stream.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            values: &self.values,
            nulls: &self.nulls,
        }
    }

    /// The column with this index; `None` for NULL.
    pub fn get(&self, index: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[index]).then(|| self.values[index])
    }
}

/// Whether two stored datums of a type are the same bytes. Values stored out of line are the same only if they share their
/// place.
///
/// # Safety
/// Both are values of a type with this length and way of passing.
pub unsafe fn same_bytes(a: pg_sys::Datum, b: pg_sys::Datum, by_value: bool, length: i16) -> bool {
    if by_value {
        return a.value() == b.value();
    }
    // SAFETY: by contract; varsize_any covers the header of every kind of varlena, also of pointers to toasted values.
    unsafe {
        let size = |datum: pg_sys::Datum| match length {
            -1 => pgrx::varsize_any(datum.cast_mut_ptr()),
            -2 => std::ffi::CStr::from_ptr(datum.cast_mut_ptr()).to_bytes_with_nul().len(),
            fixed => fixed as usize,
        };
        let bytes = |datum: pg_sys::Datum| std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), size(datum));
        bytes(a) == bytes(b)
    }
}
