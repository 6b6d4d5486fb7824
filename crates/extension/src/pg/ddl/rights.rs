//! Rights, before the group's DDL lock is asked for: who may not change a table must not keep the group's writers off it.
//!
//! The statement itself checks all rights once more when it runs; this is the coarse look that must come before the lock.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::Need;
use crate::errors::UserError;
use crate::pg::relcache::c_text;
use crate::pg::{compat, guard, list};

/// Whether the user may ask for what the statement needs.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn check(statement: *mut pg_sys::Node, need: &Need) -> Result<(), UserError> {
    // SAFETY: inside a transaction.
    let user = unsafe {
        if pg_sys::superuser() {
            return Ok(());
        }
        pg_sys::GetUserId()
    };
    if need.all && need.sweeping && !is_administrator(user) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to change definitions of every owned object",
            "The statement would keep the writers of all replicated tables waiting.",
            "Name the objects in statements of their own, or ask a member of synod_admin.",
        ));
    }
    // SAFETY: by contract; the type was just found.
    let foreign = unsafe { super::types::changed(statement).is_some_and(|kind| !compat::owns_type(kind, user)) };
    if foreign {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "must be owner of the type",
            "The tables that use it would be locked on every node of the group.",
            "Ask its owner.",
        ));
    }
    // SAFETY: by contract.
    for range in unsafe { changed(statement) } {
        // SAFETY: by contract of `named`; the relation was just found.
        unsafe {
            if let Some(oid) = guard::named(range)
                && !may_change(oid, user)
            {
                return Err(UserError::new(
                    PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                    format!("must be owner of relation {}", c_text((*range).relname)),
                    "It would be locked on every node of the group.",
                    "Ask its owner.",
                ));
            }
        }
    }
    Ok(())
}

fn is_administrator(user: pg_sys::Oid) -> bool {
    // SAFETY: look-ups inside a transaction; InvalidOid is what does not exist.
    unsafe {
        let admin = pg_sys::get_role_oid(c"synod_admin".as_ptr(), true);
        admin != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, admin)
    }
}

/// Its owner; who may make triggers on it, or foreign keys to it: that locks it on one server, too; the owner of its schema, who
/// may drop it.
unsafe fn may_change(oid: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: the relation exists.
    unsafe {
        let granted = pg_sys::ACL_TRIGGER | pg_sys::ACL_REFERENCES;
        let allowed = pg_sys::AclResult::ACLCHECK_OK;
        let mode = granted as pg_sys::AclMode;
        compat::owns_table(oid, user)
            || compat::owns_schema(pg_sys::get_rel_namespace(oid), user)
            || pg_sys::pg_class_aclmask(oid, user, mode, pg_sys::AclMaskHow::ACLMASK_ANY) != 0
            || pg_sys::pg_attribute_aclcheck_all(
                oid,
                user,
                pg_sys::ACL_REFERENCES as pg_sys::AclMode,
                pg_sys::AclMaskHow::ACLMASK_ANY,
            ) == allowed
    }
}

/// The relations that a statement names to be changed, or to be referred to.
unsafe fn changed(statement: *mut pg_sys::Node) -> Vec<*mut pg_sys::RangeVar> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        match (*statement).type_ {
            Tag::T_AlterTableStmt => {
                let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
                let mut found = vec![alter.relation];
                for command in list::pointers::<pg_sys::AlterTableCmd>(alter.cmds) {
                    let command = &*command;
                    match command.subtype {
                        pg_sys::AlterTableType::AT_AttachPartition | pg_sys::AlterTableType::AT_DetachPartition => {
                            found.push((*command.def.cast::<pg_sys::PartitionCmd>()).name);
                        }
                        pg_sys::AlterTableType::AT_AddInherit => found.push(command.def.cast()),
                        _ => referred(command.def, &mut found),
                    }
                }
                found
            }
            Tag::T_CreateStmt => {
                let create = &*statement.cast::<pg_sys::CreateStmt>();
                let mut found = list::pointers::<pg_sys::RangeVar>(create.inhRelations);
                for element in list::pointers::<pg_sys::Node>(create.tableElts) {
                    referred(element, &mut found);
                }
                for constraint in list::pointers::<pg_sys::Node>(create.constraints) {
                    referred(constraint, &mut found);
                }
                found
            }
            Tag::T_IndexStmt => vec![(*statement.cast::<pg_sys::IndexStmt>()).relation],
            Tag::T_RenameStmt => vec![(*statement.cast::<pg_sys::RenameStmt>()).relation],
            Tag::T_AlterObjectSchemaStmt => vec![(*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation],
            Tag::T_CreateTrigStmt => {
                let trigger = &*statement.cast::<pg_sys::CreateTrigStmt>();
                vec![trigger.relation, trigger.constrrel]
            }
            Tag::T_RuleStmt => vec![(*statement.cast::<pg_sys::RuleStmt>()).relation],
            Tag::T_CreatePolicyStmt => vec![(*statement.cast::<pg_sys::CreatePolicyStmt>()).table],
            Tag::T_AlterPolicyStmt => vec![(*statement.cast::<pg_sys::AlterPolicyStmt>()).table],
            Tag::T_AlterSeqStmt => vec![(*statement.cast::<pg_sys::AlterSeqStmt>()).sequence],
            Tag::T_DropStmt => dropped(&*statement.cast()),
            _ => Vec::new(),
        }
    }
}

unsafe fn referred(node: *mut pg_sys::Node, found: &mut Vec<*mut pg_sys::RangeVar>) {
    if node.is_null() {
        return;
    }
    // SAFETY: the tag says what the node is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Constraint => found.push((*node.cast::<pg_sys::Constraint>()).pktable),
            pg_sys::NodeTag::T_ColumnDef => {
                for constraint in list::pointers::<pg_sys::Node>((*node.cast::<pg_sys::ColumnDef>()).constraints) {
                    referred(constraint, found);
                }
            }
            _ => {}
        }
    }
}

/// The relations that a DROP names, or on which what it names is.
unsafe fn dropped(statement: &pg_sys::DropStmt) -> Vec<*mut pg_sys::RangeVar> {
    use pg_sys::ObjectType as Kind;
    let (relations, parts) = match statement.removeType {
        Kind::OBJECT_TABLE | Kind::OBJECT_INDEX | Kind::OBJECT_SEQUENCE | Kind::OBJECT_VIEW => (true, false),
        Kind::OBJECT_TRIGGER | Kind::OBJECT_RULE | Kind::OBJECT_POLICY => (false, true),
        _ => return Vec::new(),
    };
    // SAFETY: these kinds are named by lists of names; of a part the last one is its own.
    unsafe {
        list::pointers::<pg_sys::List>(statement.objects)
            .into_iter()
            .filter(|name| relations || parts && list::length(*name) > 1)
            .map(|name| {
                let kept = list::length(name) as i32 - i32::from(parts);
                pg_sys::makeRangeVarFromNameList(pg_sys::list_truncate(pg_sys::list_copy(name), kept))
            })
            .collect()
    }
}
