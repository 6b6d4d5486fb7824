//! A table that is being written: open, with its indexes, and the slots that rows pass through.

use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::Row;

use super::error::ApplyError;
use super::find::{ByIndex, by_scan};
use crate::pg::compat::{self, IndexUpdate};
use crate::pg::owner::{AsOwner, Owner};
use crate::pg::relation::StrongTable;
use crate::pg::relcache::Relation;
use crate::pg::row::{self, Generated, RowError};
use crate::pg::teller::{Columns, Teller};

unsafe extern "C-unwind" {
    /// executor/nodeModifyTable.h; not bound by pgrx.
    #[link_name = "ExecComputeStoredGenerated"]
    fn compute_generated_raw(
        target: *mut pg_sys::ResultRelInfo,
        state: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
        command: pg_sys::CmdType::Type,
    );
}

/// A row that has changed, but is not in the indexes yet.
#[derive(Clone, Copy)]
pub struct Replaced {
    /// Where it is.
    pub tid: pg_sys::ItemPointerData,
    /// Which of them it goes into.
    pub indexes: IndexUpdate,
}

/// An open table.
pub struct Target {
    table: Rc<StrongTable>,
    relation: Relation,
    state: *mut pg_sys::EState,
    info: *mut pg_sys::ResultRelInfo,
    index: Option<ByIndex>,
    /// The row found.
    found: *mut pg_sys::TupleTableSlot,
    /// The row to write, or the identity to look for.
    row: *mut pg_sys::TupleTableSlot,
    generated: bool,
    /// Rows made in this command or later are not looked for.
    since: pg_sys::CommandId,
    /// Whose functions its columns and indexes may call.
    owner: Option<Owner>,
}

