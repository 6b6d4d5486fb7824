//! The seal: from the events of a transaction to its record.
//!
//! Order of the body: DDL, each statement behind the rows written before it ([`section`]); tables removed, tables added, TRUNCATE; then rows that go and rows that change; then rows that come;
//! then sequences. Rows of a table that was truncated are read from the events after the last TRUNCATE only; rows of a table
//! that was added are all rows that it has now.
//! The order of what is told is that of the body, with rows that change their keys as a delete among those that go, and an insert in front
//! of those that come.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{Change, KeyMode, TableId, ddl_key, name_key};

use super::chain::{self, NetEffect};
use super::emit::{Emitter, Output};
use super::events::{Event, RowLock};
use super::image::{Image, Version};
use super::sink::Sink;
use super::{Pending, Sealed, SealedBody, Section, TableChange, TableEvent};
use crate::errors::UserError;
use crate::pg::format::{FixedSettings, PlainEncoding};
use crate::pg::keys::{Base, KeySet, Reach};
use crate::pg::relation::{self, StrongTable};
use crate::pg::relcache::Relation;
use crate::pg::replicate;
use crate::pg::scratch::{ActiveSnapshot, Scratch};
use crate::pg::service::{draws, ranges, reservations};
use crate::pg::teller::{self, Teller};
use crate::pg::{context, ddl, definition, sequence, shmem};

pub(super) fn seal(pending: &mut Pending, applied_now: u64) -> Result<Sealed, UserError> {
    let _encoding = PlainEncoding::enter();
    let _snapshot = ActiveSnapshot::push();
    let mut sealer = Sealer::new(ddl::sections_end());
    sealer.out.told = Teller::start();
    sealer.context()?;
    sealer.definitions()?;
    sealer.table_events(pending)?;
    sealer.rows(pending)?;
    let settled = sealer.sequences()?;
    if let Some(node) = shmem::my_node() {
        ranges::settle_drawn(node, &settled)?;
    }
    // Not to the window's end: it moves on while the record is on its way.
    let floor = shmem::my_node().map_or(applied_now, |node| node.lasting_floor.load(Ordering::SeqCst));
    sealer.finish(Reach {
        now: applied_now,
        held: floor.min(applied_now),
    })
}

/// The rows written since the last change of definitions, for the one that is about to run.
pub(super) fn section(pending: &mut Pending) -> Result<Section, UserError> {
    let _encoding = PlainEncoding::enter();
    let _snapshot = ActiveSnapshot::push();
    let mut sealer = Sealer::new(ddl::sections_end());
    sealer.out.told = Teller::start();
    // Tables that are not replicated elsewhere yet travel whole, at the end.
    let added = pending
        .tables
        .iter()
        .filter(|event| matches!(event.what, TableChange::Added { .. }));
    let counting = added.filter(|event| pending.subtransactions.counts(event.subtransaction));
    sealer.added = counting.map(|event| (event.relation, event.base)).collect();
    sealer.changes(pending)?;
    sealer.sequences()?;
    sealer.finish_section(pending.events.len())
}

impl Sealer {
    fn new((from, since): (u64, pg_sys::CommandId)) -> Self {
        let scratch = Scratch::enter();
        Sealer {
            from,
            since,
            first: 0,
            emitters: HashMap::new(),
            cut: HashMap::new(),
            added: HashMap::new(),
            settings: None,
            out: Output {
                sink: Sink::new(),
                keys: KeySet::default(),
                rows: 0,
                passed: false,
                told: None,
            },
            scratch,
            described: false,
        }
    }
}

struct Sealer {
    /// Events before this number have travelled with a section.
    from: u64,
    /// Versions made before this command count as there already.
    since: pg_sys::CommandId,
    /// Applied CSN at the first event of the transaction.
    first: u64,
    emitters: HashMap<pg_sys::Oid, Emitter>,
    /// Row events of these tables count from this number on.
    cut: HashMap<pg_sys::Oid, u64>,
    /// Rows of these tables are read from the table: event base.
    added: HashMap<pg_sys::Oid, u64>,
    settings: Option<FixedSettings>,
    out: Output,
    scratch: Scratch,
    /// The first change says who made the record.
    described: bool,
}

impl Sealer {
    /// Who made the record, for the change streams of other nodes. By itself it is no record.
    fn context(&mut self) -> Result<(), UserError> {
        let Some(context) = context::of_record() else {
            return Ok(());
        };
        self.described = true;
        self.out.sink.write(&Change::Context(&context))
    }

