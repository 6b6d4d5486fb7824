//! Hierarchies of tables: one is replicated as a whole, each of its tables under a number of its own.
//!
//! By inheritance, the tables are tables like others: each has rows and keys of its own, so that nothing is special but that all are
//! strong or none is: a statement that names one reads and writes those below it. By partitions, rows are written, captured and applied
//! leaf by leaf; a row that moves is a delete in one and an insert in another. What is certified is the hierarchy's: keys of an index that the
//! topmost table has are claimed under that table's number and index, so that a row that refers to it claims the same key, and whoever
//! writes a leaf claims the tables above it, too.

use std::collections::HashSet;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::catalog;
use super::definition::{SysCacheRow, call_text};
use super::list;
use super::relcache::{Relation, name_text, qualified};

unsafe extern "C-unwind" {
    // catalog/pg_inherits.h and catalog/partition.h; not bound by pgrx.
    #[link_name = "find_all_inheritors"]
    fn find_all_inheritors_raw(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
    #[link_name = "find_inheritance_children"]
    fn find_inheritance_children_raw(parent: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> *mut pg_sys::List;
    #[link_name = "get_partition_ancestors"]
    fn get_partition_ancestors_raw(relation: pg_sys::Oid) -> *mut pg_sys::List;
}

/// Whether a relation is a partitioned table.
pub fn is_partitioned(relation: &Relation) -> bool {
    relation.class().relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE
}

/// A table and all below it, parents before their partitions or heirs; all of them locked.
pub fn members(root: pg_sys::Oid, lock: u32) -> Vec<pg_sys::Oid> {
    // SAFETY: inside a transaction; a fresh list of oids.
    unsafe {
        oids(pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors_raw(root, lock as pg_sys::LOCKMODE, std::ptr::null_mut())
        }))
    }
}

/// The hierarchy in which a table without parents stands: itself, all below it, and what those inherit from besides, with all below
/// that. All of them locked.
pub fn whole(top: pg_sys::Oid, lock: u32) -> Vec<pg_sys::Oid> {
    let mut all = members(top, lock);
    let mut known: HashSet<pg_sys::Oid> = all.iter().copied().collect();
    let mut at = 0;
    while let Some(member) = all.get(at).copied() {
        for parent in catalog::parents(member) {
            if !known.contains(&parent) {
                all.extend(members(parent, lock).into_iter().filter(|it| known.insert(*it)));
            }
        }
        at += 1;
    }
    all
}

/// Whether a table stands in a hierarchy by inheritance, not by partitions.
pub fn inherits_or_is_inherited(relation: &Relation) -> bool {
    let by_partitions = relation.class().relispartition || is_partitioned(relation);
    let oid = relation.oid();
    let related = || !catalog::parents(oid).is_empty() || !catalog::heirs(oid).is_empty();
    !by_partitions && related()
}

/// The tables (or indexes) that a partition belongs to, the nearest first; none for what is no partition.
pub fn ancestors(relation: &Relation) -> Vec<pg_sys::Oid> {
    if !relation.class().relispartition {
        return Vec::new();
    }
    let oid = relation.oid();
    // SAFETY: inside a transaction; the relation is a partition.
    unsafe {
        oids(pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            get_partition_ancestors_raw(oid)
        }))
    }
}

unsafe fn oids(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: by contract of the callers: a list of oids, or NIL.
    unsafe { (0..list::length(list)).map(|at| list::oid(list, at)).collect() }
}

/// What a partitioned table is partitioned by, and into what: nodes must agree on both.
pub fn key_text(relation: &Relation) -> Option<String> {
    if !is_partitioned(relation) {
        return None;
    }
    let key = call_text(pg_sys::pg_get_partkeydef, &[relation.oid().into_datum()]);
    let oid = relation.oid();
    // SAFETY: inside a transaction, with a lock on the table.
    let partitions = unsafe {
        oids(pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            find_inheritance_children_raw(oid, pg_sys::NoLock as pg_sys::LOCKMODE)
        }))
    };
    let mut names: Vec<String> = partitions
        .into_iter()
        .filter_map(Relation::open)
        .map(|relation| qualified(&relation.schema(), &relation.name()))
        .collect();
    names.sort();
    Some(format!("{key} into ({})", names.join(", ")))
}

/// Where in a hierarchy a table stands, other than at the top of partitions: which table a partition is of, and for which values; or
/// what it inherits from, what inherits from it, and which inherited columns stay when they are dropped above. Nodes must agree on it.
pub fn place_text(relation: &Relation) -> Option<String> {
    if inherits_or_is_inherited(relation) {
        return Some(inheritance_text(relation));
    }
    let parent = Relation::open(*ancestors(relation).first()?)?;
    let cache = pg_sys::SysCacheIdentifier::RELOID;
    let row = SysCacheRow::find(cache, relation.oid())?;
    let bound = row.attribute(cache, pg_sys::Anum_pg_class_relpartbound as i16);
    let values = call_text(pg_sys::pg_get_expr, &[Some(bound), relation.oid().into_datum()]);
    Some(format!("{} {values}", qualified(&parent.schema(), &parent.name())))
}

fn inheritance_text(relation: &Relation) -> String {
    let names = |oids: Vec<pg_sys::Oid>| -> Vec<String> {
        let relations = oids.into_iter().filter_map(Relation::open);
        relations.map(|it| qualified(&it.schema(), &it.name())).collect()
    };
    let above = names(catalog::parents(relation.oid()));
    let mut below = names(catalog::heirs(relation.oid()));
    below.sort();
    let own: Vec<String> = (0..relation.attribute_count())
        .map(|index| relation.attribute(index))
        .filter(|attribute| !attribute.attisdropped && attribute.attinhcount > 0 && attribute.attislocal)
        .map(|attribute| name_text(&attribute.attname))
        .collect();
    let parts = [("below", above), ("above", below), ("with its own", own)];
    let told = parts.iter().filter(|(_, names)| !names.is_empty());
    let told: Vec<String> = told
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    format!("a hierarchy by inheritance, {}", told.join("; "))
}
