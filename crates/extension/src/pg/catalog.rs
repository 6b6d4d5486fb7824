//! The extension's one catalog table, `synod.replicated_table` (table_id bigint, relation regclass).
//!
//! Read and written without SPI, because it is read where no query can run: in triggers, at the start of the executor, before
//! commit. Its rows change in strong transactions only, so that its content is a function of the applied CSN.

use pgrx::pg_sys;
use synod_change::TableId;

use super::relcache::Relation;

/// `InheritsRelationId` and its two indexes (catalog/pg_inherits.h), which the bindings lack.
const PG_INHERITS: pg_sys::Oid = pg_sys::Oid::from_u32(2611);
const PG_INHERITS_BY_CHILD: pg_sys::Oid = pg_sys::Oid::from_u32(2680);
const PG_INHERITS_BY_PARENT: pg_sys::Oid = pg_sys::Oid::from_u32(2187);
const ATTRIBUTE_CHILD: i16 = 1;
const ATTRIBUTE_PARENT: i16 = 2;

/// `AttrDefaultRelationId` (catalog/pg_attrdef.h) and `DependRelationId` (catalog/pg_depend.h), each with an index.
/// `AttrDefaultRelationId`
pub const PG_ATTRDEF: pg_sys::Oid = pg_sys::Oid::from_u32(2604);
const PG_ATTRDEF_BY_COLUMN: pg_sys::Oid = pg_sys::Oid::from_u32(2656);
const PG_DEPEND: pg_sys::Oid = pg_sys::Oid::from_u32(2608);
const PG_DEPEND_BY_DEPENDER: pg_sys::Oid = pg_sys::Oid::from_u32(2673);

/// `ConstraintRelationId` of catalog/pg_constraint.h, which the bindings lack.
pub const PG_CONSTRAINT: pg_sys::Oid = pg_sys::Oid::from_u32(2606);
/// `Anum_pg_constraint_contype`
const CONSTRAINT_TYPE: i16 = 4;

/// `DependReferenceIndexId` (catalog/pg_depend.h), `ExtensionRelationId` and `ProcedureRelationId`.
const PG_DEPEND_BY_REFERENCE: pg_sys::Oid = pg_sys::Oid::from_u32(2674);
const PG_EXTENSION: pg_sys::Oid = pg_sys::Oid::from_u32(3079);
const PG_PROC: pg_sys::Oid = pg_sys::Oid::from_u32(1255);
const ATTRIBUTE_REFERENCED_CLASS: i16 = 4;
const ATTRIBUTE_REFERENCED: i16 = 5;

const ATTRIBUTE_ID: i16 = 1;
const ATTRIBUTE_RELATION: i16 = 2;

/// The catalog and its two indexes; `None` without the extension.
struct Catalog {
    table: Relation,
    by_id: pg_sys::Oid,
    by_relation: pg_sys::Oid,
}

impl Catalog {
    fn open(lock: u32) -> Option<Self> {
        // SAFETY: inside a transaction; each look-up gives InvalidOid for what does not exist.
        let (table, by_id, by_relation) = unsafe {
            let schema = pg_sys::get_namespace_oid(c"synod".as_ptr(), true);
            if schema == pg_sys::InvalidOid {
                return None;
            }
            let named = |name: &std::ffi::CStr| pg_sys::get_relname_relid(name.as_ptr(), schema);
            (
                named(c"replicated_table"),
                named(c"replicated_table_pkey"),
                named(c"replicated_table_relation_key"),
            )
        };
        if [table, by_id, by_relation].contains(&pg_sys::InvalidOid) {
            return None;
        }
        Some(Self {
            table: Relation::open_locked(table, lock)?,
            by_id,
            by_relation,
        })
    }

    /// The first row where `attribute` has this value, given to `read`.
    fn find<T>(
        &self,
        attribute: i16,
        value: pg_sys::Datum,
        read: impl FnOnce(pg_sys::HeapTuple, pg_sys::TupleDesc) -> T,
    ) -> Option<T> {
        let (index, function) = match attribute {
            ATTRIBUTE_ID => (self.by_id, pg_sys::F_INT8EQ),
            _ => (self.by_relation, pg_sys::F_OIDEQ),
        };
        // SAFETY: a scan of an open, locked relation by its index on this attribute, with the latest snapshot; the tuple
        // is read before the scan ends.
        unsafe {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                attribute,
                pg_sys::BTEqualStrategyNumber as u16,
                function.into(),
                value,
            );
            let scan = pg_sys::systable_beginscan(self.table.raw(), index, true, std::ptr::null_mut(), 1, &mut key);
            let tuple = pg_sys::systable_getnext(scan);
            let found = (!tuple.is_null()).then(|| read(tuple, self.table.descriptor()));
            pg_sys::systable_endscan(scan);
            found
        }
    }
}

