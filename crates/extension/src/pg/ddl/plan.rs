//! Which utility statements travel, and which tables they need for themselves.
//!
//! What is not named here is this node's own business: databases, roles, tablespaces, publications, subscriptions, foreign
//! servers and their tables, materialized views, statistics runs, VACUUM, REINDEX, CLUSTER, `CREATE TABLE AS` (its rows are this
//! node's), and indexes built CONCURRENTLY, as far as they are not unique.

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{ExpectedTable, TableId};

use crate::errors::UserError;
use crate::pg::relcache::{Relation, c_text};
use crate::pg::{guard, list, relation};

mod reach;
mod tables;
mod temporary;

pub use reach::named as dropped;
pub use temporary::{is_temporary_name, mixed};

/// What is to become of a statement.
pub enum Plan {
    /// It runs here and nowhere else.
    Local,
    /// It travels.
    Group(Need),
}

/// What a statement needs beside the lock itself.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// It names tables of the group.
    pub of_group: bool,
    /// It may reach any table.
    pub all: bool,
    /// It changes whatever a role owns.
    pub sweeping: bool,
    /// Tables of the group that it needs for itself.
    pub tables: Vec<TableId>,
    /// Tables that are about to be the group's, with their rows: nobody may write them meanwhile, on any node.
    pub expected: Vec<ExpectedTable>,
}

impl Need {
    fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// A table that is about to be replicated; one of the group: nothing.
    pub fn expect(&mut self, oid: pg_sys::Oid) {
        if !relation::is_strong(oid)
            && let Some(relation) = Relation::open(oid)
        {
            self.expected.push(ExpectedTable {
                schema: relation.schema(),
                name: relation.name(),
            });
        }
    }

    /// A table, for itself; no table of the group: nothing.
    fn table(&mut self, oid: pg_sys::Oid) {
        if let Some(table) = relation::by_oid(oid) {
            self.of_group = true;
            if !self.tables.contains(&table.id) {
                self.tables.push(table.id);
            }
        }
    }
}

/// Whether the statement could travel at all: cheap, before anything is looked up.
///
/// # Safety
/// A valid node.
pub unsafe fn may_concern_group(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: by contract.
    unsafe { pg_sys::GetCommandLogLevel(statement) == pg_sys::LogStmtLevel::LOGSTMT_DDL && of_kind(statement) }
}

unsafe fn of_kind(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: by contract.
    let kind = unsafe { (*statement).type_ };
    matches!(
        kind,
        Tag::T_CreateStmt
            | Tag::T_IndexStmt
            | Tag::T_AlterTableStmt
            | Tag::T_RenameStmt
            | Tag::T_AlterObjectSchemaStmt
            | Tag::T_AlterObjectDependsStmt
            | Tag::T_AlterOwnerStmt
            | Tag::T_DropStmt
            | Tag::T_CreateTrigStmt
            | Tag::T_RuleStmt
            | Tag::T_ViewStmt
            | Tag::T_CreateSeqStmt
            | Tag::T_AlterSeqStmt
            | Tag::T_CreateFunctionStmt
            | Tag::T_AlterFunctionStmt
            | Tag::T_CreateSchemaStmt
            | Tag::T_CompositeTypeStmt
            | Tag::T_CreateEnumStmt
            | Tag::T_AlterEnumStmt
            | Tag::T_CreateRangeStmt
            | Tag::T_CreateDomainStmt
            | Tag::T_AlterDomainStmt
            | Tag::T_AlterTypeStmt
            | Tag::T_DefineStmt
            | Tag::T_CreateCastStmt
            | Tag::T_CreateConversionStmt
            | Tag::T_CreateTransformStmt
            | Tag::T_CreateOpClassStmt
            | Tag::T_CreateOpFamilyStmt
            | Tag::T_AlterOpFamilyStmt
            | Tag::T_AlterOperatorStmt
            | Tag::T_CreateStatsStmt
            | Tag::T_AlterStatsStmt
            | Tag::T_CreatePolicyStmt
            | Tag::T_AlterPolicyStmt
            | Tag::T_GrantStmt
            | Tag::T_AlterDefaultPrivilegesStmt
            | Tag::T_CommentStmt
            | Tag::T_SecLabelStmt
            | Tag::T_CreateExtensionStmt
            | Tag::T_AlterExtensionStmt
            | Tag::T_AlterExtensionContentsStmt
            | Tag::T_CreateEventTrigStmt
            | Tag::T_AlterEventTrigStmt
            | Tag::T_AlterTSDictionaryStmt
            | Tag::T_AlterTSConfigurationStmt
            | Tag::T_AlterCollationStmt
            | Tag::T_CreatePLangStmt
            | Tag::T_DropOwnedStmt
            | Tag::T_ReassignOwnedStmt
    )
}

