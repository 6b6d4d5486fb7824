//! Certification keys of a transaction: which it claims, how strongly, and from which base on.
//!
//! Each record that writes rows of a table claims the table's key as KeyShare, from the earliest base of its row keys on, so that
//! a claim of the whole table conflicts with every writer of it. A key's *base* is the applied CSN up to which its holder knows it to be free of conflicts:
//! - [`Base::Now`] for keys that our own row lock or index entry protects: the apply worker waits for it, and we are told to
//!   give way, so that whatever is applied before our commit did not conflict;
//!   (Row locks and LOCK TABLE of other nodes are not: against these, rows that were written are claimed from when they were, see
//!   [`KeySet::claim_held`].)
//! - [`Base::At`] the applied CSN when the trigger fired, or the row was locked, for everything else: rows that were locked
//!   (SELECT FOR UPDATE and its weaker forms), claims of whole tables, keys of referenced rows and
//!   of deferrable constraints, and strong claims on keys of tables that foreign keys refer to (a referencing row that
//!   is applied takes no lock on ours).

use std::collections::HashMap;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{
    INDEX_TABLE_LOCK, INDEX_WHOLE_ROW, Key, KeyHasher, KeyMode, MAX_KEYS_PER_RECORD, TableId, Value, table_key,
};

use super::capture::Image;
use super::relation::{ForeignKey, StrongTable, UniqueKey};
use super::wire::Hashing;
use crate::errors::UserError;
use crate::local_key::LocalKey;

/// From where on conflicts with a key matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// From this applied CSN on. Orders before `Now`: the older base of two is the safe one.
    At(u64),
    /// From the applied CSN at the seal on.
    Now,
}

/// The claims on one key: for each mode from which base on. A strong claim that begins late does not replace a weak one that
/// begins early: a hot row is claimed as KeyShare when a row that refers to it is written, and as NoKeyUpdate, from the moment
/// it is locked, when it is written itself.
#[derive(Clone, Copy, Debug, Default)]
struct Claims([Option<Base>; KeyMode::ALL.len()]);

impl Claims {
    /// Adds a claim; true when it is the first of its mode.
    fn add(&mut self, mode: KeyMode, base: Base) -> bool {
        let known = &mut self.0[mode as usize];
        let first = known.is_none();
        *known = Some(known.map_or(base, |known| known.min(base)));
        first
    }

    fn since(&self, mode: KeyMode) -> Option<Base> {
        self.0[mode as usize]
    }

    /// Those that no stronger one covers from the same base on.
    fn kept(self) -> impl Iterator<Item = (KeyMode, Base)> {
        let mut earliest = None;
        KeyMode::ALL.into_iter().rev().filter_map(move |mode| {
            let base = self.since(mode)?;
            if earliest.is_some_and(|earliest| earliest <= base) {
                return None;
            }
            earliest = Some(base);
            Some((mode, base))
        })
    }
}

/// A claim under a lock of ours.
#[derive(Clone, Copy, Debug)]
struct Held {
    table: TableId,
    hash: u64,
    mode: KeyMode,
    base: u64,
}

/// The keys of a transaction. When there are too many, each table becomes one key.
#[derive(Debug, Default)]
pub struct KeySet {
    rows: HashMap<u64, Claims>,
    tables: HashMap<TableId, Claims>,
    /// Names, marks and locked tables: each is claimed alone.
    names: HashMap<u64, Base>,
    /// From where on tables are touched under locks of ours (see [`Self::claim_held`]).
    held: HashMap<TableId, u64>,
    /// How far back such claims may reach; `None`: that is known when another set absorbs this one.
    reach: Option<u64>,
    /// Those that wait for that.
    unreached: Vec<Held>,
    /// Claims in `rows`, an upper bound of what they become.
    row_claims: usize,
    whole_tables: bool,
}

impl KeySet {
    /// Claims under locks of ours reach back to this applied CSN.
    pub fn reaching(reach: u64) -> Self {
        Self {
            reach: Some(reach),
            ..Self::default()
        }
    }

