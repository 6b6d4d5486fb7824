//! Keeping strong tables as the group knows them: their definition changes on every node (`pg/ddl.rs`) or not at all.
//!
//! Two doors: utility statements are looked at before they run ([`check_utility`], called by the ProcessUtility hook), and
//! every drop, also by CASCADE or DROP OWNED, passes the object access hook ([`init`]), as do functions that are replaced. What only one node sees and what changes
//! no row stays allowed: plain indexes, ANALYZE, VACUUM, CLUSTER, REINDEX, COMMENT, GRANT, owners, storage parameters,
//! triggers and policies of users.

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use super::capture::{self, trigger};
use super::list;
use super::relation::{self, StrongTable};
use super::relcache::Relation;
use crate::errors::UserError;

static mut PREVIOUS_ACCESS: pg_sys::object_access_hook_type = None;

/// Install the object access hook. From `_PG_init` in the postmaster.
pub fn init() {
    // SAFETY: single-threaded server start; chained.
    unsafe {
        PREVIOUS_ACCESS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: i32,
    argument: *mut std::ffi::c_void,
) {
    // SAFETY: the previous hook has the same contract.
    unsafe {
        if let Some(previous) = PREVIOUS_ACCESS {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, part, argument));
        }
    }
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
        && object == pg_sys::Oid::from(pg_sys::F_NEXTVAL)
        && class == pg_sys::ProcedureRelationId
        && let Err(error) = super::service::draws::nextval_is_near()
    {
        error.raise();
    }
    super::stream_ddl::touched(access, class, object, part);
    if access == pg_sys::ObjectAccessType::OAT_POST_CREATE
        && class == pg_sys::RelationRelationId
        && part == 0
        && super::ddl::changes_group()
        && !capture::applying()
    {
        super::ddl::makes(object);
    }
    // Of a function that is replaced, too.
    if access == pg_sys::ObjectAccessType::OAT_POST_CREATE
        && class == pg_sys::ProcedureRelationId
        && let Err(error) = super::ddl::replaced::check(object)
    {
        error.raise();
    }
    if access == pg_sys::ObjectAccessType::OAT_DROP
        && let Err(error) = check_drop(class, object, part)
    {
        error.raise();
    }
}

fn check_drop(class: pg_sys::Oid, object: pg_sys::Oid, part: i32) -> Result<(), UserError> {
    if class == pg_sys::RelationRelationId {
        if let Some(table) = relation::by_oid(object) {
            if super::ddl::changes_group() {
                super::ddl::reached_group();
                assert_for_itself(&table)?;
                if part == 0 {
                    super::catalog::remove(object);
                } else {
                    super::service::draws::column_goes(&table, part);
                }
                return Ok(());
            }
            return Err(refused(&table, if part == 0 { "drop" } else { "drop a column of" }));
        }
        return check_index(object, "drop a unique index of");
    }
    if class == super::catalog::PG_ATTRDEF && super::ddl::changes_group() {
        super::service::draws::default_goes(object);
    }
    if class == pg_sys::TriggerRelationId
        && let Some((relation, name)) = super::catalog::trigger(object)
        && trigger::is_our_name(&name)
        && let Some(table) = relation::by_oid(relation)
        && !super::ddl::changes_group()
    {
        return Err(refused(&table, "drop the capture triggers of"));
    }
    Ok(())
}

/// A table that a statement changes must be under the group's DDL lock, or rows that other nodes write meanwhile would not fit.
fn assert_for_itself(table: &StrongTable) -> Result<(), UserError> {
    if capture::applying() || super::ddl::has_for_itself(table.id) {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!(
            "table {} came to depend on what is changed while the statement ran",
            table.name
        ),
        "The other nodes go on writing it: the group's DDL lock was taken for other tables.",
        "Retry the transaction.",
    ))
}

fn check_index(object: pg_sys::Oid, what: &str) -> Result<(), UserError> {
    // SAFETY: inside a transaction; InvalidOid for what is no index.
    let of = unsafe { pg_sys::IndexGetRelation(object, true) };
    if of == pg_sys::InvalidOid {
        return Ok(());
    }
    match relation::by_oid(of) {
        Some(_) if super::ddl::changes_group() => {
            super::ddl::reached_group();
            Ok(())
        }
        Some(table) if table.keys.iter().any(|key| key.index == object) => Err(refused(&table, what)),
        _ => Ok(()),
    }
}

