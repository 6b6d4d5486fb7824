//! What would not come out alike on every node.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::makes;
use super::unlike::{calls_unlike, converts_unlike, is_unlike, names_tableoid};
use crate::errors::UserError;
use crate::pg::relcache::{Relation, c_text};
use crate::pg::{capture, catalog, compat, guard, list, portable, relation, replicate};

/// Before a statement that travels runs.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn before(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        if (*statement).type_ == pg_sys::NodeTag::T_AlterSeqStmt {
            return refuse_new_owner(&*statement.cast());
        }
        makes::refuse_what_others_would_make(statement)?;
        if (*statement).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return Ok(());
        }
        let statement = &*statement.cast::<pg_sys::AlterTableStmt>();
        let Some(oid) = guard::named(statement.relation) else {
            return Ok(());
        };
        let commands = list::pointers::<pg_sys::AlterTableCmd>(statement.cmds);
        let parents = commands.iter().filter_map(|command| new_parent(&**command));
        if parents.into_iter().any(relation::is_strong) {
            replicate::check_adoptable(oid)?;
        }
        if !relation::is_strong(oid) {
            return Ok(());
        }
        for command in &commands {
            let command = &**command;
            if command.subtype == pg_sys::AlterTableType::AT_ClusterOn && commands.len() > 1 {
                return Err(clusters_among_others(oid));
            }
            if command.subtype == pg_sys::AlterTableType::AT_AttachPartition {
                let partition = &*command.def.cast::<pg_sys::PartitionCmd>();
                if let Some(partition) = guard::named(partition.name) {
                    replicate::check_adoptable(partition)?;
                }
            }
            if command.subtype != pg_sys::AlterTableType::AT_AlterColumnType || command.def.is_null() {
                continue;
            }
            let using = (*command.def.cast::<pg_sys::ColumnDef>()).raw_default;
            if has_rows(oid) && (!using.is_null() && calls_unlike(using) || converts_unlike(oid, command)) {
                return Err(differs(
                    "convert a column",
                    oid,
                    "The conversion calls a function whose results could differ from node to node.",
                    "Add a column, UPDATE it, and drop the old one.",
                ));
            }
        }
    }
    Ok(())
}

/// From which table an ALTER TABLE makes its table inherit.
///
/// # Safety
/// A valid part of a statement.
unsafe fn new_parent(command: &pg_sys::AlterTableCmd) -> Option<pg_sys::Oid> {
    if command.subtype != pg_sys::AlterTableType::AT_AddInherit {
        return None;
    }
    // SAFETY: by contract: this subcommand names a table.
    unsafe { guard::named(command.def.cast()) }
}

/// After it has run.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn after(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: the tag says what the pointer may be cast to; the statement has run, so the columns are there.
    unsafe {
        if (*statement).type_ == pg_sys::NodeTag::T_CreateStmt {
            let create = &*statement.cast::<pg_sys::CreateStmt>();
            let parents = list::pointers::<pg_sys::RangeVar>(create.inhRelations);
            return parents
                .into_iter()
                .filter_map(|parent| guard::named(parent))
                .try_for_each(replicate::adopt);
        }
        // The server makes a view of temporary tables a temporary one by itself.
        if (*statement).type_ == pg_sys::NodeTag::T_ViewStmt
            && super::plan::is_temporary_name((*statement.cast::<pg_sys::ViewStmt>()).view)
        {
            return Err(super::plan::mixed());
        }
        if (*statement).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return Ok(());
        }
        let statement = &*statement.cast::<pg_sys::AlterTableStmt>();
        check_types(statement)?;
        let Some(oid) = guard::named(statement.relation) else {
            return Ok(());
        };
        for command in list::pointers::<pg_sys::AlterTableCmd>(statement.cmds) {
            check_foreign_keys(oid, &*command)?;
            if let Some(parent) = new_parent(&*command) {
                replicate::adopt(parent)?;
            }
        }
        if !relation::is_strong(oid) {
            return Ok(());
        }
        for command in list::pointers::<pg_sys::AlterTableCmd>(statement.cmds) {
            let command = &*command;
            if command.subtype == pg_sys::AlterTableType::AT_AttachPartition {
                replicate::adopt(oid)?;
            }
            check_values(oid, command)?;
        }
    }
    Ok(())
}

/// The values that the rows of a replicated table were given on each node.
///
/// # Safety
/// A part of a statement that has run.
unsafe fn check_values(oid: pg_sys::Oid, command: &pg_sys::AlterTableCmd) -> Result<(), UserError> {
    // SAFETY: by contract; the subtype says what belongs to it.
    let column = unsafe {
        if command.subtype == pg_sys::AlterTableType::AT_AddColumn && !command.def.is_null() {
            c_text((*command.def.cast::<pg_sys::ColumnDef>()).colname)
        } else if compat::sets_expression(command) && !command.name.is_null() {
            c_text(command.name)
        } else {
            return Ok(());
        }
    };
    match values_of(oid, &column) {
        Values::Default(expression) if has_rows(oid) && is_unlike(expression) => Err(differs(
            &format!("add column \"{column}\" with such a default"),
            oid,
            "It is evaluated for each row that is there, and the results could differ from node to node.",
            "Add the column without the default, SET DEFAULT, and UPDATE the rows.",
        )),
        // A stored expression is immutable.
        Values::Stored(expression) if has_rows(oid) && names_tableoid(expression) => Err(differs(
            &format!("compute column \"{column}\""),
            oid,
            "It is computed for each row that is there, and tableoid is another number on each node.",
            "Leave tableoid out, or add an ordinary column and UPDATE the rows.",
        )),
        _ => Ok(()),
    }
}

