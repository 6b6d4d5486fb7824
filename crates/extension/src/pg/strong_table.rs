//! A replicated table as capture and apply need it, read from the relation cache: columns with the functions that carry their
//! values, keys with the way they are hashed, foreign keys, sequences.
//!
//! The functions' state lives in a memory context of the table, deleted with it. Made and kept by `pg/relation.rs`.

use std::cell::UnsafeCell;

use pgrx::pg_sys;
use synod_change::{TableId, Wire};

use super::definition::{self, NumberedIndex};
use super::format::FixedSettings;
use super::relcache::{Relation, name_text, qualified};
use super::wire::{self, Hashing};
use super::{catalog, compat, hierarchy, list, nested, told_row};

/// A function of a type, ready to be called.
pub struct Function(UnsafeCell<pg_sys::FmgrInfo>);

impl Function {
    /// One that is gone is told by an error when it is called, not here: a type and its functions depend on each other, so DROP
    /// EXTENSION ... CASCADE may drop the functions before columns of the type, of which a table can have several.
    ///
    /// # Safety
    /// Inside a transaction; `context` lives as long as the result.
    pub(super) unsafe fn new(function: pg_sys::Oid, context: pg_sys::MemoryContext) -> Self {
        let mut info = pg_sys::FmgrInfo::default();
        // SAFETY: by contract; a look-up of a name, which is null for what is not there.
        unsafe {
            let exists = !pg_sys::get_func_name(function).is_null();
            let function = if exists { function } else { pg_sys::F_SHELL_IN.into() };
            pg_sys::fmgr_info_cxt(function, &mut info, context);
        }
        Self(UnsafeCell::new(info))
    }

    /// For the server's call functions, which keep state in it.
    pub fn get(&self) -> *mut pg_sys::FmgrInfo {
        self.0.get()
    }
}

/// A live column, in group column order.
pub struct Column {
    /// Attribute number - 1 here.
    pub index: usize,
    /// Unquoted.
    pub name: String,
    /// Its declared type.
    pub type_oid: pg_sys::Oid,
    /// Its type modifier.
    pub typmod: i32,
    /// Its collation.
    pub collation: pg_sys::Oid,
    /// Computed from the others.
    pub generated: bool,
    /// So when it is read: no row has it, and it does not travel. The values of a stored one do, as they are where the row was made.
    pub is_virtual: bool,
    /// How its values travel.
    pub wire: Wire,
    /// The binary form is the payload of the varlena.
    pub plain_bytes: bool,
    /// Its values are taken apart to travel.
    pub taken_apart: bool,
    /// Stands in messages for the change stream as it travels, not as it is stored.
    pub sent: bool,
    /// Passed by value.
    pub by_value: bool,
    /// Length of the type: -1 varlena, -2 C string.
    pub length: i16,
    /// Send or output function.
    pub output: Function,
    /// Receive function (the input function for types without one).
    pub input_binary: Function,
    /// Its type parameter.
    pub input_parameter: pg_sys::Oid,
    /// Input function.
    pub input_text: Function,
    /// Its type parameter.
    pub input_text_parameter: pg_sys::Oid,
}

impl Column {
    /// Whether its text form, in which it travels, depends on settings. Inside a transaction.
    pub fn needs_fixed_settings(&self) -> bool {
        self.wire == Wire::Text && !wire::text_is_fixed(wire::base_type(self.type_oid))
    }
}

/// A unique (or exclusion) index.
pub struct UniqueKey {
    /// Here.
    pub index: pg_sys::Oid,
    /// The table under whose number it is certified: this one, or the partitioned table whose index it is a part of.
    pub table: TableId,
    /// Its number in that table, in the group.
    pub number: u32,
    /// Attribute numbers of the key columns; 0: an expression.
    pub attributes: Vec<i16>,
    /// How each key column is hashed; `None`: the index cannot be hashed and the table as a whole is the key.
    pub hashing: Option<Vec<Hashing>>,
    /// Whether it has expressions or a predicate, so that the executor's help is needed.
    pub computed: bool,
    /// NULLS NOT DISTINCT.
    pub nulls_equal: bool,
    /// Checked late: its entries do not block a conflicting one.
    pub deferrable: bool,
    /// Rows are found again by it.
    pub identity: bool,
}

/// A foreign key of this table to a strong table.
pub struct ForeignKey {
    /// The table referenced, or the one under whose number its key is certified.
    pub referenced: TableId,
    /// Its index number.
    pub index_number: u32,
    /// Referencing attribute numbers, in the order of the referenced index's columns.
    pub attributes: Vec<i16>,
    /// How each is hashed; `None`: by the referenced table as a whole.
    pub hashing: Option<Vec<Hashing>>,
}

