//! Which tables of the group a statement needs for itself.

use pgrx::pg_sys;

use super::super::types;
use super::temporary::{is_temporary_name, mixed};
use super::{Need, reach, refuse_concurrent};
use crate::errors::UserError;
use crate::pg::relcache::Relation;
use crate::pg::{catalog, guard, list, relation};

/// Adds what the statement needs.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn of(statement: *mut pg_sys::Node, need: &mut Need) -> Result<(), UserError> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to; missing relations are left to the statement itself.
    unsafe {
        let table = |range, need: &mut Need| {
            if let Some(oid) = guard::named(range) {
                need.table(oid);
            }
        };
        match (*statement).type_ {
            Tag::T_AlterTableStmt => alter_table(&*statement.cast(), need)?,
            Tag::T_CreateStmt => {
                create_table(&*statement.cast(), need)?;
                // What it refers to is the group's; the new table is not.
                need.of_group = false;
            }
            Tag::T_IndexStmt => {
                let index = &*statement.cast::<pg_sys::IndexStmt>();
                table(index.relation, need);
            }
            Tag::T_RenameStmt => {
                let rename = &*statement.cast::<pg_sys::RenameStmt>();
                if let Some(oid) = guard::named(rename.relation) {
                    need.table(oid);
                    index_or_sequence(oid, need);
                }
                if rename.renameType == pg_sys::ObjectType::OBJECT_SCHEMA {
                    need.of_group |= has_tables(rename.subname);
                }
            }
            Tag::T_AlterObjectSchemaStmt => {
                let alter = &*statement.cast::<pg_sys::AlterObjectSchemaStmt>();
                if let Some(oid) = guard::named(alter.relation) {
                    need.table(oid);
                }
            }
            Tag::T_CreateTrigStmt => {
                let trigger = &*statement.cast::<pg_sys::CreateTrigStmt>();
                table(trigger.relation, need);
                table(trigger.constrrel, need);
            }
            Tag::T_RuleStmt => table((*statement.cast::<pg_sys::RuleStmt>()).relation, need),
            Tag::T_CreatePolicyStmt => table((*statement.cast::<pg_sys::CreatePolicyStmt>()).table, need),
            Tag::T_AlterPolicyStmt => table((*statement.cast::<pg_sys::AlterPolicyStmt>()).table, need),
            Tag::T_AlterSeqStmt => {
                if let Some(oid) = guard::named((*statement.cast::<pg_sys::AlterSeqStmt>()).sequence) {
                    index_or_sequence(oid, need);
                }
            }
            Tag::T_DropStmt => drop_objects(&*statement.cast(), need)?,
            Tag::T_AlterExtensionStmt => {
                let alter = &*statement.cast::<pg_sys::AlterExtensionStmt>();
                let name = pg_sys::makeString(alter.extname);
                let extension = reach::address(pg_sys::ObjectType::OBJECT_EXTENSION, name.cast());
                reach::add(extension.as_slice(), need)?;
            }
            Tag::T_GrantStmt => {
                let grant = &*statement.cast::<pg_sys::GrantStmt>();
                if grant.objtype == pg_sys::ObjectType::OBJECT_TABLE
                    && grant.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
                {
                    let ranges = list::pointers::<pg_sys::RangeVar>(grant.objects);
                    need.of_group |= ranges
                        .into_iter()
                        .any(|range| guard::named(range).is_some_and(relation::is_strong));
                }
                if grant.objtype == pg_sys::ObjectType::OBJECT_TABLE
                    && grant.targtype == pg_sys::GrantTargetType::ACL_TARGET_ALL_IN_SCHEMA
                {
                    let schemas = list::pointers::<pg_sys::String>(grant.objects);
                    need.of_group |= schemas.into_iter().any(|schema| has_tables((*schema).sval));
                }
            }
            // They look at every table that uses the type, or change what its rows travel with.
            Tag::T_AlterDomainStmt | Tag::T_AlterEnumStmt => {
                let kind = types::changed(statement);
                for oid in types::users(kind.into_iter().collect())? {
                    need.table(oid);
                }
            }
            Tag::T_DropOwnedStmt | Tag::T_ReassignOwnedStmt => {
                *need = Need::everything();
                need.sweeping = true;
            }
            _ => {}
        }
        // Where a type of theirs were left out as it is, the next statement or row would meet another one.
        let kind = types::redefined_by_name(statement);
        need.of_group |= !types::users(kind.into_iter().collect())?.is_empty();
        // Their rows travel with the attributes that there are.
        for oid in types::users(types::with_other_attributes(statement))? {
            need.of_group = true;
            need.table(oid);
        }
    }
    Ok(())
}

