//! The types that a statement changes, and the tables in which their values are.

use pgrx::pg_sys;

use crate::errors::UserError;
use crate::pg::{guard, hierarchy, latest, list, relation};

/// The domain, or the enum whose label changes, that a statement is about.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn changed(statement: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to; a type that is not there is left to the statement itself.
    unsafe {
        let names = match (*statement).type_ {
            Tag::T_AlterDomainStmt => (*statement.cast::<pg_sys::AlterDomainStmt>()).typeName,
            Tag::T_AlterEnumStmt if renames_label(statement) => (*statement.cast::<pg_sys::AlterEnumStmt>()).typeName,
            _ => return None,
        };
        let name = pg_sys::makeTypeNameFromNameList(names);
        let found = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true);
        (found != pg_sys::InvalidOid).then_some(found)
    }
}

/// The types whose definition or name the statement changes: a domain, an enum, a composite type, the row types of tables and views.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn redefined(statement: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    // SAFETY: by contract.
    unsafe {
        let mut kinds = with_other_attributes(statement);
        kinds.extend(redefined_by_name(statement));
        kinds
    }
}

/// The types of rows that get other attributes.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn with_other_attributes(statement: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    use pg_sys::AlterTableType as Kind;
    // SAFETY: the tag says what the pointer may be cast to; what is not there, or has no row type, is told by InvalidOid.
    unsafe {
        let relation = match (*statement).type_ {
            pg_sys::NodeTag::T_AlterTableStmt => {
                let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
                let changes = |command: *mut pg_sys::AlterTableCmd| {
                    [Kind::AT_AddColumn, Kind::AT_DropColumn, Kind::AT_AlterColumnType].contains(&(*command).subtype)
                };
                list::pointers(alter.cmds)
                    .into_iter()
                    .any(changes)
                    .then_some(alter.relation)
            }
            // Of one that is there, it may add columns.
            pg_sys::NodeTag::T_ViewStmt => {
                let view = &*statement.cast::<pg_sys::ViewStmt>();
                view.replace.then_some(view.view)
            }
            _ => None,
        };
        relation
            .and_then(|relation| guard::named(relation))
            .map_or_else(Vec::new, |oid| hierarchy::members(oid, pg_sys::NoLock))
            .into_iter()
            .map(|relation| pg_sys::get_rel_type_id(relation))
            .filter(|kind| *kind != pg_sys::InvalidOid)
            .collect()
    }
}

/// The domain, enum or composite type whose definition or name the statement changes by naming it.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn redefined_by_name(statement: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    use pg_sys::{NodeTag as Tag, ObjectType as Kind};
    // SAFETY: the tag says what the pointer may be cast to, and the kind of object what names it.
    unsafe {
        let of_relation = |range| guard::named(range).map(|relation| pg_sys::get_rel_type_id(relation));
        let names = match (*statement).type_ {
            Tag::T_AlterDomainStmt => (*statement.cast::<pg_sys::AlterDomainStmt>()).typeName,
            Tag::T_AlterEnumStmt => (*statement.cast::<pg_sys::AlterEnumStmt>()).typeName,
            Tag::T_RenameStmt => {
                let rename = &*statement.cast::<pg_sys::RenameStmt>();
                match rename.renameType {
                    Kind::OBJECT_TYPE | Kind::OBJECT_DOMAIN | Kind::OBJECT_DOMCONSTRAINT => rename.object.cast(),
                    Kind::OBJECT_ATTRIBUTE => return of_relation(rename.relation),
                    _ => return None,
                }
            }
            Tag::T_AlterObjectSchemaStmt => {
                let alter = &*statement.cast::<pg_sys::AlterObjectSchemaStmt>();
                match alter.objectType {
                    Kind::OBJECT_TYPE | Kind::OBJECT_DOMAIN => alter.object.cast(),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let name = pg_sys::makeTypeNameFromNameList(names);
        let found = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true);
        (found != pg_sys::InvalidOid).then_some(found)
    }
}

unsafe fn renames_label(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller looked at the tag.
    unsafe { !(*statement.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null() }
}

/// Whatever depends on the type, however far away: arrays, composites, ranges, other domains. (What a composite type has for a relation
/// depends on the type, not the other way round.)
const USERS: &std::ffi::CStr = c"
    WITH RECURSIVE used (classid, objid) AS (
        SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid, pg_catalog.unnest($1)
        UNION
        SELECT next.classid, next.objid FROM used, LATERAL (
            SELECT d.classid, d.objid FROM pg_catalog.pg_depend d WHERE d.refclassid = used.classid AND d.refobjid = used.objid
            UNION ALL
            SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, c.reltype FROM pg_catalog.pg_class c
            WHERE used.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = used.objid AND c.relkind = 'c') AS next)
    SELECT coalesce(pg_catalog.array_agg(c.oid ORDER BY c.oid), '{}')
    FROM used JOIN pg_catalog.pg_class c ON c.oid = used.objid
    WHERE used.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.relkind IN ('r', 'p')";

/// The tables of the group that use one of the types.
pub fn users(kinds: Vec<pg_sys::Oid>) -> Result<Vec<pg_sys::Oid>, UserError> {
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let mut tables = latest::oids(USERS, &[kinds], "the tables that use a type")?;
    tables.retain(|table| relation::is_strong(*table));
    Ok(tables)
}

/// Rows travel with the labels of their enum values and the attributes of their composite ones, and what changes these locks no table that
/// has such: writers of this node, who may have rows with the old ones on their way, are kept off here, as the lock of the group keeps off
/// those of the others.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn keep_writers_off(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: by contract; the locks are given back at the end of the transaction.
    unsafe {
        let mut kinds = with_other_attributes(statement);
        if (*statement).type_ == pg_sys::NodeTag::T_AlterEnumStmt {
            kinds.extend(changed(statement));
        }
        for table in users(kinds)? {
            pg_sys::LockRelationOid(table, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE);
        }
    }
    Ok(())
}
