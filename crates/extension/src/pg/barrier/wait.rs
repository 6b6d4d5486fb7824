//! Waiting for the shared log's tail and for the applied CSN.
//!
//! A waiter publishes what it waits for in its slot, so that whoever makes it true wakes it, and looks again after each
//! wake-up. It may hold locks that apply needs; hence it is a victim of `give_way` like any other, and it ends as well by
//! cancel, termination, time-out, and when the node has stopped. It never hangs on a node that cannot go on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::errors::{self, UserError};
use crate::pg::shmem::{self, ApplyState, NodeShared, NodeState};
use crate::pg::slot::Slot;
use crate::pg::wait_event::WaitEvent;
use crate::pg::{clock, give_way, latch};
use crate::settings;

/// What a process waits for.
#[derive(Clone, Copy)]
enum Goal {
    /// The answer to this ticket.
    Tail(u64),
    /// `applied` to reach this CSN.
    Applied(u64),
}

impl Goal {
    fn reached(self, node: &NodeShared) -> bool {
        match self {
            Self::Tail(ticket) => node.tail_served.load(Ordering::SeqCst) >= ticket,
            Self::Applied(csn) => node.applied.load(Ordering::SeqCst) >= csn,
        }
    }
}

/// Makes the goal known to those who can wake us, until dropped.
struct Announced<'a> {
    node: &'a NodeShared,
    slot: &'a Slot,
    goal: Goal,
}

impl<'a> Announced<'a> {
    fn new(node: &'a NodeShared, slot: &'a Slot, goal: Goal) -> Self {
        slot.node.store(node.index() as u32, Ordering::SeqCst);
        match goal {
            Goal::Tail(ticket) => slot.awaits_tail.store(ticket, Ordering::SeqCst),
            Goal::Applied(csn) => {
                slot.awaits_applied.store(csn, Ordering::SeqCst);
                node.applied_waiters.fetch_add(1, Ordering::SeqCst);
            }
        }
        Self { node, slot, goal }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        match self.goal {
            Goal::Tail(_) => self.slot.awaits_tail.store(0, Ordering::SeqCst),
            Goal::Applied(_) => {
                self.slot.awaits_applied.store(0, Ordering::SeqCst);
                self.node.applied_waiters.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// When a strong read that begins now has to give up.
pub fn read_deadline() -> Instant {
    Instant::now() + Duration::from_millis(settings::READ_TIMEOUT_MS.get().unsigned_abs().into())
}

/// The last committing position of the whole group at some moment after the call: one quorum round, shared by all who
/// wait at the same time.
pub fn tail(node: &NodeShared, deadline: Instant) -> Result<u64, UserError> {
    if let Some(tail) = leased_tail(node) {
        return Ok(tail);
    }
    let ticket = node.tail_requested.fetch_add(1, Ordering::SeqCst) + 1;
    node.wake_log_worker();
    reach(node, Goal::Tail(ticket), deadline)?;
    Ok(node.tail_target.load(Ordering::SeqCst))
}

/// The same on a leader that has a lease, without asking anybody; `None`: there is none, or verdicts lag behind its tail.
///
/// The order matters. The tail is at least what was told to anybody before the end was read, and what follows then is chosen by
/// this node alone up to that end, which the clock, read last, has not reached. A process that is stopped in between finds a
/// later clock.
fn leased_tail(node: &NodeShared) -> Option<u64> {
    let until_ms = node.lease_until_ms.load(Ordering::SeqCst);
    if until_ms == 0 {
        return None;
    }
    let tail = node.lease_tail.load(Ordering::SeqCst);
    if node.certified.load(Ordering::SeqCst) < tail {
        return None;
    }
    let last_commit = node.last_commit.load(Ordering::SeqCst);
    let now = clock::awake_and_asleep()?;
    (now.as_millis() < u128::from(until_ms)).then_some(last_commit)
}

/// Wait until everything up to `csn` is visible here.
pub fn applied(node: &NodeShared, csn: u64, deadline: Instant) -> Result<(), UserError> {
    reach(node, Goal::Applied(csn), deadline)
}

/// Both: everything that was committed anywhere before the call is visible after it. Returns the CSN reached.
pub fn caught_up(node: &NodeShared, deadline: Instant) -> Result<u64, UserError> {
    let target = tail(node, deadline)?;
    applied(node, target, deadline)?;
    Ok(target)
}

fn reach(node: &NodeShared, goal: Goal, deadline: Instant) -> Result<(), UserError> {
    if goal.reached(node) {
        return Ok(());
    }
    let Some(slot) = shmem::slot(latch::my_number()) else {
        return Err(errors::not_preloaded());
    };
    let mut announced = Some(Announced::new(node, slot, goal));
    loop {
        latch::reset();
        if goal.reached(node) {
            return Ok(());
        }
        give_way::check()?;
        refuse_when_stopped(node, goal)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out(node, goal));
        }
        latch::wait_for(WaitEvent::Read, left);
        if interrupted() {
            // A FATAL leaves without unwinding: nothing may stay announced.
            announced = None;
            latch::check_for_interrupts();
        }
        if announced.is_none() {
            announced = Some(Announced::new(node, slot, goal));
        }
    }
}

fn interrupted() -> bool {
    // SAFETY: a flag of this process, set by signal handlers.
    unsafe { std::ptr::read_volatile(&raw const pg_sys::InterruptPending) != 0 }
}

fn refuse_when_stopped(node: &NodeShared, goal: Goal) -> Result<(), UserError> {
    if node.leaving.load(Ordering::SeqCst) || node.database.load(Ordering::SeqCst) == 0 {
        return Err(errors::not_a_member());
    }
    match goal {
        Goal::Tail(_) if node.state() == NodeState::LogStopped => Err(errors::log_stopped(&node.log_reason())),
        Goal::Applied(_) if node.apply_state() == ApplyState::Stopped => {
            Err(errors::apply_stopped(&node.apply_reason()))
        }
        // Verdicts come from the log worker: without it apply gets nothing to do.
        Goal::Applied(csn)
            if node.state() == NodeState::LogStopped && node.last_commit.load(Ordering::SeqCst) < csn =>
        {
            Err(errors::log_stopped(&node.log_reason()))
        }
        _ => Ok(()),
    }
}

fn timed_out(node: &NodeShared, goal: Goal) -> UserError {
    match goal {
        Goal::Tail(_) if node.quorum.load(Ordering::SeqCst) => {
            errors::read_timeout("A majority is connected, but its answer did not come within synod.read_timeout.")
        }
        Goal::Tail(_) => errors::read_timeout("This node does not reach a majority of its group."),
        Goal::Applied(csn) => errors::not_applied(csn, node.applied.load(Ordering::SeqCst)),
    }
}

/// Wake everybody who waits for `applied` to move, so that he sees why it does not.
pub fn wake_all(node: &NodeShared) {
    let index = node.index() as u32;
    for (number, slot) in shmem::slots().iter().enumerate() {
        let waits = slot.awaits_applied.load(Ordering::SeqCst) != 0;
        if waits && slot.node.load(Ordering::SeqCst) == index {
            latch::wake(number as i32);
        }
    }
}
