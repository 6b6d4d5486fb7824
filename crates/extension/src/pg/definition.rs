//! The [`TableDefinition`] of a local table: what nodes must agree on before it is replicated.
//!
//! Column numbers are positions among the live columns, index numbers positions among the unique and exclusion indexes
//! sorted by their definitions; so equal definitions give equal numbers on every node, whatever the local names of
//! indexes, their storage parameters, OIDs and dropped columns are. Both stay fixed while a table is replicated because changes of its
//! definition are refused (`pg/guard.rs`).

use std::ffi::CString;

use pgrx::{FromDatum, IntoDatum, pg_sys};
use synod_change::{
    CheckDefinition, ColumnDefinition, ForeignKeyAction, ForeignKeyDefinition, Identity, IndexDefinition,
    TableDefinition, TableId, Wire,
};

use super::format::FixedSettings;
use super::relcache::{Relation, c_text, name_text, qualified};
use super::{compat, hierarchy, list, wire};

/// An index as definitions number it, with its local oid.
pub struct NumberedIndex {
    /// Here.
    pub oid: pg_sys::Oid,
    /// Everywhere.
    pub definition: IndexDefinition,
}

/// The definition of the table `relation` under the number `id`. `number_of` tells the number under which another table
/// (or this one) is replicated.
pub fn of(relation: &Relation, id: TableId, number_of: &dyn Fn(pg_sys::Oid) -> Option<TableId>) -> TableDefinition {
    let _settings = FixedSettings::for_definitions();
    let indexes = numbered_indexes(relation);
    TableDefinition {
        id,
        schema: relation.schema(),
        name: relation.name(),
        columns: live_attributes(relation)
            .into_iter()
            .map(|index| column(relation, index))
            .collect(),
        identity: identity_columns(relation).map_or(Identity::FullRow, Identity::Columns),
        indexes: indexes.into_iter().map(|index| index.definition).collect(),
        foreign_keys: foreign_keys(relation, number_of),
        checks: checks(relation),
        partitioned_by: hierarchy::key_text(relation),
        partition_of: hierarchy::place_text(relation),
    }
}

/// Indexes (attribute number - 1) of the columns that are not dropped, in group column order.
pub fn live_attributes(relation: &Relation) -> Vec<usize> {
    (0..relation.attribute_count())
        .filter(|index| !relation.attribute(*index).attisdropped)
        .collect()
}

/// Position in group column order of an attribute number; `None` for expressions and system columns.
pub fn group_column(relation: &Relation, attribute_number: i16) -> Option<u16> {
    let index = usize::try_from(attribute_number).ok()?.checked_sub(1)?;
    let position = live_attributes(relation).into_iter().position(|live| live == index)?;
    u16::try_from(position).ok()
}

/// The local index through which a row is found again: unique, at once, not partial, on plain NOT NULL columns. The
/// primary key if it is such a one, else the replica identity, else the first by number.
pub fn identity_index(relation: &Relation) -> Option<pg_sys::Oid> {
    let mut usable: Vec<(u8, String, u32)> = Vec::new();
    for oid in relation.indexes() {
        let Some(index) = Relation::open(oid) else { continue };
        let Some(form) = index.index_form() else { continue };
        let plain = key_attributes(form).iter().all(|number| {
            usize::try_from(*number).is_ok_and(|number| {
                // SAFETY: an open relation's descriptor, and a column of its index.
                number > 0 && unsafe { compat::is_never_null(relation.descriptor(), number - 1) }
            })
        });
        // WITHOUT OVERLAPS (from PostgreSQL 18 on) is an exclusion constraint as well, whose index finds more than what is equal.
        let equal_only = form.indisunique && !form.indisexclusion;
        if !(equal_only && form.indimmediate && form.indisvalid && plain && predicate_is_empty(&index)) {
            continue;
        }
        let rank = if form.indisprimary {
            0
        } else if form.indisreplident {
            1
        } else {
            2
        };
        usable.push((rank, index_text(relation, &index), oid.into()));
    }
    usable.sort();
    usable.first().map(|(_, _, oid)| pg_sys::Oid::from(*oid))
}

