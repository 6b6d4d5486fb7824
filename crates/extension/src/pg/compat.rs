//! Differences between PostgreSQL's major versions, and what pgrx does not bind.

use pgrx::pg_sys;

/// `replorigin_session_setup`: 16 added the process that acquired the origin.
///
/// # Safety
/// Inside a transaction, with no other origin set up in this session.
pub unsafe fn replorigin_session_setup(origin: pg_sys::RepOriginId) {
    // SAFETY: forwarded.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::replorigin_session_setup(origin);
        #[cfg(not(feature = "pg15"))]
        pg_sys::replorigin_session_setup(origin, 0);
    }
    super::origin_state::set(true);
}

/// `replorigin_session_reset`, if we set one up: it raises otherwise.
///
/// # Safety
/// In the process that called `replorigin_session_setup`.
pub unsafe fn replorigin_session_reset_if_setup() {
    if super::origin_state::take() {
        // SAFETY: set up by us in this session and not reset since.
        unsafe { pg_sys::replorigin_session_reset() }
    }
}

/// `CreateWaitEventSet` for the life of the process: 17 wants a resource owner in place of a memory context.
///
/// # Safety
/// In a process with a PGPROC; the set must be freed with `FreeWaitEventSet`.
pub unsafe fn create_wait_event_set(events: i32) -> *mut pg_sys::WaitEventSet {
    // SAFETY: forwarded.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, events);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return pg_sys::CreateWaitEventSet(std::ptr::null_mut(), events);
    }
}

/// `TupleDescAttr`: 18 keeps full attributes behind an array of compact ones.
///
/// # Safety
/// `index` is below the descriptor's `natts`.
pub unsafe fn tuple_attribute(descriptor: pg_sys::TupleDesc, index: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: by contract.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*descriptor).attrs.as_ptr().add(index);
        #[cfg(feature = "pg18")]
        return pg_sys::TupleDescAttr(descriptor, index as i32);
    }
}

/// `heap_fetch` with `SnapshotAny`: the row version at `tuple.t_self`, whoever may see it.
///
/// # Safety
/// An open, locked heap relation; on success the buffer stays pinned.
pub unsafe fn heap_fetch_any(
    relation: pg_sys::Relation,
    tuple: &mut pg_sys::HeapTupleData,
    buffer: &mut pg_sys::Buffer,
) -> bool {
    // SAFETY: by contract; SnapshotAnyData is a constant of the server.
    unsafe { pg_sys::heap_fetch(relation, &raw mut pg_sys::SnapshotAnyData, tuple, buffer, false) }
}

/// `GetPerTupleExprContext`.
///
/// # Safety
/// A valid executor state.
pub unsafe fn per_tuple_context(state: *mut pg_sys::EState) -> *mut pg_sys::ExprContext {
    // SAFETY: by contract.
    unsafe {
        if (*state).es_per_tuple_exprcontext.is_null() {
            pg_sys::MakePerTupleExprContext(state)
        } else {
            (*state).es_per_tuple_exprcontext
        }
    }
}

/// `Anum_pg_constraint_conindid`: 18 put `conenforced` before it.
pub const CONSTRAINT_INDEX: i16 = if cfg!(feature = "pg18") { 11 } else { 10 };
/// `Anum_pg_constraint_confupdtype`
pub const CONSTRAINT_ON_UPDATE: i16 = CONSTRAINT_INDEX + 3;
/// `Anum_pg_constraint_confdeltype`
pub const CONSTRAINT_ON_DELETE: i16 = CONSTRAINT_INDEX + 4;
/// `Anum_pg_constraint_conrelid`
pub const CONSTRAINT_TABLE: i16 = CONSTRAINT_INDEX - 2;
/// `Anum_pg_constraint_confrelid`
pub const CONSTRAINT_REFERENCED: i16 = CONSTRAINT_INDEX + 2;

/// `object_ownercheck` of a table; before 16 `pg_class_ownercheck`.
///
/// # Safety
/// Inside a transaction; the relation exists.
pub unsafe fn owns_table(relation: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: by contract.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, user);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, user);
    }
}

/// `USER_TIMEOUT` (utils/timeout.h): 17 added a time-out of its own before it.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub const USER_TIMEOUT: i32 = 12;
/// `USER_TIMEOUT` (utils/timeout.h): 17 added a time-out of its own before it.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub const USER_TIMEOUT: i32 = 13;

/// The local transaction id of a process; 0: it is in no transaction.
///
/// # Safety
/// `process` is a PGPROC.
pub unsafe fn local_transaction_id_of(process: *const pg_sys::PGPROC) -> u32 {
    // SAFETY: by contract.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*process).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return (*process).vxid.lxid;
    }
}

/// The local transaction id of this process; 0: it is in no transaction.
pub fn local_transaction_id() -> u32 {
    // SAFETY: MyProc is set for every process that runs our code.
    unsafe { local_transaction_id_of(pg_sys::MyProc) }
}

/// The local transaction id of a lock's holder; the transaction id, if that is a prepared transaction.
pub fn transaction_of_lock(lock: &pg_sys::LockInstanceData) -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    return lock.lxid;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    return lock.vxid.localTransactionId;
}
