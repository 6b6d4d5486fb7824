//! What two nodes must agree on about a table. Names and texts only, never OIDs or attribute numbers: those differ from
//! node to node.

/// A replicated table, by a random number that holds in the whole group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u64);

/// More columns than PostgreSQL allows (`MaxTupleAttributeNumber`) are an error.
pub const MAX_COLUMNS: usize = 1664;

/// A table as the group knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDefinition {
    /// Its number.
    pub id: TableId,
    /// Schema name, unquoted.
    pub schema: String,
    /// Table name, unquoted.
    pub name: String,
    /// In group column order: dropped columns left out.
    pub columns: Vec<ColumnDefinition>,
    /// How a row is found again.
    pub identity: Identity,
    /// All indexes, sorted by `id`.
    pub indexes: Vec<IndexDefinition>,
    /// All foreign keys of this table.
    pub foreign_keys: Vec<ForeignKeyDefinition>,
    /// All check constraints.
    pub checks: Vec<CheckDefinition>,
    /// What a partitioned table is partitioned by (`pg_get_partkeydef`). It has no rows itself.
    pub partitioned_by: Option<String>,
    /// What a partition is a partition of, and for which values: `schema.parent FOR VALUES …`.
    pub partition_of: Option<String>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// Unquoted.
    pub name: String,
    /// Schema-qualified, as `format_type_extended` with `FORMAT_TYPE_FORCE_QUALIFY` and no typmod gives it.
    pub type_name: String,
    /// -1: none.
    pub typmod: i32,
    /// NOT NULL.
    pub not_null: bool,
    /// Schema-qualified; `None` for types without collation.
    pub collation: Option<String>,
    /// The expression of a generated column.
    pub generated: Option<String>,
    /// `a` (ALWAYS) or `d` (BY DEFAULT) of an identity column.
    pub identity: Option<char>,
    /// How its values travel.
    pub wire: Wire,
}

/// How a column's values travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// The type's text form.
    #[default]
    Text,
    /// The type's binary form.
    Binary,
}

/// How a row is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By these columns (counted from 0 in group column order), which are unique and not null.
    Columns(Vec<u16>),
    /// By all of its columns; any one of equal rows will do.
    FullRow,
}

impl Default for Identity {
    fn default() -> Self {
        Self::Columns(Vec::new())
    }
}

/// An index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexDefinition {
    /// Group-wide within the table, from 1: part of certification keys. Not compared.
    pub id: u32,
    /// Whether it is unique.
    pub unique: bool,
    /// `pg_get_indexdef`, normalised, without the index's own name.
    pub definition: String,
    /// Key columns, counted from 0 in group column order; empty when there are expressions.
    pub columns: Vec<u16>,
}

/// A foreign key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignKeyDefinition {
    /// The table referenced.
    pub referenced: TableId,
    /// Its schema-qualified name, for messages and for comparing.
    pub referenced_name: String,
    /// Referencing columns, counted from 0 in group column order.
    pub columns: Vec<u16>,
    /// [`IndexDefinition::id`] of the referenced table's unique index.
    pub referenced_index: u32,
    /// ON UPDATE.
    pub on_update: ForeignKeyAction,
    /// ON DELETE.
    pub on_delete: ForeignKeyAction,
    /// `pg_get_constraintdef`.
    pub definition: String,
}

/// What a foreign key does when the referenced row goes (`pg_constraint.confupdtype`, `confdeltype`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ForeignKeyAction {
    /// `a`
    #[default]
    NoAction = b'a',
    /// `r`
    Restrict = b'r',
    /// `c`
    Cascade = b'c',
    /// `n`
    SetNull = b'n',
    /// `d`
    SetDefault = b'd',
}

impl ForeignKeyAction {
    /// From the letter that PostgreSQL's catalog uses.
    #[must_use]
    pub const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'a' => Some(Self::NoAction),
            b'r' => Some(Self::Restrict),
            b'c' => Some(Self::Cascade),
            b'n' => Some(Self::SetNull),
            b'd' => Some(Self::SetDefault),
            _ => None,
        }
    }

    /// The letter that PostgreSQL's catalog uses.
    #[must_use]
    pub const fn letter(self) -> u8 {
        self as u8
    }
}

/// A check constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckDefinition {
    /// Unquoted.
    pub name: String,
    /// `pg_get_constraintdef`.
    pub definition: String,
}
