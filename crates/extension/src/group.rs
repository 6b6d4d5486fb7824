//! Groups: SQL functions to make one, to join it, to leave it.
//!
//! A node's directory is the authority on membership (`docs/architecture.md`); these functions build it beside its final
//! place and rename it there as the last step, so that a crash at any point leaves a member or none. What must be committed
//! before that, in this database, runs in a session of its own through the node's own dsn, which so is proved to work; what
//! the group must know is asked of a member through SQL functions whose names begin with an underscore (`admit`).
//! Whatever fails or is cancelled is undone by `steps`.

mod admit;
mod alter;
mod create;
mod facts;
mod forget;
mod join;
mod leave;
pub mod rejoin;
mod schema;
mod site;
mod steps;
mod tables;
pub mod wait;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::errors::UserError;
use crate::identity::Identity;
use crate::pg::client::{self, Client};
use crate::pg::{progress, server, shmem};
use facts::Facts;

/// PostgreSQL's limit for names (NAMEDATALEN - 1), kept for names of groups and nodes.
const MAX_NAME_BYTES: usize = 63;

/// `synod.create_group`
#[pg_extern(sql = false)]
fn create_group(name: &str, node: &str, dsn: &str) {
    create::create(name, node, dsn).unwrap_or_else(|error| error.raise());
}

/// `synod.join_group`
#[pg_extern(sql = false)]
fn join_group(via: &str, node: &str, dsn: &str) {
    join::join(via, node, dsn).unwrap_or_else(|error| error.raise());
}

/// `synod.rejoin_group`
#[pg_extern(sql = false)]
fn rejoin_group(via: Option<&str>) {
    rejoin::rejoin(via).unwrap_or_else(|error| error.raise());
}

/// `synod.leave_group`
#[pg_extern(sql = false)]
fn leave_group(force: bool) {
    leave::leave(force).unwrap_or_else(|error| error.raise());
}

/// `synod.remove_node`
#[pg_extern(sql = false)]
fn remove_node(node: &str) {
    leave::remove(node).unwrap_or_else(|error| error.raise());
}

/// `synod.alter_node`
#[pg_extern(sql = false)]
fn alter_node(node: &str, dsn: &str) {
    alter::alter(node, dsn).unwrap_or_else(|error| error.raise());
}

fn no_such_node(name: &str, group: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("node \"{name}\" does not exist"),
        format!("Group \"{group}\" has no node of this name."),
        "See synod.nodes for the nodes of the group.",
    )
}

/// A name that can be shown and used anywhere.
fn check_name(what: &str, name: &str) -> Result<(), UserError> {
    if name.is_empty() {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the {what} name is empty"),
            format!("A {what} is known by its name in views and messages."),
            format!("Give the {what} a name of 1 to {MAX_NAME_BYTES} bytes."),
        ));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_NAME_TOO_LONG,
            format!("the {what} name is too long"),
            format!("It has {} bytes; {MAX_NAME_BYTES} are allowed.", name.len()),
            "Choose a shorter name.",
        ));
    }
    Ok(())
}

/// What holds for every function here: it runs on its own, on a primary, one at a time per database.
fn check_session(function: &str) -> Result<(), UserError> {
    if shmem::shared().is_none() {
        return Err(crate::errors::not_preloaded());
    }
    if server::in_transaction_block() {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("{function} cannot run inside a transaction block"),
            "It changes other nodes and files, which a ROLLBACK could not undo.",
            "Call it outside of BEGIN, as a statement of its own.",
        ));
    }
    if server::recovering() {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            format!("{function} cannot run on a standby"),
            "This server is in recovery.",
            "Run it on the primary.",
        ));
    }
    lock_database(function)
}

/// Held to the end of the transaction: two of these functions never work on one database at once.
fn lock_database(function: &str) -> Result<(), UserError> {
    // "syno", and 1 for membership.
    let free = Spi::get_one::<bool>("SELECT pg_catalog.pg_try_advisory_xact_lock(1937337967, 1)");
    if matches!(free, Ok(Some(true))) {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("{function} cannot run now"),
        "Another session is changing the membership of this database.",
        "Wait until it is done.",
    ))
}

/// Refuse in a database that is a member already.
fn check_not_member() -> Result<(), UserError> {
    let Some(identity) = Identity::of_this_database()? else {
        return Ok(());
    };
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "this database is a member of a group already",
        format!("It is node \"{}\" of group \"{}\".", identity.name, identity.group_name),
        "A database belongs to at most one group. Call synod.leave_group() first.",
    ))
}

/// The nodes' own role may call what prepares a database to be a node, but only in the session that an administrator's attempt
/// has opened for it: on its own it must neither make this server connect to places nor touch tables of others.
pub fn check_under_way() -> Result<(), UserError> {
    if progress::works_for_it() {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "nobody is making this database a member of a group by way of this session",
        "This is done on behalf of synod.create_group, synod.join_group and synod.rejoin_group only.",
        "Call one of them.",
    ))
}

/// A session through `dsn`, which must lead to this database; what it is like.
fn own_session(dsn: &str) -> Result<(Client, Facts), UserError> {
    let whom = "this database through the dsn given for it";
    let (client, facts) = session(dsn, whom)?;
    if facts.system_identifier != server::system_identifier() || facts.database != server::database() {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the dsn of this node leads to another database",
            format!(
                "It leads to database {} of server {}; this is database {} of server {}.",
                facts.database,
                facts.system_identifier,
                server::database(),
                server::system_identifier()
            ),
            "Give the dsn by which the other nodes reach this very database.",
        ));
    }
    facts.check_usable(whom)?;
    Ok((client, facts))
}

/// A session on any database with the extension; what it is like.
fn session(dsn: &str, whom: &str) -> Result<(Client, Facts), UserError> {
    if let Err(error) = crate::pg::libpq::parse_conninfo(dsn) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid dsn",
            format!("{}.", error.message),
            "Write it as \"host=... port=... dbname=... user=...\" or as a postgresql:// URI.",
        ));
    }
    let mut client = Client::connect(dsn, "synod membership").map_err(|error| client::explain(error, whom))?;
    let facts = Facts::ask(&mut client, whom)?;
    Ok((client, facts))
}
