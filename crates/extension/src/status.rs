//! SQL: what a node is doing, waiting for a CSN, and outcomes of transactions.

use std::sync::atomic::Ordering;

use pgrx::prelude::*;
use synod_change::{Record, TransactionId};
use synod_log::{Reader, Value};
use synod_rules::VerdictKind;

use crate::errors::UserError;
use crate::pg::shmem::{ApplyState, NodeShared, NodeState};
use crate::pg::slot::SlotState;
use crate::pg::{barrier, shmem, xact};

/// Bytes of log read at a time when a transaction is looked for.
const SCAN_BYTES: usize = 4 << 20;
/// How many positions are looked at first.
const FIRST_LOOK: u64 = 256;

fn member() -> &'static NodeShared {
    crate::node::required().unwrap_or_else(|error| error.raise())
}

fn figure(value: &std::sync::atomic::AtomicU64) -> i64 {
    value.load(Ordering::Relaxed) as i64
}

/// `synod.nodes`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of a view")]
fn nodes() -> TableIterator<
    'static,
    (
        name!(node_id, i32),
        name!(name, String),
        name!(dsn, String),
        name!(voter, bool),
        name!(is_local, bool),
        name!(is_leader, bool),
        name!(durable, Option<i64>),
        name!(server_version, i32),
    ),
> {
    let Some(node) = shmem::my_node() else {
        return TableIterator::new(std::iter::empty());
    };
    let known = crate::membership::acknowledged(node);
    let leader = node.leader.load(Ordering::Relaxed);
    let local = node.node_id.load(Ordering::Relaxed);
    let own = figure(&node.durable);
    TableIterator::new(crate::membership::read(node).members.into_iter().map(move |member| {
        let info = crate::identity::MemberInfo::decode(&member.info).unwrap_or_default();
        let id = member.id.0;
        let durable = known
            .iter()
            .find(|(known, _)| known.0 == id)
            .map(|(_, position)| *position as i64);
        (
            id as i32,
            info.name,
            crate::pg::libpq::without_secrets(&info.dsn),
            member.voter,
            id == local,
            id == leader,
            if id == local { Some(own) } else { durable },
            info.server_version as i32,
        )
    }))
}

/// `synod.stat_log`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of a view")]
fn stat_log() -> TableIterator<
    'static,
    (
        name!(state, String),
        name!(reason, Option<String>),
        name!(leader, Option<i32>),
        name!(round, i64),
        name!(quorum, bool),
        name!(proposed, i64),
        name!(durable, i64),
        name!(chosen, i64),
        name!(certified, i64),
        name!(trimmed, i64),
        name!(incarnation, i64),
        name!(proposals, i64),
        name!(batches, i64),
        name!(proposed_bytes, i64),
        name!(committed, i64),
        name!(conflicts, i64),
        name!(detached, i64),
    ),
> {
    let Some(node) = shmem::my_node() else {
        return TableIterator::new(std::iter::empty());
    };
    let state = match node.state() {
        NodeState::Starting => "starting",
        NodeState::Running => "running",
        NodeState::LogStopped => "stopped",
    };
    let leader = node.leader.load(Ordering::Relaxed);
    TableIterator::once((
        state.to_owned(),
        some_text(node.log_reason()),
        (leader != 0).then_some(leader as i32),
        figure(&node.round),
        node.quorum.load(Ordering::Relaxed),
        figure(&node.proposed),
        figure(&node.durable),
        figure(&node.chosen),
        figure(&node.certified),
        figure(&node.trimmed),
        figure(&node.incarnation),
        figure(&node.proposals),
        figure(&node.batches),
        figure(&node.proposed_bytes),
        figure(&node.committed),
        figure(&node.conflicts),
        figure(&node.detached),
    ))
}

/// `synod.stat_apply`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of a view")]
fn stat_apply() -> TableIterator<
    'static,
    (
        name!(state, String),
        name!(reason, Option<String>),
        name!(applied_csn, i64),
        name!(decided_csn, i64),
        name!(applied_records, i64),
        name!(applied_rows, i64),
        name!(gave_way, i64),
        name!(gave_way_committed, i64),
        name!(gave_way_unknown, i64),
        name!(pid, Option<i32>),
    ),
> {
    let Some(node) = shmem::my_node() else {
        return TableIterator::new(std::iter::empty());
    };
    let state = match node.apply_state() {
        ApplyState::Starting => "starting",
        ApplyState::Running => "running",
        ApplyState::Stopped => "stopped",
    };
    let pid = node.apply_worker_pid.load(Ordering::Relaxed);
    TableIterator::once((
        state.to_owned(),
        some_text(node.apply_reason()),
        figure(&node.applied),
        figure(&node.last_commit),
        figure(&node.applied_records),
        figure(&node.applied_rows),
        figure(&node.gave_way),
        figure(&node.gave_way_committed),
        figure(&node.gave_way_unknown),
        (pid != 0).then_some(pid),
    ))
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `synod.applied_csn()`
#[pg_extern(sql = false)]
fn applied_csn() -> i64 {
    figure(&member().applied)
}

/// `synod.last_csn()`: CSN of this session's last commit through the log: a token for other sessions' `wait_for`.
#[pg_extern(sql = false)]
fn last_csn() -> Option<i64> {
    let csn = xact::last_csn();
    (csn != 0).then_some(csn as i64)
}

/// `synod.wait_for(csn)`
#[pg_extern(sql = false)]
fn wait_for(csn: i64) {
    let Ok(csn) = u64::try_from(csn) else {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a CSN cannot be negative",
            "",
            "Use a value that synod.last_csn() or synod.applied_csn() returned.",
        )
        .raise()
    };
    if let Err(error) = barrier::wait::applied(member(), csn, barrier::wait::read_deadline()) {
        error.raise();
    }
    xact::saw(csn);
}

