//! `ALTER SEQUENCE ... RESTART` of another node, replayed where the sequence is in use: it must not go back into the range of this node,
//! or to values before it, which were given out already. Where it goes beyond, it goes.
//!
//! Nobody draws between the look at the place before the statement and its end: the statement's own lock is taken first.

use std::cell::Cell;

use pgrx::pg_sys;

use crate::pg::guard::named;
use crate::pg::sequence::{Sequence, State};
use crate::pg::{capture, relation, shmem};

thread_local! {
    /// Where the sequence that is being altered was.
    static PLACE: Cell<Option<(pg_sys::Oid, State)>> = const { Cell::new(None) };
}

/// Before a utility statement.
///
/// # Safety
/// `statement` is a valid utility statement.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    // SAFETY: the tag says what the pointer may be cast to; the statement itself takes the same lock.
    unsafe {
        if !capture::applying() || (*statement).type_ != pg_sys::NodeTag::T_AlterSeqStmt {
            return;
        }
        PLACE.set(None);
        let Some(oid) = named((*statement.cast::<pg_sys::AlterSeqStmt>()).sequence) else {
            return;
        };
        if !relation::group_sequences().contains_key(&oid) {
            return;
        }
        pg_sys::LockRelationOid(oid, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE);
        let in_use = shmem::my_node().is_some_and(|node| node.ranges.get(oid).is_some());
        if in_use && let Some(sequence) = Sequence::open(oid) {
            PLACE.set(Some((oid, sequence.look(|state| state))));
        }
    }
}

/// Behind it.
///
/// # Safety
/// As for [`before_utility`].
pub unsafe fn after_utility(statement: *mut pg_sys::Node) {
    // SAFETY: by contract.
    if unsafe { (*statement).type_ } != pg_sys::NodeTag::T_AlterSeqStmt {
        return;
    }
    let Some((oid, before)) = PLACE.take() else { return };
    let Some(sequence) = Sequence::open(oid) else { return };
    let may_be = (sequence.least()..=sequence.greatest()).contains(&before.last_value);
    sequence.change(|now| {
        let back = sequence.precedes(sequence.next(now), sequence.next(before));
        ((), (back && may_be).then_some(before))
    });
}
