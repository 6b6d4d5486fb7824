//! Where values of the group's sequences are about to be drawn, and where a sequence begins or ends to be the group's.
//!
//! A plan that inserts draws from the sequences of its target, one that names a sequence from that. Other calls of `nextval` are
//! noticed when an expression that calls it is made ready (object access hook); which sequence it will be is not known then, so
//! all are looked at.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;
use synod_change::TableId;

use super::{grants, ranges, reservations};
use crate::errors::UserError;
use crate::pg::barrier;
use crate::pg::capture;
use crate::pg::guard::named;
use crate::pg::relation::StrongTable;
use crate::pg::relcache::Relation;
use crate::pg::scratch::ActiveSnapshot;
use crate::pg::shmem::{self, NodeShared};
use crate::pg::{catalog, compat, hold, list, relation, sequence};

thread_local! {
    /// The sequences of the plan that is being started are known and have been looked at.
    static KNOWN: Cell<bool> = const { Cell::new(false) };
    /// That plan names a sequence beside those that feed what it inserts into: to draw from it, to set it, or to read it.
    static NAMED: Cell<bool> = const { Cell::new(false) };
    static RENUMBERED: RefCell<Renumbered> = RefCell::default();
}

/// Where a transaction of this session has changed the numbers of columns, by which the group knows what it has granted. Until that
/// is applied everywhere, the other nodes would take a range that it asks for to be another column's. (Also what a savepoint took back is
/// here: who draws more than there is commits first.)
#[derive(Default)]
struct Renumbered {
    /// Its local number.
    transaction: u32,
    tables: Vec<TableId>,
    sequences: Vec<pg_sys::Oid>,
}

fn renumbers(note: impl FnOnce(&mut Renumbered)) {
    RENUMBERED.with_borrow_mut(|renumbered| {
        let transaction = compat::local_transaction_id();
        if renumbered.transaction != transaction {
            *renumbered = Renumbered {
                transaction,
                ..Renumbered::default()
            };
        }
        note(renumbered);
    });
}

/// Whether this transaction must not ask for a range of the sequence, which feeds these columns.
pub fn is_renumbered(sequence: pg_sys::Oid, feeds: &[grants::Feed]) -> bool {
    RENUMBERED.with_borrow(|renumbered| {
        renumbered.transaction == compat::local_transaction_id()
            && (renumbered.sequences.contains(&sequence)
                || feeds.iter().any(|(table, _)| renumbered.tables.contains(table)))
    })
}

/// Whether this process may draw at all here.
fn node() -> Option<&'static NodeShared> {
    // SAFETY: reads globals of this process.
    let never = unsafe { pg_sys::XactReadOnly || pg_sys::ParallelWorkerNumber >= 0 };
    // Who repairs holds this node: a range that he asked for could not come before the hold is over.
    if never || capture::applying() || hold::is_repair() {
        return None;
    }
    shmem::my_node()
}

/// Before a plan starts.
///
/// # Safety
/// `query` is the argument of `ExecutorStart_hook`; its relations are locked.
pub unsafe fn before_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) -> Result<(), UserError> {
    KNOWN.set(false);
    NAMED.set(false);
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        return Ok(());
    }
    let Some(node) = node() else { return Ok(()) };
    // SAFETY: by contract; result relations are numbers of range table entries, counted from 1.
    unsafe {
        let plan = (*query).plannedstmt;
        let inserts = [pg_sys::CmdType::CMD_INSERT, pg_sys::CmdType::CMD_MERGE].contains(&(*plan).commandType);
        let mut fed = Vec::new();
        if inserts || (*plan).hasModifyingCTE {
            let need = expected_rows(plan);
            for at in 0..list::length((*plan).resultRelations) {
                let number = list::int((*plan).resultRelations, at);
                let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, number as usize - 1);
                fed.extend(before_insert(node, (*entry).relid, need)?);
            }
        }
        let named = (*plan).relationOids;
        for oid in (0..list::length(named)).map(|at| list::oid(named, at)) {
            // A named table was looked up before, mostly, and a kind is one look into a cache.
            if relation::is_strong(oid) || pg_sys::get_rel_relkind(oid) as u8 != pg_sys::RELKIND_SEQUENCE {
                continue;
            }
            KNOWN.set(true);
            if relation::group_sequences().contains_key(&oid) {
                ranges::ensure(node, oid, expected_rows(plan))?;
                if !(inserts && fed.contains(&oid)) {
                    NAMED.set(true);
                }
            }
        }
    }
    Ok(())
}

/// A query or a utility command is over, though perhaps not what it is part of.
pub fn statement_ended() {
    if barrier::is_outermost() {
        reservations::release();
    }
}

/// The plan is started.
pub fn after_executor_start() {
    KNOWN.set(false);
}

/// How many rows the planner expects of what is inserted or returned.
unsafe fn expected_rows(plan: *const pg_sys::PlannedStmt) -> u64 {
    // SAFETY: a valid plan.
    unsafe {
        let root = (*plan).planTree;
        let source = if (*root).type_ == pg_sys::NodeTag::T_ModifyTable && !(*root).lefttree.is_null() {
            (*root).lefttree
        } else {
            root
        };
        ((*source).plan_rows as u64).max(1)
    }
}