    /// DDL comes first. What it had for itself is claimed, so that what was captured before it elsewhere loses.
    fn definitions(&mut self) -> Result<(), UserError> {
        let statements = ddl::take();
        if statements.is_empty() {
            return Ok(());
        }
        self.out.keys.claim_mark(ddl_key());
        for table in ddl::locked_tables() {
            self.out.keys.claim_table(table, KeyMode::Update, Base::Now);
        }
        for (section, statement) in statements {
            if let Some(mut section) = section {
                self.out.rows += section.rows;
                section.replay(&mut self.out.sink)?;
                self.out.keys.absorb(std::mem::take(&mut section.keys));
            }
            self.out.sink.write(&Change::Ddl(Box::new(statement)))?;
        }
        Ok(())
    }

    fn table_events(&mut self, pending: &Pending) -> Result<(), UserError> {
        let counting: Vec<&TableEvent> = pending
            .tables
            .iter()
            .filter(|event| pending.subtransactions.counts(event.subtransaction))
            .collect();
        for event in &counting {
            if let TableChange::Removed { id, schema, name } = &event.what {
                replicate::check_foreign_keys(event.relation)?;
                self.out.keys.claim_table(*id, KeyMode::Update, Base::At(event.base));
                self.out.keys.claim_name(name_key(schema, name), event.base);
                self.out.sink.write(&Change::RemoveTable(*id))?;
            }
        }
        for event in &counting {
            if let TableChange::Added { id } = &event.what {
                self.add_table(event, *id)?;
            }
        }
        for lock in &pending.table_locks {
            if pending.subtransactions.counts(lock.subtransaction) {
                self.out.keys.claim_locked_table(lock.table, lock.base);
            }
        }
        self.truncates(&counting)
    }

    fn add_table(&mut self, event: &TableEvent, id: TableId) -> Result<(), UserError> {
        replicate::check_foreign_keys(event.relation)?;
        let relation = Relation::open(event.relation).ok_or_else(|| table_is_gone(event.relation))?;
        let definition = definition::of(&relation, id, &crate::pg::catalog::number_of);
        self.out.keys.claim_table(id, KeyMode::Update, Base::At(event.base));
        self.out
            .keys
            .claim_name(name_key(&definition.schema, &definition.name), event.base);
        self.added.insert(event.relation, event.base);
        if let Some(told) = &mut self.out.told {
            told.added(event.relation);
        }
        self.out.sink.write(&Change::AddTable(Box::new(definition)))
    }

    fn truncates(&mut self, counting: &[&TableEvent]) -> Result<(), UserError> {
        let (mut tables, mut restarted): (Vec<TableId>, Vec<TableId>) = Default::default();
        for event in counting {
            let TableChange::Truncated { restart_identity } = event.what else {
                continue;
            };
            if self.added.contains_key(&event.relation) {
                continue;
            }
            let id = self.emitter(event.relation)?.table.id;
            self.out.keys.claim_table(id, KeyMode::Update, Base::At(event.base));
            self.cut.insert(event.relation, event.at);
            if !tables.contains(&id) {
                tables.push(id);
            }
            if restart_identity && !restarted.contains(&id) {
                restarted.push(id);
                draws::restart(event.relation);
            }
        }
        // One change for each value of the flag, so that only those sequences begin again whose tables were truncated with
        // RESTART IDENTITY. Each lists with a table all that refer to it, which TRUNCATE insists on: every statement did,
        // and so do all together, and those with the flag; those without it need not.
        if restarted.len() == tables.len() {
            tables.clear();
        }
        for (tables, restart_identity) in [(tables, false), (restarted, true)] {
            if !tables.is_empty() {
                if let Some(told) = &mut self.out.told {
                    told.truncate(&tables, restart_identity);
                }
                self.out.sink.write(&Change::Truncate {
                    tables,
                    restart_identity,
                    cascade: false,
                })?;
            }
        }
        Ok(())
    }

    fn rows(&mut self, pending: &mut Pending) -> Result<(), UserError> {
        self.changes(pending)?;
        let added: Vec<(pg_sys::Oid, u64)> = self.added.iter().map(|(oid, base)| (*oid, *base)).collect();
        for (oid, base) in added {
            self.whole_table(oid, base)?;
        }
        Ok(())
    }

