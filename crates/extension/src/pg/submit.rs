//! Handing a sealed record to the log worker and waiting for its verdict and turn.
//!
//! The wait has no plain interrupt check: a cancel, a termination or `synod.commit_timeout` must first win the record's slot
//! from the log worker. Won while QUEUED, nothing was proposed and the error is an ordinary one; won later, the outcome is
//! unknown (08007), and the record, if it commits, is applied as if it were remote.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;
use synod_change::TransactionId;
use synod_change::stream::record_message::RecordHeader;

use super::capture::{Sealed, SealedBody};
use super::latch;
use super::shmem::{self, NodeShared, NodeState};
use super::slot::{INLINE_BYTES, Outcome, Slot, SlotState};
use super::wait_event::WaitEvent;
use crate::errors::{self, UserError};
use crate::local_key;

/// A record in this backend's slot.
#[derive(Clone, Copy)]
pub struct Submitted {
    number: i32,
    /// Which use of the slot.
    pub generation: u64,
}

impl Submitted {
    /// The slot.
    pub fn slot(&self) -> &'static Slot {
        &shmem::slots()[self.number as usize]
    }

    /// The record as the change stream names it, in its turn.
    pub fn header(&self, node: &NodeShared) -> RecordHeader {
        let slot = self.slot();
        RecordHeader {
            group: node.group(),
            csn: slot.csn.load(Ordering::Acquire),
            previous_csn: slot.prev.load(Ordering::Acquire),
            transaction: TransactionId {
                node: node.node_id.load(Ordering::Acquire),
                incarnation: slot.incarnation.load(Ordering::Relaxed),
                number: slot.record_transaction.load(Ordering::Relaxed),
            },
            commit_time_us: slot.commit_time_us.load(Ordering::Relaxed) as i64,
        }
    }

    /// On abort: whatever happens to the record now happens without us.
    pub fn let_go(&self, node: &NodeShared) {
        let slot = self.slot();
        if slot.detach(self.generation).is_some() {
            return node.mark_slot(self.number);
        }
        match slot.state_of(self.generation) {
            Some(SlotState::Committing) => {
                slot.swap(self.generation, SlotState::Committing, SlotState::Detached);
                node.mark_slot(self.number);
            }
            Some(state @ (SlotState::Abort | SlotState::Filling | SlotState::Decided)) => {
                slot.free(self.generation, state)
            }
            _ => {}
        }
    }
}

/// Where the body of a record that does not fit into its slot lies, and its keys.
pub fn spill_paths(database: u32, slot: i32, generation: u64) -> (PathBuf, PathBuf) {
    let directory = crate::node::directory(database).join("spill");
    (
        directory.join(format!("{slot}-{generation}.body")),
        directory.join(format!("{slot}-{generation}.keys")),
    )
}

/// Remove the files of a record that nobody will read any more. Already gone is fine.
pub fn remove_spill(node: &NodeShared, slot: i32, generation: u64) {
    let (body, keys) = spill_paths(node.database.load(Ordering::Relaxed), slot, generation);
    let _ = fs::remove_file(body);
    let _ = fs::remove_file(keys);
}

/// Who carries the record out on this node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// This transaction, when its turn has come.
    Transaction,
    /// The apply worker.
    Apply,
}

/// Put the record into this backend's slot and wake the log worker.
pub fn submit(node: &'static NodeShared, transaction: u64, sealed: Sealed, by: By) -> Result<Submitted, UserError> {
    submit_as(node, transaction, sealed, by, false)
}

