//! Beginning and ending the replication of a table: what the user's call does on its node ([`begin`], [`end`]), and what that
//! and the record on the other nodes have in common ([`enter`], [`leave`]).
//!
//! The table, its rows and its name travel in the caller's transaction, through the same commit as any write. Foreign keys are
//! looked at when that transaction is sealed ([`check_foreign_keys`]), so that tables that refer to each other can be
//! replicated together in one transaction, in any order.

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use synod_change::TableId;

use super::capture::{self, trigger};
use super::catalog;
use super::ddl;
use super::definition;
use super::hierarchy;
use super::peers::{self, Needs, Question};
use super::relation;
use super::relcache::{Relation, qualified};
use super::replicable;
use super::service::draws;
use crate::errors::UserError;

/// `synod.replicate_table`: from the end of this transaction on, the table is the group's, with the hierarchy that it is the top of.
pub fn begin(oid: pg_sys::Oid) -> Result<(), UserError> {
    let node = crate::node::required()?;
    check_privilege(oid)?;
    // A session that keeps its definitions to this node does not make the table elsewhere.
    let mut creates = !ddl::is_local();
    // Before the table's own lock, which apply may need for what comes before. From here on the table is written nowhere.
    ddl::take_lock_for(node, oid)?;
    let relation = open_exclusively(oid)?;
    replicable::check(&relation)?;
    tell_limits(&relation);
    // No statement makes a hierarchy by inheritance as it came about: with its columns in the same order, and inherited ones as such.
    creates &= !hierarchy::inherits_or_is_inherited(&relation);
    // What this very transaction has made is on its way to the others.
    let needs = match creates && !ddl::given() {
        true => Needs::of(&relation)?,
        false => Needs::default(),
    };
    drop(relation);
    let mut members: Vec<(pg_sys::Oid, TableId)> = Vec::new();
    for oid in hierarchy::whole(oid, pg_sys::ShareRowExclusiveLock) {
        check_member(oid)?;
        members.push((oid, new_number()?));
    }
    let number_of = |oid: pg_sys::Oid| {
        let new = members.iter().find(|(member, _)| *member == oid);
        new.map(|(_, id)| *id).or_else(|| catalog::number_of(oid))
    };
    let mut definitions = Vec::with_capacity(members.len());
    for (oid, id) in &members {
        definitions.push(definition::of(&open_exclusively(*oid)?, *id, &number_of));
    }
    let question = Question {
        tables: &definitions,
        creates: creates.then_some(needs),
    };
    peers::check(node, &question)?;
    if creates {
        ddl::add_table(&open_exclusively(oid)?)?;
    }
    for (oid, id) in members {
        enter(id, oid);
        capture::note_added(oid, id);
    }
    Ok(())
}

fn check_member(oid: pg_sys::Oid) -> Result<(), UserError> {
    let relation = open_exclusively(oid)?;
    replicable::check_member(&relation)?;
    let name = qualified(&relation.schema(), &relation.name());
    if relation::is_strong(oid) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("table {name} is already replicated"),
            "A table is replicated to all nodes of the group at once.",
            "See synod.tables.",
        ));
    }
    check_committed(&relation, &name)
}

/// Before a table becomes a partition or an heir of one that is replicated, on every node: one that is not replicated itself must be there
/// everywhere, alike, and without rows but here.
pub fn check_adoptable(oid: pg_sys::Oid) -> Result<(), UserError> {
    let node = crate::node::required()?;
    let mut definitions = Vec::new();
    for member in hierarchy::members(oid, pg_sys::ShareRowExclusiveLock) {
        let relation = open_exclusively(member)?;
        replicable::check_member(&relation)?;
        if !relation::is_strong(member) && !is_new(&relation) {
            definitions.push(definition::of(&relation, TableId::default(), &catalog::number_of));
        }
    }
    let question = Question {
        tables: &definitions,
        creates: None,
    };
    peers::check(node, &question)
}

