//! Who makes a transaction: one logical message per transaction, ahead of its first change, for the change stream.
//!
//! ```text
//! a statement is about to write     values and names -> noted; a message in the WAL, if a slot of ours is there
//! a savepoint is rolled back        its message is void: the next writing statement writes another
//! synod.set_context                 changes synod.context: the next writing statement writes another
//! PRE_COMMIT (strong tables)        what was noted goes into the record; elsewhere the apply worker writes it as the same message
//! ```
//!
//! Invariant: a change decoded from the WAL has in front of it, in its transaction, a message with the context that held when its
//! statement began, if `synod.stream_context` was on or `synod.context` not empty. Otherwise nothing is looked at but these two.
//!
//! Called by the executor's and utility hooks; state ends with the transaction.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::stream::own_message;

use super::{capture, list, logical_message, shmem};

mod identity;
pub mod values;

/// What was noted in a (sub)transaction that has not been rolled back.
struct Noted {
    subtransaction: pg_sys::SubTransactionId,
    /// `synod.context` then.
    values: Vec<u8>,
    /// The JSON object; `None`: nobody could have read it.
    context: Option<Rc<str>>,
}

thread_local! {
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
}

/// After a plan has started, before it runs: if it writes permanent tables, this is the moment.
///
/// # Safety
/// `query` is the argument of `ExecutorStart_hook`; its relations are locked.
pub unsafe fn after_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: by contract; result relations are numbers of range table entries, counted from 1.
    unsafe {
        let plan = (*query).plannedstmt;
        let results = list::length((*plan).resultRelations);
        if results == 0 || flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
            return;
        }
        if !may_matter() && !super::stream_ddl::runs() {
            return;
        }
        let permanent = (0..results).any(|at| {
            let number = list::int((*plan).resultRelations, at);
            let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, number as usize - 1);
            is_permanent((*entry).relid)
        });
        if permanent {
            before_rows();
        }
    }
}

/// Before a utility statement runs: COPY FROM, TRUNCATE and CREATE TABLE AS change rows.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to; missing relations are left to the statement itself.
    let writes = unsafe {
        match (*statement).type_ {
            Tag::T_CopyStmt | Tag::T_TruncateStmt | Tag::T_CreateTableAsStmt
                if !may_matter() && !super::stream_ddl::runs() =>
            {
                false
            }
            Tag::T_CopyStmt => {
                let copy = &*statement.cast::<pg_sys::CopyStmt>();
                copy.is_from && named_is_permanent(copy.relation)
            }
            Tag::T_TruncateStmt => list::pointers((*statement.cast::<pg_sys::TruncateStmt>()).relations)
                .into_iter()
                .any(|range| named_is_permanent(range)),
            Tag::T_CreateTableAsStmt => {
                let target = (*(*statement.cast::<pg_sys::CreateTableAsStmt>()).into).rel;
                (*target).relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP
            }
            _ => false,
        }
    };
    if writes {
        before_rows();
    }
}

unsafe fn named_is_permanent(range: *mut pg_sys::RangeVar) -> bool {
    // SAFETY: by contract of `named`.
    unsafe { super::guard::named(range) }.is_some_and(is_permanent)
}

/// Not temporary; what is unlogged is not worth a look of its own.
pub fn is_permanent(relation: pg_sys::Oid) -> bool {
    persistence(relation).is_some_and(|persistence| persistence != pg_sys::RELPERSISTENCE_TEMP)
}

/// `pg_class.relpersistence`; `None` when it is not there (yet).
pub fn persistence(relation: pg_sys::Oid) -> Option<u8> {
    // SAFETY: look-ups inside a transaction; the second raises for what the first gives 0 for.
    unsafe { (pg_sys::get_rel_relkind(relation) != 0).then(|| pg_sys::get_rel_persistence(relation) as u8) }
}

/// Whether anything is asked for: looks at memory of this process, and at the server's slots.
pub fn may_matter() -> bool {
    crate::settings::STREAM_CONTEXT.get()
        || !values::are_empty()
        || NOTED.with_borrow(|noted| !noted.is_empty())
        || super::audit::is_on()
}

/// Rows of a permanent table are about to change.
fn before_rows() {
    super::stream_ddl::before_rows();
    before_change();
}

/// Something that the stream tells is about to change: say who does it, unless that was said.
pub fn before_change() {
    if !may_matter() || capture::applying() || !logical_message::possible() {
        return;
    }
    let values = values::current();
    if NOTED.with_borrow(|noted| noted.last().is_some_and(|last| last.values == values)) {
        return;
    }
    let readable = logical_message::wanted();
    let context = (readable || shmem::my_node().is_some()).then(|| Rc::<str>::from(identity::describe(values)));
    if readable && let Some(context) = &context {
        write(context);
    }
    // SAFETY: inside a transaction.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    let values = values.to_vec();
    NOTED.with_borrow_mut(|noted| {
        noted.push(Noted {
            subtransaction,
            values,
            context,
        });
        forget_outdated(noted);
    });
}

fn write(context: &str) {
    logical_message::write(c"synod.context", &own_message::encode_context(context));
}

/// What the record of this transaction says about who made it.
pub fn of_record() -> Option<Rc<str>> {
    NOTED.with_borrow(|noted| noted.last().and_then(|last| last.context.clone()))
}

/// The record that is about to be applied was made by somebody: say so in this node's WAL.
pub fn pass_on(context: &str) {
    if logical_message::wanted() {
        write(context);
    }
}

/// Of those of one subtransaction the last one counts, as long as it: so there is one for each level, however often it changes.
fn forget_outdated(noted: &mut Vec<Noted>) {
    if let [.., before, last] = noted.as_slice()
        && before.subtransaction == last.subtransaction
    {
        let before = noted.len() - 2;
        noted.remove(before);
    }
}

/// From the subtransaction callback.
pub fn on_subxact(event: pg_sys::SubXactEvent::Type, mine: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    NOTED.with_borrow_mut(|noted| match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            noted
                .iter_mut()
                .filter(|noted| noted.subtransaction == mine)
                .for_each(|noted| noted.subtransaction = parent);
            forget_outdated(noted);
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => noted.retain(|noted| noted.subtransaction != mine),
        _ => {}
    });
}

/// Forget everything, at the end of the transaction.
pub fn reset() {
    NOTED.with_borrow_mut(Vec::clear);
}