fn submit_as(
    node: &'static NodeShared,
    transaction: u64,
    sealed: Sealed,
    by: By,
    asks_for_ddl_lock: bool,
) -> Result<Submitted, UserError> {
    if node.state() == NodeState::LogStopped {
        return Err(errors::log_stopped(&node.log_reason()));
    }
    let number = latch::my_number();
    let slot = shmem::slot(number).ok_or_else(errors::not_preloaded)?;
    let generation = take_slot(node, number, slot)?;
    let submitted = Submitted { number, generation };
    slot.node.store(node.index() as u32, Ordering::Relaxed);
    slot.outcome.store(Outcome::None as u32, Ordering::Relaxed);
    slot.asks_for_ddl_lock.store(asks_for_ddl_lock, Ordering::Relaxed);
    slot.record_transaction.store(transaction, Ordering::Relaxed);
    slot.service.store(by == By::Apply, Ordering::Relaxed);
    slot.incarnation
        .store(node.incarnation.load(Ordering::Acquire), Ordering::Relaxed);
    slot.commit_time_us.store(now_us(), Ordering::Relaxed);
    if let Err(error) = fill(slot, number, generation, node, sealed) {
        remove_spill(node, number, generation);
        slot.free(generation, SlotState::Filling);
        return Err(error);
    }
    slot.swap(generation, SlotState::Filling, SlotState::Queued);
    node.mark_slot(number);
    Ok(submitted)
}

/// A request for the DDL lock in this backend's slot.
#[derive(Clone, Copy)]
pub struct Asked(Submitted);

/// Ask the log worker for the group's DDL lock; `request` says for which tables.
pub fn ask_for_ddl_lock(node: &'static NodeShared, transaction: u64, request: &[u8]) -> Result<Asked, UserError> {
    let sealed = Sealed {
        keys: Vec::new(),
        body: SealedBody::Inline(request.to_vec()),
        rows: 0,
        told: None,
    };
    submit_as(node, transaction, sealed, By::Apply, true).map(Asked)
}

impl Asked {
    /// The answer, once: the outcome and, of a lock that was given, its position.
    pub fn answer(&self) -> Option<(Outcome, u64)> {
        let slot = self.0.slot();
        match slot.state_of(self.0.generation) {
            Some(SlotState::Abort) => {
                let answer = (slot.outcome(), slot.winner.load(Ordering::Relaxed));
                slot.free(self.0.generation, SlotState::Abort);
                Some(answer)
            }
            Some(SlotState::Queued | SlotState::Proposed) => None,
            _ => Some((Outcome::Stopped, 0)),
        }
    }

    /// Do not wait for the answer.
    pub fn let_go(&self, node: &NodeShared) {
        self.0.let_go(node);
    }
}

/// Says that this process waits for the DDL lock to be free, until dropped.
pub struct AwaitsDdlLock(Option<&'static Slot>);

impl AwaitsDdlLock {
    /// From now on.
    pub fn announce(node: &NodeShared) -> Self {
        let slot = shmem::slot(latch::my_number());
        if let Some(slot) = slot {
            slot.node.store(node.index() as u32, Ordering::SeqCst);
            slot.awaits_ddl_lock.store(true, Ordering::SeqCst);
        }
        Self(slot)
    }
}

impl Drop for AwaitsDdlLock {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.awaits_ddl_lock.store(false, Ordering::SeqCst);
        }
    }
}

/// The process that runs this transaction of the running incarnation.
pub fn process_of(node: &NodeShared, transaction: u64) -> Option<i32> {
    let index = node.index() as u32;
    let runs = |slot: &Slot| {
        slot.node.load(Ordering::SeqCst) == index && slot.transaction.load(Ordering::SeqCst) == transaction
    };
    let number = shmem::slots().iter().position(runs)?;
    // SAFETY: the number of a slot is that of its PGPROC.
    Some(unsafe { (*latch::process(number as i32)).pid })
}

/// Whether the user, or a time-out, wants this process to stop what it does.
pub fn interrupted() -> bool {
    // SAFETY: flags of this process set by signal handlers.
    unsafe {
        std::ptr::read_volatile(&raw const pg_sys::QueryCancelPending) != 0
            || std::ptr::read_volatile(&raw const pg_sys::ProcDiePending) != 0
    }
}

