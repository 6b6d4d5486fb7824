//! What a member does for a database that wants to join: SQL functions called by `join` over a connection.
//!
//! Only `synod_admin` and `synod_replicator` may call them. The password of the latter does not make a member: who is new is
//! admitted in a session of `synod_admin`, whose answer holds the group's secret; a node that comes back in its own place
//! proves that it has the secret ([`check_may_admit`]).

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use synod_change::TableId;
use synod_log::{LogId, Member, Membership, MembershipChange, NodeId};

use crate::engine::Stop;
use crate::errors::UserError;
use crate::handshake;
use crate::identity::{Identity, MemberInfo};
use crate::membership;
use crate::pg::shmem::{NodeShared, NodeState};
use crate::pg::{copy, latch};

/// How long a change of the membership may take: elections that happen to go on included.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the log may take for one attempt. Interrupts wait as long, so that the request slot is given back.
const ATTEMPT: Duration = Duration::from_secs(5);

/// This database as a member, or the error to show.
pub fn member() -> Result<(&'static NodeShared, Identity), UserError> {
    let node = crate::node::required()?;
    let identity = Identity::of_this_database()?.ok_or_else(crate::errors::not_a_member)?;
    Ok((node, identity))
}

/// Have the membership changed until `reached` holds. The last refusal when it cannot be.
pub fn change(
    node: &NodeShared,
    change: &MembershipChange,
    patience: Duration,
    reached: impl Fn(&Membership) -> bool,
) -> Result<Membership, String> {
    let deadline = Instant::now() + patience;
    loop {
        let now = membership::read(node);
        if !now.members.is_empty() && reached(&now) {
            return Ok(now);
        }
        let refusal = match attempt(node, change) {
            // The new membership is published before the answer.
            Ok(()) => continue,
            Err(refusal) => refusal,
        };
        if Instant::now() > deadline || final_refusal(&refusal) {
            let now = membership::read(node);
            return if reached(&now) { Ok(now) } else { Err(refusal) };
        }
        super::wait::moment();
    }
}

/// Refusals that do not pass by themselves.
fn final_refusal(refusal: &str) -> bool {
    [
        "the last voter",
        "too few of the remaining voters",
        "no node ids are left",
        "is not a member",
    ]
    .iter()
    .any(|lasting| refusal.contains(lasting))
        || tells_of_removal(refusal)
}

/// Whether this node's log has stopped because the group has taken the node out.
pub fn tells_of_removal(reason: &str) -> bool {
    reason.contains(&Stop::Removed.to_string())
}

fn attempt(node: &NodeShared, change: &MembershipChange) -> Result<(), String> {
    if !membership::ask(node, change) {
        return Err("another change of the members is under way".into());
    }
    let deadline = Instant::now() + ATTEMPT;
    loop {
        if let Some(answer) = membership::poll_answer(node) {
            return answer;
        }
        // A node that leaves may stop before it has answered.
        if node.state() == NodeState::LogStopped {
            membership::abandon(node);
            return Err(node.log_reason());
        }
        if Instant::now() > deadline {
            membership::abandon(node);
            return Err("the log worker did not answer".into());
        }
        latch::wait(Duration::from_millis(100));
        latch::reset();
    }
}

/// The change could not be made.
pub fn unchanged(reason: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "the members of the group cannot be changed now",
        format!("The shared log says: {reason}."),
        "See synod.nodes and synod.stat_log; try again when a majority of the group is connected.",
    )
}

/// How the group describes a member.
pub fn info(member: &Member) -> MemberInfo {
    MemberInfo::decode(&member.info).unwrap_or_default()
}

/// `synod._admit`: make the database described by `info`, whose log is `log`, a learner of this group. `replace`: in the
/// place of the node that it is there already, which has lost its log.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of an SQL function")]
fn admit(
    log: pgrx::Uuid,
    info: &[u8],
    replace: bool,
    proof: &[u8],
) -> TableIterator<'static, (name!(node_id, i32), name!(secret, Vec<u8>), name!(membership, Vec<u8>))> {
    let row = admitted(LogId(*log.as_bytes()), info, replace, proof).unwrap_or_else(|error| error.raise());
    TableIterator::once(row)
}

thread_local! {
    /// This session was found to be one that may admit a node.
    static HAS_ADMITTED: Cell<bool> = const { Cell::new(false) };
}

