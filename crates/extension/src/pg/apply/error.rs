//! Why a record could not be applied.

use synod_change::{DecodeError, TableId};

use crate::pg::row::RowError;

/// A record that this node cannot apply. The group has committed it: the node stops there and says why.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A table that the group replicates is not here, or looks different.
    #[error("table {table} differs on this node: {what}")]
    SchemaDiffers {
        /// `schema.name`
        table: String,
        /// All differences.
        what: String,
    },
    /// The record changes a table that this node does not know as replicated.
    #[error("table number {} is not replicated on this node", .0.0)]
    UnknownTable(TableId),
    /// The row to change is not here: the copies have diverged.
    #[error("{table} has no row with {key} to {operation}: its content differs from the group's")]
    Diverged {
        /// `schema.name`
        table: String,
        /// The identity looked for.
        key: String,
        /// `update` or `delete`
        operation: &'static str,
    },
    /// A row that does not fit its table.
    #[error("table {table} differs on this node: {source}")]
    Row {
        /// `schema.name`
        table: String,
        /// How.
        source: RowError,
    },
    /// The record's bytes cannot be read.
    #[error("the record cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
}

impl ApplyError {
    /// Whether another try with a fresh snapshot could help.
    pub fn is_divergence(&self) -> bool {
        matches!(self, Self::Diverged { .. })
    }
}
