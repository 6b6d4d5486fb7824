//! Asking the other members about a table before it is replicated.
//!
//! An early check for the user's sake: the record is checked again where it is applied. A member that cannot be reached is
//! only warned about.

use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::sync::atomic::Ordering;
use synod_change::TableDefinition;

use super::client::Client;
use super::libpq::PqError;
use super::shmem::NodeShared;
use crate::errors::UserError;
use crate::identity::MemberInfo;
use crate::text::from_hex;

const QUESTION: &str = "SELECT pg_catalog.encode(definition, 'hex'), is_empty::pg_catalog.text, \
                        is_replicated::pg_catalog.text FROM synod.table_definition($1, $2)";

/// Every other member that can be reached has the tables (a partitioned one comes first), defined alike, empty and not
/// replicated.
pub fn check(node: &NodeShared, mine: &[TableDefinition]) -> Result<(), UserError> {
    let Some(first) = mine.first() else { return Ok(()) };
    let me = node.node_id.load(Ordering::Relaxed);
    let mut objections = Vec::new();
    for member in crate::membership::read(node).members {
        if member.id.0 == me {
            continue;
        }
        let Some(info) = MemberInfo::decode(&member.info) else {
            continue;
        };
        match ask(&info, mine) {
            Ok(found) => objections.extend(found.into_iter().map(|what| format!("On node {}: {what}", info.name))),
            Err(error) => warn(&info.name, first, &error),
        }
    }
    if objections.is_empty() {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "table \"{}\".\"{}\" is not ready to be replicated on every node",
            first.schema, first.name
        ),
        format!("{}.", objections.join(". ")),
        "Create the table on every node with the same definition, and without rows on all nodes but this one.",
    ))
}

/// What speaks against the tables there.
fn ask(info: &MemberInfo, mine: &[TableDefinition]) -> Result<Vec<String>, PqError> {
    let mut client = Client::connect(&info.dsn, "synod replicate_table")?;
    let mut objections = Vec::new();
    for definition in mine {
        let found = ask_about(&mut client, definition)?;
        // A partition's name is told, too.
        let name = |what| match mine.len() {
            1 => what,
            _ => format!("\"{}\".\"{}\": {what}", definition.schema, definition.name),
        };
        objections.extend(found.into_iter().map(name));
    }
    Ok(objections)
}

fn ask_about(client: &mut Client, mine: &TableDefinition) -> Result<Vec<String>, PqError> {
    let rows = client.query(QUESTION, &[Some(&mine.schema), Some(&mine.name)])?;
    let Some([definition, is_empty, is_replicated]) = rows.first().and_then(|row| row.first_chunk::<3>()) else {
        return Ok(vec!["the table does not exist".to_owned()]);
    };
    let Some(definition) = definition else {
        return Ok(vec!["the table does not exist".to_owned()]);
    };
    let theirs = match from_hex(definition).map(|bytes| TableDefinition::decode(&bytes)) {
        Some(Ok(theirs)) => theirs,
        _ => {
            return Ok(vec![
                "its definition cannot be read: another version of synod runs there".to_owned(),
            ]);
        }
    };
    let mut objections = mine.differences_to(&theirs, "there");
    if is_empty.as_deref() != Some("true") {
        objections.push("the table is not empty".to_owned());
    }
    if is_replicated.as_deref() == Some("true") {
        objections.push("the table is replicated already, and this node has yet to follow".to_owned());
    }
    Ok(objections)
}

fn warn(name: &str, mine: &TableDefinition, error: &PqError) {
    UserError::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!(
            "could not compare table \"{}\".\"{}\" with node {name}",
            mine.schema, mine.name
        ),
        format!("{}.", error.message.trim_end_matches('.')),
        "If the table is missing, different or not empty there, that node stops applying until this is mended.",
    )
    .report(PgLogLevel::WARNING);
}
