//! What happened, as every format is told.
//!
//! Text, names included, is bytes in the encoding of the database (any bytes, if that is SQL_ASCII), or in UTF-8 for a format that
//! asks for it ([`super::Format::wants_utf8`]); names are unquoted. Times are in microseconds since 2000-01-01 UTC, PostgreSQL's
//! own epoch. Positions in the WAL are plain numbers.

use crate::Row;

/// A table as of the rows that follow. A new one is made when its definition changes, so a format may keep what it has worked
/// out for one by [`Table::version`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Different for every table and every change of its definition, within one reader's session.
    pub version: u64,
    /// `pg_class.oid` here.
    pub oid: u32,
    /// Schema name.
    pub schema: Vec<u8>,
    /// Table name.
    pub name: Vec<u8>,
    /// `schema.name` as in SQL: each quoted where the server would.
    pub quoted_name: Vec<u8>,
    /// Its columns in order, without dropped ones and without those that the reader does not want.
    pub columns: Vec<Column>,
    /// What the old version of a row holds.
    pub identity: ReplicaIdentity,
    /// The reader does not want all columns of its identity: those that are there do not say which row it is.
    pub identity_hidden: bool,
    /// It is partitioned, and told of instead of its partitions.
    pub partitioned: bool,
    /// A table above it that the reader asked for by number, in which its rows are, too: `pg_class.oid` and quoted name.
    pub above: Option<(u32, Vec<u8>)>,
}

/// A column of a [`Table`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Vec<u8>,
    /// The same as in SQL: quoted where the server would.
    pub quoted_name: Vec<u8>,
    /// The type's name without modifier, schema-qualified where needed: `format_type_be`.
    pub type_name: Vec<u8>,
    /// The type's name with its modifier: `format_type_with_typemod`.
    pub full_type_name: Vec<u8>,
    /// For a domain what [`Self::type_name`] is of the type that it is made of, otherwise the same.
    pub base_type_name: Vec<u8>,
    /// As [`Self::full_type_name`] for that type.
    pub full_base_type_name: Vec<u8>,
    /// `pg_type.oid`, of the domain if it is one.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`; -1: none.
    pub type_modifier: i32,
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// How its text is written as a literal. Goes by the type itself: a domain is [`TypeClass::Text`], as is what a mask wrote.
    pub class: TypeClass,
    /// NOT NULL.
    pub not_null: bool,
    /// The expression of its DEFAULT, for a format that asks for it ([`super::Format::wants_defaults`]).
    pub default: Option<Vec<u8>>,
    /// GENERATED ALWAYS AS (expression), stored or virtual.
    pub generated: bool,
    /// GENERATED ... AS IDENTITY, and if so ALWAYS (`a`) or BY DEFAULT (`d`).
    pub identity: Option<char>,
    /// A column of the primary key.
    pub in_primary_key: bool,
    /// A column of the replica identity: the old version of a row has it.
    pub in_identity: bool,
    /// Its text comes from a mask, not from the row.
    pub masked: bool,
    /// The type's name (for a domain that of the type that it is made of) with its schema, for a type that a literal without a type cannot
    /// be compared with: a composite type, a domain over one or over an enum, `regclass` and its like.
    pub literal_type: Option<Vec<u8>>,
}

/// How a value's text is written as a literal, in JSON and in SQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TypeClass {
    /// int2, int4, int8, oid: digits.
    Integer,
    /// float4, float8, numeric: digits, or NaN and the infinities.
    Number,
    /// `t` or `f`.
    Boolean,
    /// bit, varbit.
    Bits,
    /// json, jsonb: text that is JSON itself.
    Json,
    /// bytea, in the hex form.
    Bytes,
    /// Anything else.
    #[default]
    Text,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    #[default]
    Default,
    /// An index.
    Index,
    /// The whole row.
    Full,
    /// Nothing.
    Nothing,
}

/// The transaction that an event belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// Its number on this server.
    pub xid: u32,
    /// Where its commit (or prepare) record begins; `None` while it is in progress.
    pub commit_lsn: Option<u64>,
    /// Where the next record after that begins.
    pub end_lsn: Option<u64>,
    /// When it was committed (or prepared).
    pub commit_time_us: Option<i64>,
    /// The replication origin that it came from.
    pub origin: Option<&'a [u8]>,
    /// Its number here; 0: none.
    pub origin_id: u16,
    /// Its position there.
    pub origin_lsn: u64,
    /// Group and CSN, when it wrote strong tables.
    pub csn: Option<(&'a str, u64)>,
    /// The CSN behind which its changes are the next ones of the group, as far as this stream goes: a reader that has everything up
    /// to there, from whichever node, misses nothing. `None` when it is not known yet (the end of the transaction may tell), or
    /// when there is no CSN.
    pub previous_csn: Option<u64>,
    /// Its name, when it was prepared.
    pub gid: Option<&'a [u8]>,
    /// Who did it, a JSON object, when it is known and asked for.
    pub context: Option<&'a [u8]>,
}

