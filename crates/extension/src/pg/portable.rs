//! Types whose values another node may be unable to read: a replicated table has no column of them, for one such value would stop the
//! others for good. Asked where a column comes to be, on the node where the statement is given.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::latest;
use super::relcache::{c_text, qualified, schema_name};
use crate::errors::UserError;

/// The first column of the tables $1 in which there is such a type, however deep: (table, number, type). Aliases for OIDs and the entries
/// of access lists are printed as names, which mean something only where the object or the role is; the others take no input at all.
const FOUND: &std::ffi::CStr = c"
    WITH RECURSIVE inside (relation, attnum, kind) AS (
        SELECT attrelid, attnum, atttypid FROM pg_catalog.pg_attribute
        WHERE attrelid OPERATOR(pg_catalog.=) ANY ($1) AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped
        UNION
        SELECT i.relation, i.attnum, part.kind
        FROM inside i JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) i.kind
        CROSS JOIN LATERAL (
            SELECT t.typbasetype UNION ALL SELECT t.typelem
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE a.attrelid OPERATOR(pg_catalog.=) t.typrelid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r
                WHERE r.rngtypid OPERATOR(pg_catalog.=) t.oid OR r.rngmultitypid OPERATOR(pg_catalog.=) t.oid) part (kind)
        WHERE part.kind OPERATOR(pg_catalog.<>) 0::pg_catalog.oid)
    SELECT coalesce((
        SELECT ARRAY[i.relation, i.attnum::pg_catalog.int4::pg_catalog.oid, i.kind]
        FROM inside i JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) i.kind
        WHERE t.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
          AND t.typname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['regclass', 'regproc', 'regprocedure', 'regoper', 'regoperator',
              'regtype', 'regrole', 'regnamespace', 'regconfig', 'regdictionary', 'regcollation', 'regdatabase', 'aclitem',
              'pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary',
              'pg_brin_minmax_multi_summary', 'gtsvector']::pg_catalog.text[])
        ORDER BY i.relation, i.attnum LIMIT 1), '{}'::pg_catalog.oid[])";

/// Refuse tables with columns whose values could not be read elsewhere.
pub fn check(tables: Vec<pg_sys::Oid>) -> Result<(), UserError> {
    let found = latest::oids(FOUND, &[tables], "the types of columns")?;
    let [table, column, kind] = found[..] else {
        return Ok(());
    };
    // SAFETY: look-ups inside a transaction, of what was just found; all give palloc'd strings.
    let (name, column, kind) = unsafe {
        let schema = schema_name(pg_sys::get_rel_namespace(table));
        let name = qualified(&schema, &c_text(pg_sys::get_rel_name(table)));
        let column = pg_sys::get_attname(table, u32::from(column) as pg_sys::AttrNumber, true);
        (name, c_text(column), c_text(pg_sys::format_type_be(kind)))
    };
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot replicate column \"{column}\" of table {name}, which has values of type {kind}"),
        "Such a value may name what is not on another node, which could not read it then.",
        "Use text for names, or oid for numbers.",
    ))
}