/// A column, or an attribute of a composite type, that came or has another type now.
///
/// # Safety
/// A valid statement.
unsafe fn check_types(statement: &pg_sys::AlterTableStmt) -> Result<(), UserError> {
    use pg_sys::AlterTableType as Kind;
    // SAFETY: by contract.
    let (commands, oid) = unsafe {
        let commands = list::pointers::<pg_sys::AlterTableCmd>(statement.cmds);
        (commands, guard::named(statement.relation))
    };
    let changes = commands.into_iter().any(|command| {
        // SAFETY: by contract.
        let kind = unsafe { (*command).subtype };
        matches!(kind, Kind::AT_AddColumn | Kind::AT_AlterColumnType)
    });
    if !changes {
        return Ok(());
    }
    if statement.objtype == pg_sys::ObjectType::OBJECT_TYPE {
        return portable::check(catalog::all().into_iter().map(|(_, table)| table).collect());
    }
    match oid.filter(|oid| relation::is_strong(*oid)) {
        Some(oid) => portable::check(vec![oid]),
        None => Ok(()),
    }
}

/// A new key must not leave the group, nor must a partition bring rows under one that does.
///
/// # Safety
/// A part of a statement that has altered the table.
unsafe fn check_foreign_keys(oid: pg_sys::Oid, command: &pg_sys::AlterTableCmd) -> Result<(), UserError> {
    // SAFETY: by contract.
    let referenced = unsafe { guard::references(command.def) };
    // A partition of a table of the group is looked at when it has become the group's, too.
    let attaches = command.subtype == pg_sys::AlterTableType::AT_AttachPartition && !relation::is_strong(oid);
    if referenced.is_empty() && !attaches {
        return Ok(());
    }
    replicate::check_foreign_keys(oid)?;
    if capture::added(oid) || !relation::is_strong(oid) {
        return Ok(());
    }
    for table in referenced {
        // SAFETY: by contract.
        let Some(table) = (unsafe { guard::named(table) }).filter(|table| capture::added(*table)) else {
            continue;
        };
        // The rows of a table that is replicated in this transaction come behind all statements of its record.
        if has_rows(oid) && has_rows(table) {
            let name = |oid| relation::by_oid(oid).map_or_else(String::new, |table| table.name.clone());
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "cannot add a foreign key from table {} to {}, which this transaction has begun to replicate",
                    name(oid),
                    name(table)
                ),
                "The other nodes do not have its rows yet when they add the key.",
                "Commit first.",
            ));
        }
    }
    Ok(())
}

/// Where the index is missing the statement is left out, and must have no other part.
fn clusters_among_others(oid: pg_sys::Oid) -> UserError {
    let name = relation::by_oid(oid).map_or_else(String::new, |table| table.name.clone());
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot alter table {name}, which is replicated, by CLUSTER ON and other actions in one statement"),
        "A node may lack the index, and leaves the action out then.",
        "Give CLUSTER ON in a statement of its own.",
    )
}

fn differs(what: &str, oid: pg_sys::Oid, detail: &str, hint: &str) -> UserError {
    let name = relation::by_oid(oid).map_or_else(String::new, |table| table.name.clone());
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot {what} of table {name}, which is replicated and has rows"),
        detail,
        hint,
    )
}

/// OWNED BY gives a sequence to another column, for which the group knows of no ranges: two nodes could draw the same values.
///
/// # Safety
/// A valid statement.
unsafe fn refuse_new_owner(statement: &pg_sys::AlterSeqStmt) -> Result<(), UserError> {
    // SAFETY: by contract: the options are DefElems.
    let named = unsafe {
        let gives = list::pointers::<pg_sys::DefElem>(statement.options)
            .into_iter()
            .any(|option| c_text((*option).defname) == "owned_by");
        gives.then(|| guard::named(statement.sequence)).flatten()
    };
    let feeds = |sequence: pg_sys::Oid| {
        let mut tables = catalog::all()
            .into_iter()
            .filter_map(|(_, table)| relation::by_oid(table));
        tables.any(|table| table.sequences.iter().any(|fed| fed.sequence == sequence))
    };
    match named {
        Some(sequence) if feeds(sequence) => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot change the owner column of a sequence that feeds a replicated table",
            "The group grants its ranges to the column.",
            "Make a new sequence for the other column.",
        )),
        _ => Ok(()),
    }
}

fn has_rows(oid: pg_sys::Oid) -> bool {
    Relation::open_locked(oid, pg_sys::AccessShareLock).is_some_and(|relation| catalog::has_rows(&relation))
}

/// What a new column's old rows were given; expressions are never null.
enum Values {
    Nothing,
    /// The column's default, or its domain's.
    Default(*mut pg_sys::Node),
    /// What a stored generated column is computed from.
    Stored(*mut pg_sys::Node),
}

fn values_of(oid: pg_sys::Oid, column: &str) -> Values {
    let Some(relation) = Relation::open(oid) else {
        return Values::Nothing;
    };
    let place = (0..relation.attribute_count()).find(|at| {
        let attribute = relation.attribute(*at);
        !attribute.attisdropped && crate::pg::relcache::name_text(&attribute.attname) == column
    });
    let Some(place) = place else { return Values::Nothing };
    if compat::is_virtual(relation.attribute(place)) {
        return Values::Nothing;
    }
    // SAFETY: an open relation and one of its columns; an expression, or null.
    let expression = unsafe { pg_sys::build_column_default(relation.raw(), place as i32 + 1) };
    match relation.attribute(place).attgenerated {
        _ if expression.is_null() => Values::Nothing,
        0 => Values::Default(expression),
        _ => Values::Stored(expression),
    }
}
