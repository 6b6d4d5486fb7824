//! Statements on temporary objects are the session's own; one that names both kinds is refused.

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::errors::UserError;
use crate::pg::{guard, list};

/// Whether a statement concerns temporary relations only.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn is_temporary(statement: *mut pg_sys::Node) -> Result<bool, UserError> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        Ok(match (*statement).type_ {
            Tag::T_CreateStmt => new_is_temporary((*statement.cast::<pg_sys::CreateStmt>()).relation),
            Tag::T_CreateSeqStmt => new_is_temporary((*statement.cast::<pg_sys::CreateSeqStmt>()).sequence),
            Tag::T_ViewStmt => new_is_temporary((*statement.cast::<pg_sys::ViewStmt>()).view),
            Tag::T_CreateFunctionStmt => name_is_temporary((*statement.cast::<pg_sys::CreateFunctionStmt>()).funcname),
            Tag::T_CompositeTypeStmt => new_is_temporary((*statement.cast::<pg_sys::CompositeTypeStmt>()).typevar),
            Tag::T_CreateEnumStmt => name_is_temporary((*statement.cast::<pg_sys::CreateEnumStmt>()).typeName),
            Tag::T_CreateDomainStmt => name_is_temporary((*statement.cast::<pg_sys::CreateDomainStmt>()).domainname),
            Tag::T_IndexStmt => is_temporary_name((*statement.cast::<pg_sys::IndexStmt>()).relation),
            Tag::T_AlterTableStmt => is_temporary_name((*statement.cast::<pg_sys::AlterTableStmt>()).relation),
            Tag::T_RenameStmt => is_temporary_name((*statement.cast::<pg_sys::RenameStmt>()).relation),
            Tag::T_AlterSeqStmt => is_temporary_name((*statement.cast::<pg_sys::AlterSeqStmt>()).sequence),
            Tag::T_CreateTrigStmt => is_temporary_name((*statement.cast::<pg_sys::CreateTrigStmt>()).relation),
            Tag::T_RuleStmt => is_temporary_name((*statement.cast::<pg_sys::RuleStmt>()).relation),
            Tag::T_CreatePolicyStmt => is_temporary_name((*statement.cast::<pg_sys::CreatePolicyStmt>()).table),
            Tag::T_AlterPolicyStmt => is_temporary_name((*statement.cast::<pg_sys::AlterPolicyStmt>()).table),
            Tag::T_AlterObjectSchemaStmt => {
                is_temporary_name((*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation)
            }
            Tag::T_DropStmt => are_temporary(&super::super::rights::dropped(&*statement.cast()))?,
            Tag::T_CommentStmt => {
                let comment = &*statement.cast::<pg_sys::CommentStmt>();
                comment.objtype == pg_sys::ObjectType::OBJECT_TABLE
                    && guard::named(pg_sys::makeRangeVarFromNameList(comment.object.cast())).is_some_and(of_session)
            }
            Tag::T_GrantStmt => {
                let grant = &*statement.cast::<pg_sys::GrantStmt>();
                grant.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
                    && grant.objtype == pg_sys::ObjectType::OBJECT_TABLE
                    && are_temporary(&list::pointers::<pg_sys::RangeVar>(grant.objects))?
            }
            _ => false,
        })
    }
}

/// Whether all of the relations are; some of them only is refused, for the others' part is every node's.
unsafe fn are_temporary(ranges: &[*mut pg_sys::RangeVar]) -> Result<bool, UserError> {
    // SAFETY: by contract of `named`.
    let temporary = unsafe { ranges.iter().filter(|range| is_temporary_name(**range)).count() };
    if temporary == 0 || temporary == ranges.len() {
        return Ok(temporary > 0);
    }
    Err(mixed())
}

/// A statement that concerns temporary objects and others.
pub fn mixed() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot change definitions of the group by a statement that names temporary relations, too",
        "The statement runs on every node, and temporary relations are in this session only.",
        "Name the temporary relations in a statement of their own.",
    )
}

/// Where the server would make it: `pg_temp` may also come first in `search_path`.
unsafe fn new_is_temporary(range: *mut pg_sys::RangeVar) -> bool {
    // SAFETY: a RangeVar of the grammar. A schema that is not there is the error that the statement itself would raise.
    unsafe {
        (*range).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP
            || pg_sys::isTempOrTempToastNamespace(pg_sys::RangeVarGetCreationNamespace(range))
    }
}

/// As [`new_is_temporary`], of a type or a function.
unsafe fn name_is_temporary(name: *mut pg_sys::List) -> bool {
    let mut last = std::ptr::null_mut();
    // SAFETY: a qualified name of the grammar.
    unsafe { pg_sys::isTempOrTempToastNamespace(pg_sys::QualifiedNameGetCreationNamespace(name, &mut last)) }
}

/// Whether the relation of this name is a temporary one.
pub unsafe fn is_temporary_name(range: *mut pg_sys::RangeVar) -> bool {
    // SAFETY: by contract of `named`.
    unsafe { guard::named(range) }.is_some_and(of_session)
}

fn of_session(oid: pg_sys::Oid) -> bool {
    // SAFETY: a look-up inside a transaction.
    unsafe { pg_sys::get_rel_persistence(oid) as u8 == pg_sys::RELPERSISTENCE_TEMP }
}