/// One attribute of a catalog row; all are NOT NULL.
fn attribute(tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc, number: i16) -> pg_sys::Datum {
    let mut is_null = false;
    // SAFETY: the tuple is of this row type.
    unsafe { pg_sys::heap_getattr(tuple, i32::from(number), descriptor, &mut is_null) }
}

/// The number under which a relation is replicated.
pub fn number_of(relation: pg_sys::Oid) -> Option<TableId> {
    Catalog::open(pg_sys::AccessShareLock)?.find(ATTRIBUTE_RELATION, relation.into(), |tuple, descriptor| {
        TableId(attribute(tuple, descriptor, ATTRIBUTE_ID).value() as u64)
    })
}

/// The relation that is replicated under this number.
pub fn relation_of(id: TableId) -> Option<pg_sys::Oid> {
    Catalog::open(pg_sys::AccessShareLock)?.find(ATTRIBUTE_ID, pg_sys::Datum::from(id.0), |tuple, descriptor| {
        pg_sys::Oid::from(attribute(tuple, descriptor, ATTRIBUTE_RELATION).value() as u32)
    })
}

/// All replicated tables.
pub fn all() -> Vec<(TableId, pg_sys::Oid)> {
    let Some(catalog) = Catalog::open(pg_sys::AccessShareLock) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    // SAFETY: as in `find`, without a key.
    unsafe {
        let raw = catalog.table.raw();
        let scan = pg_sys::systable_beginscan(
            raw,
            pg_sys::InvalidOid,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let descriptor = catalog.table.descriptor();
            rows.push((
                TableId(attribute(tuple, descriptor, ATTRIBUTE_ID).value() as u64),
                pg_sys::Oid::from(attribute(tuple, descriptor, ATTRIBUTE_RELATION).value() as u32),
            ));
        }
        pg_sys::systable_endscan(scan);
    }
    rows.sort_by_key(|(id, _)| *id);
    rows
}

/// Add a row. The caller checked that there is none; a unique index is behind it.
pub fn insert(id: TableId, relation: pg_sys::Oid) {
    let Some(catalog) = Catalog::open(pg_sys::RowExclusiveLock) else {
        return;
    };
    // SAFETY: a tuple of the table's two columns; CatalogTupleInsert keeps the indexes.
    unsafe {
        let mut values = [pg_sys::Datum::from(id.0), relation.into()];
        let mut nulls = [false; 2];
        let tuple = pg_sys::heap_form_tuple(catalog.table.descriptor(), values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::CatalogTupleInsert(catalog.table.raw(), tuple);
        pg_sys::heap_freetuple(tuple);
        pg_sys::CacheInvalidateRelcacheByRelid(relation);
        pg_sys::CommandCounterIncrement();
        // After a crash the log is applied again, but until then a table that lost its row would take local writes.
        pg_sys::ForceSyncCommit();
    }
    super::relation::forget(relation);
}

/// Remove the row of a relation.
pub fn remove(relation: pg_sys::Oid) {
    let Some(catalog) = Catalog::open(pg_sys::RowExclusiveLock) else {
        return;
    };
    catalog.find(ATTRIBUTE_RELATION, relation.into(), |tuple, _| {
        // SAFETY: t_self is the tuple's place; deleting during the scan is what the server's catalog code does.
        unsafe { pg_sys::CatalogTupleDelete(catalog.table.raw(), &mut (*tuple).t_self) }
    });
    // SAFETY: inside a transaction; the relation still exists.
    unsafe {
        pg_sys::CacheInvalidateRelcacheByRelid(relation);
        pg_sys::CommandCounterIncrement();
        // After a crash the log is applied again, but until then a table that lost its row would take local writes.
        pg_sys::ForceSyncCommit();
    }
    super::relation::forget(relation);
}

/// Table and name of a trigger.
pub fn trigger(oid: pg_sys::Oid) -> Option<(pg_sys::Oid, String)> {
    let table = Relation::open_locked(pg_sys::TriggerRelationId, pg_sys::AccessShareLock)?;
    // SAFETY: a scan of pg_trigger by its index on oid; the row is read before the scan ends.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        let equal = pg_sys::BTEqualStrategyNumber as u16;
        pg_sys::ScanKeyInit(&mut key, 1, equal, pg_sys::F_OIDEQ.into(), oid.into());
        let scan = pg_sys::systable_beginscan(
            table.raw(),
            pg_sys::Oid::from(pg_sys::TriggerOidIndexId),
            true,
            std::ptr::null_mut(),
            1,
            &mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| {
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
            (form.tgrelid, super::relcache::name_text(&form.tgname))
        });
        pg_sys::systable_endscan(scan);
        found
    }
}

