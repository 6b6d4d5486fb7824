//! Executing the changes of records that other nodes made, and services of any node, inside an open transaction of the apply worker.
//!
//! A record is a net effect whose changes come in an order that never meets itself in a unique index (deletes and changes
//! first, then inserts), so they are executed as they are read, a row at a time, in bounded memory. Only rows that change a unique key go into
//! indexes later, between the two (`replaced`). No trigger fires and no
//! constraint is checked but unique and exclusion indexes: what the group has committed was checked where it was made.
//! Nothing is guessed: a row that is not found or a key that is there already means that the copies have diverged.
//!
//! Used by `pg/apply_worker.rs`; by what copies or mends rows ([`Filler`]), for rows alone. Everything here dies with the transaction; a crash leaves nothing.

use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::stream::record_message::RecordHeader;
use synod_change::{BodyReader, Change, TableId};

use super::catalog;
use super::ddl;
use super::format::FixedSettings;
use super::relation::{self, StrongTable};
use super::relcache::Relation;
use super::row::Generated;
use super::teller::Teller;

mod error;
mod fill;
mod find;
mod replaced;
mod tables;
mod target;

pub use error::ApplyError;
pub use fill::Filler;
use replaced::ReplacedRows;
pub use tables::truncate_relation;
use target::Target;

/// Where a record comes from.
#[derive(Clone, Copy)]
pub struct Origin {
    /// Its position.
    pub csn: u64,
    /// The node where it was made.
    pub node: u32,
    /// That is this one.
    pub own: bool,
}

/// Applies records in the current transaction. Keeps tables open between records; [`Applier::close`] before commit.
pub struct Applier {
    state: *mut pg_sys::EState,
    targets: HashMap<TableId, Target>,
    settings: Option<FixedSettings>,
    replaced: ReplacedRows,
    /// Where the record's changes of rows begin, or those behind its last change of definitions: they are about rows as they were then.
    since: pg_sys::CommandId,
    rows: u64,
    /// Where changes go for the change stream, if anybody reads it.
    told: Option<Teller>,
}