/// Columns of the identity index in group column order numbers, in index order.
fn identity_columns(relation: &Relation) -> Option<Vec<u16>> {
    let index = Relation::open(identity_index(relation)?)?;
    key_attributes(index.index_form()?)
        .into_iter()
        .map(|number| group_column(relation, number))
        .collect()
}

/// Attribute numbers of the key columns of an index (0: an expression).
pub fn key_attributes(form: &pg_sys::FormData_pg_index) -> Vec<i16> {
    // SAFETY: indkey is the last fixed field of pg_index and has indnatts values.
    unsafe {
        let values = form.indkey.values.as_ptr();
        (0..form.indnkeyatts as usize).map(|at| *values.add(at)).collect()
    }
}

/// Whether an index has no predicate.
pub fn predicate_is_empty(index: &Relation) -> bool {
    // SAFETY: a pinned index. RelationGetIndexPredicate would simplify it, that is, run functions of the table's owner.
    unsafe {
        let tuple = (*index.raw()).rd_indextuple;
        pg_sys::heap_attisnull(tuple, pg_sys::Anum_pg_index_indpred as i32, std::ptr::null_mut())
    }
}

/// Unique and exclusion indexes in the order of their group-wide numbers.
pub fn numbered_indexes(relation: &Relation) -> Vec<NumberedIndex> {
    let mut found = Vec::new();
    for oid in relation.indexes() {
        let Some(index) = Relation::open(oid) else { continue };
        let Some(form) = index.index_form() else { continue };
        if !form.indisvalid || !(form.indisunique || form.indisexclusion) {
            continue;
        }
        let columns: Option<Vec<u16>> = key_attributes(form)
            .into_iter()
            .map(|number| group_column(relation, number))
            .collect();
        found.push(NumberedIndex {
            oid,
            definition: IndexDefinition {
                id: 0,
                unique: form.indisunique,
                definition: index_text(relation, &index),
                columns: columns.unwrap_or_default(),
            },
        });
    }
    found.sort_by(|a, b| {
        a.definition
            .definition
            .cmp(&b.definition.definition)
            .then(u32::from(a.oid).cmp(&u32::from(b.oid)))
    });
    for (at, index) in found.iter_mut().enumerate() {
        index.definition.id = at as u32 + 1;
    }
    found
}

/// `pg_get_indexdef` from USING on, without storage parameters, and whether it is checked late. Only called under
/// [`FixedSettings::for_definitions`] when the text is kept; elsewhere it only orders.
pub fn index_text(relation: &Relation, index: &Relation) -> String {
    // SAFETY: inside a transaction; InvalidOid when no constraint owns the index.
    let constraint = unsafe { pg_sys::get_index_constraint(index.oid()) };
    if index.index_form().is_some_and(|form| form.indisexclusion) && constraint != pg_sys::InvalidOid {
        // Only there are the operators.
        return without_storage(
            call_text(pg_sys::pg_get_constraintdef, &[constraint.into_datum()]),
            index,
        );
    }
    let whole = call_text(pg_sys::pg_get_indexdef, &[index.oid().into_datum()]);
    let unique = index.index_form().is_some_and(|form| form.indisunique);
    let name = index.name();
    let table = qualified(&relation.schema(), &relation.name());
    let head = format!(
        "CREATE {}INDEX {} ON {table} ",
        if unique { "UNIQUE " } else { "" },
        quoted(&name)
    );
    let text = whole
        .strip_prefix(&head)
        .map_or_else(|| after_using(&whole), str::to_owned);
    let text = without_storage(text, index);
    let late = index.index_form().is_some_and(|form| !form.indimmediate);
    if late { format!("{text} DEFERRABLE") } else { text }
}

/// Without `WITH (fillfactor='70')`: a node may have its own, and they change while the table is written.
fn without_storage(text: String, index: &Relation) -> String {
    let cache = pg_sys::SysCacheIdentifier::RELOID;
    let options = SysCacheRow::find(cache, index.oid())
        .and_then(|row| row.nullable(cache, pg_sys::Anum_pg_class_reloptions as i16))
        // SAFETY: an array of texts, while the row is held.
        .and_then(|datum| unsafe { Vec::<String>::from_datum(datum, false) });
    let Some(options) = options else { return text };
    // As flatten_reloptions (utils/adt/ruleutils.c) writes them.
    let written = options.iter().map(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let plain = quoted(value) == value;
        let value = if plain {
            value.to_owned()
        } else {
            format!("'{}'", value.replace('\'', "''"))
        };
        format!("{}={value}", quoted(name))
    });
    let clause = format!(" WITH ({})", written.collect::<Vec<_>>().join(", "));
    text.replacen(&clause, "", 1)
}