/// After a statement that runs on every node: what has become a partition or an heir of a replicated table is replicated, too.
pub fn adopt(root: pg_sys::Oid) -> Result<(), UserError> {
    if !relation::is_strong(root) {
        return Ok(());
    }
    for member in hierarchy::members(root, pg_sys::ShareRowExclusiveLock) {
        if relation::is_strong(member) {
            continue;
        }
        let relation = open_exclusively(member)?;
        replicable::check_member(&relation)?;
        check_parents(&relation)?;
        drop(relation);
        let id = new_number()?;
        enter(id, member);
        capture::note_added(member, id);
    }
    Ok(())
}

/// A hierarchy is strong as a whole.
fn check_parents(heir: &Relation) -> Result<(), UserError> {
    let other = catalog::parents(heir.oid())
        .into_iter()
        .find(|parent| !relation::is_strong(*parent));
    let Some(other) = other.and_then(Relation::open) else {
        return Ok(());
    };
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "table {} cannot inherit from tables that are replicated and from {}, which is not",
            qualified(&heir.schema(), &heir.name()),
            qualified(&other.schema(), &other.name())
        ),
        "A hierarchy is replicated as a whole.",
        "Replicate that table first.",
    ))
}

/// `synod.unreplicate_table`: from the end of this transaction on, every node has a table of its own.
pub fn end(oid: pg_sys::Oid) -> Result<(), UserError> {
    crate::node::required()?;
    check_privilege(oid)?;
    let relation = open_exclusively(oid)?;
    let name = qualified(&relation.schema(), &relation.name());
    if relation.schema() == "synod" {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot end the replication of table {name}"),
            "It belongs to the extension.",
            "It ends with the membership: synod.leave_group.",
        ));
    }
    if hierarchy::ancestors(&relation).into_iter().any(relation::is_strong) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {name} is a partition of a table that is replicated"),
            "A partitioned table is replicated as a whole.",
            "Call synod.unreplicate_table for the partitioned table.",
        ));
    }
    let parent = catalog::parents(oid)
        .into_iter()
        .find(|parent| relation::is_strong(*parent));
    if let Some(parent) = parent.and_then(Relation::open) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {name} inherits from one that is replicated"),
            "A hierarchy is replicated as a whole.",
            format!(
                "Call synod.unreplicate_table for the table at its top; it inherits from {}.",
                qualified(&parent.schema(), &parent.name())
            ),
        ));
    }
    drop(relation);
    if !relation::is_strong(oid) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {name} is not replicated"),
            "There is nothing to end.",
            "See synod.tables.",
        ));
    }
    for member in hierarchy::whole(oid, pg_sys::ShareRowExclusiveLock) {
        end_member(member)?;
    }
    Ok(())
}

fn end_member(oid: pg_sys::Oid) -> Result<(), UserError> {
    let Some(table) = relation::by_oid(oid) else {
        return Ok(());
    };
    if capture::pending_on(oid) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!(
                "cannot end the replication of table {} in a transaction that has written it",
                table.name
            ),
            "The other nodes could not take its rows any more.",
            "Use two transactions.",
        ));
    }
    let relation = open_exclusively(oid)?;
    let (schema, name) = (relation.schema(), relation.name());
    drop(relation);
    leave(oid);
    capture::note_removed(oid, table.id, schema, name);
    Ok(())
}

/// From here on the table is replicated under this number. The caller holds SHARE ROW EXCLUSIVE on it.
pub fn enter(id: TableId, oid: pg_sys::Oid) {
    trigger::create(oid);
    catalog::insert(id, oid);
    forget(oid);
}

/// From here on the table is an ordinary one. The caller holds SHARE ROW EXCLUSIVE on it.
pub fn leave(oid: pg_sys::Oid) {
    draws::end(oid);
    trigger::remove(oid);
    catalog::remove(oid);
    forget(oid);
}

/// What a foreign key to the table means has changed, here at once and in other backends at commit.
fn forget(oid: pg_sys::Oid) {
    for referring in catalog::referring_tables(oid) {
        // SAFETY: inside a transaction; the relation exists.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(referring) }
    }
    relation::forget_all();
}

