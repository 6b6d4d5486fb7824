//! Capture: what a transaction did to strong tables, as net effects, ready for the log.
//!
//! Triggers note which row versions came and went ([`trigger`], `events`); before commit the versions are followed to the
//! last one (`chain`), and what remains is written as a record body with its certification keys (`seal`).
//! Invariants:
//! - the order in which triggers fired means nothing: only first and last version of each row count;
//! - events of a subtransaction that was rolled back are as if they had not been (`subtransactions`);
//! - memory is bounded: events spill to a temporary file, the body to a spill file;
//! - nothing can be captured after the seal: the trigger raises.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use pgrx::pg_sys;
use synod_change::TableId;

use crate::errors::UserError;
use crate::local_key::LocalKey;
use crate::pg::teller::Teller;
pub use events::{Event, EventLog, RowLock, Tid};
pub use image::{Image, Version};
pub use section::Section;
use subtransactions::Subtransactions;

mod chain;
mod drawn;
mod emit;
mod events;
mod image;
mod seal;
mod section;
mod sink;
mod subtransactions;
pub mod trigger;

/// A sealed transaction.
#[derive(Debug)]
pub struct Sealed {
    /// Certification keys, each with its base. At most [`synod_change::MAX_KEYS_PER_RECORD`].
    pub keys: Vec<LocalKey>,
    /// The changes.
    pub body: SealedBody,
    /// Rows inserted, updated or deleted.
    pub rows: u64,
    /// For the change stream: what of it is not in the WAL yet.
    pub told: Option<Teller>,
}

impl Pending {
    /// For an event that is noted now.
    fn current_subtransaction(&mut self) -> pg_sys::SubTransactionId {
        // SAFETY: inside a transaction.
        let current = unsafe { pg_sys::GetCurrentSubTransactionId() };
        self.latest_subtransaction = self.latest_subtransaction.max(current);
        current
    }

    /// Neither writes nor locks.
    fn is_blank(&self) -> bool {
        self.events.is_empty() && self.tables.is_empty() && self.table_locks.is_empty()
    }
}

impl Sealed {
    /// No net effect: nothing for the log.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && matches!(&self.body, SealedBody::Inline(bytes) if bytes.is_empty())
    }
}

/// Where the body is.
#[derive(Debug)]
pub enum SealedBody {
    /// Here; empty when there is no net effect.
    Inline(Vec<u8>),
    /// In a file of the node's `spill` directory.
    Spilled {
        /// The file.
        file: SpillFile,
        /// Its length in bytes.
        length: u64,
        /// [`synod_change::body_crc`] over all of it.
        crc: u32,
    },
}

/// A file that goes with this value, unless it was renamed.
#[derive(Debug)]
pub struct SpillFile(PathBuf);

impl SpillFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A change of a table as a whole, noted beside the row events.
#[derive(Clone, Debug)]
struct TableEvent {
    subtransaction: pg_sys::SubTransactionId,
    relation: pg_sys::Oid,
    /// Number of row events before it.
    at: u64,
    /// Applied CSN when it was noted.
    base: u64,
    what: TableChange,
}

#[derive(Clone, Debug)]
enum TableChange {
    Truncated { restart_identity: bool },
    Added { id: TableId },
    Removed { id: TableId, schema: String, name: String },
}

/// LOCK TABLE in a mode that keeps writers out.
#[derive(Clone, Copy, Debug)]
struct TableLock {
    subtransaction: pg_sys::SubTransactionId,
    table: TableId,
    base: u64,
}

/// What the current transaction has done so far.
#[derive(Default)]
struct Pending {
    events: EventLog,
    tables: Vec<TableEvent>,
    table_locks: Vec<TableLock>,
    subtransactions: Subtransactions,
    /// The highest that noted something. Ids ascend, also from parent to child.
    latest_subtransaction: pg_sys::SubTransactionId,
    /// Applied CSN at the first event.
    first_base: Option<u64>,
}

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::new(Pending::default());
    static SEALED: Cell<bool> = const { Cell::new(false) };
    static APPLYING: Cell<bool> = const { Cell::new(false) };
    static REPAIRING: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static RESTART_IDENTITY: Cell<bool> = const { Cell::new(false) };
}

