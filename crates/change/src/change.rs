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
    /// A row changed, and a unique key of it. Whoever applies it changes the row here and now, so that a statement that has found it
    /// goes on with what it is then, but puts it into indexes only when all such rows of the record have changed: they may swap keys.
    Replace {
        /// Of this table, which has an identity by an index.
        table: TableId,
        /// The identity columns' old values, in the order of [`crate::Identity`].
        key: Row<'a>,
        /// All columns; [`crate::Value::Same`] for what is unchanged and out of line.
        new: Row<'a>,
    },
    /// A row moved to another partition, where it is a new row.
    Depart {
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
