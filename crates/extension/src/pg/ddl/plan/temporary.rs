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
            Tag::T_RenameStmt if !(*statement.cast::<pg_sys::RenameStmt>()).relation.is_null() => {
                is_temporary_name((*statement.cast::<pg_sys::RenameStmt>()).relation)
            }
            Tag::T_AlterSeqStmt => is_temporary_name((*statement.cast::<pg_sys::AlterSeqStmt>()).sequence),
            Tag::T_CreateTrigStmt => is_temporary_name((*statement.cast::<pg_sys::CreateTrigStmt>()).relation),
            Tag::T_RuleStmt => is_temporary_name((*statement.cast::<pg_sys::RuleStmt>()).relation),
            Tag::T_CreatePolicyStmt => is_temporary_name((*statement.cast::<pg_sys::CreatePolicyStmt>()).table),
            Tag::T_AlterPolicyStmt => is_temporary_name((*statement.cast::<pg_sys::AlterPolicyStmt>()).table),
            Tag::T_AlterObjectSchemaStmt
                if !(*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation.is_null() =>
            {
                is_temporary_name((*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation)
            }
            Tag::T_CreateStatsStmt => {
                let relations = (*statement.cast::<pg_sys::CreateStatsStmt>()).relations;
                list::pointers::<pg_sys::RangeVar>(relations)
                    .into_iter()
                    .any(|range| is_temporary_name(range))
            }
            Tag::T_AlterEnumStmt => names_temporary_type((*statement.cast::<pg_sys::AlterEnumStmt>()).typeName),
            Tag::T_AlterDomainStmt => names_temporary_type((*statement.cast::<pg_sys::AlterDomainStmt>()).typeName),
            Tag::T_AlterTypeStmt => names_temporary_type((*statement.cast::<pg_sys::AlterTypeStmt>()).typeName),
            Tag::T_GrantStmt => {
                let grant = &*statement.cast::<pg_sys::GrantStmt>();
                grant.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
                    && all_temporary(grant.objtype, grant.objects)?
            }
            Tag::T_DropStmt => {
                let drop = &*statement.cast::<pg_sys::DropStmt>();
                all_temporary(drop.removeType, drop.objects)?
            }
            _ => match named_object(statement) {
                Some((kind, object)) => object_is_temporary(kind, object),
                None => false,
            },
        })
    }
}

/// The object that a statement names which may be about any kind of object.
unsafe fn named_object(statement: *mut pg_sys::Node) -> Option<(pg_sys::ObjectType::Type, *mut pg_sys::Node)> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        let (kind, object) = match (*statement).type_ {
            Tag::T_CommentStmt => {
                let comment = &*statement.cast::<pg_sys::CommentStmt>();
                (comment.objtype, comment.object)
            }
            Tag::T_SecLabelStmt => {
                let label = &*statement.cast::<pg_sys::SecLabelStmt>();
                (label.objtype, label.object)
            }
            Tag::T_RenameStmt => {
                let rename = &*statement.cast::<pg_sys::RenameStmt>();
                (rename.renameType, rename.object)
            }
            Tag::T_AlterOwnerStmt => {
                let alter = &*statement.cast::<pg_sys::AlterOwnerStmt>();
                (alter.objectType, alter.object)
            }
            Tag::T_AlterObjectSchemaStmt => {
                let alter = &*statement.cast::<pg_sys::AlterObjectSchemaStmt>();
                (alter.objectType, alter.object)
            }
            Tag::T_AlterFunctionStmt => {
                let alter = &*statement.cast::<pg_sys::AlterFunctionStmt>();
                (alter.objtype, alter.func.cast())
            }
            _ => return None,
        };
        (!object.is_null()).then_some((kind, object))
    }
}

