//! Certification keys of rows: what an index makes of a row, hashed. Which of them a transaction claims, how strongly and from
//! which base on, gathers in a [`KeySet`].

use std::collections::HashMap;

use pgrx::pg_sys;
use synod_change::{INDEX_WHOLE_ROW, KeyHasher, TableId, Value};

use super::capture::Image;
use super::relation::{ForeignKey, StrongTable, UniqueKey};
use super::wire::Hashing;

mod set;

pub use set::{Base, KeySet, Reach};

/// What an index makes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// The row is not in the index, or a NULL keeps it from conflicting.
    Absent,
    /// Its key.
    Hash(u64),
}

/// The key of a row in a plain index.
///
/// # Safety
/// `image` is of the table that `key` belongs to.
pub unsafe fn plain_key(key: &UniqueKey, hashing: &[Hashing], image: &Image<'_>) -> RowKey {
    let values = key.attributes.iter().map(|number| image.get(*number as usize - 1));
    // SAFETY: by contract.
    unsafe { hash(key.table, key.number, hashing, key.nulls_equal, values) }
}

/// The key in the referenced index that a row refers to.
///
/// # Safety
/// `image` is of the table that `key` belongs to.
pub unsafe fn referenced_key(key: &ForeignKey, hashing: &[Hashing], image: &Image<'_>) -> RowKey {
    let values = key.attributes.iter().map(|number| image.get(*number as usize - 1));
    // SAFETY: by contract.
    unsafe { hash(key.referenced, key.index_number, hashing, false, values) }
}

/// Hash the values of a key; `None` is NULL.
///
/// # Safety
/// The values are of the types that `hashing` was made for.
unsafe fn hash(
    table: TableId,
    index: u32,
    hashing: &[Hashing],
    nulls_equal: bool,
    values: impl Iterator<Item = Option<pg_sys::Datum>>,
) -> RowKey {
    let mut hasher = KeyHasher::new(table, index);
    for (hashing, value) in hashing.iter().zip(values) {
        match value {
            // SAFETY: by contract.
            Some(datum) => unsafe { hashing.feed(&mut hasher, datum) },
            None if nulls_equal => {
                hasher.null();
            }
            None => return RowKey::Absent,
        }
    }
    RowKey::Hash(hasher.finish())
}

/// The key of a row of a table without a key: all of it, as it travels.
pub fn whole_row_key(table: TableId, row: &[Value<'_>]) -> u64 {
    let mut hasher = KeyHasher::new(table, INDEX_WHOLE_ROW);
    for value in row {
        match value {
            Value::Null | Value::Same => hasher.null(),
            Value::Text(bytes) | Value::Binary(bytes) => hasher.bytes(bytes),
        };
    }
    hasher.finish()
}

/// Evaluates index expressions and predicates for the rows of one table. All it allocates is in the memory context in which
/// it was made, and in the executor state's own.
pub struct IndexEvaluator {
    state: *mut pg_sys::EState,
    slot: *mut pg_sys::TupleTableSlot,
    infos: HashMap<pg_sys::Oid, (*mut pg_sys::IndexInfo, *mut pg_sys::ExprState)>,
}

impl IndexEvaluator {
    /// For rows of this relation, which stays open as long as this lives.
    pub fn new(relation: &super::relcache::Relation) -> Self {
        // SAFETY: inside a transaction; both live until `close`, or go with their memory context.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let slot = pg_sys::MakeSingleTupleTableSlot(relation.descriptor(), &raw const pg_sys::TTSOpsVirtual);
            Self {
                state,
                slot,
                infos: HashMap::new(),
            }
        }
    }

    /// The key of a row in an index with expressions or a predicate.
    ///
    /// # Safety
    /// `image` is of the relation that this was made for, and `key` one of its indexes.
    pub unsafe fn key(
        &mut self,
        table: &StrongTable,
        key: &UniqueKey,
        hashing: &[Hashing],
        image: &Image<'_>,
    ) -> RowKey {
        // SAFETY: by contract; the expression context is reset per row, its results are used before that.
        unsafe {
            let Some((info, predicate)) = self.prepare(key.index) else {
                return RowKey::Absent;
            };
            pg_sys::ExecClearTuple(self.slot);
            let count = table.attribute_count;
            std::ptr::copy_nonoverlapping(image.values.as_ptr(), (*self.slot).tts_values, count);
            std::ptr::copy_nonoverlapping(image.nulls.as_ptr(), (*self.slot).tts_isnull, count);
            pg_sys::ExecStoreVirtualTuple(self.slot);
            let context = super::compat::per_tuple_context(self.state);
            (*context).ecxt_scantuple = self.slot;
            if !pg_sys::ExecQual(predicate, context) {
                return RowKey::Absent;
            }
            let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::FormIndexDatum(info, self.slot, self.state, values.as_mut_ptr(), nulls.as_mut_ptr());
            let values = (0..hashing.len()).map(|at| (!nulls[at]).then_some(values[at]));
            let found = hash(key.table, key.number, hashing, key.nulls_equal, values);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            found
        }
    }

    unsafe fn prepare(&mut self, index: pg_sys::Oid) -> Option<(*mut pg_sys::IndexInfo, *mut pg_sys::ExprState)> {
        if let Some(known) = self.infos.get(&index) {
            return Some(*known);
        }
        let relation = super::relcache::Relation::open(index)?;
        // SAFETY: made in the executor state's query context, which lives as long as `self`.
        let made = unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*self.state).es_query_cxt;
            let info = pg_sys::BuildIndexInfo(relation.raw());
            let predicate = pg_sys::ExecPrepareQual((*info).ii_Predicate, self.state);
            pg_sys::CurrentMemoryContext = before;
            (info, predicate)
        };
        self.infos.insert(index, made);
        Some(made)
    }

    /// Give back what it holds.
    pub fn close(self) {
        // SAFETY: made in `new`, not used again.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::FreeExecutorState(self.state);
        }
    }
}
