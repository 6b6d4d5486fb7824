//! Changes of which tables are replicated, and TRUNCATE.

use pgrx::pg_sys;
use synod_change::{TableDefinition, TableId};

use super::error::ApplyError;
use crate::pg::relcache::{Relation, qualified};
use crate::pg::service::draws;
use crate::pg::{catalog, compat, definition, replicable, replicate};

/// From here on the table is replicated. Its rows follow as inserts, so it must be empty here, unless this is the node
/// where they came from (`own`: a transaction that had to let go): then they are put in again.
pub fn add(wanted: &TableDefinition, own: bool) -> Result<(), ApplyError> {
    let name = qualified(&wanted.schema, &wanted.name);
    let differs = |what: String| ApplyError::SchemaDiffers {
        table: name.clone(),
        what,
    };
    let oid = catalog::named(&wanted.schema, &wanted.name).ok_or_else(|| differs("it does not exist here".into()))?;
    let relation = Relation::open_locked(oid, pg_sys::ShareRowExclusiveLock)
        .ok_or_else(|| differs("it does not exist here".into()))?;
    if catalog::number_of(oid) == Some(wanted.id) {
        return Ok(());
    }
    replicable::check_member(&relation).map_err(|error| differs(error.message))?;
    let here = definition::of(&relation, wanted.id, &|other| {
        if other == oid {
            Some(wanted.id)
        } else {
            catalog::number_of(other)
        }
    });
    let differences = wanted.differences_to(&here, "this node");
    if !differences.is_empty() {
        return Err(differs(differences.join("; ")));
    }
    if catalog::has_rows(&relation) {
        if !own {
            return Err(differs("it has rows here; TRUNCATE it to take over the group's".into()));
        }
        truncate_relations(&[oid], false);
    }
    drop(relation);
    replicate::enter(wanted.id, oid);
    Ok(())
}

/// From here on the table is an ordinary one.
pub fn remove(id: TableId) {
    if let Some(oid) = catalog::relation_of(id)
        && Relation::open_locked(oid, pg_sys::ShareRowExclusiveLock).is_some()
    {
        replicate::leave(oid);
    }
}

/// TRUNCATE these tables and no other rows: the record names all tables, whoever cascaded to them.
pub fn truncate(tables: &[TableId], restart_identity: bool) -> Result<(), ApplyError> {
    let oids = tables
        .iter()
        .map(|id| catalog::relation_of(*id).ok_or(ApplyError::UnknownTable(*id)))
        .collect::<Result<Vec<_>, _>>()?;
    truncate_relations(&oids, restart_identity);
    if restart_identity {
        oids.iter().copied().for_each(draws::restart);
    }
    Ok(())
}

/// Whether tables other than these refer to them, and all of those are empty: then TRUNCATE has to cascade, and nothing is
/// lost. Every strong one is among `oids`, or was emptied by the same record; one that is not strong cannot be written,
/// but may have rows from before. When one has rows the server refuses, naming it.
fn has_empty_referrers(oids: &[pg_sys::Oid]) -> bool {
    let mut all = oids.to_vec();
    let mut at = 0;
    while let Some(oid) = all.get(at).copied() {
        for referring in catalog::referring_tables(oid) {
            if all.contains(&referring) {
                continue;
            }
            // The lock that TRUNCATE takes, so that it stays empty. Closed again: TRUNCATE wants nobody else to use it.
            let relation = Relation::open_locked(referring, pg_sys::AccessExclusiveLock);
            if relation.is_some_and(|relation| catalog::has_rows(&relation)) {
                return false;
            }
            all.push(referring);
        }
        at += 1;
    }
    all.len() > oids.len()
}

/// TRUNCATE one table to which no other refers.
pub fn truncate_relation(oid: pg_sys::Oid) {
    truncate_relations(&[oid], false);
}

fn truncate_relations(oids: &[pg_sys::Oid], restart_identity: bool) {
    // SAFETY: inside a transaction with the locks that TRUNCATE takes; the lists live in the current memory context. The
    // tables are pinned until it is done.
    unsafe {
        let (mut relations, mut list) = (std::ptr::null_mut(), std::ptr::null_mut());
        let open: Vec<Relation> = oids
            .iter()
            .filter_map(|oid| Relation::open_locked(*oid, pg_sys::AccessExclusiveLock))
            .collect();
        let cascade = has_empty_referrers(oids);
        for relation in &open {
            relations = pg_sys::lappend(relations, relation.raw().cast());
            list = pg_sys::lappend_oid(list, relation.oid());
        }
        let decoding = pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32;
        // A list of its own: when the server cascades it appends to both.
        let logged = if decoding {
            pg_sys::list_copy(list)
        } else {
            std::ptr::null_mut()
        };
        compat::truncate(relations, list, logged, cascade, restart_identity);
        drop(open);
    }
}
