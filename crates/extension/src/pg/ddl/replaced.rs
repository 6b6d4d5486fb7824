//! Functions from which nodes compute for themselves what they store: index entries, over expressions or with a predicate. Those of
//! rows that are there stay as the function gave them before, on each node as it was when the row was last written or the index
//! built there; so with a function that gives something else a unique index may not take a row that another node has committed,
//! and one that fails may stop a node at a row that was written elsewhere before it was replaced.
//!
//! Not so generated columns, whose values travel with the row, nor CHECKs, DEFAULTs and partition keys, which are looked at where
//! the row is written.
//!
//! Called by the object access hook (`pg/guard.rs`) once the function has its new definition, before anybody sees it. The same
//! definition once more is let through, and so is what an extension's script replaces: it is the extension's business to keep its
//! results.

use pgrx::{IntoDatum, PgSqlErrorCode, pg_sys};

use crate::errors::UserError;
use crate::pg::relcache::{Relation, c_text};
use crate::pg::{capture, catalog, relation};

/// Refuse that a function from which indexes of replicated tables are computed becomes another one.
pub fn check(function: pg_sys::Oid) -> Result<(), UserError> {
    // SAFETY: a plain flag of the backend.
    if capture::applying() || unsafe { pg_sys::creating_extension } {
        return Ok(());
    }
    let computed = catalog::dependents(pg_sys::ProcedureRelationId, function);
    match computed.into_iter().find_map(|(class, object)| index(class, object)) {
        Some((table, index)) if changed(function) => Err(refused(function, &table, &index)),
        _ => Ok(()),
    }
}

/// Whether the definition that the function has now is another than before.
fn changed(function: pg_sys::Oid) -> bool {
    // The catalog's new row is not seen before the command counter moves on.
    let before = definition(function);
    // SAFETY: inside a transaction; `ProcedureCreate` has written all that it writes, and does the same next.
    unsafe { pg_sys::CommandCounterIncrement() }
    before != definition(function)
}

/// The statement that makes the function: unlike the catalog's row, it does not say where in a script its body stood.
fn definition(function: pg_sys::Oid) -> Option<Vec<u8>> {
    // SAFETY: inside a transaction; the result is text, in the current memory context.
    unsafe {
        let text = pgrx::direct_function_call_as_datum(pg_sys::pg_get_functiondef, &[function.into_datum()])?;
        let text = pg_sys::text_to_cstring(text.cast_mut_ptr());
        Some(std::ffi::CStr::from_ptr(text).to_bytes().to_vec())
    }
}

/// The replicated table and its index, if that is what the object is.
fn index(class: pg_sys::Oid, object: pg_sys::Oid) -> Option<(String, String)> {
    if class != pg_sys::RelationRelationId {
        return None;
    }
    // SAFETY: inside a transaction; InvalidOid for what is no index.
    let table = relation::by_oid(unsafe { pg_sys::IndexGetRelation(object, true) })?;
    let index = Relation::open(object)?;
    Some((table.name.clone(), index.name()))
}

fn refused(function: pg_sys::Oid, table: &str, index: &str) -> UserError {
    // SAFETY: inside a transaction; the text is allocated in the current context.
    let name = unsafe { c_text(pg_sys::format_procedure(function)) };
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot change function {name} while an index of replicated table {table} is computed from it"),
        format!("Index \"{index}\" has entries that it gave before on each node."),
        "Drop the index first, replace the function, and create the index again.",
    )
}
