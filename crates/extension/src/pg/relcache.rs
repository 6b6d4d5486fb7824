//! Relations as the relation cache has them: opened without a lock of our own, and closed on drop.
//!
//! Callers hold a lock already (the executor's, or the one taken by `replicate_table`), or only read what a concurrent
//! change of definition could not turn into a wrong answer: such a change is refused while a table is replicated.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A reference-counted relation. Never null: its drop gives the reference back, so none may be made of what was not found, not even to
/// be thrown away.
pub struct Relation(pg_sys::Relation);

impl Relation {
    /// The relation with this oid, or `None` when it is gone.
    pub fn open(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: inside a transaction; RelationIdGetRelation returns null or a pinned relation.
        let relation = unsafe { pg_sys::RelationIdGetRelation(oid) };
        (!relation.is_null()).then(|| Self(relation))
    }

    /// With a lock that is kept to the end of the transaction.
    pub fn open_locked(oid: pg_sys::Oid, mode: u32) -> Option<Self> {
        // SAFETY: inside a transaction; try_relation_open returns null when the relation is gone.
        let relation = unsafe { pg_sys::try_relation_open(oid, mode as pg_sys::LOCKMODE) };
        (!relation.is_null()).then(|| Self(relation))
    }

    /// The server's pointer, valid as long as this value.
    pub fn raw(&self) -> pg_sys::Relation {
        self.0
    }

    /// Its `pg_class` row.
    pub fn class(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: rd_rel is set for every open relation and lives as long as the pin.
        unsafe { &*(*self.0).rd_rel }
    }

    /// Its name, unquoted.
    pub fn name(&self) -> String {
        name_text(&self.class().relname)
    }

    /// Its schema's name, unquoted.
    pub fn schema(&self) -> String {
        schema_name(self.class().relnamespace)
    }

    /// Its oid.
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is pinned.
        unsafe { (*self.0).rd_id }
    }

    /// Its row type.
    pub fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is pinned; rd_att is not rebuilt while somebody holds a pin.
        unsafe { (*self.0).rd_att }
    }

    /// Number of columns, dropped ones included.
    pub fn attribute_count(&self) -> usize {
        // SAFETY: see `descriptor`.
        unsafe { (*self.descriptor()).natts as usize }
    }

    /// The column with this index, counted from 0 (attribute number - 1).
    pub fn attribute(&self, index: usize) -> &pg_sys::FormData_pg_attribute {
        assert!(
            index < self.attribute_count(),
            "attribute {index} of {}",
            self.attribute_count()
        );
        // SAFETY: index < natts; lives as long as the pin.
        unsafe { &*super::compat::tuple_attribute(self.descriptor(), index) }
    }

    /// Its indexes, by oid.
    pub fn indexes(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: RelationGetIndexList returns a fresh list of oids in the current memory context.
        unsafe {
            let list = pg_sys::RelationGetIndexList(self.0);
            let oids = (0..super::list::length(list))
                .map(|at| super::list::oid(list, at))
                .collect();
            pg_sys::list_free(list);
            oids
        }
    }

    /// The `pg_index` row of an index.
    pub fn index_form(&self) -> Option<&pg_sys::FormData_pg_index> {
        // SAFETY: rd_index is set for indexes only and lives as long as the pin.
        unsafe { (*self.0).rd_index.as_ref() }
    }
}

impl Drop for Relation {
    fn drop(&mut self) {
        // When an ERROR unwinds, the resource owner drops the pin.
        if !std::thread::panicking() {
            // SAFETY: pinned in `open`.
            unsafe { pg_sys::RelationClose(self.0) }
        }
    }
}

/// A `name` as text.
pub fn name_text(name: &pg_sys::NameData) -> String {
    // SAFETY: NameData is NUL-terminated within its 64 bytes.
    unsafe { CStr::from_ptr(name.data.as_ptr()).to_string_lossy().into_owned() }
}

/// A palloc'd C string as text; empty for null.
///
/// # Safety
/// Null or NUL-terminated.
pub unsafe fn c_text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(text).to_string_lossy().into_owned() }
}

/// A schema's name, unquoted; empty when it is gone.
pub fn schema_name(oid: pg_sys::Oid) -> String {
    // SAFETY: get_namespace_name returns null or a palloc'd string.
    unsafe { c_text(pg_sys::get_namespace_name(oid)) }
}

/// `schema.name` quoted where needed, for messages and SQL.
pub fn qualified(schema: &str, name: &str) -> String {
    pgrx::spi::quote_qualified_identifier(schema, name)
}