fn refused(table: &StrongTable, what: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot {what} table {} while it is replicated", table.name),
        "The definition of a replicated table must be the same on every node of the group.",
        "SET synod.ddl = group (the default), so that the statement runs on every node.",
    )
}

/// What cannot be done to a table while it is replicated, on whatever nodes.
fn impossible(table: &StrongTable, what: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot {what} table {} while it is replicated", table.name),
        "A replicated table must stay one whose changes can be captured and applied.",
        format!(
            "Call synod.unreplicate_table('{}') first; replicate it again afterwards.",
            table.name
        ),
    )
}

/// Refuse a utility statement that would change a strong table's definition on this node only, or get around capture.
/// `travels`: it runs on every node.
///
/// # Safety
/// `statement` is the utility statement of a valid plan.
pub unsafe fn check_utility(statement: *mut pg_sys::Node, travels: bool) -> Result<(), UserError> {
    use pg_sys::NodeTag;
    let travels = travels || super::ddl::changes_group();
    // SAFETY: the tag says what each pointer may be cast to.
    unsafe {
        super::own_tables::check_utility(statement)?;
        if !travels && super::shmem::my_node().is_some() {
            keep_types(statement)?;
        }
        match (*statement).type_ {
            NodeTag::T_DropdbStmt => drop_member(&*statement.cast()),
            NodeTag::T_AlterTableStmt => alter_table(&*statement.cast(), travels),
            NodeTag::T_RenameStmt => rename(&*statement.cast(), travels),
            NodeTag::T_AlterObjectSchemaStmt => {
                let statement = &*statement.cast::<pg_sys::AlterObjectSchemaStmt>();
                if travels {
                    return Ok(());
                }
                refuse_if_strong(statement.relation, "change the schema of")
            }
            NodeTag::T_IndexStmt => {
                let statement = &*statement.cast::<pg_sys::IndexStmt>();
                if !travels && (statement.unique || statement.primary || !statement.excludeOpNames.is_null()) {
                    return refuse_if_strong(statement.relation, "add a unique index to");
                }
                Ok(())
            }
            NodeTag::T_CreateStmt => create_table(&*statement.cast(), travels),
            NodeTag::T_CreateForeignTableStmt => {
                create_table(&(*statement.cast::<pg_sys::CreateForeignTableStmt>()).base, false)
            }
            NodeTag::T_DropStmt => {
                let statement = &*statement.cast::<pg_sys::DropStmt>();
                match statement.removeType {
                    pg_sys::ObjectType::OBJECT_TRIGGER => drop_triggers(statement),
                    pg_sys::ObjectType::OBJECT_EXTENSION | pg_sys::ObjectType::OBJECT_SCHEMA => drop_ours(statement),
                    _ => Ok(()),
                }
            }
            NodeTag::T_TruncateStmt => {
                let statement = &*statement.cast::<pg_sys::TruncateStmt>();
                capture::note_restart_identity(statement.restart_seqs);
                Ok(())
            }
            NodeTag::T_ClusterStmt => {
                let statement = &*statement.cast::<pg_sys::ClusterStmt>();
                refuse_if_pending(statement.relation)
            }
            _ => Ok(()),
        }
    }
}

/// Values of a type that another node knows otherwise would not be read there, or here.
unsafe fn keep_types(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: by contract of the caller: a valid utility statement.
    let kinds = unsafe { super::ddl::redefined_types(statement) };
    let users = super::ddl::tables_of_types(kinds)?;
    match users.first().and_then(|table| relation::by_oid(*table)) {
        Some(table) => Err(refused(&table, "change a type of")),
        None => Ok(()),
    }
}