/// Columns (attribute number - 1) whose defaults name sequences, which are usually drawn from.
pub fn sequences_of_defaults(relation: &Relation) -> Vec<(usize, pg_sys::Oid)> {
    let mut found = Vec::new();
    for index in 0..relation.attribute_count() {
        let attribute = relation.attribute(index);
        if !attribute.atthasdef || attribute.attisdropped {
            continue;
        }
        let Some(default) = default_of(relation.oid(), attribute.attnum) else {
            continue;
        };
        for referenced in named_by(PG_ATTRDEF, default) {
            // SAFETY: a syscache look-up inside a transaction.
            let kind = unsafe { pg_sys::get_rel_relkind(referenced) } as u8;
            if kind == pg_sys::RELKIND_SEQUENCE {
                found.push((index, referenced));
            }
        }
    }
    found
}

/// The table and the attribute number whose default this is; `None` when it is none.
pub fn column_of_default(default: pg_sys::Oid) -> Option<(pg_sys::Oid, i32)> {
    unsafe extern "C-unwind" {
        // catalog/pg_attrdef.h; not bound by pgrx.
        #[link_name = "GetAttrDefaultColumnAddress"]
        fn column_address_raw(default: pg_sys::Oid) -> pg_sys::ObjectAddress;
    }
    // SAFETY: a look-up inside a transaction, which tells what does not exist by InvalidOid.
    let address = unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| column_address_raw(default)) };
    (address.objectId != pg_sys::InvalidOid).then_some((address.objectId, address.objectSubId))
}

/// The oid of a column's default.
fn default_of(relation: pg_sys::Oid, column: i16) -> Option<pg_sys::Oid> {
    let keys = [
        (2, pg_sys::F_OIDEQ, pg_sys::Datum::from(relation)),
        (3, pg_sys::F_INT2EQ, pg_sys::Datum::from(column)),
    ];
    scan(PG_ATTRDEF, PG_ATTRDEF_BY_COLUMN, &keys, |value| {
        pg_sys::Oid::from(value(1).value() as u32)
    })
    .pop()
}

/// The relations that an object depends on.
fn named_by(class: pg_sys::Oid, object: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let keys = [
        (1, pg_sys::F_OIDEQ, pg_sys::Datum::from(class)),
        (2, pg_sys::F_OIDEQ, pg_sys::Datum::from(object)),
    ];
    let referenced = scan(PG_DEPEND, PG_DEPEND_BY_DEPENDER, &keys, |value| {
        (value(4).value() as u32, value(5).value() as u32)
    });
    referenced
        .into_iter()
        .filter(|(class, _)| *class == u32::from(pg_sys::RelationRelationId))
        .map(|(_, oid)| pg_sys::Oid::from(oid))
        .collect()
}

/// The objects, with their catalogs, that depend on an object directly.
pub fn dependents(class: pg_sys::Oid, object: pg_sys::Oid) -> Vec<(pg_sys::Oid, pg_sys::Oid)> {
    let keys = [
        (ATTRIBUTE_REFERENCED_CLASS, pg_sys::F_OIDEQ, pg_sys::Datum::from(class)),
        (ATTRIBUTE_REFERENCED, pg_sys::F_OIDEQ, pg_sys::Datum::from(object)),
    ];
    scan(PG_DEPEND, PG_DEPEND_BY_REFERENCE, &keys, |value| {
        let oid = |number| pg_sys::Oid::from(value(number).value() as u32);
        (oid(1), oid(2))
    })
}

/// The rows of a catalog that an index finds by these columns, as `read` takes them.
fn scan<T>(
    catalog: pg_sys::Oid,
    index: pg_sys::Oid,
    columns: &[(i16, u32, pg_sys::Datum)],
    read: impl Fn(&dyn Fn(i16) -> pg_sys::Datum) -> T,
) -> Vec<T> {
    let mut rows = Vec::new();
    let Some(table) = Relation::open_locked(catalog, pg_sys::AccessShareLock) else {
        return rows;
    };
    // SAFETY: a scan of an open, locked catalog by one of its indexes, whose first columns these are; each row is read before
    // the next is asked for.
    unsafe {
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        let equal = pg_sys::BTEqualStrategyNumber as u16;
        for (key, (column, function, value)) in keys.iter_mut().zip(columns) {
            pg_sys::ScanKeyInit(key, *column, equal, (*function).into(), *value);
        }
        let count = columns.len().min(keys.len()) as i32;
        let scan = pg_sys::systable_beginscan(table.raw(), index, true, std::ptr::null_mut(), count, keys.as_mut_ptr());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            rows.push(read(&|number| attribute(tuple, table.descriptor(), number)));
        }
        pg_sys::systable_endscan(scan);
    }
    rows
}

