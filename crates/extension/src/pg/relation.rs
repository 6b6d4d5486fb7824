//! What this backend knows about strong tables: a cache by relation oid, filled from the relation cache and
//! `synod.replicated_table`, dropped on relcache invalidation.
//!
//! "Not a strong table" is cached, too, so that the check at the start of every statement is one look into a hash table.
//! Adding or removing a table creates or drops its triggers, which invalidates it in every backend.
//! Entries are shared ([`Rc`]): an invalidation during use takes them out of the cache, not out of the user's hands.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};
use synod_change::TableId;

use super::relcache::{Relation, qualified};
pub use super::strong_table::{
    Column, FeedingSequence, ForeignKey, Function, StrongTable, UniqueKey, has_unhashable_key, triggers,
};
use super::{catalog, definition, hierarchy, strong_table};
use crate::errors::UserError;

type KnownSequences = (u64, Rc<HashMap<pg_sys::Oid, Vec<(TableId, u16)>>>);

thread_local! {
    static TABLES: RefCell<HashMap<pg_sys::Oid, Option<Rc<StrongTable>>>> = RefCell::new(HashMap::new());
    /// Tables that are not strong: whether a foreign key of theirs refers to a strong one.
    static REFERS: RefCell<HashMap<pg_sys::Oid, bool>> = RefCell::new(HashMap::new());
    /// Partitioned tables whose partitions were found to be strong, the number of invalidations then, and whether one has a key that is
    /// checked late.
    static WHOLE: RefCell<HashMap<pg_sys::Oid, (u64, bool)>> = RefCell::new(HashMap::new());
    static RELATION_OF: RefCell<HashMap<TableId, pg_sys::Oid>> = RefCell::new(HashMap::new());
    static INVALIDATIONS: Cell<u64> = const { Cell::new(0) };
    /// The extension's table of log entries, as of a number of invalidations.
    static LOG_ENTRIES: Cell<(Option<u64>, pg_sys::Oid)> = const { Cell::new((None, pg_sys::InvalidOid)) };
    /// The answer of `group_sequences` at a number of invalidations.
    static SEQUENCES: RefCell<Option<KnownSequences>> = const { RefCell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The strong table with this relation oid; `None` when it is not one. Inside a transaction; the caller holds a lock on it.
pub fn by_oid(oid: pg_sys::Oid) -> Option<Rc<StrongTable>> {
    if u32::from(oid) < pg_sys::FirstNormalObjectId {
        return None;
    }
    register();
    if let Some(known) = TABLES.with_borrow(|tables| tables.get(&oid).cloned()) {
        return known;
    }
    let before = INVALIDATIONS.get();
    let loaded = catalog::number_of(oid)
        .and_then(|id| strong_table::load(oid, id))
        .map(Rc::new);
    if INVALIDATIONS.get() == before {
        TABLES.with_borrow_mut(|tables| tables.insert(oid, loaded.clone()));
    }
    loaded
}

/// Whether the relation is a strong table.
pub fn is_strong(oid: pg_sys::Oid) -> bool {
    by_oid(oid).is_some()
}

/// Whether reads of the relation are strong: of a strong table, of one that may be strong elsewhere already, or of the extension's
/// table of log entries.
pub fn is_read_strongly(oid: pg_sys::Oid) -> bool {
    is_strong(oid)
        || u32::from(oid) >= pg_sys::FirstNormalObjectId && (oid == log_entries() || super::expected::is_expected(oid))
}

fn log_entries() -> pg_sys::Oid {
    let now = INVALIDATIONS.get();
    let (known_at, oid) = LOG_ENTRIES.get();
    if known_at == Some(now) {
        return oid;
    }
    let oid = catalog::named("synod", "log_entry").unwrap_or(pg_sys::InvalidOid);
    LOG_ENTRIES.set((Some(now), oid));
    oid
}

/// The sequences that feed columns of strong tables, each with the column that owns it; one that no strong table owns with the
/// columns that it feeds, in the order of their tables' numbers.
pub fn group_sequences() -> Rc<HashMap<pg_sys::Oid, Vec<(TableId, u16)>>> {
    /// More columns of one sequence do not travel: partitions would make them many.
    const FEEDS: usize = 16;
    register();
    let before = INVALIDATIONS.get();
    if let Some((_, known)) = SEQUENCES.with_borrow(|known| known.clone().filter(|(at, _)| *at == before)) {
        return known;
    }
    let mut sequences: HashMap<pg_sys::Oid, Vec<(TableId, u16)>> = HashMap::new();
    let mut owners = Vec::new();
    for (_, oid) in catalog::all() {
        let Some(table) = by_oid(oid) else { continue };
        for feeding in &table.sequences {
            let feed = (table.id, feeding.column);
            let feeds = sequences.entry(feeding.sequence).or_default();
            if feeds.len() < FEEDS {
                feeds.push(feed);
            }
            if feeding.owned {
                owners.push((feeding.sequence, feed));
            }
        }
    }
    for (sequence, feed) in owners {
        sequences.insert(sequence, vec![feed]);
    }
    let sequences = Rc::new(sequences);
    if INVALIDATIONS.get() == before {
        SEQUENCES.set(Some((before, Rc::clone(&sequences))));
    }
    sequences
}

/// The strong table with this number; `None` when it is not replicated here.
pub fn by_id(id: TableId) -> Option<Rc<StrongTable>> {
    let known = RELATION_OF.with_borrow(|relations| relations.get(&id).copied());
    if let Some(table) = known.and_then(by_oid).filter(|table| table.id == id) {
        return Some(table);
    }
    let oid = catalog::relation_of(id)?;
    RELATION_OF.with_borrow_mut(|relations| relations.insert(id, oid));
    by_oid(oid).filter(|table| table.id == id)
}

/// Forget one relation, in this backend. For changes that invalidate nothing.
pub fn forget(oid: pg_sys::Oid) {
    INVALIDATIONS.set(INVALIDATIONS.get() + 1);
    let dropped = TABLES.with_borrow_mut(|tables| tables.remove(&oid));
    drop(dropped);
    REFERS.with_borrow_mut(|tables| tables.remove(&oid));
}

/// Forget all, in this backend: a table that begins or ends to be replicated also changes what foreign keys mean.
pub fn forget_all() {
    INVALIDATIONS.set(INVALIDATIONS.get() + 1);
    let dropped = TABLES.with_borrow_mut(std::mem::take);
    drop(dropped);
    REFERS.with_borrow_mut(HashMap::clear);
}

/// Refuse to write a table that is not strong but refers to a strong one: rows that go on another node would leave it
/// dangling.
pub fn assert_refers_to_no_strong_table(oid: pg_sys::Oid) -> Result<(), UserError> {
    if u32::from(oid) < pg_sys::FirstNormalObjectId || is_strong(oid) || !refers_to_strong_table(oid) {
        return Ok(());
    }
    let name = Relation::open(oid).map_or_else(String::new, |relation| qualified(&relation.schema(), &relation.name()));
    Err(UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot write table {name}, because it is not replicated and refers to a table that is"),
        "A foreign key to rows that other nodes may remove could not be kept.",
        format!("Call synod.replicate_table('{name}'), or drop the foreign key."),
    ))
}

fn refers_to_strong_table(oid: pg_sys::Oid) -> bool {
    register();
    if let Some(known) = REFERS.with_borrow(|tables| tables.get(&oid).copied()) {
        return known;
    }
    let before = INVALIDATIONS.get();
    let Some(relation) = Relation::open(oid) else {
        return false;
    };
    let refers = definition::local_foreign_keys(&relation)
        .iter()
        .any(|key| is_strong(key.referenced));
    if INVALIDATIONS.get() == before {
        REFERS.with_borrow_mut(|tables| tables.insert(oid, refers));
    }
    refers
}

fn register() {
    if !REGISTERED.replace(true) {
        // SAFETY: once per process; the callback lives as long as the library.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::from(0)) }
    }
}

/// Makes no server call but the deletion of memory contexts, as it may run anywhere, also during abort.
#[pg_guard]
unsafe extern "C-unwind" fn invalidated(_argument: pg_sys::Datum, oid: pg_sys::Oid) {
    INVALIDATIONS.set(INVALIDATIONS.get() + 1);
    let dropped = TABLES.with_borrow_mut(|tables| {
        if oid == pg_sys::InvalidOid {
            std::mem::take(tables).into_values().collect::<Vec<_>>()
        } else {
            tables.remove(&oid).into_iter().collect()
        }
    });
    REFERS.with_borrow_mut(|tables| {
        if oid == pg_sys::InvalidOid {
            tables.clear();
        } else {
            tables.remove(&oid);
        }
    });
    drop(dropped);
}

/// Refuse to write a strong table whose capture triggers are gone or switched off: the change would stay on this node. The
/// partitions of a partitioned table must be strong as well, as rows go where they belong without another check.
pub fn assert_capturable(oid: pg_sys::Oid) -> Result<(), UserError> {
    let Some(table) = by_oid(oid) else { return Ok(()) };
    let now = Some(INVALIDATIONS.get());
    if !table.partitioned {
        return assert_armed(oid, &table.name);
    }
    if WHOLE.with_borrow(|whole| whole.get(&oid).map(|(at, _)| *at)) == now {
        return Ok(());
    }
    let mut late = false;
    for member in hierarchy::members(oid, pg_sys::AccessShareLock) {
        match by_oid(member) {
            Some(known) => {
                assert_armed(member, &known.name)?;
                late |= known.has_late_key();
            }
            None => return Err(not_replicated(member, &table.name)),
        }
    }
    if let Some(now) = now.filter(|now| INVALIDATIONS.get() == *now) {
        WHOLE.with_borrow_mut(|whole| whole.insert(oid, (now, late)));
    }
    Ok(())
}

/// Whether a row that is put into a strong table may turn out to be in the way of another one later than by the statement's end. For a
/// partitioned table after [`assert_capturable`]; else, and when in doubt, it may.
pub fn may_fail_late(table: &StrongTable) -> bool {
    if !table.partitioned {
        return table.has_late_key();
    }
    let now = INVALIDATIONS.get();
    WHOLE.with_borrow(|whole| whole.get(&table.oid).is_none_or(|(at, late)| *at != now || *late))
}

fn assert_armed(oid: pg_sys::Oid, name: &str) -> Result<(), UserError> {
    let Some(relation) = Relation::open(oid) else {
        return Ok(());
    };
    if super::capture::trigger::is_complete(&relation) {
        return Ok(());
    }
    Err(UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {name} cannot be written because its capture triggers are missing or disabled"),
        "Its changes would not reach the other nodes of the group.",
        format!("Call synod.unreplicate_table('{name}') and replicate the table again."),
    ))
}

fn not_replicated(partition: pg_sys::Oid, table: &str) -> UserError {
    let name =
        Relation::open(partition).map_or_else(String::new, |relation| qualified(&relation.schema(), &relation.name()));
    UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {table} cannot be written because its partition {name} is not replicated"),
        "Rows in that partition would not reach the other nodes of the group.",
        format!("Detach the partition, or call synod.unreplicate_table('{table}') and replicate the table again."),
    )
}
