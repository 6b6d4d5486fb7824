//! Waiting for this database's workers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;

use crate::errors::UserError;
use crate::pg::shmem::{self, ApplyState, NodeShared, NodeState};
use crate::pg::{latch, launcher, server};

/// How often a condition that nobody announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the workers may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long apply may be stopped before nobody waits for it any more: it tries again every second.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long they may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A moment, or until the latch is set. Raises on cancel and terminate.
pub fn moment() {
    latch::wait(LOOK_EVERY);
    latch::reset();
    latch::check_for_interrupts();
}

/// Until the log worker of this database runs and knows a leader.
pub fn for_log() -> Result<&'static NodeShared, UserError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(node) = shmem::my_node() {
            match node.state() {
                NodeState::Running if node.leader.load(Ordering::Acquire) != 0 => return Ok(node),
                NodeState::LogStopped => return Err(crate::errors::log_stopped(&node.log_reason())),
                _ => {}
            }
        }
        if Instant::now() > deadline {
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
                "the log worker of this database did not start in time",
                not_started_detail(),
                "See the server log, and synod.stat_log and synod.nodes for who is reachable; max_worker_processes must leave room for three workers per \
                 member database.",
            ));
        }
        moment();
    }
}

/// The same where the workers have long been there: a majority is waited for as long as a commit waits for it.
pub fn for_majority() -> Result<&'static NodeShared, UserError> {
    let deadline = Instant::now() + crate::pg::submit::commit_timeout();
    loop {
        let node = crate::node::required()?;
        match node.state() {
            NodeState::LogStopped => return Err(crate::errors::log_stopped(&node.log_reason())),
            NodeState::Running if has_majority(node) => return Ok(node),
            _ if Instant::now() < deadline => moment(),
            NodeState::Running => return Err(crate::errors::no_leader()),
            NodeState::Starting => return Err(crate::errors::starting()),
        }
    }
}

fn has_majority(node: &NodeShared) -> bool {
    node.leader.load(Ordering::Acquire) != 0 && node.quorum.load(Ordering::Acquire)
}

fn not_started_detail() -> String {
    match shmem::my_node() {
        None => {
            "The launcher has not taken notice of it: all places for member databases of this server may be in use."
        }
        Some(node) if server::alive(node.log_worker_pid.load(Ordering::Acquire)) => {
            "It runs, but no majority of the group has answered it."
        }
        Some(_) => "It does not run.",
    }
    .into()
}

/// Until everything up to `csn` is visible here.
pub fn for_applied(node: &NodeShared, csn: u64) -> Result<(), UserError> {
    let mut stopped: Option<Instant> = None;
    while node.applied.load(Ordering::Acquire) < csn {
        if node.apply_state() != ApplyState::Stopped {
            stopped = None;
        } else if stopped.get_or_insert_with(Instant::now).elapsed() > STOP_PATIENCE {
            return Err(crate::errors::apply_stopped(&node.apply_reason()));
        }
        if node.state() == NodeState::LogStopped {
            return Err(crate::errors::log_stopped(&node.log_reason()));
        }
        moment();
    }
    Ok(())
}

/// End the workers of a database, for good: the launcher does not start them again.
pub fn for_workers_to_end(database: u32) -> Result<(), UserError> {
    let Some((_, node)) = shmem::node_of(database) else {
        return Ok(());
    };
    node.leaving_pid.store(server::my_pid(), Ordering::SeqCst);
    node.leaving.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        let pids = [&node.log_worker_pid, &node.apply_worker_pid].map(|pid| pid.load(Ordering::Acquire));
        if !pids.into_iter().any(server::alive) {
            return Ok(());
        }
        if Instant::now() > deadline {
            node.leaving.store(false, Ordering::SeqCst);
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                "the workers of this database do not end",
                format!("They are processes {} and {}.", pids[0], pids[1]),
                "Try again; see the server log.",
            ));
        }
        node.wake_log_worker();
        server::terminate(pids[1]);
        latch::wait(LOOK_EVERY);
        latch::reset();
    }
}

/// Until the launcher has given this database's place in shared memory back. It may have seen the directory just before that went, and be
/// about to start workers: so it has to have looked once more.
pub fn for_place_to_be_free(database: u32) {
    let deadline = Instant::now() + END_TIMEOUT;
    let look = launcher::ask_for_a_look();
    while (shmem::node_of(database).is_some() || !launcher::has_looked(look)) && Instant::now() < deadline {
        launcher::wake();
        latch::wait(LOOK_EVERY);
        latch::reset();
    }
}
