//! Asking the other members about a table before it is replicated.
//!
//! An early check for the user's sake: the record is checked again where it is applied. A member that cannot be reached is
//! only warned about.

use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use synod_change::TableDefinition;

use super::client::Client;
use super::libpq::PqError;
use super::shmem::NodeShared;
use crate::errors::UserError;
use crate::identity::MemberInfo;
use crate::text::from_hex;

const QUESTION: &str = "SELECT pg_catalog.encode(definition, 'hex'), is_empty::pg_catalog.text, \
                        is_replicated::pg_catalog.text FROM synod.table_definition($1, $2)";

/// How long a member may take to apply what this node has applied.
const LAG: Duration = Duration::from_secs(5);

/// Every other member that can be reached has the tables (a partitioned one comes first), defined alike, empty and not
/// replicated. `creates`: one that does not have them gets them.
pub fn check(node: &NodeShared, mine: &[TableDefinition], creates: bool) -> Result<(), UserError> {
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
        match ask(node, &info, mine, creates) {
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
fn ask(node: &NodeShared, info: &MemberInfo, mine: &[TableDefinition], creates: bool) -> Result<Vec<String>, PqError> {
    let mut client = Client::connect(&info.dsn, "synod replicate_table")?;
    wait_for(node, &mut client)?;
    let mut objections = Vec::new();
    for definition in mine {
        let found = ask_about(&mut client, definition, creates)?;
        // A partition's name is told, too.
        let name = |what| match mine.len() {
            1 => what,
            _ => format!("\"{}\".\"{}\": {what}", definition.schema, definition.name),
        };
        objections.extend(found.into_iter().map(name));
    }
    Ok(objections)
}

fn ask_about(client: &mut Client, mine: &TableDefinition, creates: bool) -> Result<Vec<String>, PqError> {
    let missing = || {
        if creates {
            Vec::new()
        } else {
            vec!["the table does not exist".to_owned()]
        }
    };
    let rows = client.query(QUESTION, &[Some(&mine.schema), Some(&mine.name)])?;
    let Some([definition, is_empty, is_replicated]) = rows.first().and_then(|row| row.first_chunk::<3>()) else {
        return Ok(missing());
    };
    let Some(definition) = definition else {
        return Ok(missing());
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

/// Until the member has applied what this node has: it may have to hear of the table yet. One that cannot is not waited for long.
fn wait_for(node: &NodeShared, client: &mut Client) -> Result<(), PqError> {
    let target = node.applied.load(Ordering::SeqCst);
    let deadline = Instant::now() + LAG;
    loop {
        let rows = client.query("SELECT synod.applied_csn()::pg_catalog.text", &[])?;
        let applied = rows.first().and_then(|row| row.first()?.as_ref()?.parse::<u64>().ok());
        if applied.is_none_or(|applied| applied >= target) || Instant::now() >= deadline {
            return Ok(());
        }
        super::latch::reset();
        super::latch::wait(Duration::from_millis(10));
        super::latch::check_for_interrupts();
    }
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