/// Before COPY ... FROM.
///
/// # Safety
/// `statement` is the utility statement of a valid plan.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: the tag says what the pointer may be cast to; a missing relation is COPY's business.
    unsafe {
        KNOWN.set(false);
        if (*statement).type_ != pg_sys::NodeTag::T_CopyStmt {
            return Ok(());
        }
        let copy = &*statement.cast::<pg_sys::CopyStmt>();
        if let (true, Some(node)) = (copy.is_from, node())
            && let Some(oid) = named(copy.relation)
        {
            before_insert(node, oid, crate::settings::SEQUENCE_RANGE.get().unsigned_abs().into())?;
        }
    }
    Ok(())
}

/// The sequences that feed the table.
fn before_insert(node: &'static NodeShared, table: pg_sys::Oid, need: u64) -> Result<Vec<pg_sys::Oid>, UserError> {
    let Some(table) = relation::by_oid(table) else {
        return Ok(Vec::new());
    };
    for feeding in &table.sequences {
        ranges::ensure(node, feeding.sequence, need)?;
        KNOWN.set(true);
    }
    Ok(table.sequences.iter().map(|feeding| feeding.sequence).collect())
}

/// An expression that calls `nextval` is made ready.
pub fn nextval_is_near() -> Result<(), UserError> {
    if KNOWN.get() {
        if NAMED.get() {
            reservations::by_hand();
        }
        return Ok(());
    }
    let Some(node) = node() else { return Ok(()) };
    reservations::by_hand();
    for sequence in relation::group_sequences().keys() {
        // Most will not be drawn from.
        ranges::ensure_briefly(node, *sequence)?;
    }
    Ok(())
}

/// Before the end of a transaction that has nothing for the log: what it drew may be used outside of it.
pub fn settle() -> Result<(), UserError> {
    if !reservations::is_by_hand() {
        return Ok(());
    }
    let Some(node) = node() else { return Ok(()) };
    let _snapshot = ActiveSnapshot::push();
    ranges::settle_drawn(node, &[])
}

/// Another node has used the sequence up to here. One that is in use here is in a range of its own.
pub fn advance(oid: pg_sys::Oid, value: i64) {
    let node = shmem::my_node();
    sequence::advance(oid, value, || node.is_some_and(|node| node.ranges.get(oid).is_some()));
}

/// The sequences of this table begin again, in this transaction.
pub fn restart(table: pg_sys::Oid) {
    let Some(table) = relation::by_oid(table) else { return };
    for feeding in table.sequences.iter().filter(|feeding| feeding.owned) {
        grants::forget(&ranges::feeds_of(feeding.sequence));
        give_up(feeding.sequence);
    }
}

/// The table is no longer the group's, from this transaction on: its sequences go on alone, behind all that was granted.
pub fn end(table: pg_sys::Oid) {
    let Some(table) = relation::by_oid(table) else { return };
    for feeding in &table.sequences {
        if let Some(last) = grants::granted(&ranges::feeds_of(feeding.sequence)) {
            sequence::advance(feeding.sequence, last, || false);
        }
        grants::forget(&[(table.id, feeding.column)]);
        give_up(feeding.sequence);
    }
}

/// A column is about to be dropped, here or where another node's statement is replayed: those behind it move up by one, and what
/// was granted to them moves along, at the same place of the group's history everywhere.
pub fn column_goes(table: &StrongTable, attribute: i32) {
    let place = table
        .columns
        .iter()
        .position(|column| column.index as i32 + 1 == attribute);
    let Some(place) = place.and_then(|place| u16::try_from(place).ok()) else {
        return;
    };
    if !capture::applying() {
        renumbers(|renumbered| renumbered.tables.push(table.id));
        // What this node has asked for under the numbers of before is here, and nobody asks until they have changed.
        for feeding in table.sequences.iter().filter(|feeding| feeding.column >= place) {
            ranges::keep_from_asking(feeding.sequence);
        }
    }
    grants::renumber(table.id, place);
}

/// A column's default is about to go. A sequence that no table owns is known by the columns whose defaults draw from it: by which it
/// was known goes, and the others take over what was granted.
pub fn default_goes(default: pg_sys::Oid) {
    let Some((oid, attribute)) = catalog::column_of_default(default) else {
        return;
    };
    let (Some(table), Some(relation)) = (relation::by_oid(oid), Relation::open(oid)) else {
        return;
    };
    let feed = |index: usize| {
        let place = table.columns.iter().position(|column| column.index == index)?;
        Some((table.id, u16::try_from(place).ok()?))
    };
    let drawn = catalog::sequences_of_defaults(&relation);
    let going = |(index, _): &&(usize, pg_sys::Oid)| *index as i32 + 1 == attribute;
    for (index, sequence) in drawn.iter().filter(going) {
        let known = ranges::feeds_of(*sequence);
        let Some(gone) = feed(*index).filter(|gone| known.contains(gone)) else {
            continue;
        };
        let here = drawn.iter().filter(|(_, other)| other == sequence);
        let mut heirs: Vec<grants::Feed> = here.filter_map(|(index, _)| feed(*index)).chain(known).collect();
        heirs.retain(|heir| *heir != gone);
        if !heirs.is_empty() && !capture::applying() {
            renumbers(|renumbered| renumbered.sequences.push(*sequence));
            ranges::keep_from_asking(*sequence);
        }
        grants::hand_down(gone, &heirs);
    }
}

fn give_up(sequence: pg_sys::Oid) {
    if let Some(node) = shmem::my_node() {
        node.ranges.forget(sequence);
    }
}
