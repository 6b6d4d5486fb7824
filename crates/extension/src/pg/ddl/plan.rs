//! Which utility statements travel, and which tables they need for themselves.
//!
//! What is not named here is this node's own business: databases, roles, tablespaces, publications, subscriptions, foreign
//! servers and their tables, materialized views, statistics runs, VACUUM, REINDEX, CLUSTER, `CREATE TABLE AS` (its rows are this
//! node's), and indexes built CONCURRENTLY, as far as they are not unique.

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::TableId;

use crate::errors::UserError;
use crate::pg::relcache::{Relation, c_text};
use crate::pg::{catalog, guard, list, relation};

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
}

impl Need {
    fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
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
        tables(statement, &mut need)?;
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
        if is_temporary(statement)? {
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

/// Whether a statement concerns temporary relations only: they are the session's.
unsafe fn is_temporary(statement: *mut pg_sys::Node) -> Result<bool, UserError> {
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
            Tag::T_DropStmt => are_temporary(&super::rights::dropped(&*statement.cast()))?,
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

pub unsafe fn is_temporary_name(range: *mut pg_sys::RangeVar) -> bool {
    // SAFETY: by contract of `named`.
    unsafe { guard::named(range) }.is_some_and(of_session)
}

fn of_session(oid: pg_sys::Oid) -> bool {
    // SAFETY: a look-up inside a transaction.
    unsafe { pg_sys::get_rel_persistence(oid) as u8 == pg_sys::RELPERSISTENCE_TEMP }
}

unsafe fn tables(statement: *mut pg_sys::Node, need: &mut Need) -> Result<(), UserError> {
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
            Tag::T_DropStmt => drop_objects(&*statement.cast(), need),
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
            }
            // They look at every table that uses the type, or change what its rows travel with.
            Tag::T_AlterDomainStmt | Tag::T_AlterEnumStmt => {
                if let Some(kind) = super::types::changed(statement) {
                    // An old snapshot may not see all of them.
                    need.all = pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32;
                    for oid in super::types::users(kind)? {
                        need.table(oid);
                    }
                }
            }
            Tag::T_DropOwnedStmt | Tag::T_ReassignOwnedStmt => {
                *need = Need::everything();
                need.sweeping = true;
            }
            _ => {}
        }
    }
    Ok(())
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
            *need = Need::everything();
            return Ok(());
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
    if node.is_null() {
        return;
    }
    // SAFETY: the tag says what the node is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Constraint => {
                let constraint = &*node.cast::<pg_sys::Constraint>();
                if constraint.contype == pg_sys::ConstrType::CONSTR_FOREIGN
                    && let Some(oid) = guard::named(constraint.pktable)
                {
                    need.table(oid);
                }
            }
            pg_sys::NodeTag::T_ColumnDef => {
                let column = &*node.cast::<pg_sys::ColumnDef>();
                for constraint in list::pointers::<pg_sys::Node>(column.constraints) {
                    references(constraint, need);
                }
            }
            _ => {}
        }
    }
}

unsafe fn drop_objects(statement: &pg_sys::DropStmt, need: &mut Need) {
    use pg_sys::ObjectType as Kind;
    if statement.behavior == pg_sys::DropBehavior::DROP_CASCADE {
        *need = Need::everything();
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
            for referenced in referenced_tables(oid) {
                need.table(referenced);
            }
        }
    }
}
