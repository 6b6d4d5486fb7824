//! The extension's own tables that a group has alike stay as the apply worker expects them, and say on every node what the log says:
//! while a database is a member, none is redefined, and nobody else writes those that are written without SQL (`pg/service.rs`).
//!
//! A statement of a superuser would do it: a row less in a named log, and the next round is another one on this node; a column
//! more, which travels as any definition, and no node can apply the next record. Called by `pg/written.rs` and `pg/guard.rs`.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::guard::{named, stays_local};
use super::replicable::STRONG_OF_OUR_OWN;
use super::{capture, catalog, list, relcache, shmem};
use crate::errors::UserError;

const SCHEMA: &str = "synod";

/// Written without SQL, by apply workers and with the statement that replicates a table.
const WRITTEN_BY_US: [&str; 3] = ["replicated_table", "log_entry", "sequence_range"];

/// Before a statement writes a relation.
pub fn check_write(oid: pg_sys::Oid) -> Result<(), UserError> {
    match named_own(oid) {
        Some(name) if name != STRONG_OF_OUR_OWN && shmem::my_node().is_some() => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot write table {SCHEMA}.{name} while this database is a member of a group"),
            "It says the same on every node, which only the shared log can change.",
            "Use the functions of the extension: a named log is written with synod.append and shortened with synod.trim_log.",
        )),
        _ => Ok(()),
    }
}

/// Before a utility statement: refuse what would give these tables, or their schema, another form.
///
/// # Safety
/// `statement` is a valid utility statement.
pub unsafe fn check_utility(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: reads a global of this process, set while scripts of extensions run.
    if unsafe { pg_sys::creating_extension } || capture::applying() || shmem::my_node().is_none() {
        return Ok(());
    }
    // SAFETY: by contract.
    match unsafe { redefined(statement) } {
        Some(what) => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot change the definition of {what} while this database is a member of a group"),
            "It belongs to the extension, which would not find on any node what it expects.",
            "Use a table of your own.",
        )),
        None => Ok(()),
    }
}

/// What of the extension's a statement would redefine.
unsafe fn redefined(statement: *mut pg_sys::Node) -> Option<String> {
    use pg_sys::NodeTag;
    // SAFETY: the tag says what the pointer may be cast to, and what the parts are.
    let range = unsafe {
        match (*statement).type_ {
            NodeTag::T_AlterTableStmt => {
                let statement = &*statement.cast::<pg_sys::AlterTableStmt>();
                let commands = list::pointers::<pg_sys::AlterTableCmd>(statement.cmds);
                if commands.into_iter().all(|command| stays_local(&*command)) {
                    return None;
                }
                statement.relation
            }
            NodeTag::T_RenameStmt => {
                let statement = &*statement.cast::<pg_sys::RenameStmt>();
                if statement.renameType == pg_sys::ObjectType::OBJECT_SCHEMA {
                    return (relcache::c_text(statement.subname) == SCHEMA).then(|| format!("schema {SCHEMA}"));
                }
                statement.relation
            }
            NodeTag::T_AlterObjectSchemaStmt => (*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation,
            NodeTag::T_AlterExtensionContentsStmt => {
                let extension = (*statement.cast::<pg_sys::AlterExtensionContentsStmt>()).extname;
                return (relcache::c_text(extension) == SCHEMA).then(|| format!("extension {SCHEMA}"));
            }
            // A unique index refuses rows, and one over expressions cannot be kept without the executor.
            NodeTag::T_IndexStmt => (*statement.cast::<pg_sys::IndexStmt>()).relation,
            NodeTag::T_RuleStmt => (*statement.cast::<pg_sys::RuleStmt>()).relation,
            _ => return None,
        }
    };
    // SAFETY: null, or a valid RangeVar.
    let name = unsafe { named(range) }.and_then(named_own)?;
    Some(format!("table {SCHEMA}.{name}"))
}

/// The name of a table that is one of these.
fn named_own(oid: pg_sys::Oid) -> Option<&'static str> {
    // SAFETY: syscache look-ups inside a transaction; InvalidOid for what is not there, which equals no schema's.
    let is_ours = unsafe {
        let schema = pg_sys::get_rel_namespace(oid);
        schema != pg_sys::InvalidOid && schema == pg_sys::get_namespace_oid(c"synod".as_ptr(), true)
    };
    let mut names = WRITTEN_BY_US.into_iter().chain([STRONG_OF_OUR_OWN]);
    is_ours.then(|| names.find(|name| catalog::named(SCHEMA, name) == Some(oid)))?
}
