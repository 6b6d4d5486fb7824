//! A sequence as it lies on its one page: looked at and moved in one step, which `nextval` and `setval` cannot come between.
//!
//! Moving one is `do_setval` (commands/sequence.c) with a decision in it: what is set depends on what is found under the lock.

use pgrx::pg_sys;

use super::definition::SysCacheRow;
use super::relcache::Relation;

/// `XLOG_SEQ_LOG` of commands/sequence.h.
const XLOG_SEQ_LOG: u8 = 0;

/// `FormData_pg_sequence_data` of commands/sequence.h.
#[repr(C)]
struct SequenceData {
    last_value: i64,
    log_count: i64,
    is_called: bool,
}

/// `FormData_pg_sequence` of catalog/pg_sequence.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Form {
    relation: pg_sys::Oid,
    value_type: pg_sys::Oid,
    start: i64,
    increment: i64,
    greatest: i64,
    least: i64,
    cache: i64,
    cycle: bool,
}

/// What is stored in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Given out last, or to be given out first.
    pub last_value: i64,
    /// Which of the two.
    pub is_called: bool,
}

/// An open sequence with its definition.
pub struct Sequence {
    relation: Relation,
    form: Form,
    /// The lock goes with this value.
    brief: bool,
}

impl Sequence {
    /// `None` when there is no such sequence. Locks it as `nextval` does, until the transaction ends.
    pub fn open(oid: pg_sys::Oid) -> Option<Self> {
        Self::open_for(oid, false)
    }

    /// As [`Sequence::open`], but the lock is released with the value.
    pub fn open_briefly(oid: pg_sys::Oid) -> Option<Self> {
        Self::open_for(oid, true)
    }

    /// Whether this transaction has the lock that `nextval` takes, and keeps to the transaction's end.
    pub fn is_in_use(oid: pg_sys::Oid) -> bool {
        let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: an open relation; a look at the locks of this process.
        Relation::open(oid)
            .is_some_and(|relation| unsafe { pg_sys::CheckRelationLockedByMe(relation.raw(), mode, true) })
    }

    fn open_for(oid: pg_sys::Oid, brief: bool) -> Option<Self> {
        let relation = Relation::open_locked(oid, pg_sys::RowExclusiveLock)?;
        let row = SysCacheRow::find(pg_sys::SysCacheIdentifier::SEQRELID, oid)?;
        // SAFETY: SEQRELID holds pg_sequence rows.
        let form = unsafe { *row.form::<Form>() };
        Some(Self { relation, form, brief })
    }

    /// Its relation.
    pub fn oid(&self) -> pg_sys::Oid {
        self.relation.oid()
    }

    /// From one value to the next.
    pub fn increment(&self) -> i64 {
        self.form.increment
    }

    /// The least value.
    pub fn least(&self) -> i64 {
        self.form.least
    }

    /// The greatest value.
    pub fn greatest(&self) -> i64 {
        self.form.greatest
    }

    /// How many values a session takes at once.
    pub fn cache(&self) -> u64 {
        self.form.cache.unsigned_abs().max(1)
    }

    /// Begins again at its end.
    pub fn cycles(&self) -> bool {
        self.form.cycle
    }

    /// Whether `a` comes before `b`.
    pub fn precedes(&self, a: i64, b: i64) -> bool {
        if self.form.increment > 0 { a < b } else { a > b }
    }

    /// What `nextval` would return, if its limits let it.
    pub fn next(&self, state: State) -> i64 {
        if state.is_called {
            state.last_value.saturating_add(self.form.increment)
        } else {
            state.last_value
        }
    }

    /// How many values there are from `from` to `to`; 0 when `to` comes first.
    pub fn count(&self, from: i64, to: i64) -> u64 {
        let steps = (i128::from(to) - i128::from(from)).div_euclid(i128::from(self.form.increment));
        u64::try_from(steps + 1).unwrap_or(0)
    }

    /// Call `look` with its state, under the page's lock.
    pub fn look<T>(&self, look: impl FnOnce(State) -> T) -> T {
        self.with_page(pg_sys::BUFFER_LOCK_SHARE, |state| (look(state), None))
    }

    /// Call `decide` with its state, under the page's exclusive lock; what it returns is stored. Not undone by abort, as with
    /// nextval.
    pub fn change<T>(&self, decide: impl FnOnce(State) -> (T, Option<State>)) -> T {
        self.with_page(pg_sys::BUFFER_LOCK_EXCLUSIVE, decide)
    }