    /// Claim a key of a row that we have written, and thus locked, since `base`. Nobody's write of it was applied since then; but
    /// who has only locked it on another node, or its table, takes no lock where his record is applied, and has decided by what the
    /// row was. So the claim counts from then on, as far as the window of certification is sure to reach: a long transaction must
    /// not be too old for what its locks prove.
    pub fn claim_held(&mut self, table: TableId, hash: u64, mode: KeyMode, base: u64) {
        self.hold(table, base);
        let since = match self.reach {
            Some(reach) => Base::At(base.max(reach)),
            None => Base::Now,
        };
        self.claim_touching(table, hash, mode, since, Base::Now);
        if self.reach.is_none() && !self.whole_tables {
            self.unreached.push(Held {
                table,
                hash,
                mode,
                base,
            });
        }
    }

    /// Rows of the table, and of those that it is a partition of, were written since `base`: against who has locked it as a whole.
    pub fn touch_held(&mut self, table: &StrongTable, base: u64) {
        self.touch_all(table, Base::Now);
        self.hold(table.id, base);
        for ancestor in &table.ancestors {
            self.hold(*ancestor, base);
        }
    }

    fn hold(&mut self, table: TableId, base: u64) {
        let since = base.max(self.reach.unwrap_or_default());
        let held = self.held.entry(table).or_insert(since);
        *held = since.min(*held);
    }

    /// Claim a key of a table's index.
    pub fn claim(&mut self, table: TableId, hash: u64, mode: KeyMode, base: Base) {
        self.claim_touching(table, hash, mode, base, base);
    }

    /// `touched`: from where on the table as a whole counts, where it stands for its keys, too.
    fn claim_touching(&mut self, table: TableId, hash: u64, mode: KeyMode, base: Base, touched: Base) {
        let whole = self.tables.get(&table).and_then(|claims| claims.since(KeyMode::Update));
        if self.whole_tables || whole.is_some_and(|whole| whole <= base) {
            // Stronger than any key of the table that does not reach back farther.
            return self.claim_table(table, KeyMode::Update, touched);
        }
        self.touch(table, touched);
        let first = self.rows.entry(hash).or_default().add(mode, base);
        self.row_claims += usize::from(first);
        self.bound();
    }

    fn bound(&mut self) {
        let table_claims = self.tables.len() * KeyMode::ALL.len() + self.names.len() + self.held.len();
        if self.row_claims + table_claims > MAX_KEYS_PER_RECORD {
            self.claim_whole_tables();
        }
    }

    fn claim_whole_tables(&mut self) {
        self.whole_tables = true;
        self.rows = HashMap::new();
        self.unreached = Vec::new();
        for claims in self.tables.values_mut() {
            // KeyShare is there, from the earliest base of the table's keys on.
            let base = claims.since(KeyMode::KeyShare).unwrap_or(Base::Now);
            claims.add(KeyMode::Update, base);
        }
    }

    /// Rows of the table are written or relied on, under keys that have this base.
    pub fn touch(&mut self, table: TableId, base: Base) {
        self.claim_table(table, KeyMode::KeyShare, base);
    }

    /// The same for a table and for those that it is a partition of.
    pub fn touch_all(&mut self, table: &StrongTable, base: Base) {
        self.touch(table.id, base);
        for ancestor in &table.ancestors {
            self.touch(*ancestor, base);
        }
    }

    /// Claim a table as a whole.
    pub fn claim_table(&mut self, table: TableId, mode: KeyMode, base: Base) {
        self.tables.entry(table).or_default().add(mode, base);
    }

    /// Claim a table that was locked as a whole since `base`.
    pub fn claim_locked_table(&mut self, table: TableId, base: u64) {
        self.claim_table(table, KeyMode::Update, Base::At(base));
        self.claim_name(lock_key(table), base);
    }

    /// Claim a name (see [`synod_change::name_key`]).
    pub fn claim_name(&mut self, hash: u64, event_base: u64) {
        self.claim_alone(hash, Base::At(event_base));
    }

    /// Claim a key that only marks the record (see [`synod_change::ddl_key`]).
    pub fn claim_mark(&mut self, hash: u64) {
        self.claim_alone(hash, Base::Now);
    }

