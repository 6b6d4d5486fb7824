//! The apply worker: reads decided records from the log's files, in order, and applies those that no live backend of this
//! server is about to commit itself.
//!
//! ```text
//! next position -> did not commit: skip
//!               -> made here, and its backend lives: wait until it has committed or let go
//!               -> else: apply, as part of a run of such records in one transaction, and commit in turn
//! ```
//!
//! Invariants: it applies the record at x only when `applied` is the committing position before x, so `applied` is always a
//! prefix; the CSN of the run's last record goes into the commit record (replication origin), so a crash resumes right behind
//! it. What cannot be applied stops the worker there: it publishes why (`synod.stat_apply`), strong reads fail instead of
//! waiting, and it tries again by itself with growing pauses. It sleeps on its latch.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgTryBuilder, pg_guard, pg_sys};
use synod_change::stream::record_message::RecordHeader;

use super::apply::{Applier, Origin};
use super::barrier::{self, wait};
use super::give_way::timer;
use super::relation::StrongTable;
use super::shmem::{self, ApplyState, NodeShared, NodeState};
use super::turn::{self, Turn};
use super::{capture, failpoint, hold, latch, worker};

mod failure;
mod make_way;
mod session;
mod source;
mod table_locks;

use failure::{Failure, Pause};
use make_way::Ways;
use source::{Pending, Source, Work};
use table_locks::TableLocks;

/// A run of records shares a transaction for this long at most: local commits wait behind it.
const RUN_TIME: Duration = Duration::from_millis(5);
/// And no longer than this many records.
const RUN_RECORDS: usize = 500;
/// The latch wakes the worker; this is only in case a wake-up gets lost.
const LONG: Duration = Duration::from_secs(10);
/// How often a held node is looked at.
const HELD: Duration = Duration::from_millis(20);

thread_local! {
    /// Held over the commit of a run, from PRE_COMMIT's end to the callback.
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// Entry point of the apply worker; the argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn synod_apply_worker_main(argument: pg_sys::Datum) {
    worker::start_with_interrupts();
    super::wait_event::set_default(super::wait_event::WaitEvent::Apply);
    let database = argument.value() as u32;
    let Some((_, node)) = shmem::node_of(database) else {
        return;
    };
    session::connect(database);
    // SAFETY: once in this process; the callback is guarded.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut()) }
    barrier::exempt_this_process();
    capture::set_applying(true);
    timer::init(node);
    table_locks::release_at_exit();
    node.apply_worker.store(latch::my_number(), Ordering::SeqCst);
    let mut worker = Worker::new(node, database);
    worker.work();
    node.apply_worker.store(-1, Ordering::SeqCst);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            if let Some(turn) = TURN.take() {
                turn.finish();
            }
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => {
            if let Some(turn) = TURN.take() {
                turn.give_back();
            }
        }
        _ => {}
    }
}

/// What the worker is doing, for the message if it fails.
#[derive(Default)]
struct Doing {
    csn: Cell<u64>,
    table: RefCell<Option<Rc<StrongTable>>>,
}

/// What came of a look at the next record.
enum Step {
    /// Something was done: look again at once.
    Moved,
    /// There is nothing to do until the latch is set.
    Idle,
    /// The node is held (`hold`): whoever ends the hold sets the latch, its deadline does not.
    Held,
}

struct Worker {
    node: &'static NodeShared,
    source: Source,
    doing: Doing,
    pause: Pause,
    /// After a failure records are applied one by one, up to the one that failed.
    alone_until: u64,
    locks: TableLocks,
    ways: Ways,
}

impl Worker {
    fn new(node: &'static NodeShared, database: u32) -> Self {
        Self {
            node,
            source: Source::new(&crate::node::directory(database)),
            doing: Doing::default(),
            pause: Pause::default(),
            alone_until: 0,
            locks: TableLocks::default(),
            ways: Ways::default(),
        }
    }

