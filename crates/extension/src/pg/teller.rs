//! Writing into this node's WAL what a record did, for the change stream: `synod.record` messages
//! ([`synod_change::stream::record_message`]), read by `pg/decode/strong.rs`.
//!
//! Why not tell the WAL's own changes of rows: where a transaction was made they stand in the order of its execution, each
//! version of a row by itself; where its record is applied only the net effect is there, in the record's order; and what of a
//! row the WAL holds depends on how each node happens to store it. Here both write the same: the record's changes in the
//! record's order, rows whole. So an event is the same, at the same place of its record, on every node. The decoder leaves out
//! the WAL's own changes of replicated tables.
//!
//! One thing is left out of a row on every node alike: a value that did not change and is long (`teller/tuple.rs`), as the server
//! does with one stored out of line. Short ones are told even where this node stores them out of line.
//!
//! Called by `capture/seal.rs` and `xact.rs` where a record is made, and by `apply.rs` and `apply_worker.rs` where it is applied;
//! nothing is written when no slot would read it ([`super::stream_slots`]). Memory: one row, and `PIECE_BYTES`.

use std::collections::HashMap;

use pgrx::pg_sys;
use synod_change::stream::record_message::{Item, RecordHeader, RecordMessage};
use synod_change::{Row, TableId, Value};

use super::relation::{self, StrongTable};
use super::relcache::Relation;
use super::{logical_message, stream_slots};

mod tuple;

pub use tuple::Columns;
use tuple::{Identity, TooLarge};

/// The prefix of the messages.
const PREFIX: &std::ffi::CStr = c"synod.record";
/// Items are written when they reach this many bytes, and in messages of at most as many.
const PIECE_BYTES: usize = 256 << 10;

/// Gathers the changes of one record at a time and writes them.
#[derive(Default)]
pub struct Teller {
    items: Vec<u8>,
    new_row: Vec<u8>,
    old_row: Vec<u8>,
    message: Vec<u8>,
    /// The record begins with the next message.
    begins: Option<RecordHeader>,
    group: [u8; 16],
    /// What is told of old versions. `None`: the table is the extension's, and never told.
    tables: HashMap<pg_sys::Oid, Option<Identity>>,
    /// Replicated from this record on, and no row told yet.
    added: Vec<pg_sys::Oid>,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gathered = self.items.len();
        f.debug_struct("Teller")
            .field("gathered", &gathered)
            .finish_non_exhaustive()
    }
}

impl Teller {
    /// `None` when nobody would read it. In a transaction that writes: it gets its id here, if it has none.
    pub fn start() -> Option<Self> {
        let node = super::shmem::my_node()?;
        if !is_read() {
            return None;
        }
        // Whatever may go wrong with it must do so before the verdict.
        crate::stream_key::key().unwrap_or_else(|error| error.raise());
        Some(Self {
            group: node.group(),
            ..Self::default()
        })
    }

    /// What follows is of this record, which is being applied.
    pub fn begin(&mut self, header: RecordHeader) {
        self.begins = Some(header);
        self.added.clear();
    }

    /// Everything gathered goes into the WAL: the record has been applied, or definitions change.
    pub fn flush(&mut self) {
        if !self.items.is_empty() || self.begins.is_some() {
            self.write(None);
        }
    }

    /// A statement of the record is about to run; everything before it goes into the WAL. `told`: it is told as the record's.
    pub fn definitions_change(&mut self, told: bool) {
        if told {
            self.put(&Item::Ddl);
        }
        self.flush();
        self.tables.clear();
    }

    /// What was told in this transaction is of this record, and all of it.
    pub fn end(&mut self, header: RecordHeader) {
        self.write(Some(header));
    }

    /// A table is replicated from here on. Its rows follow: as those who read the node that it comes from know them already, they
    /// are told first that it was emptied.
    pub fn added(&mut self, relation: pg_sys::Oid) {
        self.added.push(relation);
    }

    /// Tables that were emptied.
    pub fn truncate(&mut self, tables: &[TableId], restart_identity: bool) {
        let here = tables.iter().filter_map(|id| relation::by_id(*id));
        let relations: Vec<u32> = here
            .filter(|table| !is_own(table))
            .map(|table| table.oid.into())
            .collect();
        if !relations.is_empty() {
            self.put(&Item::Truncate {
                restart_identity,
                relations,
            });
        }
    }

    /// A new row.
    ///
    /// # Safety
    /// `new` is of this table; the current memory context is for this row.
    pub unsafe fn insert(&mut self, relation: &Relation, table: &StrongTable, new: Columns<'_>) {
        if self.identity(relation, table).is_none() {
            return;
        }
        if let Some(at) = self.added.iter().position(|added| *added == table.oid) {
            self.added.swap_remove(at);
            self.truncate(&[table.id], false);
        }
        let mut row = std::mem::take(&mut self.new_row);
        // SAFETY: by contract.
        let formed = unsafe { tuple::form(&mut row, relation, table, new.values, new.nulls) };
        let relation = table.oid.into();
        self.put(&match formed {
            Ok(()) => Item::Insert { relation, new: &row },
            Err(TooLarge) => Item::TooLarge { relation },
        });
        self.new_row = row;
    }

