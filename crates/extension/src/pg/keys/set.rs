//! The claims of a transaction: on which keys, how strongly, and from which base on.
//!
//! Each record that writes rows of a table claims the table's key as KeyShare, from the earliest base of its row keys on, so that
//! a claim of the whole table conflicts with every writer of it. A key's *base* is the applied CSN up to which its holder knows it
//! to be free of conflicts:
//! - [`Base::At`] the applied CSN when the trigger fired, or the row was locked, for rows that were locked (SELECT FOR UPDATE and its
//!   weaker forms), claims of whole tables, keys of referenced rows and of deferrable constraints, and strong claims on keys of
//!   tables that foreign keys refer to (a referencing row that is applied takes no lock on ours);
//! - for keys that our own row lock or index entry protects, too, but no further back than certification is sure to reach
//!   ([`KeySet::claim_held`]);
//! - [`Base::Now`] where the apply worker waits for a lock of ours, and we are told to give way, so that whatever is applied before our
//!   commit did not conflict.

use std::collections::HashMap;

use pgrx::PgSqlErrorCode;
use synod_change::{
    INDEX_ROW_LOCKS, INDEX_TABLE_LOCK, Key, KeyHasher, KeyMode, MAX_KEYS_PER_RECORD, TableId, table_key,
};

use crate::errors::UserError;
use crate::local_key::LocalKey;
use crate::pg::relation::StrongTable;

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
struct Claims {
    exact: [Option<Base>; KeyMode::ALL.len()],
    /// Under locks of ours since this applied CSN (see [`KeySet::claim_held`]).
    held: [Option<u64>; KeyMode::ALL.len()],
}

impl Claims {
    /// Adds a claim; true when it is the first of its mode.
    fn add(&mut self, mode: KeyMode, base: Base) -> bool {
        let first = !self.has(mode);
        let known = &mut self.exact[mode as usize];
        *known = Some(known.map_or(base, |known| known.min(base)));
        first
    }

    fn add_held(&mut self, mode: KeyMode, since: u64) -> bool {
        let first = !self.has(mode);
        let known = &mut self.held[mode as usize];
        *known = Some(known.map_or(since, |known| known.min(since)));
        first
    }

    fn has(&self, mode: KeyMode) -> bool {
        self.exact[mode as usize].is_some() || self.held[mode as usize].is_some()
    }

    /// All claims of another one; how many are the first of their modes.
    fn absorb(&mut self, other: Self) -> usize {
        let mut first = 0;
        for mode in KeyMode::ALL {
            if let Some(base) = other.exact[mode as usize] {
                first += usize::from(self.add(mode, base));
            }
            if let Some(since) = other.held[mode as usize] {
                first += usize::from(self.add_held(mode, since));
            }
        }
        first
    }

    /// Those that no stronger one covers from the same base on.
    fn kept(self, reach: Reach) -> impl Iterator<Item = (KeyMode, u64)> {
        let mut earliest = None;
        KeyMode::ALL.into_iter().rev().filter_map(move |mode| {
            let exact = self.exact[mode as usize].map(|base| reach.exact(base));
            let held = self.held[mode as usize].map(|since| reach.held(since));
            let base = exact.into_iter().chain(held).min()?;
            if earliest.is_some_and(|earliest| earliest <= base) {
                return None;
            }
            earliest = Some(base);
            Some((mode, base))
        })
    }
}

/// How far back claims count.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The applied CSN now.
    pub now: u64,
    /// Claims under locks of ours begin no earlier than this.
    pub held: u64,
}

impl Reach {
    fn exact(self, base: Base) -> u64 {
        match base {
            Base::At(base) => base,
            Base::Now => self.now,
        }
    }

    fn held(self, since: u64) -> u64 {
        since.max(self.held)
    }
}