/// Foreign keys must lie between strong tables, or between others, on both sides of `oid`. At the seal of a transaction that
/// began or ended its replication. A table without rows that is not strong may refer to one that is: it cannot be written
/// ([`relation::assert_refers_to_no_strong_table`]) until it is replicated.
pub fn check_foreign_keys(oid: pg_sys::Oid) -> Result<(), UserError> {
    let Some(relation) = Relation::open(oid) else {
        return Ok(());
    };
    let strong = relation::is_strong(oid);
    for key in definition::local_foreign_keys(&relation) {
        let Some(other) = Relation::open_locked(key.referenced, pg_sys::AccessShareLock) else {
            continue;
        };
        match (strong, relation::is_strong(key.referenced)) {
            (true, false) => return Err(crosses(&relation, &other)),
            (false, true) if catalog::has_rows(&relation) => return Err(crosses(&other, &relation)),
            _ => {}
        }
    }
    for referring in catalog::referring_tables(oid) {
        let Some(other) = Relation::open_locked(referring, pg_sys::AccessShareLock) else {
            continue;
        };
        match (strong, relation::is_strong(referring)) {
            (true, false) if catalog::has_rows(&other) => return Err(crosses(&relation, &other)),
            (false, true) => return Err(crosses(&other, &relation)),
            _ => {}
        }
    }
    Ok(())
}

fn crosses(strong: &Relation, other: &Relation) -> UserError {
    let name = |relation: &Relation| qualified(&relation.schema(), &relation.name());
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "a foreign key lies between table {}, which is replicated, and {}, which is not",
            name(strong),
            name(other)
        ),
        "Rows that come or go on another node could not be checked against it.",
        "Replicate both tables, in one transaction if need be, or drop the foreign key.",
    )
}

fn open_exclusively(oid: pg_sys::Oid) -> Result<Relation, UserError> {
    Relation::open_locked(oid, pg_sys::ShareRowExclusiveLock).ok_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", u32::from(oid)),
            "It was dropped, or the number is not that of a relation.",
            "Give the name of a table.",
        )
    })
}

/// The owner of a table, or an administrator of the group.
fn check_privilege(oid: pg_sys::Oid) -> Result<(), UserError> {
    // SAFETY: inside a transaction; get_role_oid gives InvalidOid for a role that does not exist.
    let allowed = unsafe {
        let user = pg_sys::GetUserId();
        let admin = pg_sys::get_role_oid(c"synod_admin".as_ptr(), true);
        super::compat::owns_table(oid, user) || (admin != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, admin))
    };
    if allowed {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied to change what is replicated",
        "Only the owner of a table and members of the role synod_admin may do so.",
        "Ask an administrator of the group.",
    ))
}

/// What this transaction created could be lost in a crash while the log has it already.
fn check_committed(relation: &Relation, name: &str) -> Result<(), UserError> {
    if !is_new(relation) || ddl::pending() {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {name} was created in this transaction"),
        "A table must exist on every node before it is replicated.",
        "Commit first.",
    ))
}

/// Whether this transaction created it.
fn is_new(relation: &Relation) -> bool {
    // SAFETY: an open relation.
    unsafe { (*relation.raw()).rd_createSubid != 0 }
}

fn new_number() -> Result<TableId, UserError> {
    loop {
        let number = u64::from_le_bytes(super::random::bytes()?);
        // 0 means "no table" in definitions.
        if number != 0 && catalog::relation_of(TableId(number)).is_none() {
            return Ok(TableId(number));
        }
    }
}

/// What works, but not as well as the user may expect.
fn tell_limits(relation: &Relation) {
    let name = qualified(&relation.schema(), &relation.name());
    let notice = |message: String, detail: &str| {
        UserError::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, detail, "").report(PgLogLevel::NOTICE);
    };
    if definition::identity_index(relation).is_none() {
        notice(
            format!("table {name} has no usable key: its rows are identified by all of their columns"),
            "UPDATE and DELETE read the whole table on the other nodes. A primary key makes them fast.",
        );
    }
    if relation::has_unhashable_key(relation) {
        notice(
            format!("transactions that write table {name} conflict with each other across nodes"),
            "It has an exclusion constraint, or a unique index on a type, collation or operator class whose equality \
             certification does not know, so that the table as a whole is the key.",
        );
    }
}
