//! The tables of the group that a statement may change by way of what depends on the objects that it names: DROP ... CASCADE, and
//! whatever changes a composite type or an extension.
//!
//! The server finds out while it deletes (`findDependentObjects` of catalog/dependency.c), which is too late for the group's lock; so the
//! dependencies are followed here first, rather too far than not far enough. Invariant: a table that goes, or loses a column, is among
//! them, or the statement fails (`pg/guard.rs`).

use pgrx::pg_sys;

use super::Need;
use crate::errors::UserError;
use crate::pg::{guard, latest, list};

/// An object of the catalogs: its class and number.
pub type Object = (pg_sys::Oid, pg_sys::Oid);

/// Down to what depends on an object, and up to what it is a part of, which goes with it: a view with its rule, a constraint with its
/// index, an extension with its members. Of a column only what depends on that.
const TABLES: &std::ffi::CStr = c"
WITH RECURSIVE reached (classid, objid, part) AS (
    SELECT classid, objid, 0 FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS named (classid, objid)
    UNION
    SELECT next.classid, next.objid, next.part FROM reached, LATERAL (
        SELECT d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend d
        WHERE d.refclassid = reached.classid AND d.refobjid = reached.objid AND (reached.part = 0 OR d.refobjsubid = reached.part)
        UNION ALL
        SELECT d.refclassid, d.refobjid, d.refobjsubid FROM pg_catalog.pg_depend d
        WHERE d.classid = reached.classid AND d.objid = reached.objid AND (reached.part = 0 OR d.objsubid = reached.part)
          AND d.deptype IN ('i', 'P', 'S', 'e')
    ) AS next (classid, objid, part)
), class (of_class, of_constraint, of_trigger, of_rule, of_policy, of_default) AS (
    VALUES ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass,
            'pg_catalog.pg_trigger'::pg_catalog.regclass, 'pg_catalog.pg_rewrite'::pg_catalog.regclass,
            'pg_catalog.pg_policy'::pg_catalog.regclass, 'pg_catalog.pg_attrdef'::pg_catalog.regclass)
), relation AS (
    SELECT objid FROM reached, class WHERE classid = of_class
    UNION SELECT indrelid FROM reached, class, pg_catalog.pg_index WHERE classid = of_class AND indexrelid = objid
    UNION SELECT conrelid FROM reached, class, pg_catalog.pg_constraint c WHERE classid = of_constraint AND c.oid = objid
    UNION SELECT confrelid FROM reached, class, pg_catalog.pg_constraint c WHERE classid = of_constraint AND c.oid = objid
    UNION SELECT tgrelid FROM reached, class, pg_catalog.pg_trigger t WHERE classid = of_trigger AND t.oid = objid
    UNION SELECT ev_class FROM reached, class, pg_catalog.pg_rewrite r WHERE classid = of_rule AND r.oid = objid
    UNION SELECT polrelid FROM reached, class, pg_catalog.pg_policy p WHERE classid = of_policy AND p.oid = objid
    UNION SELECT adrelid FROM reached, class, pg_catalog.pg_attrdef a WHERE classid = of_default AND a.oid = objid
)
SELECT pg_catalog.array_agg(c.oid ORDER BY c.oid) FROM relation JOIN pg_catalog.pg_class c ON c.oid = objid WHERE c.relkind IN ('r', 'p')";

/// Adds the tables that may be reached from these objects.
pub fn add(objects: &[Object], need: &mut Need) -> Result<(), UserError> {
    let (classes, numbers): (Vec<_>, Vec<_>) = objects.iter().copied().unzip();
    for table in latest::oids(TABLES, &[classes, numbers], "what depends on an object")? {
        need.table(table);
    }
    Ok(())
}

/// The objects that a DROP names, of those that are there. Raises where the user may not drop one: who may not must not keep
/// writers off what depends on it.
///
/// # Safety
/// A valid statement.
pub unsafe fn named(statement: &pg_sys::DropStmt) -> Vec<Object> {
    use pg_sys::ObjectType as Kind;
    // SAFETY: what the list holds depends on the kind of object, as in the grammar.
    unsafe {
        let objects = list::pointers::<pg_sys::Node>(statement.objects).into_iter();
        match statement.removeType {
            // By name alone, without a lock that somebody may wait for.
            Kind::OBJECT_TABLE | Kind::OBJECT_INDEX | Kind::OBJECT_SEQUENCE | Kind::OBJECT_VIEW => objects
                .filter_map(|name| guard::named(pg_sys::makeRangeVarFromNameList(name.cast())))
                .map(|relation| (pg_sys::RelationRelationId, relation))
                .collect(),
            kind => objects.filter_map(|object| address(kind, object)).collect(),
        }
    }
}

/// As `RemoveObjects` of commands/dropcmds.c looks an object up, and at the rights; but the locks do not stay. `None`: it is not there.
///
/// # Safety
/// An object of the grammar, and its kind.
pub unsafe fn address(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node) -> Option<Object> {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: by contract; what is not there is told by InvalidOid. A relation that comes along is open and
    // locked, anything else is locked.
    unsafe {
        let mut relation = std::ptr::null_mut();
        let address = pg_sys::get_object_address(kind, object, &mut relation, LOCK, true);
        if address.objectId == pg_sys::InvalidOid {
            return None;
        }
        let user = pg_sys::GetUserId();
        let schema = pg_sys::get_object_namespace(&address);
        if schema == pg_sys::InvalidOid || !crate::pg::compat::owns_schema(schema, user) {
            pg_sys::check_object_ownership(user, kind, address, object, relation);
        }
        if relation.is_null() {
            pg_sys::UnlockDatabaseObject(address.classId, address.objectId, 0, LOCK);
        } else {
            pg_sys::relation_close(relation, LOCK);
        }
        Some((address.classId, address.objectId))
    }
}
