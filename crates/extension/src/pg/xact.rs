//! Transaction callbacks: seal and submit the record before commit, commit in turn, clean up after.
//!
//! ```text
//! PRE_COMMIT   seal -> submit -> wait for the verdict and the turn -> Turn::take      (may raise)
//! COMMIT       Turn::finish, slot freed                                              (never raises)
//! ABORT        Turn::give_back, slot detached: a decided record is applied as remote (never raises)
//! ```
//!
//! From `Turn::take` on interrupts are held (the LWLock does it), and an error that happens all the same must not look like a
//! rollback: [`rewrite_error`] turns it into 08007 on its way to the client.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use pgrx::pg_guard;
use pgrx::pg_sys;

use super::service::draws;
use super::shmem::{self, NodeShared};
use super::slot::SlotState;
use super::submit::{self, Submitted};
use super::turn::Turn;
use super::{capture, context, ddl};
use crate::errors::{self, UserError};

/// This backend's transaction on its way through the log.
#[derive(Default)]
struct Current {
    submitted: Option<Submitted>,
    turn: Option<Turn>,
    /// Number of this transaction within the incarnation, once somebody asked for it.
    number: u64,
    /// Incarnation of the id that the user was told; 0: none was.
    told_incarnation: u64,
    /// CSN of the last own commit, for `synod.read_consistency = session`.
    last_csn: u64,
}

thread_local! {
    // A backend has one thread; this is its process-local state.
    static CURRENT: RefCell<Current> = RefCell::new(Current::default());
}

/// Register the callbacks. From `_PG_init` in the postmaster: backends inherit them.
pub fn init() {
    // SAFETY: single-threaded server start; the callbacks are `extern "C-unwind"` and guarded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => {
            if let Err(error) = before_commit() {
                error.raise();
            }
        }
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            if let Err(error) = before_prepare() {
                error.raise();
            }
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => after_commit(),
        pg_sys::XactEvent::XACT_EVENT_ABORT => after_abort(),
        pg_sys::XactEvent::XACT_EVENT_PREPARE => cleanup(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    mine: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut core::ffi::c_void,
) {
    capture::on_subxact(event, mine, parent);
    ddl::on_subxact(event, mine, parent);
    context::on_subxact(event, mine, parent);
    super::mixed::on_subxact(event, mine, parent);
}

fn prepare_refused() -> UserError {
    UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot PREPARE a transaction that has written strong tables",
        "The shared log decides such a transaction when it commits.",
        "Use COMMIT.",
    )
}

fn serializable_refused() -> UserError {
    UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot write strong tables in a SERIALIZABLE transaction",
        "Reads of other nodes' transactions are not certified.",
        "Use REPEATABLE READ, which is snapshot isolation across the group.",
    )
}

/// A repair, too: it is right at one CSN, and the hold that keeps the node there ends with the transaction.
fn before_prepare() -> Result<(), UserError> {
    if capture::pending() || ddl::pending() || super::hold::is_repair() {
        return Err(prepare_refused());
    }
    super::expected::check_subscription()?;
    draws::settle()
}

fn before_commit() -> Result<(), UserError> {
    super::hold::check_repair()?;
    super::expected::check_subscription()?;
    if !capture::pending() && !ddl::pending() {
        return draws::settle();
    }
    let node = crate::node::required()?;
    // It would wait for itself.
    super::hold::end();
    super::give_way::check_doomed();
    // SAFETY: reads this process' own global.
    if capture::pending() && unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_SERIALIZABLE as i32 {
        return Err(serializable_refused());
    }
    let lock = ddl::lock_incarnation();
    if lock != 0 && lock != node.incarnation.load(Ordering::Acquire) {
        return Err(errors::ddl_lock_lost());
    }
    if capture::pending() || ddl::concerns_group() {
        super::mixed::check()?;
    }
    let mut sealed = capture::seal(node.applied.load(Ordering::SeqCst))?;
    if sealed.is_empty() {
        return Ok(());
    }
    if node.origin.load(Ordering::Acquire) == 0 {
        // Without its replication origin a commit would not carry its CSN.
        return Err(errors::starting());
    }
    // SAFETY: reads this process' own global.
    if unsafe { pg_sys::replorigin_session_origin } != 0 {
        // Not after the verdict: the turn could not be taken then.
        return Err(errors::origin_in_use());
    }
    let told = CURRENT.with_borrow(|current| current.told_incarnation);
    if told != 0 && told != node.incarnation.load(Ordering::Acquire) {
        return Err(errors::id_is_void());
    }
    let told = sealed.told.take();
    let submitted = submit::submit(node, current_number(node), sealed, submit::By::Transaction)?;
    CURRENT.with_borrow_mut(|current| current.submitted = Some(submitted));
    let csn = submit::wait_for_turn(node, &submitted)?;
    super::failpoint::hit("before-turn");
    let header = submitted.header(node);
    let turn = Turn::take(node, csn, header.commit_time_us);
    CURRENT.with_borrow_mut(|current| current.turn = Some(turn));
    // Not before: only now it is known which record it is, and which one is before it.
    if let Some(mut told) = told {
        told.end(header);
    }
    super::failpoint::hit("after-turn");
    Ok(())
}