/// Refuse a caller who is neither an administrator nor, by `proof`, a node of the group. True: it has the secret.
fn check_may_admit(identity: &Identity, log: LogId, proof: &[u8]) -> Result<bool, UserError> {
    let admission = handshake::Admission {
        secret: &identity.secret,
        group: &identity.group,
        log: &log.0,
    };
    if !proof.is_empty() {
        return if admission.verify(proof) {
            Ok(true)
        } else {
            Err(UserError::new(
                PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
                "the calling database does not have the group's secret",
                "Its proof is wrong.",
                "Let it leave the group, and join as a new node.",
            ))
        };
    }
    let admin = Spi::get_one::<bool>("SELECT pg_catalog.pg_has_role('synod_admin', 'USAGE')");
    if matches!(admin, Ok(Some(true))) {
        return Ok(false);
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "only members of synod_admin admit new nodes",
        "The role of the session with this node is not one.",
        "Give the dsn of a role that is a member of synod_admin as via. The nodes' own role, synod_replicator, is enough for \
         a node that makes a fresh copy of itself.",
    ))
}

fn admitted(log: LogId, info: &[u8], replace: bool, proof: &[u8]) -> Result<(i32, Vec<u8>, Vec<u8>), UserError> {
    let (node, identity) = member()?;
    let has_secret = check_may_admit(&identity, log, proof)?;
    HAS_ADMITTED.set(true);
    one_at_a_time();
    let wanted = MemberInfo::decode(info).ok_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "cannot read how the new node describes itself",
            "It runs another version of synod.",
            "Run the same version of synod on every node.",
        )
    })?;
    let members = membership::read(node);
    if members.members.len() > crate::pg::ring::MAX_PEERS {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            format!("group \"{}\" is full", identity.group_name),
            format!(
                "It has {} nodes, which is the most that a group can have.",
                members.members.len()
            ),
            "Remove a node first.",
        ));
    }
    make_room(node, &identity, &members, &wanted, replace)?;
    let add = MembershipChange::AddLearner {
        log,
        info: info.to_vec().into(),
    };
    let new = change(node, &add, PATIENCE, |now| {
        now.members.iter().any(|member| member.log == log)
    })
    .map_err(|reason| unchanged(&reason))?;
    let id = new
        .members
        .iter()
        .find(|member| member.log == log)
        .map_or(NodeId(0), |member| member.id);
    let mut bytes = BytesMut::new();
    synod_log::put_membership(&mut bytes, &new);
    let secret = if has_secret {
        Vec::new()
    } else {
        identity.secret.to_vec()
    };
    Ok((id.0 as i32, secret, bytes.to_vec()))
}

/// Refuse a name or database that is in the group already. A learner left behind by a failed attempt of the same database
/// is taken out, and so is the node that is to be replaced.
fn make_room(
    node: &NodeShared,
    identity: &Identity,
    members: &Membership,
    wanted: &MemberInfo,
    replace: bool,
) -> Result<(), UserError> {
    for other in &members.members {
        let known = info(other);
        let same_place = known.system_identifier == wanted.system_identifier && known.database == wanted.database;
        if same_place && (replace || !other.voter) {
            let gone = |now: &Membership| now.members.iter().all(|member| member.id != other.id);
            change(node, &MembershipChange::Remove(other.id), PATIENCE, gone).map_err(|reason| unchanged(&reason))?;
            continue;
        }
        if same_place || known.name == wanted.name {
            let what = if known.name == wanted.name {
                "a node of this name"
            } else {
                "this database, as another node,"
            };
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("{what} is in the group already"),
                format!(
                    "Node \"{}\" is a member of group \"{}\".",
                    known.name, identity.group_name
                ),
                "Choose another name, or take the old node out with synod.remove_node first.",
            ));
        }
    }
    Ok(())
}

/// `synod._check_new`: what [`admit`] would refuse, without changing anything.
#[pg_extern(sql = false)]
fn check_new_node(name: &str, system_identifier: &str, database: i64) {
    let check = || -> Result<(), UserError> {
        let (node, identity) = member()?;
        let members = membership::read(node);
        let system_identifier = system_identifier.parse::<u64>().unwrap_or(0);
        let taken = members.members.iter().map(info).find(|known| {
            let same_place = known.system_identifier == system_identifier && i64::from(known.database) == database;
            known.name == name && !same_place
        });
        match taken {
            Some(known) => Err(UserError::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                "a node of this name is in the group already",
                format!(
                    "Node \"{}\" is a member of group \"{}\".",
                    known.name, identity.group_name
                ),
                "Choose another name, or take the old node out with synod.remove_node first.",
            )),
            None => Ok(()),
        }
    };
    check().unwrap_or_else(|error| error.raise());
}