/// The text from the access method on, for a definition that does not begin as expected.
fn after_using(whole: &str) -> String {
    whole
        .find(" USING ")
        .map_or_else(|| whole.to_owned(), |at| whole[at + 1..].to_owned())
}

fn quoted(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}

fn column(relation: &Relation, index: usize) -> ColumnDefinition {
    let attribute = relation.attribute(index);
    // SAFETY: the flags are those of format_type_extended; the result is palloc'd text.
    let type_name = unsafe {
        let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY as pg_sys::bits16;
        c_text(pg_sys::format_type_extended(attribute.atttypid, -1, flags))
    };
    ColumnDefinition {
        name: name_text(&attribute.attname),
        type_name,
        typmod: attribute.atttypmod,
        not_null: attribute.attnotnull,
        collation: collation_name(attribute.attcollation),
        generated: (attribute.attgenerated != 0).then(|| generation_expression(relation, index)),
        identity: match attribute.attidentity as u8 {
            0 => None,
            letter => Some(char::from(letter)),
        },
        wire: if wire::is_binary(attribute.atttypid) {
            Wire::Binary
        } else {
            Wire::Text
        },
    }
}

fn collation_name(oid: pg_sys::Oid) -> Option<String> {
    if oid == pg_sys::InvalidOid {
        return None;
    }
    let row = SysCacheRow::find(pg_sys::SysCacheIdentifier::COLLOID, oid)?;
    // SAFETY: COLLOID holds pg_collation rows.
    let form = unsafe { row.form::<pg_sys::FormData_pg_collation>() };
    Some(qualified(
        &super::relcache::schema_name(form.collnamespace),
        &name_text(&form.collname),
    ))
}

fn generation_expression(relation: &Relation, index: usize) -> String {
    // SAFETY: constr and its defval array belong to the pinned relation's descriptor.
    unsafe {
        let Some(constraints) = (*relation.descriptor()).constr.as_ref() else {
            return String::new();
        };
        for at in 0..constraints.num_defval as usize {
            let default = &*constraints.defval.add(at);
            if default.adnum as usize == index + 1 {
                let expression = c_text(default.adbin);
                return call_text(
                    pg_sys::pg_get_expr,
                    &[expression.into_datum(), relation.oid().into_datum()],
                );
            }
        }
    }
    String::new()
}

