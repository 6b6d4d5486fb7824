//! A table of the extension, read and written without SPI, also where no query can run.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::catalog;
use crate::pg::relcache::Relation;

/// An open table and one of its indexes.
pub struct OwnTable {
    table: Relation,
    index: Relation,
}

/// One condition on a column, `column operator value`.
#[derive(Clone, Copy)]
pub struct Condition {
    /// Number of the column.
    pub column: i16,
    /// A B-tree strategy.
    pub strategy: u32,
    /// The operator's function.
    pub function: u32,
    /// Compared with this.
    pub value: pg_sys::Datum,
}

impl Condition {
    /// `column = value`
    pub fn equal(column: i16, function: u32, value: pg_sys::Datum) -> Self {
        Self {
            column,
            strategy: pg_sys::BTEqualStrategyNumber,
            function,
            value,
        }
    }
}

/// A row during a scan.
pub struct Row<'a> {
    tuple: pg_sys::HeapTuple,
    table: &'a OwnTable,
}

impl Row<'_> {
    /// A column that is NOT NULL.
    pub fn get(&self, column: i16) -> pg_sys::Datum {
        let mut is_null = false;
        // SAFETY: the tuple is of this table's row type.
        unsafe {
            pg_sys::heap_getattr(
                self.tuple,
                i32::from(column),
                self.table.table.descriptor(),
                &mut is_null,
            )
        }
    }

    /// Remove the row.
    pub fn delete(&self) {
        // SAFETY: t_self is the tuple's place; deleting during the scan is what the server's catalog code does.
        unsafe { pg_sys::CatalogTupleDelete(self.table.table.raw(), &mut (*self.tuple).t_self) }
    }

    /// Put other values in its place.
    pub fn replace(&self, values: &mut [pg_sys::Datum]) {
        // SAFETY: as many values as the table has columns, none of them null.
        unsafe {
            let tuple = self.table.form(values);
            pg_sys::CatalogTupleUpdate(self.table.table.raw(), &mut (*self.tuple).t_self, tuple);
            pg_sys::heap_freetuple(tuple);
        }
    }
}

impl OwnTable {
    /// `None` without the extension.
    pub fn open(table: &CStr, index: &CStr, lock: u32) -> Option<Self> {
        let named = |name: &CStr| catalog::named("synod", &name.to_string_lossy());
        Some(Self {
            table: Relation::open_locked(named(table)?, lock)?,
            index: Relation::open_locked(named(index)?, pg_sys::AccessShareLock)?,
        })
    }

    /// Visit the rows that meet the conditions, in the order of the index, until `visit` says false. Sees everything that is
    /// committed by now, and what this transaction did before.
    pub fn scan(&self, conditions: &[Condition], backwards: bool, mut visit: impl FnMut(&Row<'_>) -> bool) {
        let mut keys: Vec<pg_sys::ScanKeyData> = conditions
            .iter()
            .map(|condition| {
                let mut key = pg_sys::ScanKeyData::default();
                // SAFETY: fills in the key; the function is one of the server's own.
                unsafe {
                    pg_sys::ScanKeyInit(
                        &mut key,
                        condition.column,
                        condition.strategy as u16,
                        condition.function.into(),
                        condition.value,
                    );
                }
                key
            })
            .collect();
        let direction = if backwards {
            pg_sys::ScanDirection::BackwardScanDirection
        } else {
            pg_sys::ScanDirection::ForwardScanDirection
        };
        // SAFETY: a scan of an open, locked table by an open index on these columns. The snapshot is one taken now, as the table
        // is no catalog whose snapshot could be kept.
        unsafe {
            let scan = pg_sys::systable_beginscan_ordered(
                self.table.raw(),
                self.index.raw(),
                std::ptr::null_mut(),
                keys.len() as i32,
                keys.as_mut_ptr(),
            );
            loop {
                let tuple = pg_sys::systable_getnext_ordered(scan, direction);
                if tuple.is_null() || !visit(&Row { tuple, table: self }) {
                    break;
                }
            }
            pg_sys::systable_endscan_ordered(scan);
        }
    }

    /// The first row of such a scan, as `read` takes it.
    pub fn first<T>(&self, conditions: &[Condition], backwards: bool, read: impl Fn(&Row<'_>) -> T) -> Option<T> {
        let mut found = None;
        self.scan(conditions, backwards, |row| {
            found = Some(read(row));
            false
        });
        found
    }

    /// Add a row.
    pub fn insert(&self, values: &mut [pg_sys::Datum]) {
        // SAFETY: as many values as the table has columns, none of them null; the server keeps the indexes.
        unsafe {
            let tuple = self.form(values);
            pg_sys::CatalogTupleInsert(self.table.raw(), tuple);
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// # Safety
    /// The values are of the columns' types.
    unsafe fn form(&self, values: &mut [pg_sys::Datum]) -> pg_sys::HeapTuple {
        assert_eq!(values.len(), self.table.attribute_count(), "a value for each column");
        let mut nulls = vec![false; values.len()];
        // SAFETY: by contract; the lengths are equal.
        unsafe { pg_sys::heap_form_tuple(self.table.descriptor(), values.as_mut_ptr(), nulls.as_mut_ptr()) }
    }
}