/// A sequence that feeds a column.
pub struct FeedingSequence {
    /// Group column number.
    pub column: u16,
    /// Its relation.
    pub sequence: pg_sys::Oid,
    /// It is the column's own; else the column's default draws from it.
    pub owned: bool,
}

/// A replicated table, as capture and apply need it.
pub struct StrongTable {
    /// Its relation here.
    pub oid: pg_sys::Oid,
    /// Its number in the group.
    pub id: TableId,
    /// `schema.name`, quoted, for messages.
    pub name: String,
    /// Live columns.
    pub columns: Vec<Column>,
    /// Number of attributes, dropped ones included.
    pub attribute_count: usize,
    /// Columns (positions in `columns`) that identify a row; all of them for a table without a key.
    pub identity: Vec<usize>,
    /// The index by which rows are found again; `None` for a table without a key.
    pub identity_index: Option<pg_sys::Oid>,
    /// Unique and exclusion indexes.
    pub keys: Vec<UniqueKey>,
    /// The tables that this is a partition of, directly or not.
    pub ancestors: Vec<TableId>,
    /// It has no rows itself, only partitions.
    pub partitioned: bool,
    /// Foreign keys to strong tables.
    pub foreign_keys: Vec<ForeignKey>,
    /// Whether foreign keys of other tables (or its own) refer to it.
    pub referenced: bool,
    /// Whether somebody put triggers on it.
    pub has_user_triggers: bool,
    /// Sequences owned by its columns.
    pub sequences: Vec<FeedingSequence>,
    /// Whether some column's text form depends on settings.
    pub needs_fixed_settings: bool,
    /// Of its rows in messages for the change stream; null: the relation's own.
    pub told: pg_sys::TupleDesc,
    context: pg_sys::MemoryContext,
}

impl StrongTable {
    /// Whether a key of its own may be checked as late as at commit.
    pub fn has_late_key(&self) -> bool {
        self.keys.iter().any(|key| key.deferrable)
    }
}