/// The previous record of this backend may still be in the log worker's hands if it was given up.
fn take_slot(node: &NodeShared, number: i32, slot: &Slot) -> Result<u64, UserError> {
    let deadline = Instant::now() + commit_timeout();
    loop {
        if let Some(generation) = slot.take() {
            return Ok(generation);
        }
        // Whose it was may be another database's process, whose log worker did not come to free it.
        slot.node.store(node.index() as u32, Ordering::SeqCst);
        node.mark_slot(number);
        super::give_way::check()?;
        if Instant::now() >= deadline {
            return Err(errors::no_quorum());
        }
        latch::reset();
        latch::wait_for(WaitEvent::Commit, Duration::from_millis(10));
        latch::check_for_interrupts();
    }
}

fn fill(slot: &Slot, number: i32, generation: u64, node: &NodeShared, sealed: Sealed) -> Result<(), UserError> {
    let keys = local_key::encode(&sealed.keys);
    slot.keys.store(sealed.keys.len() as u32, Ordering::Relaxed);
    let database = node.database.load(Ordering::Relaxed);
    let (body_path, keys_path) = spill_paths(database, number, generation);
    match sealed.body {
        SealedBody::Inline(body) if keys.len() + body.len() <= INLINE_BYTES => {
            slot.write_payload(0, &keys);
            slot.write_payload(keys.len(), &body);
            slot.inline_length
                .store((keys.len() + body.len()) as u32, Ordering::Release);
            slot.body_length.store(body.len() as u64, Ordering::Relaxed);
            slot.spilled.store(false, Ordering::Release);
            return Ok(());
        }
        SealedBody::Inline(body) => {
            slot.body_length.store(body.len() as u64, Ordering::Relaxed);
            fs::write(&body_path, &body).map_err(|error| spill_error(&body_path, &error))?;
        }
        SealedBody::Spilled { file, length, .. } => {
            slot.body_length.store(length, Ordering::Relaxed);
            fs::rename(file.path(), &body_path).map_err(|error| spill_error(&body_path, &error))?;
        }
    }
    fs::write(&keys_path, &keys).map_err(|error| spill_error(&keys_path, &error))?;
    slot.inline_length.store(0, Ordering::Relaxed);
    slot.spilled.store(true, Ordering::Release);
    Ok(())
}

fn spill_error(path: &Path, error: &std::io::Error) -> UserError {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull => PgSqlErrorCode::ERRCODE_DISK_FULL,
        _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
    };
    UserError::new(
        code,
        format!("could not write \"{}\": {error}", path.display()),
        "A transaction too large for shared memory is handed over in a file; nothing was sent to the shared log.",
        "",
    )
}

/// Wait until the record's turn has come and take it. Returns its CSN; on error the transaction must roll back.
pub fn wait_for_turn(node: &'static NodeShared, submitted: &Submitted) -> Result<u64, UserError> {
    wait_until(node, submitted, |slot| {
        let (csn, prev) = (slot.csn.load(Ordering::Acquire), slot.prev.load(Ordering::Acquire));
        if node.applied.load(Ordering::SeqCst) != prev || super::hold::stops(node, csn) {
            return Seen::NotYet;
        }
        if slot.swap(submitted.generation, SlotState::Turn, SlotState::Committing) {
            Seen::Mine(csn)
        } else {
            Seen::Moved
        }
    })
}

/// Wait until the record that the apply worker carries out is decided. Returns its CSN.
pub fn wait_for_decision(node: &'static NodeShared, submitted: &Submitted) -> Result<u64, UserError> {
    wait_until(node, submitted, |_| Seen::NotYet)
}

/// What a look at a slot in TURN says.
enum Seen {
    /// Its turn has come, and was taken.
    Mine(u64),
    /// It has not.
    NotYet,
    /// Look again.
    Moved,
}

