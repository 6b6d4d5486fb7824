//! One net effect to changes and keys.
//!
//! An update that changes a unique key (of any unique or exclusion index) is one that the receiving side puts into indexes only
//! when all such rows of the record have changed, and told as a delete and an insert: all deletes of a record come before its
//! inserts, so that rows that swap their keys never meet in an index.

use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::{Change, KeyMode, Row, Value};

use super::drawn::Drawn;
use super::image::{Image, same_bytes};
use super::sink::Sink;
use crate::errors::UserError;
use crate::pg::keys::{Base, IndexEvaluator, KeySet, RowKey, plain_key, referenced_key, whole_row_key};
use crate::pg::relation::{Column, StrongTable, UniqueKey};
use crate::pg::relcache::Relation;
use crate::pg::row;
use crate::pg::teller::Teller;

/// Where changes and keys go.
pub(super) struct Output {
    pub(super) sink: Sink,
    pub(super) keys: KeySet,
    pub(super) rows: u64,
    /// Some versions came and went: without any other change the keys go through the log all the same, because statements
    /// that pass no read barrier are proved by it.
    pub(super) passed: bool,
    /// Where changes go for the change stream, if anybody reads it.
    pub(super) told: Option<Teller>,
}

/// A table whose rows are being sealed.
pub(super) struct Emitter {
    pub(super) table: Rc<StrongTable>,
    pub(super) relation: Relation,
    evaluator: Option<IndexEvaluator>,
    /// Whether rows were inserted, so that sequences may have moved.
    pub(super) inserted: bool,
    /// The values of theirs that those rows may have.
    pub(super) drawn: Drawn,
}

impl Emitter {
    pub(super) fn new(table: Rc<StrongTable>, relation: Relation) -> Self {
        // Made in the memory context of the whole seal, not of a row.
        let evaluator = table
            .keys
            .iter()
            .any(|key| key.computed)
            .then(|| IndexEvaluator::new(&relation));
        let drawn = Drawn::new(&table, &relation);
        Self {
            table,
            relation,
            evaluator,
            inserted: false,
            drawn,
        }
    }

    pub(super) fn close(self) {
        if let Some(evaluator) = self.evaluator {
            evaluator.close();
        }
    }

    /// A new row.
    pub(super) fn insert(&mut self, new: &Image<'_>, base: u64, out: &mut Output) -> Result<(), UserError> {
        self.come(new, None, base, out);
        let values = self.new_values(new, None);
        out.rows += 1;
        self.tell_new(new, out);
        out.sink.write(&Change::Insert {
            table: self.table.id,
            new: Row::new(&values),
        })
    }

    /// The claims of a row that comes, or of what an update with a new key makes of the row `before`.
    fn come(&mut self, new: &Image<'_>, before: Option<&Image<'_>>, base: u64, out: &mut Output) {
        self.inserted = true;
        self.drawn.note(new);
        out.keys.touch_held(&self.table, base);
        self.claim_unique(new, before, base, false, out);
        self.claim_referenced(new, before, base, out);
    }

    /// Tell a row that comes.
    pub(super) fn tell_new(&self, new: &Image<'_>, out: &mut Output) {
        if let Some(told) = &mut out.told {
            // SAFETY: the image is of this table; the sealer resets its memory for every row.
            unsafe { told.insert(&self.relation, &self.table, new.columns()) }
        }
    }