    fn work(&mut self) {
        self.begin();
        while !self.node.leaving.load(Ordering::SeqCst) {
            latch::reset();
            latch::check_for_interrupts();
            worker::reload_if_asked();
            match self.step() {
                Ok(Step::Moved) => {}
                Ok(Step::Idle) => {
                    let again = session::report_idle();
                    // A backend that commits does not say so to a worker that has nothing to do.
                    let watched = self.locks.is_watched().then_some(HELD);
                    latch::wait(watched.or(again).unwrap_or(LONG));
                }
                Ok(Step::Held) => latch::wait(HELD),
                Err(failure) => self.stop(&failure),
            }
        }
    }

    /// Find out how far this node is, from the replication origin, and publish it. Until that works nothing is applied.
    fn begin(&mut self) {
        loop {
            match guarded(|| Ok(session::durable_progress(self.node))) {
                Ok(durable) => {
                    let applied = self.node.applied.fetch_max(durable, Ordering::SeqCst).max(durable);
                    self.node.recent.note_start(applied);
                    self.source.start_after(applied);
                    if let Err(failure) = guarded(|| Ok(self.locks.resume(self.node)?)) {
                        self.stop(&failure);
                        continue;
                    }
                    self.running();
                    wait::wake_all(self.node);
                    return;
                }
                Err(failure) => self.stop(&failure),
            }
        }
    }

    fn step(&mut self) -> Result<Step, Failure> {
        self.lock_again()?;
        let applied = self.node.applied.load(Ordering::SeqCst);
        // Trimming never passes applied + 1; only a joiner's log begins higher, and nothing in between commits.
        let begins = self.node.trimmed.load(Ordering::SeqCst).saturating_sub(1);
        self.source.skip_to(applied.max(begins));
        let certified = self.node.certified.load(Ordering::SeqCst);
        let Some(next) = self.source.next(certified).map_err(Failure::from)?.cloned() else {
            self.pass_owners();
            self.running();
            return Ok(Step::Idle);
        };
        self.pass_owners();
        if is_live(self.node, &next) {
            self.running();
            return Ok(Step::Idle);
        }
        if hold::stops(self.node, next.csn) {
            return Ok(Step::Held);
        }
        if self.node.applied.load(Ordering::SeqCst) != applied {
            // Its backend has committed it after the first look.
            return Ok(Step::Moved);
        }
        self.run(certified)?;
        self.running();
        Ok(Step::Moved)
    }

    /// Apply the next record, and those behind it that need nobody else, in one transaction.
    fn run(&mut self, certified: u64) -> Result<(), Failure> {
        failpoint::armed("apply");
        session::report_busy();
        timer::start();
        let Self {
            node,
            source,
            doing,
            alone_until,
            locks,
            ways,
            ..
        } = self;
        let outcome = guarded(|| apply_run(node, source, doing, locks, *alone_until, certified));
        timer::stop();
        let applied = outcome.map_err(|failure| ways.make(failure).while_doing(doing, node));
        doing.table.replace(None);
        if applied.is_err() {
            // What fails now fails again before the next record.
            let _ = self.lock_again();
            self.alone_until = self.doing.csn.get();
            self.source.rewind(self.node.applied.load(Ordering::SeqCst));
        }
        let Applied {
            records,
            rows,
            ends_ddl,
        } = applied?;
        if let Some(position) = ends_ddl {
            self.locks.ended(position);
        }
        self.node.applied_records.fetch_add(records, Ordering::Relaxed);
        self.node.applied_rows.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }

    /// A transaction that failed has taken the session's locks with it. None are kept while the log stands still.
    fn lock_again(&mut self) -> Result<(), Failure> {
        if self.node.state() == NodeState::LogStopped && self.locks.holds() {
            self.locks.let_go();
            return Ok(());
        }
        if table_locks::stand() {
            return Ok(());
        }
        guarded(|| {
            self.locks.lock_again(self.node);
            Ok(())
        })
    }

    fn pass_owners(&mut self) {
        if self.source.owners_changed() {
            self.locks.look_whether_lost(self.node);
        }
        self.locks.release_if_lost(self.node);
    }

    fn running(&mut self) {
        self.pause = Pause::default();
        self.ways = Ways::default();
        if self.node.apply_state() == ApplyState::Running {
            return;
        }
        if self.node.apply_state() == ApplyState::Stopped {
            pgrx::log!("apply goes on after CSN {}", self.node.applied.load(Ordering::SeqCst));
        }
        self.node.set_apply_reason("");
        self.node
            .apply_state
            .store(ApplyState::Running as u32, Ordering::SeqCst);
    }