/// What is to become of a statement of which [`may_concern_group`] holds.
///
/// # Safety
/// A valid node.
pub unsafe fn of(statement: *mut pg_sys::Node) -> Result<Plan, UserError> {
    // SAFETY: the tag says what each pointer may be cast to.
    unsafe {
        if super::is_local() || is_local_by_nature(statement)? {
            return Ok(Plan::Local);
        }
        let mut need = Need::default();
        tables::of(statement, &mut need)?;
        Ok(Plan::Group(need))
    }
}

/// Objects that each node has for itself.
fn belongs_to_node(kind: pg_sys::ObjectType::Type) -> bool {
    use pg_sys::ObjectType as Kind;
    matches!(
        kind,
        Kind::OBJECT_DATABASE
            | Kind::OBJECT_ROLE
            | Kind::OBJECT_TABLESPACE
            | Kind::OBJECT_PUBLICATION
            | Kind::OBJECT_SUBSCRIPTION
            | Kind::OBJECT_FDW
            | Kind::OBJECT_FOREIGN_SERVER
            | Kind::OBJECT_FOREIGN_TABLE
            | Kind::OBJECT_USER_MAPPING
            | Kind::OBJECT_MATVIEW
            | Kind::OBJECT_LARGEOBJECT
            | Kind::OBJECT_PARAMETER_ACL
    )
}

unsafe fn is_local_by_nature(statement: *mut pg_sys::Node) -> Result<bool, UserError> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        if temporary::is_temporary(statement)? {
            return Ok(true);
        }
        Ok(match (*statement).type_ {
            Tag::T_IndexStmt => {
                let index = &*statement.cast::<pg_sys::IndexStmt>();
                if index.concurrent && index.unique {
                    refuse_concurrent(index.relation, "build a unique index CONCURRENTLY on")?;
                }
                index.concurrent
            }
            Tag::T_DropStmt => {
                let drop = &*statement.cast::<pg_sys::DropStmt>();
                belongs_to_node(drop.removeType) || drop.concurrent || names_extension_itself(drop)
            }
            Tag::T_AlterTableStmt => belongs_to_node((*statement.cast::<pg_sys::AlterTableStmt>()).objtype),
            Tag::T_RenameStmt => {
                let rename = &*statement.cast::<pg_sys::RenameStmt>();
                belongs_to_node(rename.renameType) || belongs_to_node(rename.relationType)
            }
            Tag::T_AlterObjectSchemaStmt => {
                belongs_to_node((*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).objectType)
            }
            Tag::T_AlterOwnerStmt => belongs_to_node((*statement.cast::<pg_sys::AlterOwnerStmt>()).objectType),
            Tag::T_CommentStmt => belongs_to_node((*statement.cast::<pg_sys::CommentStmt>()).objtype),
            Tag::T_SecLabelStmt => belongs_to_node((*statement.cast::<pg_sys::SecLabelStmt>()).objtype),
            Tag::T_GrantStmt => belongs_to_node((*statement.cast::<pg_sys::GrantStmt>()).objtype),
            Tag::T_CreateExtensionStmt => c_text((*statement.cast::<pg_sys::CreateExtensionStmt>()).extname) == "synod",
            Tag::T_AlterExtensionStmt => c_text((*statement.cast::<pg_sys::AlterExtensionStmt>()).extname) == "synod",
            Tag::T_AlterExtensionContentsStmt => {
                c_text((*statement.cast::<pg_sys::AlterExtensionContentsStmt>()).extname) == "synod"
            }
            _ => false,
        })
    }
}

unsafe fn names_extension_itself(drop: &pg_sys::DropStmt) -> bool {
    // SAFETY: the names of extensions are String nodes.
    unsafe {
        drop.removeType == pg_sys::ObjectType::OBJECT_EXTENSION
            && list::pointers::<pg_sys::String>(drop.objects)
                .into_iter()
                .any(|name| c_text((*name).sval) == "synod")
    }
}

unsafe fn refuse_concurrent(range: *mut pg_sys::RangeVar, what: &str) -> Result<(), UserError> {
    // SAFETY: by contract of `named`.
    match unsafe { guard::named(range) }.and_then(relation::by_oid) {
        None => Ok(()),
        Some(table) => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot {what} table {} while it is replicated", table.name),
            "Its steps are transactions of their own, between which the nodes would differ.",
            "Leave out CONCURRENTLY.",
        )),
    }
}