/// Whether tables of the group are in the schema of this name.
unsafe fn has_tables(schema: *const std::ffi::c_char) -> bool {
    // SAFETY: a name; InvalidOid is what is not there.
    let schema = unsafe { pg_sys::get_namespace_oid(schema, true) };
    schema != pg_sys::InvalidOid
        && catalog::all()
            .into_iter()
            // SAFETY: a look-up inside a transaction.
            .any(|(_, table)| unsafe { pg_sys::get_rel_namespace(table) } == schema)
}

/// An index or a sequence of a table of the group must be there.
fn index_or_sequence(oid: pg_sys::Oid, need: &mut Need) {
    // SAFETY: look-ups inside a transaction; both tell what does not apply by InvalidOid and false.
    unsafe {
        let table = pg_sys::IndexGetRelation(oid, true);
        if table != pg_sys::InvalidOid {
            need.table(table);
            return;
        }
        let (mut owner, mut column) = (pg_sys::InvalidOid, 0);
        for kind in [
            pg_sys::DependencyType::DEPENDENCY_AUTO,
            pg_sys::DependencyType::DEPENDENCY_INTERNAL,
        ] {
            if pg_sys::sequenceIsOwned(oid, kind as std::ffi::c_char, &mut owner, &mut column) {
                need.of_group |= relation::is_strong(owner);
            }
        }
    }
}

unsafe fn alter_table(statement: &pg_sys::AlterTableStmt, need: &mut Need) -> Result<(), UserError> {
    use pg_sys::AlterTableType as Kind;
    // SAFETY: the statement's parts are of the types that its tag promises.
    unsafe {
        if statement.objtype == pg_sys::ObjectType::OBJECT_TYPE {
            // ALTER TYPE of a composite type changes what tables of that type have.
            return match guard::named(statement.relation) {
                Some(of_type) => reach::add(&[(pg_sys::RelationRelationId, of_type)], need),
                None => Ok(()),
            };
        }
        let Some(oid) = guard::named(statement.relation) else {
            return Ok(());
        };
        let commands = list::pointers::<pg_sys::AlterTableCmd>(statement.cmds);
        for command in &commands {
            let command = &**command;
            references(command.def, need);
            if command.subtype == Kind::AT_AttachPartition || command.subtype == Kind::AT_DetachPartition {
                let partition = &*command.def.cast::<pg_sys::PartitionCmd>();
                if partition.concurrent {
                    refuse_concurrent(statement.relation, "detach CONCURRENTLY a partition of")?;
                }
                if let Some(partition) = guard::named(partition.name) {
                    if command.subtype == Kind::AT_AttachPartition && relation::is_strong(oid) {
                        need.expect(partition);
                    }
                    need.table(partition);
                    heirs(partition, need);
                }
                // The server lets writers pass while a partition comes; but a row for it that another node has in the default
                // partition must be seen by the check of that one.
                need.table(oid);
                heirs(oid, need);
            }
            if command.subtype == Kind::AT_AddInherit
                && let Some(parent) = guard::named(command.def.cast())
            {
                if relation::is_strong(parent) {
                    need.of_group = true;
                    if !relation::is_strong(oid) {
                        need.expect(oid);
                    }
                }
                need.table(parent);
            }
        }
        need.of_group |= relation::is_strong(oid);
        // What lets writers pass needs no table for itself; a reference to another table does.
        let level = pg_sys::AlterTableGetLockLevel(statement.cmds);
        if level as u32 >= pg_sys::ShareLock {
            need.table(oid);
            index_or_sequence(oid, need);
            for referenced in referenced_tables(oid) {
                need.table(referenced);
            }
            heirs(oid, need);
        }
        let cascades = |command: &&pg_sys::AlterTableCmd| {
            [Kind::AT_DropColumn, Kind::AT_DropConstraint].contains(&command.subtype)
                && command.behavior == pg_sys::DropBehavior::DROP_CASCADE
        };
        if commands
            .iter()
            .map(|command| &**command)
            .any(|command| cascades(&command))
        {
            reach::add(&[(pg_sys::RelationRelationId, oid)], need)?;
        }
    }
    Ok(())
}

