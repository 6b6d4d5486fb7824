//! Before a statement about replicated tables runs here: would the other members have what it names? Roles and tablespaces belong to each
//! server, and where one is missing apply would stop at the statement. So each member is asked that answers at once; one that does
//! not, or that joins later, says so itself when it comes to the statement (`synod.stat_apply`). What they all have is asked for once
//! in a session; and one that did not answer is left alone for a while, or each statement of a migration would wait for it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};

use super::{Need, session};
use crate::errors::UserError;
use crate::identity::MemberInfo;
use crate::pg::client::Client;
use crate::pg::libpq::PqError;
use crate::pg::relcache::c_text;
use crate::pg::shmem::NodeShared;
use crate::pg::{list, relation};

/// How long a member may take to let us in, and then to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one that did not is not asked again.
const SILENCE: Duration = Duration::from_secs(10);

const QUESTION: &str = "SELECT (CASE $1 WHEN 'role' THEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $2) \
                        ELSE EXISTS (SELECT FROM pg_catalog.pg_tablespace WHERE spcname = $2) END)::pg_catalog.text";

/// `role` or `tablespace`, and its name.
type Thing = (&'static str, String);

thread_local! {
    /// What all members had.
    static EVERYWHERE: RefCell<BTreeSet<Thing>> = const { RefCell::new(BTreeSet::new()) };
    /// Members that did not answer, and until when they are not asked again.
    static SILENT: RefCell<BTreeMap<u32, Instant>> = const { RefCell::new(BTreeMap::new()) };
}

/// Refuse a statement that names what another member lacks.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn check(node: &NodeShared, statement: *mut pg_sys::Node, need: &Need) -> Result<(), UserError> {
    // SAFETY: by contract.
    let wanted = unsafe {
        if !need.of_group && !is_heir_of_group(statement) {
            return Ok(());
        }
        named(statement)
    };
    let wanted: Vec<Thing> =
        EVERYWHERE.with_borrow(|known| wanted.into_iter().filter(|it| !known.contains(it)).collect());
    if wanted.is_empty() {
        return Ok(());
    }
    let me = node.node_id.load(Ordering::Relaxed);
    let (mut all, mut missing) = (true, Vec::new());
    for member in crate::membership::read(node).members {
        if member.id.0 == me {
            continue;
        }
        let info = MemberInfo::decode(&member.info).filter(|_| !is_silent(member.id.0));
        let Some(info) = info else {
            all = false;
            continue;
        };
        match lacking(&info, &wanted) {
            Ok(found) => missing.extend(found.into_iter().map(|thing| (info.name.clone(), thing))),
            Err(_) => {
                all = false;
                SILENT.with_borrow_mut(|silent| silent.insert(member.id.0, Instant::now() + SILENCE));
            }
        }
    }
    if let Some((_, thing)) = missing.first() {
        return Err(refused(thing, &missing));
    }
    if all {
        EVERYWHERE.with_borrow_mut(|known| known.extend(wanted));
    }
    Ok(())
}

fn is_silent(member: u32) -> bool {
    SILENT.with_borrow(|silent| silent.get(&member).is_some_and(|until| Instant::now() < *until))
}

fn lacking(info: &MemberInfo, wanted: &[Thing]) -> Result<Vec<Thing>, PqError> {
    let mut client = Client::connect_soon(&info.dsn, "synod ddl", PATIENCE)?;
    let mut found = Vec::new();
    for (kind, name) in wanted {
        let rows = client.query(QUESTION, &[Some(kind), Some(name)])?;
        if rows.first().and_then(|row| row.first()?.as_deref()) != Some("true") {
            found.push((*kind, name.clone()));
        }
    }
    Ok(found)
}

/// The new table is not the group's yet, but becomes it with its parent.
unsafe fn is_heir_of_group(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        if (*statement).type_ != pg_sys::NodeTag::T_CreateStmt {
            return false;
        }
        let create = &*statement.cast::<pg_sys::CreateStmt>();
        let parents = list::pointers::<pg_sys::RangeVar>(create.inhRelations);
        parents
            .into_iter()
            .any(|parent| crate::pg::guard::named(parent).is_some_and(relation::is_strong))
    }
}

/// Roles and tablespaces that a statement names, and those that it takes from its session.
unsafe fn named(statement: *mut pg_sys::Node) -> BTreeSet<Thing> {
    use pg_sys::NodeTag as Tag;
    let mut spaces = Vec::new();
    // SAFETY: the tag says what the pointer may be cast to; names are C strings or null.
    let (roles, session_space) = unsafe {
        match (*statement).type_ {
            Tag::T_IndexStmt => spaces.push((*statement.cast::<pg_sys::IndexStmt>()).tableSpace),
            Tag::T_CreateStmt => spaces.push((*statement.cast::<pg_sys::CreateStmt>()).tablespacename),
            Tag::T_AlterTableStmt => {
                let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
                for command in list::pointers::<pg_sys::AlterTableCmd>(alter.cmds) {
                    let (kind, part) = ((*command).subtype, (*command).def);
                    if kind == pg_sys::AlterTableType::AT_SetTableSpace {
                        spaces.push((*command).name);
                    } else if !part.is_null() && (*part).type_ == Tag::T_Constraint {
                        spaces.push((*part.cast::<pg_sys::Constraint>()).indexspace);
                    }
                }
            }
            _ => {}
        }
        let mut roles = session::named_roles(statement);
        roles.push(c_text(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false)));
        let session_space = pg_sys::GetConfigOption(c"default_tablespace".as_ptr(), true, false);
        (roles, session_space)
    };
    spaces.push(session_space.cast_mut());
    // SAFETY: as above.
    let spaces = spaces
        .into_iter()
        .filter(|name| !name.is_null())
        .map(|name| unsafe { c_text(name) });
    let spaces = spaces.filter(|name| !name.is_empty()).map(|name| ("tablespace", name));
    roles.into_iter().map(|name| ("role", name)).chain(spaces).collect()
}

fn refused(thing: &Thing, missing: &[(String, Thing)]) -> UserError {
    let (kind, name) = thing;
    let where_missing: Vec<&str> = missing
        .iter()
        .filter(|(_, other)| other == thing)
        .map(|(node, _)| node.as_str())
        .collect();
    UserError::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("{kind} \"{name}\" does not exist on every node of the group"),
        format!(
            "The statement runs on every node, under the role of this session; missing on: {}.",
            where_missing.join(", ")
        ),
        format!("Create the {kind} there first: each server has its own."),
    )
}
