//! Which utility statements change definitions of this database, and what they say.
//!
//! Left out: what belongs to the whole server (roles, databases, tablespaces), what may hold a password (user mappings,
//! subscriptions, foreign servers and wrappers), and what changes no definition (VACUUM, CLUSTER, REFRESH, ...).

use std::ffi::CStr;

use pgrx::pg_sys;
use synod_change::stream::own_message::DdlMessage;

use crate::pg::{encoding, guard};

/// What matters about a statement beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It makes or drops objects, or finds that there is nothing to do.
    CreateOrDrop,
    /// It makes a table and fills it.
    CreateTableAs,
    /// Anything else.
    Other,
}

impl Kind {
    /// IF EXISTS, IF NOT EXISTS.
    pub fn may_do_nothing(self) -> bool {
        self != Self::Other
    }
}

/// `None`: it is not told.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn kind(statement: *mut pg_sys::Node) -> Option<Kind> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        let kind = match (*statement).type_ {
            // Not DDL; asked first, because they are the most frequent.
            Tag::T_TransactionStmt
            | Tag::T_VariableSetStmt
            | Tag::T_VariableShowStmt
            | Tag::T_CopyStmt
            | Tag::T_ExecuteStmt
            | Tag::T_PrepareStmt
            | Tag::T_ExplainStmt => return None,
            Tag::T_CreateRoleStmt
            | Tag::T_AlterRoleStmt
            | Tag::T_AlterRoleSetStmt
            | Tag::T_DropRoleStmt
            | Tag::T_GrantRoleStmt
            | Tag::T_CreatedbStmt
            | Tag::T_DropdbStmt
            | Tag::T_AlterDatabaseStmt
            | Tag::T_AlterDatabaseSetStmt
            | Tag::T_AlterDatabaseRefreshCollStmt
            | Tag::T_AlterSystemStmt
            | Tag::T_CreateTableSpaceStmt
            | Tag::T_DropTableSpaceStmt
            | Tag::T_AlterTableSpaceOptionsStmt
            | Tag::T_CreateSubscriptionStmt
            | Tag::T_AlterSubscriptionStmt
            | Tag::T_DropSubscriptionStmt
            | Tag::T_CreateUserMappingStmt
            | Tag::T_AlterUserMappingStmt
            | Tag::T_DropUserMappingStmt
            | Tag::T_CreateForeignServerStmt
            | Tag::T_AlterForeignServerStmt
            | Tag::T_CreateFdwStmt
            | Tag::T_AlterFdwStmt
            | Tag::T_RefreshMatViewStmt
            | Tag::T_ClusterStmt
            | Tag::T_ReindexStmt
            | Tag::T_VacuumStmt => return None,
            Tag::T_CreateTableAsStmt => Kind::CreateTableAs,
            Tag::T_CreateStmt
            | Tag::T_CreateSeqStmt
            | Tag::T_CreateSchemaStmt
            | Tag::T_CreateExtensionStmt
            | Tag::T_IndexStmt
            | Tag::T_DropStmt => Kind::CreateOrDrop,
            _ => Kind::Other,
        };
        // For the server's log these two are no DDL.
        let is_of_owner = matches!((*statement).type_, Tag::T_DropOwnedStmt | Tag::T_ReassignOwnedStmt);
        let is_ddl = pg_sys::GetCommandLogLevel(statement) == pg_sys::LogStmtLevel::LOGSTMT_DDL;
        if !is_ddl && !is_of_owner || is_left_out(statement) {
            return None;
        }
        Some(kind)
    }
}

/// Statements for objects of any kind.
unsafe fn is_left_out(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag as Tag;
    use pg_sys::ObjectType as Object;
    // SAFETY: the tag says what the pointer may be cast to.
    let of = unsafe {
        match (*statement).type_ {
            Tag::T_DropStmt => (*statement.cast::<pg_sys::DropStmt>()).removeType,
            Tag::T_RenameStmt => (*statement.cast::<pg_sys::RenameStmt>()).renameType,
            Tag::T_AlterOwnerStmt => (*statement.cast::<pg_sys::AlterOwnerStmt>()).objectType,
            Tag::T_CommentStmt => (*statement.cast::<pg_sys::CommentStmt>()).objtype,
            Tag::T_SecLabelStmt => (*statement.cast::<pg_sys::SecLabelStmt>()).objtype,
            Tag::T_GrantStmt => (*statement.cast::<pg_sys::GrantStmt>()).objtype,
            _ => return false,
        }
    };
    matches!(
        of,
        Object::OBJECT_DATABASE
            | Object::OBJECT_ROLE
            | Object::OBJECT_TABLESPACE
            | Object::OBJECT_SUBSCRIPTION
            | Object::OBJECT_FDW
            | Object::OBJECT_FOREIGN_SERVER
            | Object::OBJECT_USER_MAPPING
            | Object::OBJECT_LARGEOBJECT
            | Object::OBJECT_PARAMETER_ACL
    )
}

