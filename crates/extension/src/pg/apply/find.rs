//! Finding the row that a change is about: by the identity index, or by its whole content.
//!
//! Both look with a dirty snapshot, as `RelationFindReplTupleByIndex` (executor/execReplication.c) does: own changes count,
//! and a row that somebody is about to insert or delete is waited for. Whoever that is has to give way.

use pgrx::pg_sys;
use synod_change::Row;

use super::error::ApplyError;
use crate::errors::UserError;
use crate::pg::capture::Version;
use crate::pg::compat;
use crate::pg::relation::StrongTable;
use crate::pg::relcache::Relation;
use crate::pg::row;
use crate::pg::scratch::Scratch;

fn dirty() -> pg_sys::SnapshotData {
    pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
        ..Default::default()
    }
}

/// Wait for the transaction that the last look ran into. False when there was none.
///
/// # Safety
/// `snapshot` is a dirty snapshot that a row was found with.
unsafe fn waited(snapshot: *const pg_sys::SnapshotData) -> bool {
    // SAFETY: by contract: xmin and xmax tell who is inserting or deleting the row.
    unsafe {
        let (inserter, deleter) = ((*snapshot).xmin, (*snapshot).xmax);
        let other = if u32::from(inserter) == 0 { deleter } else { inserter };
        if u32::from(other) == 0 {
            return false;
        }
        let none = std::ptr::null_mut();
        pg_sys::XactLockTableWait(other, none, none.cast(), pg_sys::XLTW_Oper::XLTW_None);
    }
    true
}

/// The identity index, open, with a scan that is used again for every row.
pub struct ByIndex {
    index: Relation,
    descriptor: pg_sys::IndexScanDesc,
    /// The scan refers to it.
    snapshot: *mut pg_sys::SnapshotData,
    keys: Vec<pg_sys::ScanKeyData>,
    /// Index of the attribute (number - 1) behind each key.
    attributes: Vec<usize>,
    /// Where the scan lives: index methods allocate in the current context while they scan (`btgettuple` its list of killed
    /// items) and free it when the scan ends, so a row's memory would be too short-lived.
    context: pg_sys::MemoryContext,
}

impl ByIndex {
    /// Inside a transaction, in memory that lives as long as the result.
    pub fn open(table: &Relation, oid: pg_sys::Oid) -> Result<Self, ApplyError> {
        let differs = |what: &str| ApplyError::SchemaDiffers {
            table: table.name(),
            what: what.to_owned(),
        };
        let index = Relation::open_locked(oid, pg_sys::RowExclusiveLock)
            .ok_or_else(|| differs("the index by which its rows are found is gone"))?;
        let form = index.index_form().ok_or_else(|| differs("its key is not an index"))?;
        let attributes: Vec<usize> = super::super::definition::key_attributes(form)
            .iter()
            .filter_map(|number| usize::try_from(*number).ok()?.checked_sub(1))
            .collect();
        let count = attributes.len();
        // SAFETY: an open index with `count` plain key columns; the arrays of its relcache entry have one element each.
        unsafe {
            let mut keys = vec![pg_sys::ScanKeyData::default(); count];
            for (at, key) in keys.iter_mut().enumerate() {
                let family = *(*index.raw()).rd_opfamily.add(at);
                let input = *(*index.raw()).rd_opcintype.add(at);
                let strategy = pg_sys::BTEqualStrategyNumber as i16;
                let operator = pg_sys::get_opfamily_member(family, input, input, strategy);
                if operator == pg_sys::InvalidOid {
                    return Err(differs("its key has no equality operator"));
                }
                let function = pg_sys::get_opcode(operator);
                pg_sys::ScanKeyInit(key, at as i16 + 1, strategy as u16, function, pg_sys::Datum::from(0));
                key.sk_collation = *(*index.raw()).rd_indcollation.add(at);
            }
            let snapshot = pg_sys::palloc0(size_of::<pg_sys::SnapshotData>()).cast::<pg_sys::SnapshotData>();
            snapshot.write(dirty());
            let descriptor = compat::index_beginscan(table.raw(), index.raw(), snapshot, count as i32);
            Ok(Self {
                index,
                descriptor,
                snapshot,
                keys,
                attributes,
                context: pg_sys::CurrentMemoryContext,
            })
        }
    }

