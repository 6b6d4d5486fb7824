//! The names of relations that a statement makes, where the server may choose them, or may find them taken: indexes, those of constraints, the
//! sequences of columns, parts of partitioned indexes.
//!
//! A node may have a relation that the others lack, an index built CONCURRENTLY, say. Where that has the name already the server gives the
//! new one another, or with IF NOT EXISTS makes nothing: the next statement about that name would meet something else there. So the names
//! travel with the statement ([`settings`]), and apply stops where one was taken ([`Before`]), unless by an index that is the same.

use std::cell::RefCell;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DdlStatement;

use super::index;
use crate::errors::UserError;
use crate::pg::definition;
use crate::pg::format::FixedSettings;
use crate::pg::relcache::Relation;
use crate::pg::{catalog, guard, list, relation};

/// Marks, among the settings of a statement, a relation that it made: its name, and behind a line's end what an index is.
const MADE: &str = "MAKES";

thread_local! {
    /// By the statement that runs here.
    static NEW: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
    /// What had a name that a statement of another node wanted.
    static TAKEN: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
}

/// A statement begins.
pub fn begin() {
    NEW.with_borrow_mut(Vec::clear);
}

/// A relation is made by it. From the object access hook.
pub fn note(relation: pg_sys::Oid) {
    NEW.with_borrow_mut(|new| new.push(relation));
}

/// What the statement has made and what is there now, as settings that travel with it.
pub fn settings() -> Vec<(String, String)> {
    let new = NEW.take();
    if new.is_empty() {
        return Vec::new();
    }
    let _settings = FixedSettings::for_definitions();
    new.into_iter()
        .filter(|relation| has_name_of_its_own(*relation))
        .map(|relation| {
            let name = index::name_of(relation);
            (MADE.to_owned(), format!("{name}\n{}", index_of(relation)))
        })
        .collect()
}

/// Not of a TOAST table, whose name has a number in it, nor of what is gone.
fn has_name_of_its_own(relation: pg_sys::Oid) -> bool {
    // SAFETY: look-ups inside a transaction; null and InvalidOid are what is not there.
    unsafe {
        let schema = pg_sys::get_rel_namespace(relation);
        let toast = u32::from(schema) == pg_sys::PG_TOAST_NAMESPACE || pg_sys::isTempOrTempToastNamespace(schema);
        schema != pg_sys::InvalidOid && !toast
    }
}

/// What an index is, apart from its name; nothing for another relation. Under fixed settings.
fn index_of(relation: pg_sys::Oid) -> String {
    // SAFETY: a look-up inside a transaction; InvalidOid is what is no index.
    let table = unsafe { pg_sys::IndexGetRelation(relation, true) };
    let (Some(table), Some(index)) = (Relation::open(table), Relation::open(relation)) else {
        return String::new();
    };
    let unique = match index.index_form() {
        Some(form) if form.indisunique => "UNIQUE ",
        _ => "",
    };
    let text = definition::index_text(&table, &index);
    format!("{unique}ON {} {text}", index::name_of(table.oid()))
}

/// What has, before a statement is replayed, the names of what it made where it was given.
pub struct Before(Vec<(pg_sys::Oid, String, String)>);

impl Before {
    /// Looks them up.
    pub fn look(statement: &DdlStatement) -> Self {
        TAKEN.with_borrow_mut(Vec::clear);
        let marked = statement.settings.iter().filter(|(name, _)| name == MADE);
        let made = marked.filter_map(|(_, made)| made.split_once('\n'));
        let there = made.filter_map(|(name, index)| Some((by_name(name)?, name.to_owned(), index.to_owned())));
        Self(there.collect())
    }

    /// The statement has run. Raises where it found a name taken.
    pub fn check(self) {
        let taken = |(before, name, index): &(pg_sys::Oid, String, String)| {
            let _settings = FixedSettings::for_definitions();
            by_name(name) == Some(*before) && (index.is_empty() || index_of(*before) != *index)
        };
        let Some((before, name, _)) = self.0.into_iter().find(taken) else {
            return;
        };
        TAKEN.with_borrow_mut(|taken| taken.push(before));
        UserError::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
            format!("relation {name} is on this node already, and the statement made another one of that name"),
            "Where the statement was given nothing had that name.",
            "Rename the relation on this node, or drop it, with SET synod.ddl = local.",
        )
        .raise();
    }
}

/// IF NOT EXISTS makes nothing here where something has the name, and makes it on the nodes that have nothing of that name: a unique index,
/// or a partition or an heir, that this node would lack.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn refuse_what_others_would_make(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to; InvalidOid is what is not there.
    let (taken, is_it, what) = unsafe {
        match (*statement).type_ {
            Tag::T_IndexStmt => {
                let index = &*statement.cast::<pg_sys::IndexStmt>();
                let table = guard::named(index.relation).filter(|table| relation::is_strong(*table));
                let (Some(table), true, true) = (table, index.if_not_exists, index.unique) else {
                    return Ok(());
                };
                let taken = pg_sys::get_relname_relid(index.idxname, pg_sys::get_rel_namespace(table));
                let unique = |form: &pg_sys::FormData_pg_index| form.indisunique && form.indrelid == table;
                let is_it = Relation::open(taken).is_some_and(|taken| taken.index_form().is_some_and(unique));
                (taken, is_it, "a unique index of that table")
            }
            Tag::T_CreateStmt => {
                let create = &*statement.cast::<pg_sys::CreateStmt>();
                let parents = list::pointers::<pg_sys::RangeVar>(create.inhRelations);
                let mut parents = parents.into_iter().filter_map(|parent| guard::named(parent));
                let parent = parents.find(|parent| relation::is_strong(*parent));
                let (Some(parent), true) = (parent, create.if_not_exists) else {
                    return Ok(());
                };
                let schema = pg_sys::RangeVarGetCreationNamespace(create.relation);
                let taken = pg_sys::get_relname_relid((*create.relation).relname, schema);
                let is_it = catalog::parents(taken).contains(&parent);
                (taken, is_it, "a partition or an heir of that table")
            }
            _ => return Ok(()),
        }
    };
    if taken == pg_sys::InvalidOid || is_it {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
        format!("relation {} already exists, and is not {what}", index::name_of(taken)),
        "IF NOT EXISTS would make nothing here, but on the nodes of the group that have nothing of that name.",
        "Use another name, or give the relation another one.",
    ))
}

/// What had the name when [`Before::check`] raised.
pub fn taken() -> Option<pg_sys::Oid> {
    TAKEN.with_borrow_mut(Vec::pop)
}

fn by_name(name: &str) -> Option<pg_sys::Oid> {
    let query = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    pgrx::Spi::get_one_with_args(query, &[name.into()]).ok()?
}