fn wait_until(
    node: &'static NodeShared,
    submitted: &Submitted,
    in_turn: impl Fn(&Slot) -> Seen,
) -> Result<u64, UserError> {
    let slot = submitted.slot();
    let generation = submitted.generation;
    let deadline = Instant::now() + commit_timeout();
    let mut doomed = Doomed::default();
    loop {
        latch::reset();
        match slot.state_of(generation) {
            Some(SlotState::Turn) => match in_turn(slot) {
                Seen::Mine(csn) => return Ok(csn),
                Seen::Moved => continue,
                Seen::NotYet => {}
            },
            Some(SlotState::Decided) => {
                let csn = slot.csn.load(Ordering::Acquire);
                slot.free(generation, SlotState::Decided);
                return Ok(csn);
            }
            Some(SlotState::Abort) => {
                let error = refusal(node, slot);
                if slot.spilled.load(Ordering::Acquire) {
                    remove_spill(node, submitted.number, generation);
                }
                slot.free(generation, SlotState::Abort);
                return Err(error);
            }
            Some(SlotState::Queued | SlotState::Proposed) => {}
            _ => return Err(given_up(node, slot, "Its session stopped waiting for it.")),
        }
        let until = doomed.waits_until(slot, generation).unwrap_or(deadline).min(deadline);
        if let Some(reason) = why_give_up(deadline, node, &doomed) {
            if let Some(error) = give_up(node, submitted, reason, &doomed) {
                return Err(error);
            }
            continue;
        }
        latch::wait_for(
            WaitEvent::Commit,
            until
                .saturating_duration_since(Instant::now())
                .min(Duration::from_secs(1)),
        );
    }
}

/// What a commit does about being in the way of apply.
#[derive(Default)]
struct Doomed {
    /// Until when the verdict is waited for. It is usually 40001, and the log worker gives it as soon as it is certain.
    until: Option<Instant>,
    must_end: bool,
}