    /// Find the row whose key is in `wanted` and put it into `found`.
    ///
    /// # Safety
    /// `wanted` is a slot of the table that has been filled, `found` one of its storage's kind.
    pub unsafe fn find(&mut self, wanted: *mut pg_sys::TupleTableSlot, found: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: by contract; the scan keys outlive the rescan, which copies them.
        unsafe {
            for (key, attribute) in self.keys.iter_mut().zip(&self.attributes) {
                key.sk_argument = *(*wanted).tts_values.add(*attribute);
                if *(*wanted).tts_isnull.add(*attribute) {
                    return false;
                }
            }
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = self.context;
            let hit = self.scan(found);
            pg_sys::CurrentMemoryContext = before;
            hit
        }
    }

    /// Look until the row found is nobody's in progress.
    unsafe fn scan(&mut self, found: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: as for `find`, in the scan's memory context.
        unsafe {
            loop {
                let count = self.keys.len() as i32;
                pg_sys::index_rescan(self.descriptor, self.keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
                let forward = pg_sys::ScanDirection::ForwardScanDirection;
                if !pg_sys::index_getnext_slot(self.descriptor, forward, found) {
                    return false;
                }
                pg_sys::ExecMaterializeSlot(found);
                if !waited(self.snapshot) {
                    return true;
                }
            }
        }
    }

    /// Give scan and index back.
    pub fn close(self) {
        // SAFETY: begun in `open`.
        unsafe { pg_sys::index_endscan(self.descriptor) }
        drop(self.index);
    }
}

/// Find a row with exactly this content and put it into `found`. Any one of equal rows will do, but for those that this transaction has
/// made in command `since` or later: what is looked for was there before, and what a change has made of a row is not what the next one is
/// about.
///
/// # Safety
/// `found` is a slot of the table's storage's kind; inside a transaction.
pub unsafe fn by_scan(
    table: &StrongTable,
    relation: &Relation,
    key: Row<'_>,
    since: pg_sys::CommandId,
    found: *mut pg_sys::TupleTableSlot,
) -> Result<bool, UserError> {
    let scratch = Scratch::enter();
    // SAFETY: by contract; the snapshot outlives the scan.
    unsafe {
        let mut snapshot = dirty();
        let snapshot = &raw mut snapshot;
        'again: loop {
            let scan = scratch.outside(|| pg_sys::table_beginscan(relation.raw(), snapshot, 0, std::ptr::null_mut()));
            let mut seen = false;
            while !seen && compat::scan_next(scan, found) {
                seen = row::has_identity(table, key, found)
                    && !Version::fetch_at(relation, (*found).tts_tid)?.is_own(since);
                scratch.reset();
            }
            if seen {
                scratch.outside(|| pg_sys::ExecMaterializeSlot(found));
            }
            pg_sys::table_endscan(scan);
            if seen && waited(snapshot) {
                continue 'again;
            }
            return Ok(seen);
        }
    }
}

/// `(column, column)=(value, value)` of an identity, for messages.
///
/// # Safety
/// `slot` is a slot of the table that has been filled with an identity.
pub unsafe fn describe(table: &StrongTable, slot: *mut pg_sys::TupleTableSlot) -> String {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for at in &table.identity {
        let column = &table.columns[*at];
        names.push(column.name.as_str());
        // SAFETY: by contract; the output function is that of the column's type.
        values.push(unsafe {
            if *(*slot).tts_isnull.add(column.index) {
                "null".to_owned()
            } else {
                let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(column.type_oid, &mut output, &mut is_varlena);
                let text = pg_sys::OidOutputFunctionCall(output, *(*slot).tts_values.add(column.index));
                crate::pg::relcache::c_text(text)
            }
        });
    }
    format!("({})=({})", names.join(", "), values.join(", "))
}
