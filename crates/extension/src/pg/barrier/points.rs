//! UPDATE and DELETE of the one row with a given unique key skip the barrier (see [`super::skip`]): the commit proves what
//! they read.
//!
//! What they read is one row version, found under a whole unique key. The transaction claims the key that identifies the row,
//! and the row is locked from then on, so that nothing that touches it is applied here before the transaction has ended. A
//! record that changed or removed the row claims the same key, is not applied here, and thus lies after the base of ours: the
//! transaction is refused (40001). If there is none, the version is the row's last one, and no other row has its key.
//!
//! The proof takes a commit. It does not cover what is told without one, so all of this passes the barrier:
//! - RETURNING, EXPLAIN ANALYZE: they show the row;
//! - whatever may be undone while the transaction goes on (savepoints), or looks at the row count inside of the transaction
//!   (functions, DO, CALL): the rest of the transaction may be built on it without a claim on the row;
//! - expressions, triggers and subqueries that read elsewhere; deferrable keys, whose failures come too late to confirm them.
//!
//! That there is no such row claims nothing: it is proved by a barrier after the fact. Any failure is confirmed. What remains is
//! the row count of a statement in a transaction block that is rolled back in the end.

use std::rc::Rc;

use pgrx::pg_sys;

use super::functions;
use crate::pg::list;
use crate::pg::protect::Failure;
use crate::pg::relation::{self, StrongTable, UniqueKey};
use crate::pg::relcache::Relation;

/// Whether a plan writes at most one row, which it finds by equality on all columns of a unique index, and reads
/// nothing else.
///
/// # Safety
/// `query` has a valid plan, whose relations are locked.
pub(super) unsafe fn is_point(query: *const pg_sys::QueryDesc) -> bool {
    use pg_sys::CmdType::{CMD_DELETE, CMD_UPDATE};
    // SAFETY: by contract; a ModifyTable has a plan below it.
    unsafe {
        let plan = (*query).plannedstmt;
        let root = (*plan).planTree;
        // A rule's own statement does not count its rows.
        if ![CMD_UPDATE, CMD_DELETE].contains(&(*plan).commandType)
            || !(*plan).canSetTag
            || (*root).type_ != pg_sys::NodeTag::T_ModifyTable
            || (*plan).hasReturning
            || (*plan).hasModifyingCTE
            || (*query).instrument_options != 0
            || !(*plan).subplans.is_null()
            || functions::calls_any(plan)
        {
            return false;
        }
        let modify = root.cast::<pg_sys::ModifyTable>();
        let targets = (*modify).resultRelations;
        if list::length(targets) != 1 || (*modify).rootRelation != 0 {
            return false;
        }
        let number = list::int(targets, 0);
        let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, number as usize - 1);
        let Some(table) = relation::by_oid((*entry).relid).filter(can_be_proved) else {
            return false;
        };
        let Some(conditions) = conditions_of_scan((*root).lefttree, number as pg_sys::Index) else {
            return false;
        };
        table
            .keys
            .iter()
            .any(|key| !key.computed && key.hashing.is_some() && is_fixed_by(key, &conditions, number as pg_sys::Index))
    }
}

/// Whether rows of the table are claimed by a key of their own, at commit, and nothing else happens when one is written.
fn can_be_proved(table: &Rc<StrongTable>) -> bool {
    let identified = table.keys.iter().any(|key| key.identity && key.hashing.is_some());
    identified && !table.has_user_triggers && !table.has_late_key()
}

/// What all rows fulfil that a plain scan of this relation returns; `None` for any other plan.
unsafe fn conditions_of_scan(scan: *const pg_sys::Plan, relation: pg_sys::Index) -> Option<Vec<*mut pg_sys::Node>> {
    // SAFETY: the tag tells the struct; quals are lists of expressions that all hold.
    unsafe {
        let (scanned, found_by) = match (*scan).type_ {
            pg_sys::NodeTag::T_SeqScan => ((*scan.cast::<pg_sys::Scan>()).scanrelid, std::ptr::null_mut()),
            pg_sys::NodeTag::T_IndexScan => {
                let index = &*scan.cast::<pg_sys::IndexScan>();
                (index.scan.scanrelid, index.indexqualorig)
            }
            pg_sys::NodeTag::T_BitmapHeapScan => {
                let bitmap = &*scan.cast::<pg_sys::BitmapHeapScan>();
                (bitmap.scan.scanrelid, bitmap.bitmapqualorig)
            }
            _ => return None,
        };
        let mut conditions = list::pointers::<pg_sys::Node>(found_by);
        conditions.extend(list::pointers::<pg_sys::Node>((*scan).qual));
        (scanned == relation).then_some(conditions)
    }
}

/// Whether the conditions give each column of the key one value, in the sense of its index.
unsafe fn is_fixed_by(key: &UniqueKey, conditions: &[*mut pg_sys::Node], relation: pg_sys::Index) -> bool {
    let Some(index) = Relation::open(key.index) else {
        return false;
    };
    key.attributes.iter().enumerate().all(|(at, attribute)| {
        // SAFETY: the arrays of an index's relcache entry have one element for each key column.
        let (family, collation) = unsafe {
            let raw = index.raw();
            (*(*raw).rd_opfamily.add(at), *(*raw).rd_indcollation.add(at))
        };
        let equals = pg_sys::BTEqualStrategyNumber as i32;
        conditions.iter().any(|condition| {
            // SAFETY: the tag tells the struct; an operator of two arguments has a list of two.
            unsafe {
                if (**condition).type_ != pg_sys::NodeTag::T_OpExpr {
                    return false;
                }
                let operation = &*condition.cast::<pg_sys::OpExpr>();
                list::length(operation.args) == 2
                    && (collation == pg_sys::InvalidOid || operation.inputcollid == collation)
                    && pg_sys::get_op_opfamily_strategy(operation.opno, family) == equals
                    && [(0, 1), (1, 0)].into_iter().any(|(column, value)| {
                        is_column(list::pointer(operation.args, column), relation, *attribute)
                            && is_one_value(list::pointer(operation.args, value))
                    })
            }
        })
    })
}

unsafe fn is_column(mut node: *mut pg_sys::Node, relation: pg_sys::Index, attribute: i16) -> bool {
    // SAFETY: the tag tells the struct.
    unsafe {
        while (*node).type_ == pg_sys::NodeTag::T_RelabelType {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        let variable = node.cast::<pg_sys::Var>();
        (*node).type_ == pg_sys::NodeTag::T_Var
            && (*variable).varno as pg_sys::Index == relation
            && (*variable).varattno == attribute
    }
}

/// The same for every row that it is compared with.
unsafe fn is_one_value(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid expression.
    unsafe { !pg_sys::contain_var_clause(node) && !pg_sys::contain_volatile_functions(node) }
}

/// Whether a failure may be due to what was read: not what ends every query (resources, cancels, conflicts).
pub(super) fn tells(failure: &Failure) -> bool {
    ![b"40", b"53", b"57", b"58", b"XX"].contains(&&failure.class())
}
