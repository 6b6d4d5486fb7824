//! Differences between PostgreSQL's major versions, and what pgrx does not bind.

use pgrx::pg_sys;

use super::nested::RangeBound;

mod rows;

pub use rows::{IndexUpdate, fetch_version, insert_index_entries, scan_next, truncate, tuple_delete, tuple_update};

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

/// Whether a column is computed when it is read (from 18 on): no row has it.
pub fn is_virtual(attribute: &pg_sys::FormData_pg_attribute) -> bool {
    attribute.attgenerated as u8 == b'v'
}

/// Whether a stored generated column is computed from another expression from now on (17 and later).
pub fn sets_expression(command: &pg_sys::AlterTableCmd) -> bool {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    let sets = {
        let _ = command;
        false
    };
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    let sets = command.subtype == pg_sys::AlterTableType::AT_SetExpression;
    sets
}

/// Whether no row has a null in this column. From 18 on a NOT NULL constraint may be NOT VALID: rows from before it may have one then.
///
/// # Safety
/// A descriptor of the relation cache; `index` is below its `natts`.
pub unsafe fn is_never_null(descriptor: pg_sys::TupleDesc, index: usize) -> bool {
    // SAFETY: by contract.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*tuple_attribute(descriptor, index)).attnotnull;
        #[cfg(feature = "pg18")]
        return (*(*descriptor).compact_attrs.as_ptr().add(index)).attnullability as u8 == pg_sys::ATTNULLABLE_VALID;
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

/// `object_ownercheck` of a schema; before 16 `pg_namespace_ownercheck`.
///
/// # Safety
/// Inside a transaction; the schema exists.
pub unsafe fn owns_schema(schema: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: by contract.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_namespace_ownercheck(schema, user);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::NamespaceRelationId, schema, user);
    }
}

/// `object_ownercheck` of a type; before 16 `pg_type_ownercheck`.
///
/// # Safety
/// Inside a transaction; the type exists.
pub unsafe fn owns_type(kind: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: by contract.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_type_ownercheck(kind, user);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::TypeRelationId, kind, user);
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

/// The local transaction id of this process; 0: it is in no transaction, or has given its PGPROC back. The latter is seen by
/// signal handlers, which run until the very end of a process.
pub fn local_transaction_id() -> u32 {
    // SAFETY: MyProc is null or this process' PGPROC.
    unsafe {
        if pg_sys::MyProc.is_null() {
            return 0;
        }
        local_transaction_id_of(pg_sys::MyProc)
    }
}

/// The local transaction id of a lock's holder.
pub fn transaction_of_lock(lock: &pg_sys::LockInstanceData) -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    return lock.lxid;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    return lock.vxid.localTransactionId;
}

/// `index_beginscan`: 18 added instrumentation.
///
/// # Safety
/// Both relations are open and locked; `snapshot` outlives the scan.
pub unsafe fn index_beginscan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: forwarded.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(table, index, snapshot, keys, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0);
    }
}

/// Where a relation's files are: `rd_node` became `rd_locator` in 16.
///
/// # Safety
/// An open relation.
#[cfg(feature = "pg15")]
pub unsafe fn relation_location(relation: pg_sys::Relation) -> pg_sys::RelFileNode {
    // SAFETY: by contract.
    unsafe { (*relation).rd_node }
}

/// Where a relation's files are: `rd_node` became `rd_locator` in 16.
///
/// # Safety
/// An open relation.
#[cfg(not(feature = "pg15"))]
pub unsafe fn relation_location(relation: pg_sys::Relation) -> pg_sys::RelFileLocator {
    // SAFETY: by contract.
    unsafe { (*relation).rd_locator }
}

/// Send this process' statistics when it is time to.
///
/// # Safety
/// Outside a transaction.
pub unsafe fn report_statistics() -> Option<std::time::Duration> {
    // SAFETY: forwarded.
    let later = unsafe { pg_sys::pgstat_report_stat(false) };
    u64::try_from(later)
        .ok()
        .filter(|later| *later > 0)
        .map(std::time::Duration::from_millis)
}

/// A function that a walk over plan states calls for each.
pub type PlanStateWalker = unsafe extern "C-unwind" fn(*mut pg_sys::PlanState, *mut std::ffi::c_void) -> bool;

unsafe extern "C-unwind" {
    #[cfg_attr(feature = "pg15", link_name = "planstate_tree_walker")]
    #[cfg_attr(not(feature = "pg15"), link_name = "planstate_tree_walker_impl")]
    fn planstate_tree_walker_raw(
        node: *mut pg_sys::PlanState,
        walker: PlanStateWalker,
        context: *mut std::ffi::c_void,
    ) -> bool;
}

/// `planstate_tree_walker`: visit the children of a plan state.
///
/// # Safety
/// A valid node; the calling frames own nothing that needs dropping (a deep plan raises).
pub unsafe fn planstate_tree_walker(
    node: *mut pg_sys::PlanState,
    walker: PlanStateWalker,
    context: *mut std::ffi::c_void,
) -> bool {
    // SAFETY: by contract.
    unsafe { planstate_tree_walker_raw(node, walker, context) }
}

/// A function that a walk over an expression calls for each node.
pub type NodeWalker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut std::ffi::c_void) -> bool;

unsafe extern "C-unwind" {
    #[cfg_attr(feature = "pg15", link_name = "expression_tree_walker")]
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    fn expression_tree_walker_raw(node: *mut pg_sys::Node, walker: NodeWalker, context: *mut std::ffi::c_void) -> bool;
}