impl Drop for StrongTable {
    fn drop(&mut self) {
        // SAFETY: the context is a child of TopMemoryContext and ours alone; deleting it frees the function infos' state.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// Whether some unique index or exclusion constraint of a table cannot be hashed.
pub fn has_unhashable_key(relation: &Relation) -> bool {
    let indexes = definition::numbered_indexes(relation);
    indexes
        .iter()
        .filter_map(|index| unique_key(index, TableId::default(), None))
        .any(|key| key.hashing.is_none())
}

/// Read a table that is replicated under this number; `None` when it is gone.
pub fn load(oid: pg_sys::Oid, id: TableId) -> Option<StrongTable> {
    let relation = Relation::open(oid)?;
    let _settings = FixedSettings::for_definitions();
    // SAFETY: a context of our own, deleted with the table (or leaked, if the rest raises).
    let context = unsafe {
        pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"synod table".as_ptr(),
            0,
            1024,
            8 * 1024 * 1024,
        )
    };
    let live = definition::live_attributes(&relation);
    let live_column = |index: &usize| {
        // SAFETY: the context goes with the table.
        unsafe { column(&relation, *index, context) }
    };
    let columns: Vec<Column> = live.iter().map(live_column).collect();
    // SAFETY: inside a transaction; goes with the context.
    let told = unsafe {
        let before = pg_sys::MemoryContextSwitchTo(context);
        let told = told_row::descriptor(&relation, &columns);
        pg_sys::MemoryContextSwitchTo(before);
        told
    };
    let identity_index = definition::identity_index(&relation);
    let indexes = definition::numbered_indexes(&relation);
    let keys: Vec<UniqueKey> = indexes
        .iter()
        .filter_map(|index| unique_key(index, id, identity_index))
        .collect();
    let above = hierarchy::ancestors(&relation);
    let position = |number: i16| live.iter().position(|index| *index + 1 == number as usize);
    let identity = match keys.iter().find(|key| key.identity) {
        Some(key) => key.attributes.iter().filter_map(|number| position(*number)).collect(),
        None => (0..columns.len()).collect(),
    };
    Some(StrongTable {
        oid,
        id,
        name: qualified(&relation.schema(), &relation.name()),
        attribute_count: relation.attribute_count(),
        identity,
        identity_index,
        foreign_keys: foreign_keys(&relation),
        referenced: is_referenced(&relation),
        has_user_triggers: triggers(&relation).iter().any(|trigger| !trigger.tgisinternal),
        sequences: feeding_sequences(&relation, &live),
        ancestors: above.into_iter().filter_map(catalog::number_of).collect(),
        partitioned: hierarchy::is_partitioned(&relation),
        needs_fixed_settings: columns.iter().any(Column::needs_fixed_settings),
        told,
        columns,
        keys,
        context,
    })
}

/// A live column.
///
/// # Safety
/// Inside a transaction; `context` lives as long as the result.
pub unsafe fn column(relation: &Relation, index: usize, context: pg_sys::MemoryContext) -> Column {
    let attribute = relation.attribute(index);
    let base = wire::base_type(attribute.atttypid);
    let wire = if wire::is_binary(attribute.atttypid) {
        Wire::Binary
    } else {
        Wire::Text
    };
    // SAFETY: inside a transaction; the type exists because a column has it; its functions are those of the base type,
    // so that the checks of domains, done where the row was written, are not done again.
    unsafe {
        let (mut output, mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid, pg_sys::InvalidOid);
        let (mut text, mut text_parameter, mut is_varlena) = (pg_sys::InvalidOid, pg_sys::InvalidOid, false);
        pg_sys::getTypeInputInfo(base, &mut text, &mut text_parameter);
        if wire == Wire::Binary {
            pg_sys::getTypeBinaryOutputInfo(base, &mut output, &mut is_varlena);
            pg_sys::getTypeBinaryInputInfo(base, &mut input, &mut parameter);
        } else {
            pg_sys::getTypeOutputInfo(base, &mut output, &mut is_varlena);
            (input, parameter) = (text, text_parameter);
        }
        Column {
            index,
            name: name_text(&attribute.attname),
            type_oid: attribute.atttypid,
            typmod: attribute.atttypmod,
            collation: attribute.attcollation,
            generated: attribute.attgenerated != 0,
            is_virtual: compat::is_virtual(attribute),
            wire,
            plain_bytes: wire::is_plain_bytes(base),
            taken_apart: nested::is_taken_apart(base),
            sent: !told_row::is_stored(base),
            by_value: attribute.attbyval,
            length: attribute.attlen,
            output: Function::new(output, context),
            input_binary: Function::new(input, context),
            input_parameter: parameter,
            input_text: Function::new(text, context),
            input_text_parameter: text_parameter,
        }
    }
}

fn unique_key(index: &NumberedIndex, table: TableId, identity: Option<pg_sys::Oid>) -> Option<UniqueKey> {
    let relation = Relation::open(index.oid)?;
    let (table, number) = certified_as(&relation).unwrap_or((table, index.definition.id));
    let form = relation.index_form()?;
    let attributes = definition::key_attributes(form);
    let computed = attributes.contains(&0) || !definition::predicate_is_empty(&relation);
    Some(UniqueKey {
        index: index.oid,
        table,
        number,
        // WITHOUT OVERLAPS is both: values that are not equal may be in each other's way.
        hashing: if form.indisunique && !form.indisexclusion {
            index_hashing(&relation, attributes.len())
        } else {
            None
        },
        attributes,
        computed,
        nulls_equal: form.indnullsnotdistinct,
        deferrable: !form.indimmediate,
        identity: identity == Some(index.oid),
    })
}

/// For an index that is part of a partitioned table's: that table and the index's number there.
fn certified_as(index: &Relation) -> Option<(TableId, u32)> {
    let topmost = *hierarchy::ancestors(index).last()?;
    // SAFETY: inside a transaction; the index exists, since others are parts of it.
    let table = unsafe { pg_sys::IndexGetRelation(topmost, true) };
    let id = catalog::number_of(table)?;
    let indexes = definition::numbered_indexes(&Relation::open(table)?);
    let found = indexes.into_iter().find(|numbered| numbered.oid == topmost)?;
    Some((id, found.definition.id))
}

/// How the key columns of a unique index are hashed. Only the server's own operator classes are known to compare as
/// [`Hashing`] assumes.
fn index_hashing(index: &Relation, count: usize) -> Option<Vec<Hashing>> {
    // SAFETY: rd_opfamily and rd_indcollation of a pinned index have one element per key column.
    unsafe {
        (0..count)
            .map(|at| {
                let family = *(*index.raw()).rd_opfamily.add(at);
                let collation = *(*index.raw()).rd_indcollation.add(at);
                // The type of what is indexed, not what the operator class stores (name as cstring).
                let indexed = *(*index.raw()).rd_opcintype.add(at);
                let stored = index.attribute(at).atttypid;
                let of = if u32::from(stored) == u32::from(pg_sys::CSTRINGOID) {
                    indexed
                } else {
                    stored
                };
                if u32::from(family) >= pg_sys::FirstNormalObjectId {
                    return None;
                }
                match (Hashing::of(of, collation)?, Hashing::of(indexed, collation)) {
                    // The class of char(n) takes text as it is, and equality is the class's.
                    (Hashing::Bytes, Some(Hashing::Padded)) => Some(Hashing::Padded),
                    (hashing, _) => Some(hashing),
                }
            })
            .collect()
    }
}

fn foreign_keys(relation: &Relation) -> Vec<ForeignKey> {
    let mut keys: Vec<ForeignKey> = definition::local_foreign_keys(relation)
        .into_iter()
        .filter_map(|key| {
            let referenced = catalog::number_of(key.referenced)?;
            let parent = Relation::open(key.referenced)?;
            let index = definition::numbered_indexes(&parent)
                .into_iter()
                .find(|i| i.oid == key.referenced_index)?;
            let parent_key = unique_key(&index, referenced, None)?;
            let attributes: Option<Vec<i16>> = parent_key
                .attributes
                .iter()
                .map(|number| {
                    let at = key.referenced_columns.iter().position(|column| column == number)?;
                    key.columns.get(at).copied()
                })
                .collect();
            let attributes = attributes?;
            let hashing = parent_key.hashing.and_then(|parents| {
                attributes
                    .iter()
                    .zip(&parent_key.attributes)
                    .zip(parents)
                    .map(|((number, parent_number), parent_hashing)| {
                        let column = |of: &Relation, number: i16| {
                            Some(*of.attribute(usize::try_from(number).ok()?.checked_sub(1)?))
                        };
                        let attribute = column(relation, *number)?;
                        if wire::converts_instants(attribute.atttypid, column(&parent, *parent_number)?.atttypid) {
                            return None;
                        }
                        Hashing::of(attribute.atttypid, attribute.attcollation)?.referring_to(parent_hashing)
                    })
                    .collect()
            });
            Some(ForeignKey {
                referenced: parent_key.table,
                index_number: parent_key.number,
                attributes,
                hashing,
            })
        })
        .collect();
    // One that refers to a partitioned table is there once more for each of its partitions: the same key.
    let place = |key: &ForeignKey| (key.referenced, key.index_number, key.attributes.clone());
    keys.sort_by_key(place);
    keys.dedup_by_key(|key| place(key));
    keys
}

/// Whether a foreign key refers to the table: it then has the trigger of the referenced side.
fn is_referenced(relation: &Relation) -> bool {
    const RI_TRIGGER_PK: i32 = 1;
    triggers(relation).iter().any(|trigger| {
        // SAFETY: compares oids of built-in functions.
        trigger.tgconstraint != pg_sys::InvalidOid
            && unsafe { pg_sys::RI_FKey_trigger_type(trigger.tgfoid) } == RI_TRIGGER_PK
    })
}

/// The triggers of a table.
pub fn triggers(relation: &Relation) -> &[pg_sys::Trigger] {
    // SAFETY: trigdesc of a pinned relation is null or has numtriggers elements.
    unsafe {
        match (*relation.raw()).trigdesc.as_ref() {
            Some(triggers) => std::slice::from_raw_parts(triggers.triggers, triggers.numtriggers as usize),
            None => &[],
        }
    }
}

fn feeding_sequences(relation: &Relation, live: &[usize]) -> Vec<FeedingSequence> {
    let mut feeding = owned_sequences(relation, live);
    for (column, sequence) in catalog::sequences_of_defaults(relation) {
        let column = live.iter().position(|index| *index == column);
        if let Some(column) = column.filter(|_| feeding.iter().all(|known| known.sequence != sequence)) {
            feeding.push(FeedingSequence {
                column: column as u16,
                sequence,
                owned: false,
            });
        }
    }
    feeding
}

fn owned_sequences(relation: &Relation, live: &[usize]) -> Vec<FeedingSequence> {
    // SAFETY: inside a transaction; a fresh list of oids; sequenceIsOwned writes table and column when it is true.
    unsafe {
        let owned = pg_sys::getOwnedSequences(relation.oid());
        (0..list::length(owned))
            .filter_map(|at| {
                let sequence = list::oid(owned, at);
                let (mut table, mut number) = (pg_sys::InvalidOid, 0);
                let found = [
                    pg_sys::DependencyType::DEPENDENCY_AUTO,
                    pg_sys::DependencyType::DEPENDENCY_INTERNAL,
                ]
                .into_iter()
                .any(|kind| pg_sys::sequenceIsOwned(sequence, kind as std::ffi::c_char, &mut table, &mut number));
                let column = live.iter().position(|index| *index as i32 + 1 == number)?;
                found.then_some(FeedingSequence {
                    column: column as u16,
                    sequence,
                    owned: true,
                })
            })
            .collect()
    }
}