    fn claim_alone(&mut self, hash: u64, base: Base) {
        let known = self.names.entry(hash).or_insert(base);
        *known = base.min(*known);
    }

    /// Claim all that another set claims.
    pub fn absorb(&mut self, other: Self) {
        for (table, claims) in other.tables {
            for (mode, base) in claims.kept() {
                self.claim_table(table, mode, base);
            }
        }
        for (hash, base) in other.names {
            self.claim_alone(hash, base);
        }
        for (table, since) in other.held {
            self.hold(table, since);
        }
        for (hash, claims) in other.rows {
            for (mode, base) in claims.kept() {
                let first = self.rows.entry(hash).or_default().add(mode, base);
                self.row_claims += usize::from(first);
            }
        }
        if other.whole_tables {
            self.claim_whole_tables();
        } else {
            self.bound();
        }
        for held in other.unreached {
            self.claim_held(held.table, held.hash, held.mode, held.base);
        }
    }

    /// All keys, or an error if there are more than a record may have.
    pub fn finish(self, applied_now: u64) -> Result<Vec<LocalKey>, UserError> {
        let local = |hash: u64, mode: KeyMode, base: Base| LocalKey {
            key: Key { hash, mode },
            base: match base {
                Base::At(base) => base,
                Base::Now => applied_now,
            },
        };
        let all = |hash: u64, claims: Claims| claims.kept().map(move |(mode, base)| local(hash, mode, base));
        let mut keys = Vec::with_capacity(self.row_claims + self.tables.len() + self.names.len() + self.held.len());
        let held = self.held.into_iter();
        keys.extend(held.map(|(table, since)| local(lock_key(table), KeyMode::KeyShare, Base::At(since))));
        keys.extend(
            self.tables
                .into_iter()
                .flat_map(|(table, claims)| all(table_key(table), claims)),
        );
        keys.extend(
            self.names
                .into_iter()
                .map(|(hash, base)| local(hash, KeyMode::Update, base)),
        );
        keys.extend(self.rows.into_iter().flat_map(|(hash, claims)| all(hash, claims)));
        if keys.len() > MAX_KEYS_PER_RECORD {
            // No node could read it, and none would get past it.
            return Err(too_many_keys());
        }
        Ok(keys)
    }
}

/// Rows do not come to that, each table of them becomes one key: tables and names of definitions do.
fn too_many_keys() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        "the transaction claims too many tables and names of the group",
        format!("A transaction can have {MAX_KEYS_PER_RECORD} certification keys."),
        "Use smaller transactions.",
    )
}

/// What an index makes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// The row is not in the index, or a NULL keeps it from conflicting.
    Absent,
    /// Its key.
    Hash(u64),
}

/// The key of a row in a plain index.
///
/// # Safety
/// `image` is of the table that `key` belongs to.
pub unsafe fn plain_key(key: &UniqueKey, hashing: &[Hashing], image: &Image<'_>) -> RowKey {
    let values = key.attributes.iter().map(|number| image.get(*number as usize - 1));
    // SAFETY: by contract.
    unsafe { hash(key.table, key.number, hashing, key.nulls_equal, values) }
}

/// The key in the referenced index that a row refers to.
///
/// # Safety
/// `image` is of the table that `key` belongs to.
pub unsafe fn referenced_key(key: &ForeignKey, hashing: &[Hashing], image: &Image<'_>) -> RowKey {
    let values = key.attributes.iter().map(|number| image.get(*number as usize - 1));
    // SAFETY: by contract.
    unsafe { hash(key.referenced, key.index_number, hashing, false, values) }
}

/// Hash the values of a key; `None` is NULL.
///
/// # Safety
/// The values are of the types that `hashing` was made for.
unsafe fn hash(
    table: TableId,
    index: u32,
    hashing: &[Hashing],
    nulls_equal: bool,
    values: impl Iterator<Item = Option<pg_sys::Datum>>,
) -> RowKey {
    let mut hasher = KeyHasher::new(table, index);
    for (hashing, value) in hashing.iter().zip(values) {
        match value {
            // SAFETY: by contract.
            Some(datum) => unsafe { hashing.feed(&mut hasher, datum) },
            None if nulls_equal => {
                hasher.null();
            }
            None => return RowKey::Absent,
        }
    }
    RowKey::Hash(hasher.finish())
}