/// Whether something of this transaction may have to be replicated.
pub fn pending() -> bool {
    PENDING.with_borrow(|pending| pending.events.has_writes() || !pending.tables.is_empty())
}

/// Whether something was noted about this relation; scans the tables noted, not the rows.
pub fn pending_on(relation: pg_sys::Oid) -> bool {
    PENDING.with_borrow(|pending| {
        pending.events.relations().contains(&relation) || pending.tables.iter().any(|event| event.relation == relation)
    })
}

/// The applied CSN when this transaction first wrote a strong table.
pub fn first_base() -> Option<u64> {
    PENDING.with_borrow(|pending| pending.first_base)
}

/// The apply worker writes what was captured elsewhere: its own writes are not captured.
pub fn set_applying(applying: bool) {
    APPLYING.set(applying);
}

/// This transaction's writes to a table mend rows of this node only: they are not captured.
pub fn set_repairing(table: pg_sys::Oid) {
    REPAIRING.set(table);
}

/// The table that this transaction mends, if it is one.
pub fn repairing() -> pg_sys::Oid {
    REPAIRING.get()
}

/// Whether this process is an apply worker.
pub fn applying() -> bool {
    APPLYING.get()
}

/// The TRUNCATE that begins now restarts sequences (the trigger does not tell).
pub fn note_restart_identity(restart: bool) {
    RESTART_IDENTITY.set(restart);
}

/// Whether the sequence is this transaction's alone until it ends, and so are the values that it draws: the transaction lets it begin
/// again (TRUNCATE ... RESTART IDENTITY), or begins to replicate all tables that it feeds. A range that is granted meanwhile would be
/// somebody else's claim on the table.
pub fn has_for_itself(sequence: pg_sys::Oid) -> bool {
    let (mut restarted, mut added) = (Vec::new(), Vec::new());
    PENDING.with_borrow(|pending| {
        for event in &pending.tables {
            if !pending.subtransactions.counts(event.subtransaction) {
                continue;
            }
            match event.what {
                TableChange::Truncated { restart_identity: true } => restarted.push(event.relation),
                TableChange::Added { id } => added.push(id),
                _ => {}
            }
        }
    });
    let restarts = |table: pg_sys::Oid| {
        super::relation::by_oid(table).is_some_and(|table| {
            table
                .sequences
                .iter()
                .any(|feeding| feeding.owned && feeding.sequence == sequence)
        })
    };
    if restarted.into_iter().any(restarts) {
        return true;
    }
    let feeds = match added.is_empty() {
        true => Vec::new(),
        false => super::service::ranges::feeds_of(sequence),
    };
    !feeds.is_empty() && feeds.iter().all(|(table, _)| added.contains(table))
}

/// A row was locked. It counts as touched if the transaction also writes.
pub fn note_row_lock(relation: pg_sys::Oid, lock: RowLock) {
    // Whoever had it locked on this node before may be just about to say that he has committed.
    let base = super::shmem::visible();
    PENDING.with_borrow_mut(|pending| {
        let subtransaction = pending.current_subtransaction();
        pending
            .events
            .push(Event::of_lock(relation, subtransaction, lock, base));
    });
}

/// A table was locked, or is about to be, so that nobody else may write it.
pub fn note_table_lock(table: TableId) {
    // Who wrote it on this node before may be just about to say that he has committed.
    let base = super::shmem::visible();
    PENDING.with_borrow_mut(|pending| {
        let subtransaction = pending.current_subtransaction();
        // One that counts goes with this one at the latest, for all that is open is around this.
        let known = |lock: &TableLock| lock.table == table && pending.subtransactions.counts(lock.subtransaction);
        if !pending.table_locks.iter().any(known) {
            pending.table_locks.push(TableLock {
                subtransaction,
                table,
                base,
            });
        }
    });
}