/// A member that is dropped would leave its place in the group behind, and its files.
unsafe fn drop_member(statement: &pg_sys::DropdbStmt) -> Result<(), UserError> {
    // SAFETY: a name; InvalidOid for what is not there.
    let database = u32::from(unsafe { pg_sys::get_database_oid(statement.dbname, true) });
    if database == 0
        || !crate::node::directory(database)
            .join(crate::identity::FILE_NAME)
            .exists()
    {
        return Ok(());
    }
    // SAFETY: as above.
    let name = unsafe { super::relcache::c_text(statement.dbname) };
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("cannot drop database \"{name}\" while it is a member of a group"),
        "The group would go on counting it among its members.",
        "Call synod.leave_group() in that database first; if the group does not matter any more, synod.leave_group(force => true).",
    ))
}

/// Neither the extension nor its schema, which would take it along, and the capture triggers of every node with it.
unsafe fn drop_ours(statement: &pg_sys::DropStmt) -> Result<(), UserError> {
    // SAFETY: the names of extensions and schemas are String nodes.
    let is_ours = unsafe {
        list::pointers::<pg_sys::String>(statement.objects)
            .into_iter()
            .any(|name| super::relcache::c_text((*name).sval) == "synod")
    };
    if !is_ours || super::shmem::my_node().is_none() {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        "cannot drop synod while this database is a member of a group",
        "What is written to the replicated tables here would reach no other node.",
        "Call synod.leave_group() first.",
    ))
}

/// Ours go with their table only.
unsafe fn drop_triggers(statement: &pg_sys::DropStmt) -> Result<(), UserError> {
    // SAFETY: a list of names, each a list of String nodes: the table's, and the trigger's at the end.
    unsafe {
        for name in list::pointers::<pg_sys::List>(statement.objects) {
            let parts = list::pointers::<pg_sys::String>(name);
            let Some((trigger, table)) = parts.split_last() else {
                continue;
            };
            if table.is_empty() || !trigger::is_our_name(&super::relcache::c_text((**trigger).sval)) {
                continue;
            }
            let table = pg_sys::list_truncate(pg_sys::list_copy(name), table.len() as i32);
            if let Some(table) = named(pg_sys::makeRangeVarFromNameList(table)).and_then(relation::by_oid) {
                return Err(impossible(&table, "drop the capture triggers of"));
            }
        }
    }
    Ok(())
}

/// The relation that a RangeVar names; `None` when there is none.
pub(super) unsafe fn named(range: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    if range.is_null() {
        return None;
    }
    // SAFETY: a valid RangeVar; no lock, missing is allowed.
    let oid = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            range,
            pg_sys::NoLock as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

unsafe fn refuse_if_strong(range: *mut pg_sys::RangeVar, what: &str) -> Result<(), UserError> {
    // SAFETY: by contract of `named`.
    match unsafe { named(range) }.and_then(relation::by_oid) {
        Some(table) => Err(refused(&table, what)),
        None => Ok(()),
    }
}

/// Behind a utility statement. LOCK TABLE in a mode that keeps writers out keeps those of other nodes out, too: they conflict. It locks
/// more than it names: what inherits, and what views read. So what is locked by now counts.
///
/// # Safety
/// `statement` is a valid utility statement that has been carried out.
pub unsafe fn after_utility(statement: *mut pg_sys::Node) {
    const MODE: pg_sys::LOCKMODE = pg_sys::ShareLock as pg_sys::LOCKMODE;
    // SAFETY: by contract; the tag says of which type the node is.
    let locks = unsafe {
        (*statement).type_ == pg_sys::NodeTag::T_LockStmt && (*statement.cast::<pg_sys::LockStmt>()).mode >= MODE
    };
    if !locks || super::shmem::my_node().is_none() {
        return;
    }
    for (id, oid) in super::catalog::all() {
        // SAFETY: an open relation.
        let locked = |relation: Relation| unsafe { pg_sys::CheckRelationLockedByMe(relation.raw(), MODE, true) };
        if Relation::open(oid).is_some_and(locked) {
            capture::note_table_lock(id);
        }
    }
}

/// Rewriting a table moves the row versions that capture has noted.
unsafe fn refuse_if_pending(range: *mut pg_sys::RangeVar) -> Result<(), UserError> {
    // SAFETY: by contract of `named`.
    let Some(oid) = (unsafe { named(range) }) else {
        return Ok(());
    };
    match relation::by_oid(oid) {
        Some(table) if capture::pending_on(oid) => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!(
                "cannot rewrite table {} in a transaction that has written it",
                table.name
            ),
            "",
            "Use two transactions.",
        )),
        _ => Ok(()),
    }
}