/// `expression_tree_walker`: visit the children of a node.
///
/// # Safety
/// A valid node; the calling frames own nothing that needs dropping (a deep expression raises).
pub unsafe fn expression_tree_walker(
    node: *mut pg_sys::Node,
    walker: NodeWalker,
    context: *mut std::ffi::c_void,
) -> bool {
    // SAFETY: by contract.
    unsafe { expression_tree_walker_raw(node, walker, context) }
}

/// `pqsignal`: 18 calls that of the server `pqsignal_be`.
///
/// # Safety
/// `handler` does what may be done in a signal handler.
pub unsafe fn on_signal(signal: i32, handler: pg_sys::pqsigfunc) {
    // SAFETY: by contract.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let _ = pg_sys::pqsignal(signal, handler);
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, handler);
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
unsafe extern "C-unwind" {
    /// replication/message.h; not bound by pgrx.
    #[link_name = "LogLogicalMessage"]
    fn log_logical_message_raw(
        prefix: *const std::ffi::c_char,
        message: *const std::ffi::c_char,
        size: usize,
        transactional: bool,
    ) -> pg_sys::XLogRecPtr;
}

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
unsafe extern "C-unwind" {
    /// replication/message.h; not bound by pgrx. 17 can flush at once.
    #[link_name = "LogLogicalMessage"]
    fn log_logical_message_raw(
        prefix: *const std::ffi::c_char,
        message: *const std::ffi::c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> pg_sys::XLogRecPtr;
}

/// `LogLogicalMessage`, as part of the running transaction (which gets an id if it has none). May raise.
///
/// # Safety
/// Inside a transaction that may write.
pub unsafe fn log_logical_message(prefix: &std::ffi::CStr, content: &[u8]) {
    let (name, bytes) = (prefix.as_ptr(), content.as_ptr().cast());
    // SAFETY: by contract; the server copies what it is given before it returns.
    unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            log_logical_message_raw(name, bytes, content.len(), true);
            #[cfg(not(any(feature = "pg15", feature = "pg16")))]
            log_logical_message_raw(name, bytes, content.len(), true, false);
        });
    }
}

/// A row as logical decoding hands it out: 17 did away with the buffer around it.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub type DecodedTuple = *mut pg_sys::ReorderBufferTupleBuf;

/// A row as logical decoding hands it out: 17 did away with the buffer around it.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub type DecodedTuple = pg_sys::HeapTuple;

/// The row; null when there is none.
///
/// # Safety
/// Null or of a change that is being decoded.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub unsafe fn decoded_tuple(tuple: DecodedTuple) -> pg_sys::HeapTuple {
    if tuple.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: by contract.
    unsafe { &raw mut (*tuple).tuple }
}

/// The row; null when there is none.
///
/// # Safety
/// Null or of a change that is being decoded.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub unsafe fn decoded_tuple(tuple: DecodedTuple) -> pg_sys::HeapTuple {
    tuple
}

/// Whether the server keeps a walsender's client from giving it up while a plugin leaves out one change after the other: from 16 on.
pub const SERVER_REPORTS_PROGRESS: bool = cfg!(not(feature = "pg15"));

/// Whether `test_decoding` counts a message as a change, so that a transaction of messages only is not empty: from 17 on.
pub const MESSAGES_ARE_CHANGES: bool = cfg!(not(any(feature = "pg15", feature = "pg16")));

/// `ReplicationSlotAcquire`: 18 says whether an invalidated slot is an error.
///
/// # Safety
/// In a process that has no slot; raises when another has this one.
pub unsafe fn replication_slot_acquire(name: *const std::ffi::c_char) {
    // SAFETY: forwarded.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::ReplicationSlotAcquire(name, true);
        #[cfg(feature = "pg18")]
        pg_sys::ReplicationSlotAcquire(name, true, true);
    }
}

unsafe extern "C-unwind" {
    /// utils/rangetypes.h; not bound by pgrx.
    #[cfg(feature = "pg15")]
    #[link_name = "range_serialize"]
    fn range_serialize_raw(
        cache: *mut pg_sys::TypeCacheEntry,
        lower: *mut RangeBound,
        upper: *mut RangeBound,
        empty: bool,
    ) -> *mut pg_sys::RangeType;
    /// utils/rangetypes.h; not bound by pgrx. From 16 on it can report an error softly.
    #[cfg(not(feature = "pg15"))]
    #[link_name = "range_serialize"]
    fn range_serialize_raw(
        cache: *mut pg_sys::TypeCacheEntry,
        lower: *mut RangeBound,
        upper: *mut RangeBound,
        empty: bool,
        context: *mut pg_sys::Node,
    ) -> *mut pg_sys::RangeType;
}

/// `range_serialize`: a range, as it is stored.
///
/// # Safety
/// `cache` has what is known of the type's ranges; the bounds are values of what it is a range of.
pub unsafe fn range_serialize(
    cache: *mut pg_sys::TypeCacheEntry,
    lower: &mut RangeBound,
    upper: &mut RangeBound,
    empty: bool,
) -> pg_sys::Datum {
    // SAFETY: by contract; the frame owns nothing.
    let range = unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            #[cfg(feature = "pg15")]
            return range_serialize_raw(cache, lower, upper, empty);
            #[cfg(not(feature = "pg15"))]
            range_serialize_raw(cache, lower, upper, empty, std::ptr::null_mut())
        })
    };
    pg_sys::Datum::from(range)
}