/// A table is replicated from this transaction on; its rows are read when the transaction is sealed.
pub fn note_added(relation: pg_sys::Oid, id: TableId) {
    note_table(relation, TableChange::Added { id });
}

/// Whether it is replicated from this transaction on.
pub fn added(relation: pg_sys::Oid) -> bool {
    PENDING.with_borrow(|pending| {
        pending.tables.iter().any(|event| {
            event.relation == relation
                && matches!(event.what, TableChange::Added { .. })
                && pending.subtransactions.counts(event.subtransaction)
        })
    })
}

/// A table is no longer replicated from this transaction on.
pub fn note_removed(relation: pg_sys::Oid, id: TableId, schema: String, name: String) {
    note_table(relation, TableChange::Removed { id, schema, name });
}

fn note_table(relation: pg_sys::Oid, what: TableChange) {
    let base = super::shmem::applied();
    PENDING.with_borrow_mut(|pending| {
        let subtransaction = pending.current_subtransaction();
        pending.first_base.get_or_insert(base);
        let at = pending.events.len();
        pending.tables.push(TableEvent {
            subtransaction,
            relation,
            at,
            base,
            what,
        });
    });
}

/// Turn what was captured into a record body and its keys. Once per transaction, before commit, when no trigger is due any
/// more. `applied_now` is the base of the keys that our locks protect.
pub fn seal(applied_now: u64) -> Result<Sealed, UserError> {
    SEALED.set(true);
    // Taken out, because following versions may run the server's invalidation callbacks and user-defined functions.
    let mut pending = PENDING.take();
    let sealed = seal::seal(&mut pending, applied_now);
    pending.events.close();
    sealed
}

/// How many rows this transaction has written, those that were only locked not counted: the check of a new foreign key may lock rows.
pub fn rows_written() -> u64 {
    PENDING.with_borrow(|pending| pending.events.writes())
}

/// The rows written since the last change of definitions, before the next one; nothing if there are none.
pub fn section() -> Result<Option<Section>, UserError> {
    let (from, _) = super::ddl::sections_end();
    let (rows, tables) = PENDING.with_borrow(|pending| {
        let counts = |event: &TableEvent| {
            matches!(event.what, TableChange::Truncated { .. }) && pending.subtransactions.counts(event.subtransaction)
        };
        (pending.events.len() > from, pending.tables.iter().any(counts))
    });
    if tables {
        return Err(UserError::new(
            pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot change definitions in a transaction that has truncated a strong table",
            "The other nodes could not follow in the same order.",
            "Use two transactions.",
        ));
    }
    if !rows {
        return Ok(None);
    }
    // Taken out as in `seal`, and put back: the rows may have to travel in another way after ROLLBACK TO SAVEPOINT.
    let mut lent = Lent(PENDING.take());
    seal::section(&mut lent.0).map(Some)
}

/// Goes back also when an error of the server passes by: after ROLLBACK TO SAVEPOINT the transaction may still commit.
struct Lent(Pending);

impl Drop for Lent {
    fn drop(&mut self) {
        PENDING.set(std::mem::take(&mut self.0));
    }
}

/// From the subtransaction callback.
pub fn on_subxact(event: pg_sys::SubXactEvent::Type, mine: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    PENDING.with_borrow_mut(|pending| {
        if pending.is_blank() || mine > pending.latest_subtransaction {
            // Neither it nor a child of it noted anything.
            return;
        }
        match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => pending.subtransactions.merged(mine, parent),
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
                pending.events.drop_last_of(mine);
                pending.subtransactions.rolled_back(mine);
                let Pending {
                    table_locks,
                    subtransactions,
                    ..
                } = pending;
                table_locks.retain(|lock| subtransactions.counts(lock.subtransaction));
            }
            _ => {}
        }
    });
}

/// Forget everything, at the end of the transaction.
pub fn reset() {
    SEALED.set(false);
    RESTART_IDENTITY.set(false);
    REPAIRING.set(pg_sys::InvalidOid);
    PENDING.with_borrow_mut(|pending| {
        if pending.latest_subtransaction != 0 {
            *pending = Pending::default();
        }
    });
}