    /// Rows of tables that were replicated before.
    fn changes(&mut self, pending: &mut Pending) -> Result<(), UserError> {
        let Pending {
            events,
            subtransactions,
            first_base,
            ..
        } = pending;
        let (mut later, from) = (Later::default(), self.from);
        self.first = first_base.unwrap_or_default();
        events.visit(|number, event| {
            if number < from || !subtransactions.counts(event.subtransaction) {
                return Ok(());
            }
            if let Some(lock) = event.row_lock() {
                self.lock(event, lock);
            } else if event.old.is_none() {
                later.arriving = true;
            } else if self.stands(number, event) {
                self.leaving_or_changing(event, &mut later)?;
            }
            Ok::<(), UserError>(())
        })?;
        // Those whose keys changed are told in front of those that come, as they are put into indexes where they are applied.
        let replaced = later.replaced && self.out.told.is_some();
        for (wanted, replaced) in [(replaced, true), (later.arriving, false)] {
            if !wanted {
                continue;
            }
            events.visit(|number, event| {
                let comes = event.row_lock().is_none() && !event.new.is_none() && event.old.is_none() != replaced;
                if comes && number >= from && subtransactions.counts(event.subtransaction) && self.stands(number, event)
                {
                    self.arriving(event)?;
                }
                Ok::<(), UserError>(())
            })?;
        }
        Ok(())
    }

    fn stands(&self, number: u64, event: &Event) -> bool {
        !self.added.contains_key(&event.relation) && self.cut.get(&event.relation).is_none_or(|from| number >= *from)
    }

    /// Claims a row that was locked.
    fn lock(&mut self, event: &Event, lock: RowLock) {
        let Some(table) = relation::by_oid(event.relation) else {
            return;
        };
        if lock.held {
            return self.out.keys.claim_held_row(&table, lock.hash, lock.mode, event.base);
        }
        // From when it was locked: who has only locked the row on another node takes no lock on it where his record is applied, and
        // may have decided about other rows under his lock, as we do under ours. Nor does who refers to the row.
        self.out.keys.claim_locked_row(&table, lock.hash, lock.mode, event.base);
    }

    /// Writes rows that go, and rows that change.
    fn leaving_or_changing(&mut self, event: &Event, later: &mut Later) -> Result<(), UserError> {
        self.scratch.reset();
        let (since, first) = (self.since, self.first);
        let (emitter, out) = self.emitter_and_output(event.relation)?;
        match chain::follow(&emitter.relation, event, since)? {
            NetEffect::Deleted { mut old, moved } => {
                let old = old.image(&emitter.relation);
                emitter.delete(&old, moved, event.base, out)?;
            }
            NetEffect::Updated { mut old, mut new } => {
                let (old, new) = (old.image(&emitter.relation), new.image(&emitter.relation));
                if emitter.changes_key(&old, &new) {
                    emitter.replace(&old, &new, event.base, out)?;
                    later.replaced = true;
                } else {
                    emitter.update(&old, &new, event.base, out)?;
                }
            }
            NetEffect::Nothing => {
                let mut old = Version::fetch(&emitter.relation, event.old)?;
                let old = old.image(&emitter.relation);
                let bases = (first, event.base);
                if event.new.is_none() {
                    emitter.pass(&old, None, bases, out);
                } else {
                    let mut new = Version::fetch(&emitter.relation, event.new)?;
                    emitter.pass(&old, Some(&new.image(&emitter.relation)), bases, out);
                }
            }
            NetEffect::Inserted(_) => {}
        }
        Ok(())
    }

    /// Writes a row that comes; tells one that changed a key.
    fn arriving(&mut self, event: &Event) -> Result<(), UserError> {
        self.scratch.reset();
        let since = self.since;
        let (emitter, out) = self.emitter_and_output(event.relation)?;
        match chain::follow(&emitter.relation, event, since)? {
            NetEffect::Inserted(mut new) => {
                let new = new.image(&emitter.relation);
                emitter.insert(&new, event.base, out)?;
            }
            NetEffect::Updated { mut old, mut new } => {
                let (old, new) = (old.image(&emitter.relation), new.image(&emitter.relation));
                if emitter.changes_key(&old, &new) {
                    emitter.tell_new(&new, out);
                }
            }
            NetEffect::Deleted { .. } | NetEffect::Nothing => {}
        }
        Ok(())
    }