/// The keys of a transaction. When there are too many, each table becomes one key.
#[derive(Debug, Default)]
pub struct KeySet {
    rows: HashMap<u64, Claims>,
    tables: HashMap<TableId, Claims>,
    /// Names, marks and locked tables: each is claimed alone.
    names: HashMap<u64, Base>,
    /// From where on rows of these tables are written.
    held: HashMap<TableId, u64>,
    /// The same, for rows that were there before.
    replaced: HashMap<TableId, u64>,
    /// From where on rows of these tables are locked against changes.
    locked: HashMap<TableId, u64>,
    /// Claims in `rows`, an upper bound of what they become.
    row_claims: usize,
    whole_tables: bool,
}

impl KeySet {
    /// Claim a key of a row that we have written, and thus locked, since `base`, or a key that we have put into a unique index since
    /// then. Nobody's write of it was applied since; but who has only locked it on another node, or its table, or had the key for a
    /// moment, takes no lock where his record is applied, and has decided by what he saw under it. So the claim counts from then on,
    /// as far as the window of certification is sure to reach: a long transaction must not be too old for what its locks prove.
    /// `was_there`: so that others may have locked it.
    pub fn claim_held(&mut self, table: TableId, hash: u64, mode: KeyMode, base: u64, was_there: bool) {
        earlier(&mut self.held, table, base);
        if was_there {
            earlier(&mut self.replaced, table, base);
        }
        self.touch(table, Base::Now);
        if self.is_covered(table, base) {
            return;
        }
        let first = self.rows.entry(hash).or_default().add_held(mode, base);
        self.count(first);
    }

    /// Whether the table stands for its rows from this base on.
    fn is_covered(&self, table: TableId, base: u64) -> bool {
        let whole = |claims: &Claims| claims.exact[KeyMode::Update as usize].is_some_and(|from| from <= Base::At(base));
        self.whole_tables || self.tables.get(&table).is_some_and(whole)
    }

    /// Rows of the table, and of those that it is a partition of, were written since `base`: against who has locked it as a whole.
    pub fn touch_held(&mut self, table: &StrongTable, base: u64) {
        self.touch_all(table, Base::Now);
        for table in std::iter::once(&table.id).chain(&table.ancestors) {
            earlier(&mut self.held, *table, base);
        }
    }

    /// Claim a key of a table's index.
    pub fn claim(&mut self, table: TableId, hash: u64, mode: KeyMode, base: Base) {
        let known = self.tables.get(&table);
        if self.whole_tables || known.is_some_and(|claims| claims.has(KeyMode::Update)) {
            // Stronger than any key of the table, if it reaches back as far.
            return self.claim_table(table, KeyMode::Update, base);
        }
        self.touch(table, base);
        let first = self.rows.entry(hash).or_default().add(mode, base);
        self.count(first);
    }

    /// Claim a row that was locked since `base` (SELECT FOR UPDATE and weaker), by what identifies it; `None`: by its table.
    pub fn claim_locked_row(&mut self, table: &StrongTable, hash: Option<u64>, mode: KeyMode, base: u64) {
        self.touch_all(table, Base::At(base));
        if mode > KeyMode::KeyShare {
            for table in std::iter::once(&table.id).chain(&table.ancestors) {
                earlier(&mut self.locked, *table, base);
            }
        }
        match hash {
            Some(hash) => self.claim(table.id, hash, mode, Base::At(base)),
            None => self.claim_table(table.id, KeyMode::Update, Base::At(base)),
        }
    }

    /// Claim a row that a statement which changes rows has locked since `base`, by what identifies it; `None`: by its table. As far back as
    /// a changed one ([`Self::claim_held`]).
    pub fn claim_held_row(&mut self, table: &StrongTable, hash: Option<u64>, mode: KeyMode, base: u64) {
        self.touch_held(table, base);
        match hash {
            Some(hash) => self.claim_held(table.id, hash, mode, base, true),
            None => self.claim_table(table.id, KeyMode::Update, Base::At(base)),
        }
    }

    fn count(&mut self, first: bool) {
        self.row_claims += usize::from(first);
        self.bound();
    }