/// See [`INDEX_TABLE_LOCK`].
fn lock_key(table: TableId) -> u64 {
    KeyHasher::new(table, INDEX_TABLE_LOCK).finish()
}

/// The key of a row of a table without a key: all of it, as it travels.
pub fn whole_row_key(table: TableId, row: &[Value<'_>]) -> u64 {
    let mut hasher = KeyHasher::new(table, INDEX_WHOLE_ROW);
    for value in row {
        match value {
            Value::Null | Value::Same => hasher.null(),
            Value::Text(bytes) | Value::Binary(bytes) => hasher.bytes(bytes),
        };
    }
    hasher.finish()
}

/// Evaluates index expressions and predicates for the rows of one table. All it allocates is in the memory context in which
/// it was made, and in the executor state's own.
pub struct IndexEvaluator {
    state: *mut pg_sys::EState,
    slot: *mut pg_sys::TupleTableSlot,
    infos: HashMap<pg_sys::Oid, (*mut pg_sys::IndexInfo, *mut pg_sys::ExprState)>,
}

impl IndexEvaluator {
    /// For rows of this relation, which stays open as long as this lives.
    pub fn new(relation: &super::relcache::Relation) -> Self {
        // SAFETY: inside a transaction; both live until `close`, or go with their memory context.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let slot = pg_sys::MakeSingleTupleTableSlot(relation.descriptor(), &raw const pg_sys::TTSOpsVirtual);
            Self {
                state,
                slot,
                infos: HashMap::new(),
            }
        }
    }

    /// The key of a row in an index with expressions or a predicate.
    ///
    /// # Safety
    /// `image` is of the relation that this was made for, and `key` one of its indexes.
    pub unsafe fn key(
        &mut self,
        table: &StrongTable,
        key: &UniqueKey,
        hashing: &[Hashing],
        image: &Image<'_>,
    ) -> RowKey {
        // SAFETY: by contract; the expression context is reset per row, its results are used before that.
        unsafe {
            let Some((info, predicate)) = self.prepare(key.index) else {
                return RowKey::Absent;
            };
            pg_sys::ExecClearTuple(self.slot);
            let count = table.attribute_count;
            std::ptr::copy_nonoverlapping(image.values.as_ptr(), (*self.slot).tts_values, count);
            std::ptr::copy_nonoverlapping(image.nulls.as_ptr(), (*self.slot).tts_isnull, count);
            pg_sys::ExecStoreVirtualTuple(self.slot);
            let context = super::compat::per_tuple_context(self.state);
            (*context).ecxt_scantuple = self.slot;
            if !pg_sys::ExecQual(predicate, context) {
                return RowKey::Absent;
            }
            let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::FormIndexDatum(info, self.slot, self.state, values.as_mut_ptr(), nulls.as_mut_ptr());
            let values = (0..hashing.len()).map(|at| (!nulls[at]).then_some(values[at]));
            let found = hash(key.table, key.number, hashing, key.nulls_equal, values);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            found
        }
    }

    unsafe fn prepare(&mut self, index: pg_sys::Oid) -> Option<(*mut pg_sys::IndexInfo, *mut pg_sys::ExprState)> {
        if let Some(known) = self.infos.get(&index) {
            return Some(*known);
        }
        let relation = super::relcache::Relation::open(index)?;
        // SAFETY: made in the executor state's query context, which lives as long as `self`.
        let made = unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*self.state).es_query_cxt;
            let info = pg_sys::BuildIndexInfo(relation.raw());
            let predicate = pg_sys::ExecPrepareQual((*info).ii_Predicate, self.state);
            pg_sys::CurrentMemoryContext = before;
            (info, predicate)
        };
        self.infos.insert(index, made);
        Some(made)
    }

    /// Give back what it holds.
    pub fn close(self) {
        // SAFETY: made in `new`, not used again.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::FreeExecutorState(self.state);
        }
    }
}
