//! Asking the other members about a table before it is replicated, and waiting for them afterwards.
//!
//! The group's DDL lock names the table ([`super::ddl::take_lock_for`]): a member that has applied the lock lets nobody write the
//! table until it has applied what the lock was for. Invariant: the transaction that replicates a table commits only when every
//! member has confirmed (it has applied the lock, has the table alike and empty, or has what it takes to make it), unless
//! `synod.replicate_unconfirmed` is on. So no row can be written past the group, and apply has no reason to stop. The record is checked
//! again where it is applied.

use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use synod_change::TableDefinition;

use super::client::{self, Client};
use super::libpq::PqError;
use super::shmem::NodeShared;
use crate::errors::UserError;
use crate::identity::MemberInfo;
use crate::settings;
use crate::text::from_hex;

pub mod confirmed;
mod needs;

pub use needs::Needs;

const QUESTION: &str = "SELECT pg_catalog.encode(definition, 'hex'), is_empty::pg_catalog.text, \
                        is_replicated::pg_catalog.text FROM synod.table_definition($1, $2)";
const PROGRESS: &str = "SELECT applied_csn::pg_catalog.text, reason FROM synod.stat_apply";

/// How long a member may take to apply what this node has applied.
const LAG: Duration = Duration::from_secs(5);

/// The code of a node that did not answer.
const UNANSWERED: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;

/// What speaks against a table on another node.
struct Objection {
    code: PgSqlErrorCode,
    what: String,
    /// The node has yet to follow: this will pass.
    behind: bool,
}

impl Objection {
    fn new(what: impl Into<String>) -> Self {
        Self::coded(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, what)
    }

    fn coded(code: PgSqlErrorCode, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            behind: false,
        }
    }

    /// The node could not be asked, or did not answer.
    fn unanswered(error: &PqError) -> Self {
        let why = error.message.lines().next().unwrap_or_default().trim_end_matches('.');
        Self::coded(UNANSWERED, format!("it could not be asked: {why}"))
    }
}

/// What is asked of every other member.
pub struct Question<'a> {
    /// The tables; a partitioned one comes first.
    pub tables: &'a [TableDefinition],
    /// A member that does not have them gets them, and needs this for it.
    pub creates: Option<Needs>,
}

/// Every other member has the tables, defined alike, empty and not replicated, or can make them.
pub fn check(node: &NodeShared, question: &Question<'_>) -> Result<(), UserError> {
    let Some(first) = question.tables.first() else {
        return Ok(());
    };
    let me = node.node_id.load(Ordering::Relaxed);
    let (mut codes, mut objections, mut behind) = (Vec::new(), Vec::new(), false);
    for member in crate::membership::read(node).members {
        if member.id.0 == me {
            continue;
        }
        let Some(info) = MemberInfo::decode(&member.info) else {
            continue;
        };
        let found = ask(node, &info, question).unwrap_or_else(|error| vec![Objection::unanswered(&error)]);
        for objection in found {
            let unanswered = objection.code == UNANSWERED;
            // A node that has yet to get its vote has yet to copy the tables, too.
            if unanswered && (settings::REPLICATE_UNCONFIRMED.get() || !member.voter) {
                warn(&info.name, first, &objection.what);
                continue;
            }
            codes.push(objection.code);
            behind |= objection.behind;
            objections.push(format!("On node {}: {}", info.name, objection.what));
        }
    }
    match codes.first() {
        None => Ok(()),
        Some(code) => Err(not_ready(first, &codes, *code, &objections, behind)),
    }
}

fn not_ready(
    first: &TableDefinition,
    codes: &[PgSqlErrorCode],
    code: PgSqlErrorCode,
    objections: &[String],
    behind: bool,
) -> UserError {
    let alike = codes.iter().all(|other| *other == code);
    let state = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    let hint = if behind {
        "Try again when the node has caught up: synod.stat_apply says there what it is doing, or why it has stopped; or take it out of \
         the group with synod.remove_node."
    } else if !alike || code == state {
        "Create the table on every node with the same definition, and without rows on all nodes but this one."
    } else if code == UNANSWERED {
        "Try again when the node is back; or take it out of the group with synod.remove_node; or set \
         synod.replicate_unconfirmed = on, if nobody writes a table of this name there."
    } else {
        "Create there what is missing, or grant the owner of the table the right."
    };
    UserError::new(
        if alike && code != UNANSWERED { code } else { state },
        format!(
            "table \"{}\".\"{}\" is not ready to be replicated on every node",
            first.schema, first.name
        ),
        format!("{}.", objections.join(". ")),
        hint,
    )
}