/// The tables that a table inherits from directly, in order; of a partition, the table that it is of.
pub fn parents(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    relatives(PG_INHERITS_BY_CHILD, ATTRIBUTE_CHILD, oid, ATTRIBUTE_PARENT)
}

/// The tables that inherit from a table directly, its partitions among them.
pub fn heirs(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    relatives(PG_INHERITS_BY_PARENT, ATTRIBUTE_PARENT, oid, ATTRIBUTE_CHILD)
}

/// What stands in the column `sought` of pg_inherits where `by`, the first of this index, is `oid`.
fn relatives(index: pg_sys::Oid, by: i16, oid: pg_sys::Oid, sought: i16) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    let Some(table) = Relation::open_locked(PG_INHERITS, pg_sys::AccessShareLock) else {
        return found;
    };
    // SAFETY: a scan of pg_inherits by an index that begins with this attribute; its columns are never NULL.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        let equal = pg_sys::BTEqualStrategyNumber as u16;
        pg_sys::ScanKeyInit(&mut key, by, equal, pg_sys::F_OIDEQ.into(), oid.into());
        let scan = pg_sys::systable_beginscan(table.raw(), index, true, std::ptr::null_mut(), 1, &mut key);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let relative = attribute(tuple, table.descriptor(), sought);
            found.push(pg_sys::Oid::from(relative.value() as u32));
        }
        pg_sys::systable_endscan(scan);
    }
    found
}

/// The table with this name.
pub fn named(schema: &str, name: &str) -> Option<pg_sys::Oid> {
    let (schema, name) = (super::definition::c_name(schema), super::definition::c_name(name));
    // SAFETY: inside a transaction; both give InvalidOid for what does not exist.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Whether a locked table, or a partition of it, has rows that a new statement would see.
pub fn has_rows(relation: &Relation) -> bool {
    if super::hierarchy::is_partitioned(relation) {
        return super::hierarchy::members(relation.oid(), pg_sys::AccessShareLock)
            .into_iter()
            .filter(|member| *member != relation.oid())
            .filter_map(Relation::open)
            .any(|member| has_rows(&member));
    }
    if relation.class().relkind as u8 != pg_sys::RELKIND_RELATION {
        return false;
    }
    // SAFETY: an open, locked table; the snapshot is registered as long as the scan uses it.
    unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let slot = pg_sys::table_slot_create(relation.raw(), std::ptr::null_mut());
        let scan = pg_sys::table_beginscan(relation.raw(), snapshot, 0, std::ptr::null_mut());
        let found = crate::pg::compat::scan_next(scan, slot);
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::UnregisterSnapshot(snapshot);
        found
    }
}

/// Other tables with foreign keys that refer to this one. `pg_constraint` has no index for it; asked only when a table
/// begins or ends to be replicated, or is truncated.
pub fn referring_tables(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut tables = Vec::new();
    let Some(constraints) = Relation::open_locked(PG_CONSTRAINT, pg_sys::AccessShareLock) else {
        return tables;
    };
    // SAFETY: a sequential scan of an open, locked catalog; these columns are never NULL.
    unsafe {
        let raw = constraints.raw();
        let none = pg_sys::InvalidOid;
        let scan = pg_sys::systable_beginscan(raw, none, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let value = |number| attribute(tuple, constraints.descriptor(), number).value();
            let is_foreign_key = value(CONSTRAINT_TYPE) as u8 == b'f';
            if is_foreign_key && value(super::compat::CONSTRAINT_REFERENCED) as u32 == u32::from(oid) {
                let table = pg_sys::Oid::from(value(super::compat::CONSTRAINT_TABLE) as u32);
                if table != oid && !tables.contains(&table) {
                    tables.push(table);
                }
            }
        }
        pg_sys::systable_endscan(scan);
    }
    tables
}

/// The functions of this extension.
pub fn own_functions() -> Vec<pg_sys::Oid> {
    // SAFETY: a look-up inside a transaction.
    let extension = unsafe { pg_sys::get_extension_oid(c"synod".as_ptr(), true) };
    let members = dependents(PG_EXTENSION, extension).into_iter();
    members
        .filter(|(class, _)| *class == PG_PROC)
        .map(|(_, function)| function)
        .collect()
}