fn checks(relation: &Relation) -> Vec<CheckDefinition> {
    let mut found = Vec::new();
    // SAFETY: constr and its check array belong to the pinned relation's descriptor.
    unsafe {
        let Some(constraints) = (*relation.descriptor()).constr.as_ref() else {
            return found;
        };
        for at in 0..constraints.num_check as usize {
            let check = &*constraints.check.add(at);
            let expression = c_text(check.ccbin);
            found.push(CheckDefinition {
                name: c_text(check.ccname),
                definition: call_text(
                    pg_sys::pg_get_expr,
                    &[expression.into_datum(), relation.oid().into_datum()],
                ),
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A foreign key as the catalogs have it.
pub struct LocalForeignKey {
    /// `pg_constraint.oid`.
    pub constraint: pg_sys::Oid,
    /// The table referenced.
    pub referenced: pg_sys::Oid,
    /// Its unique index.
    pub referenced_index: pg_sys::Oid,
    /// Referencing attribute numbers.
    pub columns: Vec<i16>,
    /// Referenced attribute numbers, in the same order.
    pub referenced_columns: Vec<i16>,
    on_update: u8,
    on_delete: u8,
}

/// The foreign keys of a table.
pub fn local_foreign_keys(relation: &Relation) -> Vec<LocalForeignKey> {
    let mut keys = Vec::new();
    // SAFETY: the list belongs to the relation cache; what is needed is copied before anything else is called.
    unsafe {
        for key in list::pointers::<pg_sys::ForeignKeyCacheInfo>(pg_sys::RelationGetFKeyList(relation.raw())) {
            let key = &*key;
            let count = key.nkeys as usize;
            keys.push(LocalForeignKey {
                constraint: key.conoid,
                referenced: key.confrelid,
                referenced_index: pg_sys::InvalidOid,
                columns: key.conkey[..count].to_vec(),
                referenced_columns: key.confkey[..count].to_vec(),
                on_update: b'a',
                on_delete: b'a',
            });
        }
    }
    for key in &mut keys {
        if let Some(row) = SysCacheRow::find(pg_sys::SysCacheIdentifier::CONSTROID, key.constraint) {
            let value = |number| row.attribute(pg_sys::SysCacheIdentifier::CONSTROID, number);
            key.referenced_index = pg_sys::Oid::from(value(compat::CONSTRAINT_INDEX).value() as u32);
            key.on_update = value(compat::CONSTRAINT_ON_UPDATE).value() as u8;
            key.on_delete = value(compat::CONSTRAINT_ON_DELETE).value() as u8;
        }
    }
    keys
}

fn foreign_keys(relation: &Relation, number_of: &dyn Fn(pg_sys::Oid) -> Option<TableId>) -> Vec<ForeignKeyDefinition> {
    let mut keys: Vec<ForeignKeyDefinition> = local_foreign_keys(relation)
        .into_iter()
        .filter_map(|key| {
            let parent = Relation::open(key.referenced)?;
            let index = numbered_indexes(&parent)
                .into_iter()
                .find(|index| index.oid == key.referenced_index);
            Some(ForeignKeyDefinition {
                referenced: number_of(key.referenced).unwrap_or_default(),
                referenced_name: qualified(&parent.schema(), &parent.name()),
                columns: key
                    .columns
                    .iter()
                    .filter_map(|number| group_column(relation, *number))
                    .collect(),
                referenced_index: index.map_or(0, |index| index.definition.id),
                on_update: ForeignKeyAction::from_letter(key.on_update).unwrap_or_default(),
                on_delete: ForeignKeyAction::from_letter(key.on_delete).unwrap_or_default(),
                definition: call_text(pg_sys::pg_get_constraintdef, &[key.constraint.into_datum()]),
            })
        })
        .collect();
    keys.sort_by(|a, b| a.definition.cmp(&b.definition));
    keys
}

/// A row of a system cache, released on drop.
pub struct SysCacheRow(pg_sys::HeapTuple);

impl SysCacheRow {
    /// By a single oid key.
    pub fn find(cache: pg_sys::SysCacheIdentifier::Type, oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: inside a transaction; a cache with one key of type oid.
        let tuple = unsafe { pg_sys::SearchSysCache1(cache as i32, pg_sys::Datum::from(oid)) };
        (!tuple.is_null()).then(|| Self(tuple))
    }

    /// One of its columns that are never NULL.
    pub fn attribute(&self, cache: pg_sys::SysCacheIdentifier::Type, number: i16) -> pg_sys::Datum {
        self.nullable(cache, number).unwrap_or(pg_sys::Datum::from(0))
    }

    /// One of its columns.
    pub fn nullable(&self, cache: pg_sys::SysCacheIdentifier::Type, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the row is of this cache and held.
        let value = unsafe { pg_sys::SysCacheGetAttr(cache as i32, self.0, number, &mut is_null) };
        (!is_null).then_some(value)
    }

    /// Its fixed part.
    ///
    /// # Safety
    /// `T` is the row type of the cache's catalog.
    pub unsafe fn form<T>(&self) -> &T {
        // SAFETY: by contract; lives as long as the reference on the cache entry.
        unsafe { &*pg_sys::GETSTRUCT(self.0).cast::<T>() }
    }
}

impl Drop for SysCacheRow {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: found by SearchSysCache1.
            unsafe { pg_sys::ReleaseSysCache(self.0) }
        }
    }
}

type ServerFunction = unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// The text that a server function makes of its arguments; empty when it is NULL.
pub(super) fn call_text(function: ServerFunction, arguments: &[Option<pg_sys::Datum>]) -> String {
    // SAFETY: functions of ruleutils.c with the argument types that they declare; the result is text or NULL.
    unsafe { pgrx::direct_function_call::<String>(function, arguments).unwrap_or_default() }
}

/// A C string of a name; embedded NULs cannot occur in names.
pub fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}