/// What speaks against the tables there. Nothing: the node has confirmed, and is waited for after the commit.
fn ask(node: &NodeShared, info: &MemberInfo, question: &Question<'_>) -> Result<Vec<Objection>, PqError> {
    let mut client = Client::connect(&info.dsn, "synod replicate_table")?;
    if let Some(behind) = wait_for(node, &mut client)? {
        return Ok(vec![behind]);
    }
    let mut objections = Vec::new();
    let mut missing = false;
    for definition in question.tables {
        // A partition's name is told, too.
        let name = |what: String| match question.tables.len() {
            1 => Objection::new(what),
            _ => Objection::new(format!("\"{}\".\"{}\": {what}", definition.schema, definition.name)),
        };
        match ask_about(&mut client, definition)? {
            Some(found) => objections.extend(found.into_iter().map(name)),
            None if question.creates.is_none() => objections.push(name("the table does not exist".to_owned())),
            None => missing = true,
        }
    }
    if let (true, Some(needs)) = (missing, &question.creates) {
        objections.extend(needs.lacking(&mut client)?);
    }
    if objections.is_empty() {
        confirmed::remember(&info.name, client);
    }
    Ok(objections)
}

/// What is wrong with a table there; `None`: it does not exist.
fn ask_about(client: &mut Client, mine: &TableDefinition) -> Result<Option<Vec<String>>, PqError> {
    let rows = client.query(QUESTION, &[Some(&mine.schema), Some(&mine.name)])?;
    let Some([Some(definition), is_empty, is_replicated]) = rows.first().and_then(|row| row.first_chunk::<3>()) else {
        return Ok(None);
    };
    let theirs = match from_hex(definition).map(|bytes| TableDefinition::decode(&bytes)) {
        Some(Ok(theirs)) => theirs,
        _ => {
            return Ok(Some(vec![
                "its definition cannot be read: another version of synod runs there".to_owned(),
            ]));
        }
    };
    let mut objections = mine.differences_to(&theirs, "there");
    if is_empty.as_deref() != Some("true") {
        objections.push("the table is not empty".to_owned());
    }
    if is_replicated.as_deref() == Some("true") {
        objections.push("the table is replicated already, and this node has yet to follow".to_owned());
    }
    Ok(Some(objections))
}

/// Until the member has applied what this node has, the lock for the table among it. One that does not in time is no member to
/// rely on.
fn wait_for(node: &NodeShared, client: &mut Client) -> Result<Option<Objection>, PqError> {
    let target = node.applied.load(Ordering::SeqCst);
    let deadline = Instant::now() + LAG;
    loop {
        let rows = client.query(PROGRESS, &[])?;
        let Some([applied, reason]) = rows.first().and_then(|row| row.first_chunk::<2>()) else {
            let what = "it could not be asked: it is no member yet, or not any more";
            return Ok(Some(Objection::coded(UNANSWERED, what)));
        };
        let applied = applied.as_ref().and_then(|applied| applied.parse::<u64>().ok());
        if applied.is_none_or(|applied| applied >= target) {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            let why = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            let what = format!("it has not applied in {} s what this node has{why}", LAG.as_secs());
            return Ok(Some(Objection {
                behind: true,
                ..Objection::new(what)
            }));
        }
        super::latch::reset();
        super::latch::wait(Duration::from_millis(10));
        super::latch::check_for_interrupts();
    }
}

fn warn(name: &str, mine: &TableDefinition, what: &str) {
    UserError::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!(
            "could not compare table \"{}\".\"{}\" with node {name}",
            mine.schema, mine.name
        ),
        format!("{what}."),
        "If the table is missing, different or not empty there, that node stops applying until this is mended.",
    )
    .report(PgLogLevel::WARNING);
}

/// An SQLSTATE that another node gave.
fn code(error: &PqError) -> PgSqlErrorCode {
    error
        .sqlstate
        .as_deref()
        .map_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, client::code)
}
