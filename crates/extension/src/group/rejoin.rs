//! `synod.rejoin_group`, and the worker that does the same by itself: a fresh copy for a node whose log cannot go on.
//!
//! Two things bring a node there: it was away until the others had trimmed what it needs next, or its log directory is
//! damaged or gone. Its promises are lost either way, so it comes back as a new member (`join::again`) in the place of the
//! old one. From the moment its workers have ended until the new directory is in place the node refuses reads and writes
//! of replicated tables as a stopped node does; its old rows stay until the transaction with the new ones commits.
//! A crash before that commit leaves the old node, one after it a removed node with the new rows: both are stopped nodes,
//! and the next attempt begins from the start.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use synod_log::{MembershipChange, NodeId};

use super::{admit, check_session, join, session, wait};
use crate::errors::UserError;
use crate::identity::Identity;
use crate::membership;
use crate::pg::shmem::{self, NodeShared, NodeState};
use crate::pg::{launcher, server};
use crate::text::uuid;

/// Copy everything anew, from the member behind `via` or from any.
pub fn rejoin(via: Option<&str>) -> Result<(), UserError> {
    check_session("synod.rejoin_group")?;
    let identity = Identity::of_this_database()?.ok_or_else(crate::errors::not_a_member)?;
    let node = crate::node::required()?;
    if node.state() != NodeState::LogStopped && !node.needs_copy.load(Ordering::Acquire) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this node does not need a fresh copy",
            format!("Node \"{}\" has its log, or is starting.", identity.name),
            "See synod.stat_log and synod.stat_apply for what it is doing.",
        ));
    }
    let via = match via {
        Some(dsn) => dsn.to_owned(),
        None => some_member(node, &identity)?,
    };
    let aside = SetAside::new(node, identity.database)?;
    join::again(&via, &identity)?;
    // Nothing is to be given back: the entry in shared memory was cleared for the new node.
    std::mem::forget(aside);
    Ok(())
}

/// The node's workers have ended and stay away; given back when the attempt fails.
struct SetAside(&'static NodeShared);

impl SetAside {
    fn new(node: &'static NodeShared, database: u32) -> Result<Self, UserError> {
        let needs_copy = node.needs_copy.load(Ordering::Acquire);
        wait::for_workers_to_end(database)?;
        let aside = Self(node);
        node.needs_copy.store(needs_copy, Ordering::Release);
        node.set_log_reason("a fresh copy of the replicated tables is being made");
        node.state.store(NodeState::LogStopped as u32, Ordering::Release);
        Ok(aside)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        self.0.leaving.store(false, Ordering::SeqCst);
        launcher::wake();
    }
}

/// Refuse unless [`rejoin`] has set this node aside: the session that copies is not the one that was asked to rejoin.
pub fn check_set_aside() -> Result<(), UserError> {
    let aside = shmem::my_node()
        .is_some_and(|node| node.leaving.load(Ordering::Acquire) && node.state() == NodeState::LogStopped);
    if aside {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the rows of a node that runs cannot be replaced",
        "Its workers have not been ended.",
        "Call synod.rejoin_group().",
    ))
}

/// The dsn of another member that answers as one.
fn some_member(node: &NodeShared, identity: &Identity) -> Result<String, UserError> {
    let mut last = "The members are not known, because the log cannot be read.".to_owned();
    for member in membership::read(node).members {
        let info = admit::info(&member);
        if member.id == identity.node {
            continue;
        }
        match session(&info.dsn, &format!("node \"{}\"", info.name)) {
            Ok((_, facts))
                if facts
                    .member
                    .as_ref()
                    .is_some_and(|its| its.group_id == uuid(&identity.group)) =>
            {
                return Ok(info.dsn);
            }
            Ok(_) => last = format!("The database of node \"{}\" is not in the group any more.", info.name),
            Err(error) => last = error.message,
        }
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "no other member of the group can be reached",
        last,
        "Name one: synod.rejoin_group(via => 'host=... dbname=...').",
    ))
}

/// What the rejoin worker does, in a transaction of its own: a fresh copy, or the vote that a joining session did not stay
/// to ask for.
pub fn see_to_it() {
    let Some(node) = shmem::my_node() else { return };
    let outcome = if node.needs_copy.load(Ordering::Acquire) {
        rejoin(None)
    } else {
        ask_for_vote(node)
    };
    if let Err(error) = outcome {
        error.report(pgrx::PgLogLevel::LOG);
    }
}

/// A learner that has caught up asks for its vote. Whoever is joining right now does that itself.
fn ask_for_vote(node: &'static NodeShared) -> Result<(), UserError> {
    if check_session("synod.join_group").is_err() {
        return Ok(());
    }
    let id = NodeId(node.node_id.load(Ordering::Acquire));
    let has_vote = |now: &synod_log::Membership| now.members.iter().any(|member| member.id == id && member.voter);
    // Not yet is no error: it is asked again.
    let _ = admit::change(node, &MembershipChange::Promote(id), Duration::ZERO, has_vote);
    Ok(())
}

/// Whether the node runs, but has no vote.
pub fn lacks_vote(node: &NodeShared) -> bool {
    let id = NodeId(node.node_id.load(Ordering::Acquire));
    node.state() == NodeState::Running
        && membership::read(node)
            .members
            .iter()
            .any(|member| member.id == id && !member.voter)
}

/// `synod.stat_progress_join`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of a view")]
fn stat_progress_join() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(datid, pg_sys::Oid),
        name!(phase, String),
        name!(relid, Option<pg_sys::Oid>),
        name!(tables_total, i64),
        name!(tables_done, i64),
        name!(bytes_total, i64),
        name!(bytes_processed, i64),
        name!(applied_csn, Option<i64>),
        name!(target_csn, Option<i64>),
    ),
> {
    use crate::pg::progress::{Phase, all};
    let shown = all().iter().filter_map(|join| {
        let database = join.database.load(Ordering::Acquire);
        let pid = join.pid.load(Ordering::Acquire);
        let phase = join.phase.load(Ordering::Acquire);
        if database == 0 || !server::alive(pid) || phase == Phase::Creation as u32 {
            return None;
        }
        let figure = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed) as i64;
        let table = join.table.load(Ordering::Relaxed);
        let target = figure(&join.csn_target);
        let applied = shmem::node_of(database).map(|(_, node)| figure(&node.applied));
        Some((
            pid,
            pg_sys::Oid::from(database),
            Phase::text(phase).to_owned(),
            (table != 0).then(|| pg_sys::Oid::from(table)),
            figure(&join.tables_total),
            figure(&join.tables_done),
            figure(&join.bytes_total),
            figure(&join.bytes_done),
            applied.filter(|_| target != 0),
            (target != 0).then_some(target),
        ))
    });
    TableIterator::new(shown.collect::<Vec<_>>())
}