/// `synod.current_transaction_id()`
#[pg_extern(sql = false)]
fn current_transaction_id() -> String {
    let node = member();
    loop {
        if let Some(id) = xact::current_id(node) {
            return id;
        }
        if node.state() == NodeState::LogStopped {
            crate::errors::log_stopped(&node.log_reason()).raise();
        }
        // The log worker has only just started.
        crate::group::wait::moment();
    }
}

/// `synod.transaction_status(id)`: committed, aborted, in progress, or unknown (trimmed from the log).
#[pg_extern(sql = false)]
fn transaction_status(id: &str) -> String {
    let node = member();
    let Some(wanted) = parse_id(id) else {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("invalid transaction id: \"{id}\""),
            "",
            "Use a value that synod.current_transaction_id() returned.",
        )
        .raise()
    };
    // An answer must know of everything decided before the question.
    if let Err(error) = barrier::wait::tail(node, barrier::wait::read_deadline()) {
        error.raise();
    }
    let live = live_here(node, wanted);
    match find(node, wanted) {
        Ok(Found::Committed) => "committed",
        Ok(Found::Aborted | Found::Never) => "aborted",
        Ok(Found::Nothing) if live == Some(false) => "aborted",
        Ok(Found::Nothing) => "in progress",
        Ok(Found::Trimmed) => "unknown",
        Err(reason) => UserError::new(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            "the shared log of this node cannot be read",
            reason,
            "Ask another node.",
        )
        .raise(),
    }
    .to_owned()
}

fn parse_id(id: &str) -> Option<TransactionId> {
    let mut parts = id.split('-');
    let node = parts.next()?.parse().ok()?;
    let incarnation = parts.next()?.parse().ok()?;
    let number = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(TransactionId {
        node,
        incarnation,
        number,
    })
}

/// Of a transaction of this node's running incarnation: whether some process may still propose it. `None`: not ours to know.
fn live_here(node: &NodeShared, wanted: TransactionId) -> Option<bool> {
    let ours = wanted.node == node.node_id.load(Ordering::Relaxed)
        && wanted.incarnation == node.incarnation.load(Ordering::Relaxed);
    ours.then(|| {
        let index = node.index() as u32;
        crate::engine::is_orphan(node, wanted.number)
            || shmem::slots().iter().any(|slot| {
                // Running (its commit may still be on its way), in the log worker's hands, or just let go of.
                slot.node.load(Ordering::SeqCst) == index
                    && (slot.transaction.load(Ordering::SeqCst) == wanted.number
                        || slot.record_transaction.load(Ordering::SeqCst) == wanted.number
                            && slot.read().1 != SlotState::Free
                        || slot.read().1 == SlotState::Detached)
            })
    })
}

enum Found {
    Committed,
    Aborted,
    /// A later incarnation of its node has started, so it can no longer be decided.
    Never,
    Nothing,
    Trimmed,
}

/// Look through what is kept of the log, the newest part first: who asks does so soon, mostly.
fn find(node: &NodeShared, wanted: TransactionId) -> Result<Found, String> {
    let directory = crate::node::directory(node.database.load(Ordering::Relaxed));
    let mut reader = Reader::new(&directory.join("log"), &directory.join("index"));
    let first = node.trimmed.load(Ordering::SeqCst).max(1);
    let mut seen = Starts::default();
    let mut upto = node.certified.load(Ordering::SeqCst);
    let mut positions = FIRST_LOOK;
    while upto >= first {
        let from = upto.saturating_sub(positions - 1).max(first);
        if let Some(found) = find_within(&mut reader, from, upto, wanted, &mut seen)? {
            return Ok(found);
        }
        // Before its incarnation has begun there is nothing of it.
        if seen.own {
            break;
        }
        (upto, positions) = (from - 1, positions.saturating_mul(4));
    }
    Ok(match seen {
        // What was decided before the first position kept here is not known.
        Starts { own: false, .. } if first > 1 => Found::Trimmed,
        Starts { later: true, .. } => Found::Never,
        _ => Found::Nothing,
    })
}

/// Which incarnations of the transaction's node were seen to begin.
#[derive(Default)]
struct Starts {
    own: bool,
    later: bool,
}

fn find_within(
    reader: &mut Reader,
    mut from: u64,
    upto: u64,
    wanted: TransactionId,
    seen: &mut Starts,
) -> Result<Option<Found>, String> {
    while from <= upto {
        pgrx::check_for_interrupts!();
        let mut decided = Vec::new();
        reader
            .read_range(from, upto, SCAN_BYTES, &mut decided)
            .map_err(|error| error.to_string())?;
        let Some(last) = decided.last() else { break };
        from = last.entry.position + 1;
        for entry in &decided {
            let Value::Command(command) = &entry.entry.value else {
                continue;
            };
            if command.id.node.0 != wanted.node {
                continue;
            }
            match Record::decode(&command.payload) {
                Ok(Record::Start { .. }) => {
                    seen.own |= command.id.incarnation == wanted.incarnation;
                    seen.later |= command.id.incarnation > wanted.incarnation;
                }
                Ok(Record::Write(write)) if write.transaction == wanted => match VerdictKind::from_u8(entry.verdict) {
                    Some(VerdictKind::Commit) => return Ok(Some(Found::Committed)),
                    Some(VerdictKind::Conflict | VerdictKind::TooOld | VerdictKind::Malformed) => {
                        return Ok(Some(Found::Aborted));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
    Ok(None)
}