impl Applier {
    /// Inside a transaction. Pushes an active snapshot, popped by [`Applier::close`] or by abort.
    pub fn begin() -> Self {
        // SAFETY: inside a transaction; the executor state lives in the transaction's memory.
        let state = unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
            let state = pg_sys::CreateExecutorState();
            pg_sys::CurrentMemoryContext = before;
            state
        };
        Self {
            state,
            targets: HashMap::new(),
            settings: None,
            replaced: ReplacedRows::default(),
            since: 0,
            rows: 0,
            told: Teller::start(),
        }
    }

    /// What follows is this record, for the change stream.
    pub fn tell(&mut self, header: RecordHeader) {
        if let Some(told) = &mut self.told {
            told.begin(header);
        }
    }

    /// Execute the changes of one record. One of this node is either a service's, or was made by a transaction that had to let
    /// go of it.
    pub fn apply_body(
        &mut self,
        body: impl Read,
        origin: Origin,
        doing: &dyn Fn(&Rc<StrongTable>),
    ) -> Result<(), ApplyError> {
        let mut body = BodyReader::new(body);
        let generated = if body.has_generated()? {
            Generated::Given
        } else {
            Generated::Computed
        };
        self.begin_changes();
        let mut told = self.told.take();
        while let Some(change) = body.next()? {
            match change {
                Change::Insert { table, new } => {
                    self.settle(doing, told.as_mut())?;
                    self.target(table, doing)?.insert(new, generated, told.as_mut())?;
                }
                Change::Update { table, key, new } => {
                    self.target(table, doing)?.update(key, new, generated, told.as_mut())?;
                }
                Change::Replace { table, key, new } => {
                    let replaced = self.target(table, doing)?.replace(key, new, generated, told.as_mut())?;
                    self.replaced.push(table, replaced);
                }
                Change::Delete { table, key } => self.target(table, doing)?.delete(key, false, told.as_mut())?,
                Change::Depart { table, key } => self.target(table, doing)?.delete(key, true, told.as_mut())?,
                Change::Service(service) => {
                    super::service::carry_out(*service, origin);
                    continue;
                }
                Change::Context(context) => {
                    // Behind the record's beginning: it is about this record, not the one before.
                    if let Some(told) = &mut told {
                        told.flush();
                    }
                    super::context::pass_on(context);
                    continue;
                }
                other => {
                    self.settle(doing, told.as_mut())?;
                    self.change_tables(other, origin.own, told.as_mut())?;
                    self.begin_changes();
                    continue;
                }
            }
            self.rows += 1;
        }
        self.settle(doing, told.as_mut())?;
        if let Some(told) = &mut told {
            told.flush();
        }
        self.told = told;
        self.begin_changes();
        Ok(())
    }

    /// What was done so far is there for what follows, in the same transaction.
    fn begin_changes(&mut self) {
        // SAFETY: inside a transaction.
        self.since = unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::GetCurrentCommandId(false)
        };
    }

    /// Puts the rows that have changed their keys into indexes.
    fn settle(&mut self, doing: &dyn Fn(&Rc<StrongTable>), mut told: Option<&mut Teller>) -> Result<(), ApplyError> {
        if self.replaced.is_empty() {
            return Ok(());
        }
        std::mem::take(&mut self.replaced)
            .drain(|table, replaced| self.target(table, doing)?.settle(replaced, told.as_deref_mut()))
    }

    /// Rows changed so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Close everything, before commit.
    pub fn close(mut self) {
        self.close_tables();
        // SAFETY: made and pushed in `begin`; nothing refers to it any more.
        unsafe {
            pg_sys::FreeExecutorState(self.state);
            pg_sys::PopActiveSnapshot();
        }
    }

    fn close_tables(&mut self) {
        for (_, target) in self.targets.drain() {
            target.close();
        }
    }

    fn target(&mut self, id: TableId, doing: &dyn Fn(&Rc<StrongTable>)) -> Result<&mut Target, ApplyError> {
        let target = match self.targets.entry(id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let (table, relation) = locked(id)?;
                if table.needs_fixed_settings && self.settings.is_none() {
                    self.settings = Some(FixedSettings::for_values());
                }
                entry.insert(Target::open(table, relation, self.state)?)
            }
        };
        doing(target.table());
        target.look_before(self.since);
        Ok(target)
    }

    fn change_tables(&mut self, change: Change<'_>, own: bool, told: Option<&mut Teller>) -> Result<(), ApplyError> {
        match change {
            Change::Ddl(statement) => {
                self.close_tables();
                if let Some(told) = told {
                    told.definitions_change(statement.only_without.is_empty());
                }
                ddl::replay::run(&statement);
                Ok(())
            }
            Change::AddTable(definition) => {
                self.close_tables();
                tables::add(&definition, own)?;
                if let (Some(told), Some(relation)) = (told, catalog::relation_of(definition.id)) {
                    told.added(relation);
                }
                Ok(())
            }
            Change::RemoveTable(id) => {
                self.close_tables();
                tables::remove(id);
                Ok(())
            }
            Change::Truncate {
                tables,
                restart_identity,
                ..
            } => {
                self.close_tables();
                tables::truncate(&tables, restart_identity)?;
                if let Some(told) = told {
                    told.truncate(&tables, restart_identity);
                }
                Ok(())
            }
            Change::Sequence {
                table,
                column,
                last_value,
            } => {
                let known = relation::by_id(table).ok_or(ApplyError::UnknownTable(table))?;
                for feeding in known.sequences.iter().filter(|feeding| feeding.column == column) {
                    super::service::draws::advance(feeding.sequence, last_value);
                }
                Ok(())
            }
            // These are `apply_body`'s.
            Change::Insert { .. }
            | Change::Update { .. }
            | Change::Replace { .. }
            | Change::Delete { .. }
            | Change::Depart { .. }
            | Change::Service(_)
            | Change::Context(_) => Ok(()),
        }
    }
}

/// A table, open with ROW EXCLUSIVE, and what is known of it by that lock. A session of this node that changed its definition passes the turn on before it tells other
/// processes, and lets the table go only after that: what is known without the lock may be what the table was.
fn locked(id: TableId) -> Result<(Rc<StrongTable>, Relation), ApplyError> {
    let unknown = || ApplyError::UnknownTable(id);
    let known = relation::by_id(id).ok_or_else(unknown)?;
    let relation = Relation::open_locked(known.oid, pg_sys::RowExclusiveLock).ok_or_else(unknown)?;
    let table = relation::by_id(id).filter(|table| table.oid == known.oid);
    Ok((table.ok_or_else(unknown)?, relation))
}
