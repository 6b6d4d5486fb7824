//! The snapshots of running queries, and the replacement of one that no query uses yet.

use std::cell::RefCell;

use pgrx::pg_sys;

thread_local! {
    /// Snapshots of the queries being run, the outermost first. Addresses only; never read through.
    static IN_USE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A query with this snapshot begins to run.
pub fn enter(snapshot: pg_sys::Snapshot) {
    IN_USE.with_borrow_mut(|stack| stack.push(snapshot as usize));
}

/// It returned, or failed.
pub fn leave() {
    IN_USE.with_borrow_mut(Vec::pop);
}

/// How many queries are being run, one inside the other.
pub fn enclosing() -> usize {
    IN_USE.with_borrow(Vec::len)
}

/// Whether the transaction keeps its first snapshot to its end.
pub fn is_fixed() -> bool {
    // SAFETY: reads a global of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether the transaction has taken a snapshot.
pub fn is_taken() -> bool {
    // SAFETY: reads a global of this process.
    unsafe { pg_sys::FirstSnapshotSet }
}

/// Whether the utility command pushes a snapshot of its own right before it starts its query. Every other one may get to
/// a query by way of functions, with snapshots pushed who knows where.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn is_taken_for(node: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: by contract.
    unsafe {
        match (*node).type_ {
            Tag::T_ExplainStmt
            | Tag::T_CreateTableAsStmt
            | Tag::T_ExecuteStmt
            | Tag::T_DeclareCursorStmt
            | Tag::T_RefreshMatViewStmt => true,
            Tag::T_CopyStmt => !(*node.cast::<pg_sys::CopyStmt>()).is_from,
            _ => false,
        }
    }
}

/// Whether the command is SET TRANSACTION SNAPSHOT.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn is_imported_by(node: *const pg_sys::Node) -> bool {
    // SAFETY: the tag tells the struct.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_VariableSetStmt {
            return false;
        }
        let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
        !name.is_null() && std::ffi::CStr::from_ptr(name) == c"TRANSACTION SNAPSHOT"
    }
}

/// Give a query that has not been started a snapshot taken now. False when that is not allowed.
///
/// Not when a running query uses the same snapshot: it would see time move. `nested` says that functions may be on the
/// way to this query; then the active snapshot may belong to an outer subtransaction, and one pushed in its place would
/// vanish with the inner one (`AtSubAbort_Snapshot`), so that is left alone, too.
///
/// # Safety
/// `query` is about to be started, in a READ COMMITTED transaction.
pub unsafe fn replace(query: *mut pg_sys::QueryDesc, nested: bool) -> bool {
    // SAFETY: by contract; the caller of ExecutorStart pops "its" active snapshot, whichever it is by then, and the query
    // holds the only other reference, which is renewed. The command id goes along: the query sees what its transaction did.
    unsafe {
        let old = (*query).snapshot;
        let shared = IN_USE.with_borrow(|stack| stack.contains(&(old as usize)));
        let own = pg_sys::ActiveSnapshotSet() && pg_sys::GetActiveSnapshot() == old;
        if shared || !own || (nested && pg_sys::GetCurrentTransactionNestLevel() > 1) {
            return false;
        }
        exchange(query, || pg_sys::GetTransactionSnapshot());
    }
    true
}

/// As [`replace`] in a REPEATABLE READ transaction, for a query that is all there is to it.
///
/// # Safety
/// As for [`replace`]; nothing else in the transaction uses its snapshot.
pub unsafe fn replace_with_latest(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: by contract, and see `replace`.
    unsafe {
        if !pg_sys::ActiveSnapshotSet() || pg_sys::GetActiveSnapshot() != (*query).snapshot {
            return false;
        }
        exchange(query, || pg_sys::GetLatestSnapshot());
    }
    true
}

/// # Safety
/// See [`replace`].
unsafe fn exchange(query: *mut pg_sys::QueryDesc, fresh: impl FnOnce() -> pg_sys::Snapshot) {
    // SAFETY: by contract.
    unsafe {
        let old = (*query).snapshot;
        let command = (*old).curcid;
        pg_sys::UnregisterSnapshot(old);
        pg_sys::PopActiveSnapshot();
        pg_sys::PushCopiedSnapshot(fresh());
        (*pg_sys::GetActiveSnapshot()).curcid = command;
        (*query).snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
    }
}