/// The relation that the statement names, if it is there: its name may change.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn named_relation(statement: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        let range = match (*statement).type_ {
            Tag::T_AlterTableStmt => (*statement.cast::<pg_sys::AlterTableStmt>()).relation,
            Tag::T_RenameStmt => (*statement.cast::<pg_sys::RenameStmt>()).relation,
            Tag::T_AlterObjectSchemaStmt => (*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation,
            Tag::T_AlterOwnerStmt => (*statement.cast::<pg_sys::AlterOwnerStmt>()).relation,
            Tag::T_AlterSeqStmt => (*statement.cast::<pg_sys::AlterSeqStmt>()).sequence,
            Tag::T_IndexStmt => (*statement.cast::<pg_sys::IndexStmt>()).relation,
            Tag::T_CreateTrigStmt => (*statement.cast::<pg_sys::CreateTrigStmt>()).relation,
            Tag::T_RuleStmt => (*statement.cast::<pg_sys::RuleStmt>()).relation,
            Tag::T_CreatePolicyStmt => (*statement.cast::<pg_sys::CreatePolicyStmt>()).table,
            Tag::T_AlterPolicyStmt => (*statement.cast::<pg_sys::AlterPolicyStmt>()).table,
            Tag::T_CommentStmt => {
                let comment = &*statement.cast::<pg_sys::CommentStmt>();
                if comment.objtype != pg_sys::ObjectType::OBJECT_TABLE {
                    return None;
                }
                pg_sys::makeRangeVarFromNameList(comment.object.cast())
            }
            Tag::T_GrantStmt => {
                let grant = &*statement.cast::<pg_sys::GrantStmt>();
                if grant.objtype != pg_sys::ObjectType::OBJECT_TABLE
                    || grant.targtype != pg_sys::GrantTargetType::ACL_TARGET_OBJECT
                    || crate::pg::list::length(grant.objects) == 0
                {
                    return None;
                }
                crate::pg::list::pointer::<pg_sys::RangeVar>(grant.objects, 0)
            }
            _ => return None,
        };
        guard::named(range)
    }
}

/// Tag, text and search path.
///
/// # Safety
/// The arguments are those of `ProcessUtility_hook`.
pub unsafe fn describe(planned: *mut pg_sys::PlannedStmt, source: *const core::ffi::c_char) -> DdlMessage {
    // SAFETY: by contract; the tag's name is a constant, the setting is copied.
    unsafe {
        let tag = pg_sys::GetCommandTagName(pg_sys::CreateCommandTag((*planned).utilityStmt));
        let path = pg_sys::GetConfigOption(c"search_path".as_ptr(), true, false);
        let path = match path.is_null() {
            true => String::new(),
            false => encoding::to_utf8(CStr::from_ptr(path).to_bytes()),
        };
        DdlMessage {
            tag: CStr::from_ptr(tag).to_string_lossy().into_owned(),
            sql: text(planned, source).map(encoding::to_utf8).unwrap_or_default(),
            search_path: path,
            ..DdlMessage::default()
        }
    }
}

/// The statement's own text, cut out of what the client sent: its location counts bytes, so it is cut before it is converted.
///
/// # Safety
/// The arguments are those of `ProcessUtility_hook`; the result lives as long as `source`.
pub unsafe fn text<'a>(planned: *const pg_sys::PlannedStmt, source: *const core::ffi::c_char) -> Option<&'a [u8]> {
    // SAFETY: by contract.
    let (source, start, length) = unsafe {
        if source.is_null() {
            return None;
        }
        (
            CStr::from_ptr(source).to_bytes(),
            (*planned).stmt_location,
            (*planned).stmt_len,
        )
    };
    let rest = source.get(usize::try_from(start).unwrap_or(0)..)?;
    let text = match usize::try_from(length) {
        Ok(length) if length > 0 => rest.get(..length)?,
        _ => rest,
    };
    let text = text.trim_ascii();
    (!text.is_empty()).then_some(text)
}