    /// `decide` raises nothing.
    fn with_page<T>(&self, lock: u32, decide: impl FnOnce(State) -> (T, Option<State>)) -> T {
        // SAFETY: a sequence has one page with one tuple of fixed-length columns. The page is pinned and locked; in the critical
        // section nothing raises.
        unsafe {
            let buffer = pg_sys::ReadBuffer(self.relation.raw(), 0);
            pg_sys::LockBuffer(buffer, lock as i32);
            let page = pg_sys::BufferGetPage(buffer);
            let item = pg_sys::PageGetItemId(page, 1);
            let header = pg_sys::PageGetItem(page, item).cast::<pg_sys::HeapTupleHeaderData>();
            let data = header
                .cast::<u8>()
                .add(usize::from((*header).t_hoff))
                .cast::<SequenceData>();
            let (result, change) = decide(State {
                last_value: (*data).last_value,
                is_called: (*data).is_called,
            });
            if let Some(change) = change {
                pg_sys::CritSectionCount += 1;
                (*data).last_value = change.last_value;
                (*data).is_called = change.is_called;
                (*data).log_count = 0;
                pg_sys::MarkBufferDirty(buffer);
                let length = (*item).lp_len();
                self.log(buffer, page, header.cast(), length);
                pg_sys::CritSectionCount -= 1;
            }
            pg_sys::UnlockReleaseBuffer(buffer);
            result
        }
    }

    /// # Safety
    /// In a critical section, with the page locked; `tuple` is its only tuple.
    unsafe fn log(&self, buffer: pg_sys::Buffer, page: pg_sys::Page, tuple: *mut u8, length: u32) {
        // SAFETY: by contract; what is registered lives until the record is inserted.
        unsafe {
            if (*(*self.relation.raw()).rd_rel).relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
                return;
            }
            let mut location = super::compat::relation_location(self.relation.raw());
            pg_sys::XLogBeginInsert();
            pg_sys::XLogRegisterBuffer(0, buffer, pg_sys::REGBUF_WILL_INIT as u8);
            pg_sys::XLogRegisterData((&raw mut location).cast(), size_of_val(&location) as _);
            pg_sys::XLogRegisterData(tuple.cast(), length as _);
            let end = pg_sys::XLogInsert(pg_sys::RmgrIds::RM_SEQ_ID as u8, XLOG_SEQ_LOG);
            let header = page.cast::<pg_sys::PageHeaderData>();
            (*header).pd_lsn.xlogid = (end >> 32) as u32;
            (*header).pd_lsn.xrecoff = end as u32;
        }
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if self.brief && !std::thread::panicking() {
            // SAFETY: locked in `open_for`; the relation stays pinned until it is dropped.
            unsafe { pg_sys::UnlockRelationOid(self.relation.oid(), pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) }
        }
    }
}

/// The last value given out; `None` when none was, or when the sequence is gone.
pub fn last_value(sequence: pg_sys::Oid) -> Option<i64> {
    Sequence::open(sequence)?.look(|state| state.is_called.then_some(state.last_value))
}

/// Make sure that the sequence never gives out `value`, or anything on this side of it, unless `keep` says under the lock
/// that it is to be left alone.
pub fn advance(oid: pg_sys::Oid, value: i64, keep: impl FnOnce() -> bool) {
    let Some(sequence) = Sequence::open(oid) else { return };
    if !(sequence.least()..=sequence.greatest()).contains(&value) {
        return;
    }
    // A transaction id makes the commit wait for the WAL record's flush, as in setval.
    // SAFETY: inside a transaction.
    unsafe { pg_sys::GetTopTransactionId() };
    sequence.change(|state| {
        let behind = sequence.precedes(state.last_value, value) || (state.last_value == value && !state.is_called);
        let change = (behind && !keep()).then_some(State {
            last_value: value,
            is_called: true,
        });
        ((), change)
    });
}

/// The session gives up the values that the server keeps for it of sequences with CACHE, and with them what `currval` knows.
pub fn forget_stored_values() {
    unsafe extern "C-unwind" {
        // commands/sequence.h; not bound by pgrx.
        #[link_name = "ResetSequenceCaches"]
        fn reset_raw();
    }
    // SAFETY: frees a table of this session; raises nothing.
    unsafe { reset_raw() }
}
