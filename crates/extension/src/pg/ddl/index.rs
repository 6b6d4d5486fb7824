//! Statements about indexes, which not every node must have: CREATE INDEX CONCURRENTLY makes one on one node, and one that failed leaves
//! an invalid one behind.
//!
//! The statement travels with the tables of the indexes that it names ([`tables`]). Where it is replayed ([`text_here`]) what is not there
//! is left out, and an index of that name that is another table's is not touched: then apply stops.

use std::ffi::CString;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DdlStatement;

use crate::errors::UserError;
use crate::pg::relcache::{c_text, qualified, schema_name};
use crate::pg::{guard, list};

/// Marks, among the settings of a statement, the table of each index that it names, in their order; empty: it is no index.
const TABLE: &str = "INDEX OF ";

/// The tables of the indexes that the statement names, as settings that travel with it; nothing when it names none.
///
/// # Safety
/// A valid utility statement, before it runs.
pub unsafe fn tables(statement: *mut pg_sys::Node) -> Vec<(String, String)> {
    // SAFETY: by contract.
    let found: Vec<String> = unsafe { named(statement) }
        .into_iter()
        // SAFETY: valid names.
        .map(|range| unsafe { guard::named(range) }.and_then(table_of).unwrap_or_default())
        .collect();
    if found.iter().all(String::is_empty) {
        return Vec::new();
    }
    let marked = found.into_iter().map(|table| (TABLE.to_owned(), table));
    marked.collect()
}

/// The names in a statement that may be those of indexes.
unsafe fn named(statement: *mut pg_sys::Node) -> Vec<*mut pg_sys::RangeVar> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to; indexes are dropped and commented on by lists of names.
    unsafe {
        match (*statement).type_ {
            Tag::T_DropStmt => {
                let drop = &*statement.cast::<pg_sys::DropStmt>();
                if drop.removeType != pg_sys::ObjectType::OBJECT_INDEX {
                    return Vec::new();
                }
                let names = list::pointers::<pg_sys::List>(drop.objects).into_iter();
                names.map(|name| pg_sys::makeRangeVarFromNameList(name)).collect()
            }
            Tag::T_CommentStmt => {
                let comment = &*statement.cast::<pg_sys::CommentStmt>();
                if comment.objtype != pg_sys::ObjectType::OBJECT_INDEX {
                    return Vec::new();
                }
                vec![pg_sys::makeRangeVarFromNameList(comment.object.cast())]
            }
            Tag::T_RenameStmt => vec![(*statement.cast::<pg_sys::RenameStmt>()).relation],
            Tag::T_AlterTableStmt => {
                let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
                let mut names = vec![alter.relation];
                for command in list::pointers::<pg_sys::AlterTableCmd>(alter.cmds) {
                    if (*command).subtype == pg_sys::AlterTableType::AT_AttachPartition {
                        names.push((*(*command).def.cast::<pg_sys::PartitionCmd>()).name);
                    }
                    // An index is in the schema of its table.
                    if (*command).subtype == pg_sys::AlterTableType::AT_ClusterOn
                        && let Some(table) = guard::named(alter.relation)
                    {
                        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table));
                        names.push(pg_sys::makeRangeVar(schema, (*command).name, -1));
                    }
                }
                names
            }
            _ => Vec::new(),
        }
    }
}

/// The table of an index; `None` when it is none.
fn table_of(index: pg_sys::Oid) -> Option<String> {
    // SAFETY: a look-up inside a transaction; InvalidOid is what is no index.
    let table = unsafe { pg_sys::IndexGetRelation(index, true) };
    (table != pg_sys::InvalidOid).then(|| name_of(table))
}

/// Its name, with its schema, quoted where needed.
pub(super) fn name_of(relation: pg_sys::Oid) -> String {
    // SAFETY: look-ups inside a transaction; get_rel_name gives null or a palloc'd string.
    unsafe {
        let schema = schema_name(pg_sys::get_rel_namespace(relation));
        qualified(&schema, &c_text(pg_sys::get_rel_name(relation)))
    }
}

/// What is to be run of the statement on this node, under the settings that came with it. `None`: nothing, what it is about is not
/// here. Raises where an index is another table's.
pub fn text_here(statement: &DdlStatement) -> Option<String> {
    let marked = statement.settings.iter().filter(|(name, _)| name == TABLE);
    let tables: Vec<&str> = marked.map(|(_, table)| table.as_str()).collect();
    if tables.is_empty() {
        return Some(statement.text.clone());
    }
    let text = CString::new(statement.text.as_str()).unwrap_or_default();
    // SAFETY: inside a transaction; the tree is of this memory context, and nobody else's.
    unsafe {
        let parsed = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if list::length(parsed) != 1 {
            return Some(statement.text.clone());
        }
        let node = (*list::pointer::<pg_sys::RawStmt>(parsed, 0)).stmt;
        let names = named(node);
        let (mut present, mut missing) = (Vec::new(), Vec::new());
        for (range, table) in names.into_iter().zip(tables) {
            match guard::named(range) {
                Some(index) => {
                    check_table(index, table);
                    present.push(name_of(index));
                }
                None if table.is_empty() => {}
                None => missing.push(c_text((*range).relname)),
            }
        }
        if missing.is_empty() {
            return Some(statement.text.clone());
        }
        tell(&statement.text, &missing);
        if (*node).type_ != pg_sys::NodeTag::T_DropStmt || present.is_empty() {
            return None;
        }
        let cascade = (*node.cast::<pg_sys::DropStmt>()).behavior == pg_sys::DropBehavior::DROP_CASCADE;
        let cascade = if cascade { " CASCADE" } else { "" };
        Some(format!("DROP INDEX {}{cascade}", present.join(", ")))
    }
}

/// An index of the same name on another table is none that the statement meant.
fn check_table(index: pg_sys::Oid, table: &str) {
    let here = table_of(index);
    if let Some(here) = here.filter(|here| !table.is_empty() && here != table) {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("index {} is one of table {here} on this node", name_of(index)),
            format!("On the node where the statement was given it is one of table {table}."),
            "Rename the index on this node, with SET synod.ddl = local.",
        )
        .raise();
    }
}

fn tell(text: &str, missing: &[String]) {
    UserError::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("an index is not on this node: {}", missing.join(", ")),
        format!("It was left out of a statement of another node: {text}"),
        "",
    )
    .report(pgrx::PgLogLevel::LOG);
}