fn after_commit() {
    // SAFETY: state of this process, which has not left the transaction yet.
    if unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId {
        super::audit::sleeper::wake_at_commit();
    }
    let (turn, submitted) = CURRENT.with_borrow_mut(|current| (current.turn.take(), current.submitted.take()));
    if let (Some(turn), Some(submitted)) = (turn, submitted) {
        // Too late to fail, but not to die.
        super::failpoint::armed("after-commit");
        let csn = turn.csn();
        let node = turn.node();
        turn.finish();
        super::failpoint::armed("turn-passed");
        node.committed.fetch_add(1, Ordering::Relaxed);
        CURRENT.with_borrow_mut(|current| current.last_csn = csn);
        // Not free yet: whom it blocks meanwhile must not end this process.
        super::peers::confirmed::wait_until_applied(csn, submitted.slot());
        submitted.slot().free(submitted.generation, SlotState::Committing);
    }
    cleanup();
}

fn after_abort() {
    let (turn, submitted) = CURRENT.with_borrow_mut(|current| (current.turn.take(), current.submitted.take()));
    // First: whoever takes the record next needs the replication origin, which one session may have at a time.
    if let Some(turn) = turn {
        turn.give_back();
    }
    super::stream_ddl::reset();
    if let Some(submitted) = submitted
        && let Some(node) = shmem::slot_node(submitted.slot())
    {
        submitted.let_go(node);
        // If the group commits it, it is the apply worker's from now on.
        node.wake_apply_worker();
    }
    cleanup();
}

fn cleanup() {
    super::give_way::interrupt::transaction_ended();
    CURRENT.with_borrow_mut(|current| {
        current.number = 0;
        current.told_incarnation = 0;
    });
    capture::reset();
    context::reset();
    super::service::reservations::reset();
    let mut over = false;
    super::hold::end();
    super::mixed::reset();
    if ddl::lock_incarnation() != 0 {
        over = true;
    }
    ddl::reset();
    super::peers::confirmed::forget();
    if let Some(slot) = shmem::slot(super::latch::my_number()) {
        slot.transaction.store(0, Ordering::SeqCst);
    }
    if over && let Some(node) = shmem::my_node() {
        // It gives the DDL lock back.
        node.wake_log_worker();
    }
}

/// The number of this transaction within its node's incarnation, given out at first use.
pub fn current_number(node: &NodeShared) -> u64 {
    CURRENT.with_borrow_mut(|current| {
        if current.number == 0 {
            current.number = node.transactions.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(slot) = shmem::slot(super::latch::my_number()) {
                slot.node.store(node.index() as u32, Ordering::SeqCst);
                slot.transaction.store(current.number, Ordering::SeqCst);
            }
        }
        current.number
    })
}

/// The id of this transaction, for the user to ask by. `None` before the log worker has said which incarnation this is.
pub fn current_id(node: &NodeShared) -> Option<String> {
    let incarnation = node.incarnation.load(Ordering::Acquire);
    if incarnation == 0 {
        return None;
    }
    let number = current_number(node);
    CURRENT.with_borrow_mut(|current| current.told_incarnation = incarnation);
    Some(crate::node::transaction_id(node, number))
}

/// CSN of this session's last commit through the log; 0: none.
pub fn last_csn() -> u64 {
    CURRENT.with_borrow(|current| current.last_csn)
}

/// This session saw the state at `csn`: `session` reads never go back behind it.
pub fn saw(csn: u64) {
    CURRENT.with_borrow_mut(|current| current.last_csn = current.last_csn.max(csn));
}

/// For `emit_log_hook`: an error between the turn and the end of commit. The id of the transaction whose outcome the client
/// must ask for.
pub fn committing_transaction() -> Option<String> {
    CURRENT.with_borrow(|current| {
        // Not the turn: taking it may be what fails.
        let submitted = current.submitted?;
        let slot = submitted.slot();
        let committing = slot.state_of(submitted.generation) == Some(SlotState::Committing);
        committing.then(|| Some(submit::record_id(shmem::my_node()?, slot)))?
    })
}

/// Errors of the turn (see [`committing_transaction`]) in the user's terms.
pub fn rewrite_error(transaction: &str, cause: &str) -> UserError {
    errors::unknown(
        transaction,
        &format!("The group had decided that it commits when this happened here: {cause}."),
    )
}