/// `synod._promote`: give a learner its vote. NULL when done, else why not yet.
#[pg_extern(sql = false)]
fn promote(node_id: i32) -> Option<String> {
    let id = NodeId(node_id as u32);
    let (node, _) = member().unwrap_or_else(|error| error.raise());
    let has_vote = |now: &Membership| now.members.iter().any(|member| member.id == id && member.voter);
    change(node, &MembershipChange::Promote(id), Duration::ZERO, has_vote).err()
}

/// `synod._expel`: take a node out whose joining failed, if it was admitted at all.
#[pg_extern(sql = false)]
fn expel(log: pgrx::Uuid, proof: &[u8]) {
    let log = LogId(*log.as_bytes());
    let expelled = || -> Result<(), UserError> {
        let (node, identity) = member()?;
        check_may_admit(&identity, log, proof)?;
        one_at_a_time();
        let id = membership::read(node)
            .members
            .iter()
            .find(|member| member.log == log)
            .map(|member| member.id);
        let Some(id) = id else { return Ok(()) };
        let gone = |now: &Membership| now.members.iter().all(|member| member.id != id);
        change(node, &MembershipChange::Remove(id), PATIENCE, gone).map_err(|reason| unchanged(&reason))?;
        Ok(())
    };
    expelled().unwrap_or_else(|error| error.raise());
}

/// Admitting goes on when the session that asked for it is gone: who wants to undo it must wait until it is done.
fn one_at_a_time() {
    // "syno", and 2 for admitting.
    if let Err(error) = Spi::run("SELECT pg_catalog.pg_advisory_xact_lock(1937337967, 2)") {
        pgrx::warning!("could not lock the membership: {error}");
    }
}

/// `synod._is_member`: whether this group still has a node, as far as this member knows.
#[pg_extern(sql = false)]
fn is_member(group_id: &str, node_id: i32) -> bool {
    let (node, identity) = member().unwrap_or_else(|error| error.raise());
    if crate::text::uuid(&identity.group) != group_id {
        return false;
    }
    let members = membership::read(node);
    // A node that this member has not heard of yet is a new one.
    node_id as u32 >= members.next_id || members.members.iter().any(|member| member.id.0 == node_id as u32)
}

/// `synod._certification_checkpoint`: the state of certification at a position whose records are applied here. Empty: at
/// the beginning of the log.
#[pg_extern(sql = false)]
fn certification_checkpoint() -> Vec<u8> {
    let taken = || -> Result<Vec<u8>, UserError> {
        let (node, identity) = member()?;
        let directory = crate::node::directory(identity.database);
        let certifier =
            crate::engine::load_checkpoint(&directory).map_err(|error| super::site::file_error(&directory, &error))?;
        super::wait::for_applied(node, certifier.last_commit())?;
        Ok(certifier.encode())
    };
    taken().unwrap_or_else(|error| error.raise())
}

/// `synod._export_snapshot`: a snapshot of exactly the state after a CSN, valid until this transaction ends. Until then definitions
/// do not change, on any node: the transaction has the group's DDL lock.
#[pg_extern(sql = false)]
fn export_snapshot() -> TableIterator<'static, (name!(snapshot, String), name!(csn, i64))> {
    if !HAS_ADMITTED.get() {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "this session has admitted no node",
            "The group's DDL lock is held while a snapshot is exported, for the copy of a node that was just admitted.",
            "It is done on behalf of synod.join_group and synod.rejoin_group only.",
        )
        .raise();
    }
    let (node, _) = member().unwrap_or_else(|error| error.raise());
    crate::pg::ddl::take_lock(node).unwrap_or_else(|error| error.raise());
    let (snapshot, csn) = copy::export_snapshot(node);
    TableIterator::once((snapshot, csn as i64))
}

/// `synod._table_definition`: the definition of a replicated table, encoded.
#[pg_extern(sql = false)]
fn replicated_definition(table_id: i64, relation: pg_sys::Oid) -> Option<Vec<u8>> {
    copy::replicated_definition(TableId(table_id as u64), relation).map(|definition| definition.encode())
}
