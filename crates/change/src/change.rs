//! One step of a write set.

use crate::{DdlStatement, Row, Service, TableDefinition, TableId};

/// One step of a write set. Inside a record the order of row changes means nothing (they are net effects, at most one
/// per row); definitions come before the rows that rely on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The table is replicated from here on.
    AddTable(Box<TableDefinition>),
    /// The table is no longer replicated.
    RemoveTable(TableId),
    /// A statement that changes definitions. What comes before it in the record was done before it.
    Ddl(Box<DdlStatement>),
    /// TRUNCATE of these tables in one command.
    Truncate {
        /// All of them.
        tables: Vec<TableId>,
        /// RESTART IDENTITY.
        restart_identity: bool,
        /// CASCADE.
        cascade: bool,
    },
    /// A new row.
    Insert {
        /// Of this table.
        table: TableId,
        /// All columns.
        new: Row<'a>,
    },
    /// A row changed.
    Update {
        /// Of this table.
        table: TableId,
        /// The identity columns' old values, in the order of [`crate::Identity`].
        key: Row<'a>,
        /// All columns; [`crate::Value::Same`] for what is unchanged and out of line.
        new: Row<'a>,
    },
    /// A row is gone.
    Delete {
        /// From this table.
        table: TableId,
        /// The identity columns' old values, in the order of [`crate::Identity`].
        key: Row<'a>,
    },
    /// The highest value used of a sequence that feeds a column: receivers advance theirs to at least that.
    Sequence {
        /// The table.
        table: TableId,
        /// The column fed, counted from 0 in group column order.
        column: u16,
        /// The highest value used.
        last_value: i64,
    },
    /// Something that a session asked for at once.
    Service(Box<Service>),
    /// Who made the record: a JSON object. First in the record, for the change stream; it changes nothing.
    Context(&'a str),
}