unsafe fn alter_table(statement: &pg_sys::AlterTableStmt, travels: bool) -> Result<(), UserError> {
    // SAFETY: the statement's parts are of the types that its tag promises.
    unsafe {
        let strong = named(statement.relation).and_then(relation::by_oid);
        for command in list::pointers::<pg_sys::AlterTableCmd>(statement.cmds) {
            let command = &*command;
            if let Some(table) = &strong {
                if gets_around_capture(command) {
                    return Err(impossible(table, "alter"));
                }
                if !travels && !stays_local(command) {
                    return Err(refused(table, "alter"));
                }
            }
            match command.subtype {
                pg_sys::AlterTableType::AT_AddConstraint | pg_sys::AlterTableType::AT_AddColumn
                    if strong.is_none() && has_rows(statement.relation) =>
                {
                    refuse_references(command.def)?;
                }
                pg_sys::AlterTableType::AT_AddInherit => {
                    let parent = named(command.def.cast()).and_then(relation::by_oid);
                    match (&strong, &parent) {
                        // Both of the group: it runs everywhere, or has been refused above.
                        (_, Some(_)) if travels => {}
                        (_, Some(parent)) => return Err(refused(parent, "inherit from")),
                        (Some(heir), None) => {
                            return Err(impossible(heir, "inherit from a table that is not replicated in"));
                        }
                        (None, None) => {}
                    }
                }
                pg_sys::AlterTableType::AT_AttachPartition => {
                    // Of a table of the group it becomes a partition everywhere; of another it would be written past the group.
                    let partition = &*command.def.cast::<pg_sys::PartitionCmd>();
                    if strong.is_none() || !travels {
                        refuse_if_strong(partition.name, "attach")?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Subcommands that no replicated table bears.
unsafe fn gets_around_capture(command: &pg_sys::AlterTableCmd) -> bool {
    use pg_sys::AlterTableType as Kind;
    match command.subtype {
        Kind::AT_SetUnLogged
        | Kind::AT_SetAccessMethod
        | Kind::AT_SetTableSpace
        | Kind::AT_AddOf
        | Kind::AT_DropOf
        | Kind::AT_EnableTrigAll
        | Kind::AT_DisableTrigAll => true,
        Kind::AT_EnableTrig | Kind::AT_EnableAlwaysTrig | Kind::AT_EnableReplicaTrig | Kind::AT_DisableTrig => {
            // SAFETY: these subcommands name a trigger.
            trigger::is_our_name(&unsafe { super::relcache::c_text(command.name) })
        }
        _ => false,
    }
}

/// Subcommands that neither change rows or definitions nor touch our triggers.
pub(super) unsafe fn stays_local(command: &pg_sys::AlterTableCmd) -> bool {
    use pg_sys::AlterTableType as Kind;
    matches!(
        command.subtype,
        Kind::AT_ChangeOwner
            | Kind::AT_SetStatistics
            | Kind::AT_SetOptions
            | Kind::AT_ResetOptions
            | Kind::AT_SetStorage
            | Kind::AT_SetCompression
            | Kind::AT_SetRelOptions
            | Kind::AT_ResetRelOptions
            | Kind::AT_ClusterOn
            | Kind::AT_DropCluster
            | Kind::AT_EnableRowSecurity
            | Kind::AT_DisableRowSecurity
            | Kind::AT_ForceRowSecurity
            | Kind::AT_NoForceRowSecurity
            | Kind::AT_EnableTrigUser
            | Kind::AT_DisableTrigUser
            | Kind::AT_EnableTrig
            | Kind::AT_EnableAlwaysTrig
            | Kind::AT_EnableReplicaTrig
            | Kind::AT_DisableTrig
    )
}

unsafe fn rename(statement: &pg_sys::RenameStmt, travels: bool) -> Result<(), UserError> {
    use pg_sys::ObjectType as Kind;
    // SAFETY: `relation` is set for these kinds.
    unsafe {
        match statement.renameType {
            Kind::OBJECT_TABLE | Kind::OBJECT_INDEX | Kind::OBJECT_COLUMN | Kind::OBJECT_TABCONSTRAINT if !travels => {
                refuse_if_strong(statement.relation, "rename (a part of)")?;
                named(statement.relation).map_or(Ok(()), |oid| check_index(oid, "rename a unique index of"))
            }
            Kind::OBJECT_TRIGGER if trigger::is_our_name(&super::relcache::c_text(statement.subname)) => {
                refuse_if_strong(statement.relation, "rename the capture triggers of")
            }
            _ => Ok(()),
        }
    }
}

unsafe fn create_table(statement: &pg_sys::CreateStmt, travels: bool) -> Result<(), UserError> {
    // It becomes the group's with its parents (`ddl::checks::after`).
    if travels {
        return Ok(());
    }
    // SAFETY: lists of the types that the grammar puts there.
    unsafe {
        for parent in list::pointers::<pg_sys::RangeVar>(statement.inhRelations) {
            refuse_if_strong(parent, "inherit from")?;
        }
    }
    Ok(())
}

unsafe fn has_rows(range: *mut pg_sys::RangeVar) -> bool {
    // SAFETY: by contract of `named`.
    let oid = unsafe { named(range) };
    oid.and_then(|oid| Relation::open_locked(oid, pg_sys::AccessShareLock))
        .is_some_and(|relation| super::catalog::has_rows(&relation))
}

/// A table that has rows and is not replicated must not begin to refer to one that is: rows removed elsewhere would leave
/// it dangling.
unsafe fn refuse_references(node: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: by contract of `references`.
    unsafe {
        for table in references(node) {
            refuse_if_strong(table, "add a foreign key to")?;
        }
    }
    Ok(())
}

/// The tables to which the foreign keys in a part of a definition refer; of anything else than a constraint or a column: none.
pub(super) unsafe fn references(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::RangeVar> {
    if node.is_null() {
        return Vec::new();
    }
    // SAFETY: the tag says what the node is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Constraint => {
                let constraint = &*node.cast::<pg_sys::Constraint>();
                let refers = constraint.contype == pg_sys::ConstrType::CONSTR_FOREIGN;
                refers.then_some(constraint.pktable).into_iter().collect()
            }
            pg_sys::NodeTag::T_ColumnDef => {
                let column = &*node.cast::<pg_sys::ColumnDef>();
                let constraints = list::pointers::<pg_sys::Node>(column.constraints);
                constraints
                    .into_iter()
                    .flat_map(|constraint| references(constraint))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

/// COPY FREEZE into a strong table runs as a plain COPY: frozen rows do not look like the transaction's own, and freezing is
/// only an optimisation. (`pgbench -i` asks for it.) Returns the statement to run.
///
/// # Safety
/// `statement` is the planned statement of a utility.
pub unsafe fn without_freeze(statement: *mut pg_sys::PlannedStmt) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the tag says what the pointer may be cast to; options are DefElems with a name. A plan may be cached, so the
    // option is taken out of a copy.
    unsafe {
        let utility = (*statement).utilityStmt;
        if (*utility).type_ != pg_sys::NodeTag::T_CopyStmt {
            return statement;
        }
        let copy = &*utility.cast::<pg_sys::CopyStmt>();
        let freezes = |option: &*mut pg_sys::DefElem| super::relcache::c_text((**option).defname) == "freeze";
        let at = list::pointers::<pg_sys::DefElem>(copy.options).iter().position(freezes);
        let strong = copy.is_from && named(copy.relation).is_some_and(relation::is_strong);
        let (Some(at), true) = (at, strong) else {
            return statement;
        };
        let changed = pg_sys::copyObjectImpl(statement.cast()).cast::<pg_sys::PlannedStmt>();
        let copy = (*changed).utilityStmt.cast::<pg_sys::CopyStmt>();
        (*copy).options = pg_sys::list_delete_nth_cell((*copy).options, at as i32);
        changed
    }
}