/// Whether an object is a temporary one, or a part of one. What another node has under its name is something else.
unsafe fn object_is_temporary(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node) -> bool {
    use pg_sys::{NodeTag as Tag, ObjectType as Kind};
    // SAFETY: what names an object depends on its kind, as in the grammar.
    unsafe {
        match kind {
            Kind::OBJECT_TABLE | Kind::OBJECT_INDEX | Kind::OBJECT_SEQUENCE | Kind::OBJECT_VIEW => {
                // GRANT has the relations themselves.
                let range = match (*object).type_ {
                    Tag::T_RangeVar => object.cast(),
                    _ => pg_sys::makeRangeVarFromNameList(object.cast()),
                };
                is_temporary_name(range)
            }
            Kind::OBJECT_COLUMN
            | Kind::OBJECT_TABCONSTRAINT
            | Kind::OBJECT_TRIGGER
            | Kind::OBJECT_RULE
            | Kind::OBJECT_POLICY => {
                // The last part is the object's own name.
                let name = object.cast::<pg_sys::List>();
                let relation = list::length(name) as i32 - 1;
                relation > 0
                    && is_temporary_name(pg_sys::makeRangeVarFromNameList(pg_sys::list_truncate(
                        pg_sys::list_copy(name),
                        relation,
                    )))
            }
            Kind::OBJECT_TYPE | Kind::OBJECT_DOMAIN => match (*object).type_ {
                Tag::T_TypeName => is_temporary_type(object.cast()),
                _ => names_temporary_type(object.cast()),
            },
            Kind::OBJECT_DOMCONSTRAINT => {
                let domain = list::pointer::<pg_sys::Node>(object.cast(), 0);
                match (*domain).type_ {
                    Tag::T_TypeName => is_temporary_type(domain.cast()),
                    _ => names_temporary_type(object.cast()),
                }
            }
            Kind::OBJECT_FUNCTION | Kind::OBJECT_PROCEDURE | Kind::OBJECT_ROUTINE | Kind::OBJECT_AGGREGATE => {
                names_temporary_schema((*object.cast::<pg_sys::ObjectWithArgs>()).objname)
            }
            Kind::OBJECT_STATISTIC_EXT => names_temporary_schema(object.cast()),
            _ => false,
        }
    }
}

unsafe fn names_temporary_type(name: *mut pg_sys::List) -> bool {
    // SAFETY: a qualified name of the grammar.
    unsafe { is_temporary_type(pg_sys::makeTypeNameFromNameList(name)) }
}

unsafe fn is_temporary_type(name: *mut pg_sys::TypeName) -> bool {
    // SAFETY: a name of the grammar; InvalidOid is what is not there.
    unsafe {
        let found = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true);
        let address = pg_sys::ObjectAddress {
            classId: pg_sys::TypeRelationId,
            objectId: found,
            objectSubId: 0,
        };
        found != pg_sys::InvalidOid && pg_sys::isTempOrTempToastNamespace(pg_sys::get_object_namespace(&address))
    }
}

/// Functions and statistics of the temporary schema are found by a qualified name only.
unsafe fn names_temporary_schema(name: *mut pg_sys::List) -> bool {
    let (mut schema, mut last) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: a qualified name of the grammar; InvalidOid is what is not there.
    unsafe {
        pg_sys::DeconstructQualifiedName(name, &mut schema, &mut last);
        !schema.is_null() && pg_sys::isTempOrTempToastNamespace(pg_sys::LookupNamespaceNoError(schema))
    }
}

/// Whether all of the objects are; some of them only is refused, for the others' part is every node's.
unsafe fn all_temporary(kind: pg_sys::ObjectType::Type, objects: *mut pg_sys::List) -> Result<bool, UserError> {
    // SAFETY: a list of names, each as `object_is_temporary` wants it.
    let (all, temporary) = unsafe {
        let objects = list::pointers::<pg_sys::Node>(objects);
        let temporary = objects.iter().filter(|object| object_is_temporary(kind, **object));
        (objects.len(), temporary.count())
    };
    if temporary == 0 || temporary == all {
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
