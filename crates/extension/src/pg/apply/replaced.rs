//! Rows of a record that changed a unique key. A row changes in place, so that a statement of this node that has found it, or waits
//! for it, goes on with what it is then, as on one server. But such rows may swap their keys: they go into the indexes only when all of them
//! have changed, in front of those that come.
//!
//! Bounded memory: beyond [`EventLog`]'s they stand in a temporary file.

use pgrx::pg_sys;
use synod_change::TableId;

use super::target::Replaced;
use crate::pg::capture::{Event, EventLog, Tid};
use crate::pg::compat::IndexUpdate;

/// Those that have changed, in that order.
#[derive(Default)]
pub struct ReplacedRows(EventLog);

impl ReplacedRows {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Remember one.
    pub fn push(&mut self, table: TableId, replaced: Replaced) {
        self.0.push(Event {
            relation: pg_sys::InvalidOid,
            subtransaction: replaced.indexes as u32,
            old: Tid::NONE,
            new: Tid::new(replaced.tid),
            base: table.0,
        });
    }

    /// Take each in turn.
    pub fn drain<E>(mut self, mut take: impl FnMut(TableId, Replaced) -> Result<(), E>) -> Result<(), E> {
        self.0.visit(|_, event| {
            let replaced = Replaced {
                tid: event.new.pointer(),
                indexes: IndexUpdate::from_number(event.subtransaction),
            };
            take(TableId(event.base), replaced)
        })?;
        self.0.close();
        Ok(())
    }
}
