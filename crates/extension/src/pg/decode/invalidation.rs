//! What of the catalog has changed since a reader looked.
//!
//! The server's callbacks cannot be taken back and may run within almost any call, so they only note what became invalid; sessions
//! look at the notes between rows. Decoding executes each transaction's invalidations where its rows need them.

use std::cell::{Cell, RefCell};

use pgrx::{pg_guard, pg_sys};

/// More notes than this between two rows become "everything".
const NOTES: usize = 64;

/// Something that may be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A relation, by oid.
    Relation(u32),
    /// A type, by the hash of its catalog cache entry; 0: all of them.
    Type(u32),
    /// Any table, index, schema, type.
    All,
}

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static ANY: Cell<bool> = const { Cell::new(false) };
    static ORIGINS: Cell<u64> = const { Cell::new(0) };
    static NOTED: RefCell<Vec<Stale>> = const { RefCell::new(Vec::new()) };
}

/// Begin to take notes, once per process.
pub fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks live as long as the library.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation), pg_sys::Datum::from(0));
        for (cache, function) in [
            (pg_sys::SysCacheIdentifier::TYPEOID, r#type as Callback),
            (pg_sys::SysCacheIdentifier::NAMESPACEOID, schema as Callback),
            (pg_sys::SysCacheIdentifier::REPLORIGIDENT, origin as Callback),
        ] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(function), pg_sys::Datum::from(0));
        }
    }
}

/// Whether there are notes.
pub fn any() -> bool {
    ANY.get()
}

/// Take them.
pub fn take() -> Vec<Stale> {
    ANY.set(false);
    NOTED.take()
}

/// How often origins have changed.
pub fn origins_changed() -> u64 {
    ORIGINS.get()
}

type Callback = unsafe extern "C-unwind" fn(pg_sys::Datum, i32, u32);

fn note(stale: Stale) {
    ANY.set(true);
    NOTED.with_borrow_mut(|noted| {
        if stale == Stale::All || noted.len() >= NOTES {
            noted.clear();
            noted.push(Stale::All);
        } else if !noted.contains(&Stale::All) {
            noted.push(stale);
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn relation(_argument: pg_sys::Datum, oid: pg_sys::Oid) {
    note(if oid == pg_sys::InvalidOid {
        Stale::All
    } else {
        Stale::Relation(oid.to_u32())
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn r#type(_argument: pg_sys::Datum, _cache: i32, hash: u32) {
    note(Stale::Type(hash));
}

#[pg_guard]
unsafe extern "C-unwind" fn schema(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    note(Stale::All);
}

#[pg_guard]
unsafe extern "C-unwind" fn origin(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    ORIGINS.set(ORIGINS.get() + 1);
}