impl Target {
    /// Prepare a table that is open with ROW EXCLUSIVE, kept to the end of the transaction.
    pub fn open(table: Rc<StrongTable>, relation: Relation, state: *mut pg_sys::EState) -> Result<Self, ApplyError> {
        let owner = Owner::to_become(&relation);
        // Expressions of indexes are simplified here.
        let _user = owner.map(AsOwner::enter);
        // SAFETY: inside a transaction; everything is allocated in the executor state's memory and closed in `close`, or
        // by abort. Without triggers in the info none fires.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*state).es_query_cxt;
            let info = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(info, relation.raw(), 0, std::ptr::null_mut(), 0);
            (*info).ri_TrigDesc = std::ptr::null_mut();
            pg_sys::ExecOpenIndices(info, false);
            let found = pg_sys::table_slot_create(relation.raw(), std::ptr::null_mut());
            let row = pg_sys::MakeSingleTupleTableSlot(relation.descriptor(), &raw const pg_sys::TTSOpsVirtual);
            let constraints = (*relation.descriptor()).constr;
            let generated = !constraints.is_null() && (*constraints).has_generated_stored;
            let index = table
                .identity_index
                .map(|oid| ByIndex::open(&relation, oid))
                .transpose()?;
            pg_sys::CurrentMemoryContext = before;
            Ok(Self {
                table,
                relation,
                state,
                info,
                index,
                found,
                row,
                generated,
                since: 0,
                owner,
            })
        }
    }

    /// What is known about it.
    pub fn table(&self) -> &Rc<StrongTable> {
        &self.table
    }

    /// Changes are about rows as they were before this command.
    pub fn look_before(&mut self, since: pg_sys::CommandId) {
        self.since = since;
    }

    /// Give everything back but the lock.
    pub fn close(mut self) {
        // SAFETY: opened in `open`, not used after.
        unsafe {
            if let Some(index) = self.index.take() {
                index.close();
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.found);
            pg_sys::ExecDropSingleTupleTableSlot(self.row);
            pg_sys::ExecCloseIndices(self.info);
        }
    }

    /// A new row. A unique violation is raised as such.
    pub fn insert(&mut self, new: Row<'_>, generated: Generated, told: Option<&mut Teller>) -> Result<(), ApplyError> {
        let _memory = RowMemory::enter(self.state);
        let _user = self.owner.map(AsOwner::enter);
        // SAFETY: `row` is a virtual slot of this table; the memory of its values lives until the next row.
        unsafe {
            row::fill_slot(&self.table, new, std::ptr::null_mut(), self.row, generated)
                .map_err(|error| misfit(&self.table, error))?;
            self.generate(generated);
            if let Some(told) = told {
                told.insert(&self.relation, &self.table, Columns::of_slot(self.row));
            }
            self.store();
        }
        Ok(())
    }

    /// A new row of which this node has the values. A unique violation is raised as such.
    ///
    /// # Safety
    /// Values and flags are those of the relation's attributes.
    pub unsafe fn put(&mut self, new: Columns<'_>) {
        let _memory = RowMemory::enter(self.state);
        let _user = self.owner.map(AsOwner::enter);
        // SAFETY: by contract; `row` is a virtual slot of this table, with one value and flag per attribute.
        unsafe {
            row::fill_stored(&self.table, new.values, new.nulls, self.row);
            self.store();
        }
    }

    /// Change the row with this identity.
    pub fn update(
        &mut self,
        key: Row<'_>,
        new: Row<'_>,
        generated: Generated,
        told: Option<&mut Teller>,
    ) -> Result<(), ApplyError> {
        let _memory = RowMemory::enter(self.state);
        let _user = self.owner.map(AsOwner::enter);
        // SAFETY: both slots hold the row; the memory of its values lives until the next one.
        unsafe {
            let indexes = self.change(key, new, generated)?;
            if indexes != IndexUpdate::None {
                self.index_entries(self.row, true, indexes);
            }
            if let Some(told) = told {
                let (old, row) = (Columns::of_slot(self.found), Columns::of_slot(self.row));
                told.update(&self.relation, &self.table, old, row, new);
            }
            pg_sys::ExecClearTuple(self.found);
        }
        Ok(())
    }

    /// Change the row with this identity, and a unique key of it: into the indexes it goes by [`Self::settle`].
    pub fn replace(
        &mut self,
        key: Row<'_>,
        new: Row<'_>,
        generated: Generated,
        told: Option<&mut Teller>,
    ) -> Result<Replaced, ApplyError> {
        let _memory = RowMemory::enter(self.state);
        let _user = self.owner.map(AsOwner::enter);
        // SAFETY: as in `update`.
        unsafe {
            let indexes = self.change(key, new, generated)?;
            if let Some(told) = told {
                told.delete(&self.relation, &self.table, Columns::of_slot(self.found));
            }
            pg_sys::ExecClearTuple(self.found);
            Ok(Replaced {
                tid: (*self.row).tts_tid,
                indexes,
            })
        }
    }

    /// Put a row that was replaced into the indexes. A unique violation is raised as such.
    pub fn settle(&mut self, replaced: Replaced, told: Option<&mut Teller>) -> Result<(), ApplyError> {
        let _memory = RowMemory::enter(self.state);
        let _user = self.owner.map(AsOwner::enter);
        // SAFETY: `found` is a slot for rows of this table; the version is this transaction's own.
        unsafe {
            let mut tid = replaced.tid;
            if !compat::fetch_version(self.relation.raw(), &mut tid, self.found) {
                return Err(ApplyError::Diverged {
                    table: self.table.name.clone(),
                    key: "a key that has changed".to_owned(),
                    operation: "index",
                });
            }
            pg_sys::slot_getallattrs(self.found);
            if let Some(told) = told {
                told.insert(&self.relation, &self.table, Columns::of_slot(self.found));
            }
            if replaced.indexes != IndexUpdate::None {
                self.index_entries(self.found, false, replaced.indexes);
            }
            pg_sys::ExecClearTuple(self.found);
        }
        Ok(())
    }

    /// Find the row with this identity and change it, but for its index entries. Leaves it in `found` as it was, in `row` as it is.
    unsafe fn change(&mut self, key: Row<'_>, new: Row<'_>, generated: Generated) -> Result<IndexUpdate, ApplyError> {
        loop {
            self.find(key, "update")?;
            // SAFETY: as in `insert`; `found` holds the row, whose values the new one may share.
            unsafe {
                pg_sys::slot_getallattrs(self.found);
                row::fill_slot(&self.table, new, self.found, self.row, generated)
                    .map_err(|error| misfit(&self.table, error))?;
                self.generate(generated);
                let mut tid = (*self.found).tts_tid;
                let (result, indexes) = compat::tuple_update(self.relation.raw(), &mut tid, self.row);
                if self.is_done(result, "update")? {
                    return Ok(indexes);
                }
            }
        }
    }

    /// Delete the row with this identity. `moved`: it is a row of another partition from now on.
    pub fn delete(&mut self, key: Row<'_>, moved: bool, told: Option<&mut Teller>) -> Result<(), ApplyError> {
        let _memory = RowMemory::enter(self.state);
        let _user = self.owner.map(AsOwner::enter);
        loop {
            self.find(key, "delete")?;
            // SAFETY: `found` holds the row.
            unsafe {
                let mut tid = (*self.found).tts_tid;
                let result = compat::tuple_delete(self.relation.raw(), &mut tid, moved);
                if !self.is_done(result, "delete")? {
                    continue;
                }
                if let Some(told) = told {
                    pg_sys::slot_getallattrs(self.found);
                    told.delete(&self.relation, &self.table, Columns::of_slot(self.found));
                }
                pg_sys::ExecClearTuple(self.found);
            }
            return Ok(());
        }
    }

    /// Fill `found`, or say that the copies have diverged.
    fn find(&mut self, key: Row<'_>, operation: &'static str) -> Result<(), ApplyError> {
        // SAFETY: `row` is a virtual slot of this table, `found` one of its storage's kind.
        let found = unsafe {
            match &mut self.index {
                Some(index) => {
                    row::fill_identity(&self.table, key, self.row).map_err(|error| misfit(&self.table, error))?;
                    index.find(self.row, self.found)
                }
                None => by_scan(&self.table, &self.relation, key, self.since, self.found)
                    .unwrap_or_else(|error| error.raise()),
            }
        };
        if found {
            return Ok(());
        }
        // SAFETY: filled above, or here.
        let key = unsafe {
            if self.index.is_none() {
                row::fill_identity(&self.table, key, self.row).map_err(|error| misfit(&self.table, error))?;
            }
            super::find::describe(&self.table, self.row)
        };
        Err(ApplyError::Diverged {
            table: self.table.name.clone(),
            key,
            operation,
        })
    }

    /// Whether a change of the row found went through. When somebody changed it between looking and writing, look again: he
    /// cannot have got into the group's history in front of us, so he is gone by now, or the row is really missing.
    fn is_done(&self, result: pg_sys::TM_Result::Type, operation: &'static str) -> Result<bool, ApplyError> {
        #![expect(non_upper_case_globals, reason = "the server's names")]
        use pg_sys::TM_Result::{TM_BeingModified, TM_Deleted, TM_Ok, TM_Updated};
        match result {
            TM_Ok => Ok(true),
            TM_Updated | TM_Deleted | TM_BeingModified => Ok(false),
            // Only a record that changes a row twice gets here, and capture makes none.
            _ => Err(ApplyError::Diverged {
                table: self.table.name.clone(),
                // SAFETY: `found` holds the row.
                key: unsafe {
                    pg_sys::slot_getallattrs(self.found);
                    super::find::describe(&self.table, self.found)
                },
                operation,
            }),
        }
    }

    /// Compute the generated columns of `row`, if it lacks them.
    unsafe fn generate(&mut self, generated: Generated) {
        if !self.generated || generated == Generated::Given {
            return;
        }
        let (info, state, slot) = (self.info, self.state, self.row);
        // SAFETY: the slot holds the other columns. As for an INSERT, so that all are computed, whatever changed.
        unsafe {
            (*slot).tts_tableOid = self.table.oid;
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                compute_generated_raw(info, state, slot, pg_sys::CmdType::CMD_INSERT);
            });
        }
    }

    /// Store `row`, with its index entries.
    unsafe fn store(&mut self) {
        // SAFETY: `row` is filled; the memory of its values lives until the next row.
        unsafe {
            pg_sys::simple_table_tuple_insert(self.relation.raw(), self.row);
            self.index_entries(self.row, false, IndexUpdate::All);
        }
    }

    unsafe fn index_entries(&mut self, row: *mut pg_sys::TupleTableSlot, is_update: bool, which: IndexUpdate) {
        // SAFETY: `row` holds a row that is stored, with its address.
        unsafe {
            if (*self.info).ri_NumIndices > 0 {
                compat::insert_index_entries(self.info, row, self.state, is_update, which);
            }
        }
    }
}

fn misfit(table: &StrongTable, source: RowError) -> ApplyError {
    ApplyError::Row {
        table: table.name.clone(),
        source,
    }
}

/// The memory of one row: entered, and emptied when dropped.
struct RowMemory {
    context: pg_sys::MemoryContext,
    before: pg_sys::MemoryContext,
}

impl RowMemory {
    fn enter(state: *mut pg_sys::EState) -> Self {
        // SAFETY: the executor state is alive; its per-tuple memory is that of index expressions, too.
        unsafe {
            let context = (*compat::per_tuple_context(state)).ecxt_per_tuple_memory;
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = context;
            Self { context, before }
        }
    }
}

impl Drop for RowMemory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: nothing of the row is used any more.
            unsafe {
                pg_sys::CurrentMemoryContext = self.before;
                pg_sys::MemoryContextReset(self.context);
            }
        }
    }
}
