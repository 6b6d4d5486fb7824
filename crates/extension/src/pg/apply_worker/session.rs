//! The apply worker's connection: its settings, its transactions, and what it asks the server.

use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use crate::pg::shmem::NodeShared;
use crate::pg::turn::origin_name;
use crate::pg::worker;

/// What applying depends on, whatever the database or the role says.
const SETTINGS: [worker::Setting; 9] = [
    (c"application_name", c"synod apply"),
    (c"search_path", c""),
    (c"session_replication_role", c"replica"),
    (c"synchronous_commit", c"off"),
    (c"row_security", c"off"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"3"),
    (c"xmloption", c"content"),
    // What a record takes here was allowed where it was made.
    (c"temp_file_limit", c"-1"),
];

/// Connect to the database.
pub fn connect(database: u32) {
    worker::connect(database, &SETTINGS);
    // SAFETY: reads a name out of the server's table.
    let encoding = unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) };
    worker::set(c"client_encoding", encoding);
}

/// Begin a transaction.
pub fn begin() {
    // SAFETY: main loop of a background worker, in no transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
    }
}

/// Commit it.
pub fn commit() {
    // SAFETY: in the transaction of `begin`.
    unsafe { pg_sys::CommitTransactionCommand() }
}

/// Roll it back, after an error.
pub fn abort() {
    // SAFETY: valid in any state; in none it does nothing.
    unsafe { pg_sys::AbortCurrentTransaction() }
}

/// For `pg_stat_activity`.
pub fn report_busy() {
    report(pg_sys::BackendState::STATE_RUNNING, c"applying changes of the group");
}

/// For `pg_stat_activity` and the statistics of tables, by which autovacuum goes. When it wants to be called again because it
/// was called too soon.
pub fn report_idle() -> Option<std::time::Duration> {
    report(pg_sys::BackendState::STATE_IDLE, c"");
    // SAFETY: outside a transaction, as the function wants.
    unsafe { super::super::compat::report_statistics() }
}

fn report(state: pg_sys::BackendState::Type, text: &std::ffi::CStr) {
    // SAFETY: a connected background worker; the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) }
}

/// The CSN up to which this database has everything, from the replication origin (made if it is missing: nothing was ever
/// applied then). Inside a transaction.
pub fn durable_progress(node: &NodeShared) -> u64 {
    crate::pg::failpoint::hit("origin");
    let name = CString::new(origin_name(node.database.load(Ordering::Relaxed))).unwrap_or_default();
    // SAFETY: inside a transaction.
    unsafe {
        let known = pg_sys::replorigin_by_name(name.as_ptr(), true);
        let origin = if known == 0 {
            pg_sys::replorigin_create(name.as_ptr())
        } else {
            known
        };
        node.origin.store(u32::from(origin), Ordering::SeqCst);
        pg_sys::replorigin_get_progress(origin, false)
    }
}

/// The name of the prepared transaction whose locks carry this local transaction id.
pub fn prepared_transaction(transaction: u32) -> Option<String> {
    super::guarded(|| {
        let _snapshot = crate::pg::scratch::ActiveSnapshot::push();
        // A prepared transaction keeps the lock on its own id, under the virtual id that all its locks have.
        let query = format!(
            "SELECT p.gid FROM pg_catalog.pg_prepared_xacts p JOIN pg_catalog.pg_locks l \
             ON l.locktype = 'transactionid' AND l.transactionid = p.transaction AND l.pid IS NULL \
             WHERE pg_catalog.split_part(l.virtualtransaction, '/', 2) = '{transaction}'"
        );
        Ok(pgrx::Spi::get_one::<String>(&query).ok().flatten())
    })
    .ok()
    .flatten()
}