    /// Claim and tell a row that goes, or of which an update with a new key makes `after`. Returns what identifies it.
    fn go<'i>(&mut self, old: &'i Image<'_>, after: Option<&Image<'_>>, base: u64, out: &mut Output) -> Vec<Value<'i>> {
        out.keys.touch_held(&self.table, base);
        self.claim_unique(old, after, base, true, out);
        let key = self.identity_values(old);
        self.claim_identity(&key, KeyMode::Update, base, after.is_some(), old, out);
        out.rows += 1;
        if let Some(told) = &mut out.told {
            // SAFETY: as in `tell_new`.
            unsafe { told.delete(&self.relation, &self.table, old.columns()) }
        }
        key
    }

    /// A row that is gone. `moved`: to another partition.
    pub(super) fn delete(
        &mut self,
        old: &Image<'_>,
        moved: bool,
        base: u64,
        out: &mut Output,
    ) -> Result<(), UserError> {
        let key = self.go(old, None, base, out);
        let (table, key) = (self.table.id, Row::new(&key));
        out.sink.write(&if moved {
            Change::Depart { table, key }
        } else {
            Change::Delete { table, key }
        })
    }

    /// A row that changed, and a unique key of it. The new side is told later ([`Self::tell_new`]).
    pub(super) fn replace(
        &mut self,
        old: &Image<'_>,
        new: &Image<'_>,
        base: u64,
        out: &mut Output,
    ) -> Result<(), UserError> {
        let key = self.go(old, Some(new), base, out);
        self.come(new, Some(old), base, out);
        let values = self.new_values(new, Some(old));
        out.sink.write(&Change::Replace {
            table: self.table.id,
            key: Row::new(&key),
            new: Row::new(&values),
        })
    }

    /// A row that changed, but no unique key of it.
    pub(super) fn update(
        &mut self,
        old: &Image<'_>,
        new: &Image<'_>,
        base: u64,
        out: &mut Output,
    ) -> Result<(), UserError> {
        out.keys.touch_held(&self.table, base);
        let key = self.identity_values(old);
        self.claim_identity(&key, KeyMode::NoKeyUpdate, base, true, old, out);
        self.claim_referenced(new, Some(old), base, out);
        let values = self.new_values(new, Some(old));
        out.rows += 1;
        if let Some(told) = &mut out.told {
            // SAFETY: as in `tell_new`.
            unsafe {
                told.update(
                    &self.relation,
                    &self.table,
                    old.columns(),
                    new.columns(),
                    Row::new(&values),
                )
            }
        }
        out.sink.write(&Change::Update {
            table: self.table.id,
            key: Row::new(&key),
            new: Row::new(&values),
        })
    }

    /// A version that came and went within the transaction. It changes nothing, but its index entries stand in the way of
    /// another node's row with these keys, since it came: at `first` or later. `after`: the row that replaced it.
    pub(super) fn pass(
        &mut self,
        old: &Image<'_>,
        after: Option<&Image<'_>>,
        (first, base): (u64, u64),
        out: &mut Output,
    ) {
        self.claim_unique(old, after, base, false, out);
        let table = Rc::clone(&self.table);
        for key in &table.keys {
            let Some(RowKey::Hash(hash)) = self.key_of(key, old) else {
                continue;
            };
            if after.is_none_or(|after| self.key_of(key, after) != Some(RowKey::Hash(hash))) {
                out.keys.claim_held(key.table, hash, KeyMode::Update, first, false);
            }
        }
        out.passed = true;
    }

    /// Whether the two versions of a row differ in some unique or exclusion key.
    pub(super) fn changes_key(&mut self, old: &Image<'_>, new: &Image<'_>) -> bool {
        let table = Rc::clone(&self.table);
        table.keys.iter().any(|key| match self.key_of(key, old) {
            Some(before) => Some(before) != self.key_of(key, new),
            // Not hashable: by its columns' bytes, and by suspicion if it has expressions.
            None => key.computed || key.attributes.iter().any(|number| !self.same(*number, old, new)),
        })
    }

    fn same(&self, number: i16, old: &Image<'_>, new: &Image<'_>) -> bool {
        let attribute = self.relation.attribute(number as usize - 1);
        match (old.get(number as usize - 1), new.get(number as usize - 1)) {
            (None, None) => true,
            // SAFETY: both are values of this attribute.
            (Some(a), Some(b)) => unsafe { same_bytes(a, b, attribute.attbyval, attribute.attlen) },
            _ => false,
        }
    }

    /// The key of a row in one index; `None` when the index cannot be hashed.
    fn key_of(&mut self, key: &UniqueKey, image: &Image<'_>) -> Option<RowKey> {
        let hashing = key.hashing.as_deref()?;
        // SAFETY: the image is of this table, and so is the key.
        Some(unsafe {
            match &mut self.evaluator {
                Some(evaluator) if key.computed => evaluator.key(&self.table, key, hashing, image),
                _ => plain_key(key, hashing, image),
            }
        })
    }

    /// Claim the unique keys of a row that comes or goes; with `other`, only those that the other version does not have. `was_there`: before
    /// this transaction, so that others may have locked it.
    fn claim_unique(
        &mut self,
        image: &Image<'_>,
        other: Option<&Image<'_>>,
        base: u64,
        was_there: bool,
        out: &mut Output,
    ) {
        let table = Rc::clone(&self.table);
        for key in &table.keys {
            match self.key_of(key, image) {
                Some(RowKey::Hash(hash)) => {
                    if other.is_some_and(|other| self.key_of(key, other) == Some(RowKey::Hash(hash))) {
                        continue;
                    }
                    if key.deferrable || table.referenced {
                        out.keys.claim(key.table, hash, KeyMode::Update, Base::At(base));
                    } else {
                        out.keys.claim_held(key.table, hash, KeyMode::Update, base, was_there);
                    }
                }
                Some(RowKey::Absent) => {}
                None => out.keys.claim_table(key.table, KeyMode::Update, Base::At(base)),
            }
        }
    }

    /// Claim what identifies a row that changes or goes, unless [`Self::claim_unique`] did so already.
    fn claim_identity(
        &mut self,
        identity: &[Value<'_>],
        mode: KeyMode,
        base: u64,
        replaced: bool,
        old: &Image<'_>,
        out: &mut Output,
    ) {
        let table = Rc::clone(&self.table);
        let Some(key) = table.keys.iter().find(|key| key.identity) else {
            // Any one of equal rows will do on the receiving side, and ours may be another one than there: no lock
            // of ours stands for the key.
            let hash = whole_row_key(table.id, identity);
            return out.keys.claim(table.id, hash, KeyMode::Update, Base::At(base));
        };
        match self.key_of(key, old) {
            // A row that is gone claimed it with its other keys; one that is replaced under the same identity did not.
            Some(RowKey::Hash(hash)) if replaced => {
                let physical = mode < KeyMode::Update || !table.referenced;
                if physical {
                    out.keys.claim_held(key.table, hash, mode, base, true);
                } else {
                    out.keys.claim(key.table, hash, mode, Base::At(base));
                }
            }
            Some(_) => {}
            None => out.keys.claim_table(key.table, KeyMode::Update, Base::At(base)),
        }
    }

    /// Claim the keys that a row refers to; with `before`, only what the earlier version did not refer to.
    fn claim_referenced(&mut self, new: &Image<'_>, before: Option<&Image<'_>>, base: u64, out: &mut Output) {
        for key in &self.table.foreign_keys {
            let Some(hashing) = key.hashing.as_deref() else {
                let complete = key.attributes.iter().all(|number| !new.nulls[*number as usize - 1]);
                let moved =
                    before.is_none_or(|before| key.attributes.iter().any(|number| !self.same(*number, before, new)));
                if complete && moved {
                    out.keys.claim_table(key.referenced, KeyMode::Update, Base::At(base));
                }
                continue;
            };
            // SAFETY: the images are of this table, and so is the key.
            let (now, earlier) = unsafe {
                (
                    referenced_key(key, hashing, new),
                    before.map(|before| referenced_key(key, hashing, before)),
                )
            };
            if let RowKey::Hash(hash) = now
                && earlier != Some(now)
            {
                out.keys.claim(key.referenced, hash, KeyMode::KeyShare, Base::At(base));
            }
        }
    }

    fn identity_values<'i>(&self, image: &'i Image<'_>) -> Vec<Value<'i>> {
        let columns = self.table.identity.iter().map(|column| &self.table.columns[*column]);
        // SAFETY: the image is of this table; what is allocated lives in the row's memory context, like the values.
        columns.map(|column| unsafe { encode(column, image) }).collect()
    }

    /// All columns of a new row, stored generated ones as they are stored here: their functions may give something else elsewhere, or
    /// later. Unchanged ones as `Same`, virtual ones, which no row has, as NULL.
    fn new_values<'i>(&self, new: &'i Image<'_>, old: Option<&Image<'_>>) -> Vec<Value<'i>> {
        self.table
            .columns
            .iter()
            .map(|column| {
                let unchanged = |old: &Image<'_>| self.same(column.index as i16 + 1, old, new);
                match old {
                    _ if column.is_virtual => Value::Null,
                    // Only where it saves something.
                    Some(old) if !column.by_value && !new.nulls[column.index] && unchanged(old) => Value::Same,
                    // SAFETY: as above.
                    _ => unsafe { encode(column, new) },
                }
            })
            .collect()
    }
}

/// # Safety
/// The image is of the table that the column belongs to.
unsafe fn encode<'i>(column: &Column, image: &'i Image<'_>) -> Value<'i> {
    let (datum, is_null): (pg_sys::Datum, bool) = (image.values[column.index], image.nulls[column.index]);
    // SAFETY: by contract.
    unsafe { row::encode(column, datum, is_null) }
}