/// Partitions and heirs change with their table.
fn heirs(oid: pg_sys::Oid, need: &mut Need) {
    for heir in catalog::heirs(oid) {
        need.table(heir);
        heirs(heir, need);
    }
}

/// Tables that this one refers to: a foreign key that goes takes triggers off both.
fn referenced_tables(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    if !relation::is_strong(oid) {
        return Vec::new();
    }
    Relation::open(oid).map_or_else(Vec::new, |relation| {
        crate::pg::definition::local_foreign_keys(&relation)
            .into_iter()
            .map(|key| key.referenced)
            .collect()
    })
}

unsafe fn create_table(statement: &pg_sys::CreateStmt, need: &mut Need) -> Result<(), UserError> {
    // SAFETY: lists of the types that the grammar puts there.
    unsafe {
        for parent in list::pointers::<pg_sys::RangeVar>(statement.inhRelations) {
            if let Some(oid) = guard::named(parent) {
                need.table(oid);
                heirs(oid, need);
            }
        }
        for element in list::pointers::<pg_sys::Node>(statement.tableElts) {
            if (*element).type_ == pg_sys::NodeTag::T_TableLikeClause
                && is_temporary_name((*element.cast::<pg_sys::TableLikeClause>()).relation)
            {
                return Err(mixed());
            }
            references(element, need);
        }
        for constraint in list::pointers::<pg_sys::Node>(statement.constraints) {
            references(constraint, need);
        }
    }
    Ok(())
}

/// The tables that a new foreign key refers to.
unsafe fn references(node: *mut pg_sys::Node, need: &mut Need) {
    // SAFETY: a part of a valid statement.
    unsafe {
        for table in guard::references(node) {
            if let Some(oid) = guard::named(table) {
                need.table(oid);
            }
        }
    }
}

unsafe fn drop_objects(statement: &pg_sys::DropStmt, need: &mut Need) -> Result<(), UserError> {
    use pg_sys::ObjectType as Kind;
    // An extension takes its members along in any case.
    if statement.behavior == pg_sys::DropBehavior::DROP_CASCADE || statement.removeType == Kind::OBJECT_EXTENSION {
        // SAFETY: by contract.
        reach::add(&unsafe { reach::named(statement) }, need)?;
    }
    // SAFETY: what the lists hold depends on the kind of object, as in the grammar.
    unsafe {
        for name in list::pointers::<pg_sys::List>(statement.objects) {
            let relation = match statement.removeType {
                Kind::OBJECT_TABLE | Kind::OBJECT_INDEX | Kind::OBJECT_SEQUENCE => {
                    guard::named(pg_sys::makeRangeVarFromNameList(name))
                }
                Kind::OBJECT_TRIGGER | Kind::OBJECT_RULE | Kind::OBJECT_POLICY if list::length(name) > 1 => {
                    // The last part is the object's own name.
                    let table = pg_sys::list_truncate(pg_sys::list_copy(name), list::length(name) as i32 - 1);
                    guard::named(pg_sys::makeRangeVarFromNameList(table))
                }
                _ => None,
            };
            let Some(oid) = relation else { continue };
            need.table(oid);
            index_or_sequence(oid, need);
            heirs(oid, need);
            for referenced in referenced_tables(oid) {
                need.table(referenced);
            }
        }
    }
    Ok(())
}