    /// Writes every row of a table that is replicated from here on. Its lock keeps other writers out.
    fn whole_table(&mut self, oid: pg_sys::Oid, base: u64) -> Result<(), UserError> {
        self.emitter(oid)?;
        let Self {
            emitters, out, scratch, ..
        } = self;
        let emitter = emitters.get_mut(&oid).ok_or_else(|| table_is_gone(oid))?;
        if emitter.table.partitioned {
            return Ok(());
        }
        let count = emitter.table.attribute_count;
        // SAFETY: an open, locked table; the latest snapshot sees this transaction's own rows. The slot's values are
        // used before the next row is asked for.
        unsafe {
            let relation = emitter.relation.raw();
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
            // Not the transaction's: in REPEATABLE READ that may be older than the lock.
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
            pg_sys::CurrentMemoryContext = before;
            while crate::pg::compat::scan_next(scan, slot) {
                scratch.reset();
                pg_sys::slot_getallattrs(slot);
                let values = std::slice::from_raw_parts((*slot).tts_values, count).to_vec();
                let nulls = std::slice::from_raw_parts((*slot).tts_isnull, count).to_vec();
                emitter.insert(&Image::new(values, nulls), base, out)?;
            }
            pg_sys::table_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::UnregisterSnapshot(snapshot);
        }
        Ok(())
    }

    /// Those that fed the rows; they are returned.
    fn sequences(&mut self) -> Result<Vec<pg_sys::Oid>, UserError> {
        let mut settled = Vec::new();
        for emitter in self.emitters.values().filter(|emitter| emitter.inserted) {
            for feeding in &emitter.table.sequences {
                if let Some(node) = shmem::my_node() {
                    let by_hand = reservations::is_by_hand();
                    let has = |from, to| by_hand || emitter.drawn.may_have(feeding.sequence, from, to);
                    ranges::settle(node, feeding.sequence, has)?;
                    settled.push(feeding.sequence);
                }
                if let Some(last_value) = sequence::last_value(feeding.sequence) {
                    let (table, column) = (emitter.table.id, feeding.column);
                    self.out.sink.write(&Change::Sequence {
                        table,
                        column,
                        last_value,
                    })?;
                }
            }
        }
        Ok(settled)
    }

    fn finish_section(mut self, until: u64) -> Result<Section, UserError> {
        // The definitions that they are to be read with are those of now.
        if let Some(told) = &mut self.out.told {
            told.flush();
        }
        for emitter in self.emitters.into_values() {
            emitter.close();
        }
        Ok(Section {
            body: self.out.sink.finish()?,
            keys: self.out.keys,
            rows: self.out.rows,
            until,
        })
    }

    fn finish(self, reach: Reach) -> Result<Sealed, UserError> {
        for emitter in self.emitters.into_values() {
            emitter.close();
        }
        if self.out.sink.changes() == u64::from(self.described) && !self.out.passed {
            if self.out.told.is_some() {
                teller::nothing();
            }
            return Ok(Sealed {
                keys: Vec::new(),
                body: SealedBody::Inline(Vec::new()),
                rows: 0,
                told: None,
            });
        }
        Ok(Sealed {
            keys: self.out.keys.finish(reach)?,
            body: self.out.sink.finish()?,
            rows: self.out.rows,
            told: self.out.told,
        })
    }

    fn emitter_and_output(&mut self, oid: pg_sys::Oid) -> Result<(&mut Emitter, &mut Output), UserError> {
        self.emitter(oid)?;
        let emitter = self.emitters.get_mut(&oid).ok_or_else(|| table_is_gone(oid))?;
        Ok((emitter, &mut self.out))
    }

    fn emitter(&mut self, oid: pg_sys::Oid) -> Result<&mut Emitter, UserError> {
        if !self.emitters.contains_key(&oid) {
            let table: Rc<StrongTable> = relation::by_oid(oid).ok_or_else(|| table_is_gone(oid))?;
            let relation = Relation::open(oid).ok_or_else(|| table_is_gone(oid))?;
            if table.needs_fixed_settings && self.settings.is_none() {
                self.settings = Some(FixedSettings::for_values());
            }
            let emitter = self.scratch.outside(|| Emitter::new(table, relation));
            self.emitters.insert(oid, emitter);
        }
        self.emitters.get_mut(&oid).ok_or_else(|| table_is_gone(oid))
    }
}

/// What is left to do once all rows that go or change are written.
#[derive(Default)]
struct Later {
    /// Rows come.
    arriving: bool,
    /// Rows changed their keys.
    replaced: bool,
}

fn table_is_gone(oid: pg_sys::Oid) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table with OID {} is no longer replicated", u32::from(oid)),
        "It was written in a transaction that then stopped replicating or dropped it.",
        "Use two transactions.",
    )
}