    /// Say why, and wait a while, or for less if the failure is one that passes by itself.
    fn stop(&mut self, failure: &Failure) {
        if self.pause.passes(failure) {
            return;
        }
        if self.node.apply_state() != ApplyState::Stopped || self.node.apply_reason() != failure.reason {
            failure.log();
        }
        self.node.set_apply_reason(&failure.reason);
        self.node
            .apply_state
            .store(ApplyState::Stopped as u32, Ordering::SeqCst);
        wait::wake_all(self.node);
        let until = Instant::now() + self.pause.next();
        while Instant::now() < until && !self.node.leaving.load(Ordering::SeqCst) {
            latch::reset();
            latch::check_for_interrupts();
            worker::reload_if_asked();
            latch::wait(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// Run something in a transaction of its own; an error of the server or of ours rolls it back.
fn guarded<R>(work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let work = std::panic::AssertUnwindSafe(|| {
        session::begin();
        let result = work()?;
        session::commit();
        Ok(result)
    });
    let outcome = PgTryBuilder::new(work)
        .catch_others(|error| Err(Failure::from_server(&error)))
        .catch_rust_panic(|error| Err(Failure::from_server(&error)))
        .execute();
    if outcome.is_err() {
        table_locks::unguard();
        session::abort();
    }
    outcome
}

/// What a run did.
struct Applied {
    records: u64,
    rows: u64,
    /// Its last record, if that ended the group's DDL lock.
    ends_ddl: Option<u64>,
}

/// Inside a transaction: apply the run and take the turn of its last record; the commit follows.
fn apply_run(
    node: &'static NodeShared,
    source: &mut Source,
    doing: &Doing,
    locks: &mut TableLocks,
    alone_until: u64,
    certified: u64,
) -> Result<Applied, Failure> {
    let mut applier = Applier::begin();
    let began = Instant::now();
    let mut records = 0;
    let mut last = 0;
    let mut commit_time_us = 0;
    let mut previous_csn = node.applied.load(Ordering::SeqCst);
    let mut ends_ddl = None;
    while let Some(pending) = source.next(certified).map_err(Failure::from)?.cloned() {
        let csn = pending.csn;
        let full = records == RUN_RECORDS || began.elapsed() >= RUN_TIME || csn <= alone_until || pending.is_alone();
        if records > 0 && (full || hold::stops(node, csn) || is_live(node, &pending)) {
            break;
        }
        doing.csn.set(csn);
        let origin = Origin {
            csn,
            node: pending.node,
            own: pending.node == node.node_id.load(Ordering::Relaxed),
        };
        let note = |table: &Rc<StrongTable>| {
            doing.table.replace(Some(Rc::clone(table)));
        };
        let body = source.take_body().map_err(Failure::from)?;
        match &pending.work {
            Work::Lock(request) => locks.take(csn, pending.node, request, origin.own)?,
            work => ends_ddl = matches!(work, Work::Ddl | Work::Unlock).then_some(csn),
        }
        applier.tell(RecordHeader {
            group: node.group(),
            csn,
            previous_csn,
            transaction: pending.transaction,
            commit_time_us: pending.commit_time_us,
        });
        applier.apply_body(body, origin, &note)?;
        records += 1;
        last = csn;
        previous_csn = csn;
        commit_time_us = pending.commit_time_us;
        if csn <= alone_until || full {
            break;
        }
    }
    let rows = applier.rows();
    applier.close();
    // Held since the run began: it is done again up to there.
    let turn = Turn::try_take(node, last, commit_time_us).ok_or_else(Failure::held)?;
    TURN.set(Some(turn));
    Ok(Applied {
        records: records as u64,
        rows,
        ends_ddl,
    })
}

/// Whether a backend of this server holds the record and will commit it itself.
fn is_live(node: &NodeShared, record: &Pending) -> bool {
    record.node == node.node_id.load(Ordering::SeqCst) && turn::owner(node, record.csn).is_some()
}

impl Pending {
    /// Whether it deserves a transaction of its own.
    fn is_alone(&self) -> bool {
        self.fragments > 0 || self.work != Work::Rows
    }
}
