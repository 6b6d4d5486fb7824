//! Whether somebody reads, or may come to read, this database's change stream: a replication slot whose output plugin is ours.
//!
//! What only the stream needs is written to the WAL only then. Asked at every commit of a strong transaction, so the array of
//! slots is read without a lock. That is enough: a slot tells only of transactions that got their id after the slot had its
//! plugin's name (`CreateInitDecodingContext` in logical.c sets it first, and starts from what runs then), and giving out an
//! id takes a lock that the slot's creator took in between. So who has an id sees every slot that will ask for what it did.

use pgrx::pg_sys;

/// The name of the output plugin: that of the library.
const PLUGIN: &[u8] = b"synod\0";

/// Whether a slot of this database has our plugin. Ask in a transaction that has its id.
pub fn exist() -> bool {
    // SAFETY: the array lives in shared memory as long as the server; its fields are read one by one, whatever is being written:
    // the slots that matter were complete before this transaction began.
    unsafe {
        let control = pg_sys::ReplicationSlotCtl;
        if control.is_null() {
            return false;
        }
        let slots = (&raw mut (*control).replication_slots).cast::<pg_sys::ReplicationSlot>();
        (0..pg_sys::max_replication_slots.max(0) as usize).any(|at| {
            let slot = slots.add(at);
            let name = (&raw const (*slot).data.plugin.data).cast::<[u8; PLUGIN.len()]>();
            std::ptr::read_volatile(&raw const (*slot).in_use)
                && std::ptr::read_volatile(&raw const (*slot).data.database) == pg_sys::MyDatabaseId
                && std::ptr::read_volatile(name) == *PLUGIN
        })
    }
}