impl Doomed {
    /// Whether the verdict was waited for as long as `synod.lock_grace` allows.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Returns until when to wait for a verdict; `None`: this transaction is in nobody's way, or must not wait.
    fn waits_until(&mut self, slot: &Slot, generation: u64) -> Option<Instant> {
        if !super::give_way::is_doomed() {
            return None;
        }
        let grace = Duration::from_millis(crate::settings::LOCK_GRACE_MS.get().max(0) as u64);
        let until = *self.until.get_or_insert_with(|| Instant::now() + grace);
        self.must_end = slot.state_of(generation) != Some(SlotState::Proposed) || self.is_over();
        (!self.must_end).then_some(until)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum GiveUp {
    Cancel,
    Terminate,
    Timeout,
    Doomed,
    Stopped,
}

fn why_give_up(deadline: Instant, node: &NodeShared, doomed: &Doomed) -> Option<GiveUp> {
    // SAFETY: flags of this process set by signal handlers.
    let (cancel, terminate) = unsafe {
        (
            std::ptr::read_volatile(&raw const pg_sys::QueryCancelPending) != 0,
            std::ptr::read_volatile(&raw const pg_sys::ProcDiePending) != 0,
        )
    };
    if terminate {
        Some(GiveUp::Terminate)
    } else if doomed.must_end {
        Some(GiveUp::Doomed)
    } else if cancel && !super::give_way::is_doomed() {
        Some(GiveUp::Cancel)
    } else if node.state() == NodeState::LogStopped {
        Some(GiveUp::Stopped)
    } else if Instant::now() >= deadline {
        Some(GiveUp::Timeout)
    } else {
        None
    }
}

/// Win the record from the log worker, then say what that means. `None`: the state moved on, look again.
fn give_up(node: &NodeShared, submitted: &Submitted, reason: GiveUp, doomed: &Doomed) -> Option<UserError> {
    let (slot, generation) = (submitted.slot(), submitted.generation);
    let spilled = slot.spilled.load(Ordering::Acquire);
    if slot.swap(generation, SlotState::Queued, SlotState::Free) {
        if spilled {
            remove_spill(node, submitted.number, generation);
        }
        return Some(match reason {
            GiveUp::Timeout => errors::no_quorum(),
            GiveUp::Doomed => errors::gave_way(),
            GiveUp::Stopped => errors::log_stopped(&node.log_reason()),
            GiveUp::Cancel | GiveUp::Terminate => {
                latch::check_for_interrupts();
                errors::canceled()
            }
        });
    }
    if reason == GiveUp::Doomed && !doomed.is_over() && slot.state_of(generation) == Some(SlotState::Proposed) {
        // It was queued when we looked, and has been proposed since: its verdict has the whole grace.
        return None;
    }
    let decided = slot.detach(generation)? == SlotState::Turn;
    node.detached.fetch_add(1, Ordering::Relaxed);
    if reason == GiveUp::Doomed {
        let counter = if decided {
            &node.gave_way_committed
        } else {
            &node.gave_way_unknown
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    node.mark_slot(submitted.number);
    node.wake_apply_worker();
    let error = let_go(node, slot, reason, decided);
    if reason == GiveUp::Terminate {
        error.raise_fatal();
    }
    Some(error)
}

/// What the client is told about a record that is nobody's now.
fn let_go(node: &NodeShared, slot: &Slot, reason: GiveUp, decided: bool) -> UserError {
    if decided {
        let why = match reason {
            GiveUp::Cancel => "It was canceled while it waited for its turn to commit.",
            GiveUp::Terminate => "Its session was terminated while it waited for its turn to commit.",
            GiveUp::Timeout => "Its turn to commit did not come within synod.commit_timeout.",
            GiveUp::Doomed => "It holds a lock that a transaction committed before it needs.",
            GiveUp::Stopped => "The shared log of this node stopped before its turn to commit.",
        };
        return errors::committed_without_us(&record_id(node, slot), why);
    }
    let why = match reason {
        GiveUp::Cancel => "It was canceled while the shared log was deciding it.",
        GiveUp::Terminate => "Its session was terminated while the shared log was deciding it.",
        GiveUp::Timeout => "The shared log did not answer within synod.commit_timeout.",
        GiveUp::Doomed => {
            "It holds a lock that a committed transaction needs, and the shared log did not decide it in time."
        }
        GiveUp::Stopped => "The shared log of this node stopped while deciding it.",
    };
    given_up(node, slot, why)
}

/// The id of the transaction whose record is in the slot.
pub fn record_id(node: &NodeShared, slot: &Slot) -> String {
    let (incarnation, number) = (
        slot.incarnation.load(Ordering::Relaxed),
        slot.record_transaction.load(Ordering::Relaxed),
    );
    format!("{}-{incarnation}-{number}", node.node_id.load(Ordering::Relaxed))
}

fn given_up(node: &NodeShared, slot: &Slot, why: &str) -> UserError {
    errors::unknown(&record_id(node, slot), why)
}

fn refusal(node: &NodeShared, slot: &Slot) -> UserError {
    match slot.outcome() {
        Outcome::Conflict => {
            super::barrier::lost_to_another();
            errors::conflict(slot.winner.load(Ordering::Relaxed))
        }
        Outcome::TooOld => errors::too_old(),
        Outcome::DdlLocked => errors::ddl_lock_lost(),
        Outcome::NoQuorum => errors::no_quorum(),
        Outcome::SpillFailed => errors::spill_lost(),
        Outcome::Stopped | Outcome::DdlLockGranted | Outcome::None => errors::log_stopped(&node.log_reason()),
    }
}

/// As `synod.commit_timeout` says.
pub fn commit_timeout() -> Duration {
    Duration::from_millis(crate::settings::COMMIT_TIMEOUT_MS.get().max(1) as u64)
}

/// In microseconds since 2000-01-01.
pub fn now_us() -> u64 {
    // SAFETY: no preconditions.
    unsafe { pg_sys::GetCurrentTimestamp() as u64 }
}