    /// A row that changed. `sent`: the row now, as it travels.
    ///
    /// # Safety
    /// As for [`Self::insert`]; `old`, too, is of this table.
    pub unsafe fn update(
        &mut self,
        relation: &Relation,
        table: &StrongTable,
        old: Columns<'_>,
        new: Columns<'_>,
        sent: Row<'_>,
    ) {
        let Some(identity) = self.identity(relation, table) else {
            return;
        };
        // An update that changes a key is told as a delete and an insert. One that replaces it by an equal one that is written otherwise
        // does not.
        let mut tells_old = matches!(identity, Identity::Full);
        let mut values = new.values.to_vec();
        for (column, value) in table.columns.iter().zip(sent.iter()) {
            // Of a generated column every value is told, and of one that says which row it is, if nothing else does.
            let names_it = matches!(identity, Identity::Columns(columns) if columns.contains(&column.index));
            tells_old |= names_it && !column.by_value && value != Value::Same;
            let may_be_left_out = value == Value::Same && !column.generated && !names_it;
            // SAFETY: by contract.
            if may_be_left_out && unsafe { tuple::is_long(column, new.values[column.index]) } {
                values[column.index] = tuple::not_told();
            }
        }
        let old_nulls = if tells_old {
            identity.hidden(old.nulls)
        } else {
            Default::default()
        };
        let (mut row, mut old_row) = (std::mem::take(&mut self.new_row), std::mem::take(&mut self.old_row));
        // SAFETY: by contract.
        let formed = unsafe {
            tuple::form(&mut row, relation, table, &values, new.nulls).and_then(|()| {
                if tells_old {
                    tuple::form(&mut old_row, relation, table, old.values, &old_nulls)
                } else {
                    Ok(())
                }
            })
        };
        let relation = table.oid.into();
        self.put(&match formed {
            Ok(()) => Item::Update {
                relation,
                old: tells_old.then_some(&old_row[..]),
                new: &row,
            },
            Err(TooLarge) => Item::TooLarge { relation },
        });
        (self.new_row, self.old_row) = (row, old_row);
    }

    /// A row that is gone.
    ///
    /// # Safety
    /// As for [`Self::insert`].
    pub unsafe fn delete(&mut self, relation: &Relation, table: &StrongTable, old: Columns<'_>) {
        let mut row = std::mem::take(&mut self.old_row);
        let Some(identity) = self.identity(relation, table) else {
            return;
        };
        // SAFETY: by contract.
        let formed = unsafe {
            match identity {
                Identity::Nothing => Ok(false),
                Identity::Full | Identity::Columns(_) => {
                    tuple::form(&mut row, relation, table, old.values, &identity.hidden(old.nulls)).map(|()| true)
                }
            }
        };
        let relation = table.oid.into();
        self.put(&match formed {
            Ok(known) => Item::Delete {
                relation,
                old: known.then_some(&row[..]),
            },
            Err(TooLarge) => Item::TooLarge { relation },
        });
        self.old_row = row;
    }

    fn identity(&mut self, relation: &Relation, table: &StrongTable) -> Option<&Identity> {
        let identity = self
            .tables
            .entry(table.oid)
            .or_insert_with(|| (!is_own(table)).then(|| Identity::of(relation)));
        identity.as_ref()
    }

    fn put(&mut self, item: &Item<'_>) {
        item.encode(&mut self.items);
        if self.items.len() >= PIECE_BYTES {
            self.flush();
        }
    }

    fn write(&mut self, end: Option<RecordHeader>) {
        let mut items = std::mem::take(&mut self.items);
        let mut rest = &items[..];
        loop {
            let (piece, more) = rest.split_at(rest.len().min(PIECE_BYTES));
            let message = match (self.begins.take(), end) {
                (Some(header), _) => RecordMessage::Begin(header, piece),
                (None, Some(header)) if more.is_empty() => RecordMessage::End(header, piece),
                (None, _) => RecordMessage::More(self.group, piece),
            };
            log(&message, &mut self.message);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        items.clear();
        self.items = items;
    }
}

/// Whether anybody will read what this transaction tells. It gets its id here, if it has none.
pub fn is_read() -> bool {
    // SAFETY: inside a transaction that writes.
    unsafe { pg_sys::GetCurrentTransactionId() };
    stream_slots::exist()
}

/// The transaction has written replicated tables, but there is nothing in it that travels.
pub fn nothing() {
    log(&RecordMessage::Nothing, &mut Vec::new());
}

/// The transaction copies the group's rows as of this CSN. Before the first of them.
pub fn copied(csn: u64) {
    log(&RecordMessage::Copied(csn), &mut Vec::new());
}

fn log(message: &RecordMessage<'_>, buffer: &mut Vec<u8>) {
    logical_message::write_with(PREFIX, buffer, |buffer| message.encode(buffer));
}

/// Whether it is a table of the extension: what it holds is nobody's business.
fn is_own(table: &StrongTable) -> bool {
    table.name.starts_with("synod.")
}
