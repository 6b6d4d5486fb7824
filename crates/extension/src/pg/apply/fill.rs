//! Rows that are written as applied ones are, without a record: copied by a node that joins (`pg/copy.rs`), or put by a repair
//! (`pg/repair.rs`). Stored generated columns get the values that the rows have, no trigger fires, and no constraint is checked but
//! unique and exclusion indexes: the rows are those of another node.

use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::Row;

use super::error::ApplyError;
use super::target::Target;
use crate::pg::relation::StrongTable;
use crate::pg::relcache::Relation;
use crate::pg::row::Generated;
use crate::pg::scratch::ActiveSnapshot;
use crate::pg::teller::Columns;

/// A table that is being filled, inside a transaction. After an error the transaction's end gives everything back.
pub struct Filler {
    state: *mut pg_sys::EState,
    target: Target,
    _snapshot: ActiveSnapshot,
}

impl Filler {
    /// Open the table, with ROW EXCLUSIVE kept to the end of the transaction.
    pub fn open(table: Rc<StrongTable>) -> Result<Self, ApplyError> {
        let relation =
            Relation::open_locked(table.oid, pg_sys::RowExclusiveLock).ok_or(ApplyError::UnknownTable(table.id))?;
        // Index expressions may look at tables.
        let snapshot = ActiveSnapshot::push();
        // SAFETY: inside a transaction; the state lives in the current memory context, which outlives the caller's rows.
        let state = unsafe { pg_sys::CreateExecutorState() };
        Ok(Self {
            state,
            target: Target::open(table, relation, state)?,
            _snapshot: snapshot,
        })
    }

    /// Write a row as it travels, generated columns included.
    pub fn write(&mut self, row: Row<'_>) -> Result<(), ApplyError> {
        self.target.insert(row, Generated::Given, None)
    }

    /// Write a row of which this node has the values.
    ///
    /// # Safety
    /// Values and flags are those of the relation's attributes.
    pub unsafe fn put(&mut self, row: Columns<'_>) {
        // SAFETY: by contract.
        unsafe { self.target.put(row) }
    }

    /// The rows are seen by what follows in the transaction.
    pub fn close(self) {
        self.target.close();
        // SAFETY: made in `open`; nothing refers to it any more.
        unsafe {
            pg_sys::FreeExecutorState(self.state);
            pg_sys::CommandCounterIncrement();
        }
    }
}