    fn bound(&mut self) {
        let per_table = self.tables.len() * KeyMode::ALL.len() + self.whole_keys();
        if self.row_claims + per_table + self.names.len() > MAX_KEYS_PER_RECORD {
            self.claim_whole_tables();
        }
    }

    /// The keys at most of tables that are not tables' own.
    fn whole_keys(&self) -> usize {
        self.held.len() + self.replaced.len() + 2 * self.locked.len()
    }

    fn claim_whole_tables(&mut self) {
        self.whole_tables = true;
        self.rows = HashMap::new();
        for claims in self.tables.values_mut() {
            // KeyShare is there, from the earliest base of the table's keys on.
            let base = claims.exact[KeyMode::KeyShare as usize].unwrap_or(Base::Now);
            claims.add(KeyMode::Update, base);
        }
    }

    /// Rows of the table are written or relied on, under keys that have this base.
    pub fn touch(&mut self, table: TableId, base: Base) {
        let mode = if self.whole_tables {
            KeyMode::Update
        } else {
            KeyMode::KeyShare
        };
        self.claim_table(table, mode, base);
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
        self.claim_name(index_key(table, INDEX_TABLE_LOCK), base);
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
            self.tables.entry(table).or_default().absorb(claims);
        }
        for (hash, base) in other.names {
            self.claim_alone(hash, base);
        }
        for (table, since) in other.held {
            earlier(&mut self.held, table, since);
        }
        for (table, since) in other.replaced {
            earlier(&mut self.replaced, table, since);
        }
        for (table, since) in other.locked {
            earlier(&mut self.locked, table, since);
        }
        for (hash, claims) in other.rows {
            self.row_claims += self.rows.entry(hash).or_default().absorb(claims);
        }
        if self.whole_tables || other.whole_tables {
            self.claim_whole_tables();
        } else {
            self.bound();
        }
    }

    /// All keys, or an error if there are more than a record may have.
    pub fn finish(self, reach: Reach) -> Result<Vec<LocalKey>, UserError> {
        let local = |hash: u64, mode: KeyMode, base: u64| LocalKey {
            key: Key { hash, mode },
            base,
        };
        let all = |hash: u64, claims: Claims| claims.kept(reach).map(move |(mode, base)| local(hash, mode, base));
        let count = self.row_claims + self.tables.len() + self.names.len() + self.whole_keys();
        let mut keys = Vec::with_capacity(count);
        let table_locks = |table: TableId| index_key(table, INDEX_TABLE_LOCK);
        let row_locks = |table: TableId| index_key(table, INDEX_ROW_LOCKS);
        for (table, since) in self.held {
            keys.push(local(table_locks(table), KeyMode::KeyShare, reach.held(since)));
        }
        for (table, since) in &self.locked {
            keys.push(local(row_locks(*table), KeyMode::KeyShare, *since));
        }
        if self.whole_tables {
            // No key tells any more which rows were written, and which were locked.
            for (table, since) in self.replaced {
                keys.push(local(row_locks(table), KeyMode::Update, reach.held(since)));
            }
            for (table, since) in self.locked {
                keys.push(local(table_locks(table), KeyMode::Update, since));
            }
        }
        keys.extend(
            self.tables
                .into_iter()
                .flat_map(|(table, claims)| all(table_key(table), claims)),
        );
        let names = self.names.into_iter();
        keys.extend(names.map(|(hash, base)| local(hash, KeyMode::Update, reach.exact(base))));
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

fn earlier(known: &mut HashMap<TableId, u64>, table: TableId, base: u64) {
    let since = known.entry(table).or_insert(base);
    *since = base.min(*since);
}

/// A key of a table that is not of its rows: see [`INDEX_TABLE_LOCK`] and [`INDEX_ROW_LOCKS`].
fn index_key(table: TableId, index: u32) -> u64 {
    KeyHasher::new(table, index).finish()
}