/// Names an event for ever: the same on every reading and, for strong tables, on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventId<'a> {
    /// Of a strong transaction: the group, its CSN, and which of its changes, from 1.
    Group {
        /// The group's uuid.
        group: &'a str,
        /// The transaction's CSN.
        csn: u64,
        /// From 1.
        ordinal: u64,
    },
    /// Of another committed or prepared transaction of this server. Ascends with the stream.
    Commit {
        /// [`Transaction::commit_lsn`].
        lsn: u64,
        /// From 1.
        ordinal: u64,
    },
    /// Of one in progress; its commit tells the LSN that these come to belong to.
    Open {
        /// The transaction's number.
        xid: u32,
        /// From 1, counted over the whole transaction.
        ordinal: u64,
    },
}

/// Where something stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its name.
    pub id: EventId<'a>,
    /// Its own record in the WAL.
    pub lsn: u64,
    /// The transaction or subtransaction that did it: what an [`Event::StreamAbort`] names. 0: none.
    pub xid: u32,
}

/// A change of rows.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A new row.
    Insert {
        /// Where.
        table: &'a Table,
        /// One value per column.
        new: Row<'a>,
    },
    /// A row that changed.
    Update {
        /// Where.
        table: &'a Table,
        /// What the identity holds of the version before; `None` when the identity did not change or there is none. Columns that
        /// are not of the identity are NULL.
        old: Option<Row<'a>>,
        /// One value per column; [`crate::Value::Same`]: unchanged and not in the WAL.
        new: Row<'a>,
    },
    /// A row that is gone.
    Delete {
        /// Where.
        table: &'a Table,
        /// As for an update; `None`: nothing says which row.
        old: Option<Row<'a>>,
    },
    /// Tables that were emptied. Each takes an ordinal, those that the reader does not want, too; the event's id is that of the
    /// first that is told.
    Truncate {
        /// Which, those that the reader wants, in the order of their ordinals.
        tables: &'a [Emptied<'a>],
        /// CASCADE.
        cascade: bool,
        /// RESTART IDENTITY.
        restart_identity: bool,
    },
}

/// A table that was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emptied<'a> {
    /// Which.
    pub table: &'a Table,
    /// By how much its ordinal is above that of the event's id: 0 for the first, and ascending.
    pub later: u64,
}

/// A logical message (`pg_logical_emit_message`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Part of its transaction; otherwise it stands for itself, whatever becomes of the transaction.
    pub transactional: bool,
    /// What kind of message it is.
    pub prefix: &'a [u8],
    /// Any bytes.
    pub content: &'a [u8],
}

/// A change of definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ddl<'a> {
    /// The command tag: `ALTER TABLE`.
    pub tag: &'a [u8],
    /// What kind of object: `table`; empty when not known.
    pub object_type: &'a [u8],
    /// Its schema-qualified, quoted name; empty when not known.
    pub object: &'a [u8],
    /// The statement.
    pub sql: &'a [u8],
    /// The search path that its names were looked up in.
    pub search_path: &'a [u8],
    /// The tables that it made or changed, as they are now.
    pub tables: Vec<&'a Table>,
}

/// What a reader is told, in the order of the stream.
///
/// ```text
/// committed:   Begin, { Row | Message | Ddl | Context }*, Commit
/// prepared:    BeginPrepare, ..., Prepare; later CommitPrepared or RollbackPrepared
/// in progress: { StreamStart, ..., StreamStop }+, then StreamCommit, StreamAbort or StreamPrepare; blocks of several interleave
/// anywhere:    Message that is not transactional
/// ```
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A transaction that has committed begins.
    Begin(Transaction<'a>),
    /// It ends.
    Commit(Transaction<'a>),
    /// One that was prepared begins.
    BeginPrepare(Transaction<'a>),
    /// It ends.
    Prepare(Transaction<'a>),
    /// It has been committed.
    CommitPrepared(Transaction<'a>),
    /// It has been rolled back.
    RollbackPrepared(Transaction<'a>),
    /// A block of changes of a transaction in progress begins.
    StreamStart(Transaction<'a>),
    /// It ends.
    StreamStop(Transaction<'a>),
    /// A (sub)transaction of which blocks were told has been rolled back: what `xid` did is void.
    StreamAbort(Transaction<'a>, u32),
    /// A transaction of which blocks were told has been prepared.
    StreamPrepare(Transaction<'a>),
    /// A transaction of which blocks were told has committed.
    StreamCommit(Transaction<'a>),
    /// Rows changed.
    Row(Place<'a>, Change<'a>),
    /// A message.
    Message(Place<'a>, Message<'a>),
    /// Definitions changed.
    Ddl(Place<'a>, Ddl<'a>),
    /// Who does what follows in this transaction, a JSON object.
    Context(&'a [u8]),
}

impl Event<'_> {
    /// Give `tell` this event, but a TRUNCATE once for each table, under the table's own id; and whether it is the last.
    ///
    /// # Errors
    /// What `tell` gives, and then nothing more is told.
    pub fn each_table<E>(&self, mut tell: impl FnMut(&Event<'_>, bool) -> Result<(), E>) -> Result<(), E> {
        let Event::Row(
            place,
            Change::Truncate {
                tables,
                cascade,
                restart_identity,
            },
        ) = self
        else {
            return tell(self, true);
        };
        tables.iter().enumerate().try_for_each(|(number, emptied)| {
            let place = Place {
                id: place.id.later(emptied.later),
                ..*place
            };
            let change = Change::Truncate {
                tables: &[Emptied { later: 0, ..*emptied }],
                cascade: *cascade,
                restart_identity: *restart_identity,
            };
            tell(&Event::Row(place, change), number + 1 == tables.len())
        })
    }
}
