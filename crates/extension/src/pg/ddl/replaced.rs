//! Functions from which nodes compute for themselves what they store: generated columns, and indexes over expressions or with a
//! predicate. Rows that are there keep what the function gave before, on each node what it gave when the row was last written
//! there; so a function that gives something else would leave the nodes different, and such a unique index may not take a row
//! that another node has committed.
//!
//! Called by the object access hook (`pg/guard.rs`) once the function has its new definition, before anybody sees it. What an
//! extension's script replaces is let through: it is the extension's business to keep its results.

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::errors::UserError;
use crate::pg::relcache::{Relation, c_text, name_text};
use crate::pg::{capture, catalog, relation};

/// Refuse the replacement of a function from which columns or indexes of replicated tables are computed.
pub fn check(function: pg_sys::Oid) -> Result<(), UserError> {
    // SAFETY: a plain flag of the backend.
    if capture::applying() || unsafe { pg_sys::creating_extension } {
        return Ok(());
    }
    let computed = catalog::dependents(pg_sys::ProcedureRelationId, function);
    match computed.into_iter().find_map(|(class, object)| stored(class, object)) {
        Some((table, what)) => Err(refused(function, &table, &what)),
        None => Ok(()),
    }
}

/// The replicated table that stores what the object computes, and what it is.
fn stored(class: pg_sys::Oid, object: pg_sys::Oid) -> Option<(String, String)> {
    if class == catalog::PG_ATTRDEF {
        let (table, number) = catalog::column_of_default(object)?;
        let table = relation::by_oid(table)?;
        let relation = Relation::open(table.oid)?;
        let column = relation.attribute(usize::try_from(number).ok()?.checked_sub(1)?);
        let is_stored = column.attgenerated as u8 == pg_sys::ATTRIBUTE_GENERATED_STORED;
        return is_stored.then(|| (table.name.clone(), format!("Column \"{}\"", name_text(&column.attname))));
    }
    if class != pg_sys::RelationRelationId {
        return None;
    }
    // SAFETY: inside a transaction; InvalidOid for what is no index.
    let table = relation::by_oid(unsafe { pg_sys::IndexGetRelation(object, true) })?;
    let index = Relation::open(object)?;
    Some((table.name.clone(), format!("Index \"{}\"", index.name())))
}

fn refused(function: pg_sys::Oid, table: &str, what: &str) -> UserError {
    // SAFETY: inside a transaction; the text is allocated in the current context.
    let name = unsafe { c_text(pg_sys::format_procedure(function)) };
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot replace function {name} while table {table} is replicated"),
        format!("{what} of table {table} is computed from it on each node, and keeps what it gave before."),
        "Drop the column or index first, replace the function, and add it again.",
    )
}
