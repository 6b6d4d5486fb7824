//! One reader of the stream: what it asked for, what it knows of tables, where it is in a transaction.
//!
//! Lives as long as the server's decoding context; nothing in it grows with a transaction.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::stream::{Change, Event, Place, Table};

use super::environment::{self, ExactText};
use super::ids::Ids;
use super::invalidation::{self, Stale};
use super::shape::{self, Shape};
use super::strong::{Records, Standing};
use super::values::RowBuffer;
use super::{output, transaction};
use crate::decode::Options;
use crate::decode::options::Given;
use crate::errors::UserError;
use crate::pg::compat;

/// A bound on what a reader's buffer keeps from one message to the next.
const KEPT_BYTES: usize = 1 << 20;

/// State of one decoding context, which owns it.
pub struct Session {
    /// What was asked for.
    pub options: Options,
    tables: HashMap<u32, Rc<Shape>>,
    /// Of the table of the row before.
    last: Option<(u32, Rc<Shape>)>,
    versions: u64,
    /// The transaction that is being told.
    current: Progress,
    /// Transactions in progress of which blocks were told.
    open: HashMap<u32, Progress>,
    new: RowBuffer,
    old: RowBuffer,
    message: Vec<u8>,
    /// Where it is among the group's records.
    pub(super) records: Records,
    /// What rows need while they are decoded.
    pub(super) scratch: pg_sys::MemoryContext,
}

/// How far a transaction has been told.
#[derive(Default)]
struct Progress {
    ids: Ids,
    /// Who does what comes next, until it is told.
    context: Option<Vec<u8>>,
    /// Its beginning was told.
    begun: bool,
    /// Something of it was told.
    told: bool,
    /// Something of this block was told.
    block_told: bool,
}

/// What a callback is about.
#[derive(Clone, Copy)]
pub struct Call {
    /// The decoding context.
    pub context: *mut pg_sys::LogicalDecodingContext,
    /// The topmost transaction.
    pub txn: *mut pg_sys::ReorderBufferTXN,
    /// It is in progress.
    pub streaming: bool,
}

impl Session {
    /// For these options; `context` is the server's for this decoding.
    ///
    /// # Safety
    /// In the startup callback.
    pub unsafe fn new(given: &[Given], context: pg_sys::MemoryContext) -> Result<Self, UserError> {
        let options = Options::parse(given, environment::environment())?;
        invalidation::register();
        // SAFETY: a child of the server's context, which goes with it.
        let scratch = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                context,
                c"synod decoded row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Ok(Self {
            options,
            tables: HashMap::new(),
            last: None,
            versions: 0,
            current: Progress::default(),
            open: HashMap::new(),
            new: RowBuffer::default(),
            old: RowBuffer::default(),
            message: Vec::new(),
            records: Records::default(),
            scratch,
        })
    }

    /// A transaction begins to be told whole.
    pub unsafe fn begin(&mut self, call: Call, prepared: bool) {
        self.current = Progress::default();
        // SAFETY: in a callback.
        unsafe {
            self.records.begin(call.txn);
            if !self.options.skip_empty && !self.records.puts_off() {
                self.current.begun = true;
                self.tell_begin(call, prepared, true);
            }
        }
    }

    /// It ends, with this event; or something happens to one that was told before.
    pub unsafe fn end(&mut self, call: Call, event: &Event<'_>) {
        if !self.current.begun {
            return;
        }
        // SAFETY: in a callback.
        unsafe { self.tell(call, event, true) }
    }

    /// What became of a prepared transaction.
    pub unsafe fn resolve(&mut self, call: Call, event: &Event<'_>) {
        // SAFETY: in a callback.
        unsafe { self.tell(call, event, true) }
    }

    /// A block of a transaction in progress begins.
    pub unsafe fn open_block(&mut self, call: Call) {
        // SAFETY: in a callback.
        unsafe {
            let progress = self.open.entry((*call.txn).xid.into_inner()).or_default();
            progress.block_told = false;
            if !self.options.skip_empty {
                self.tell_begin(call, false, true);
            }
        }
    }

    /// It ends.
    pub unsafe fn close_block(&mut self, call: Call) {
        // SAFETY: in a callback.
        unsafe {
            let told = self.progress(call).block_told;
            if told || !self.options.skip_empty {
                self.tell(call, &Event::StreamStop(transaction::of(call.txn, false)), true);
            }
        }
    }

    /// A transaction in progress ends (or, `whole` being false, a part of it), with this event.
    pub unsafe fn end_open(&mut self, call: Call, whole: bool, event: &Event<'_>) {
        // SAFETY: in a callback.
        unsafe {
            let told = self.progress(call).told;
            if whole {
                self.open.remove(&(*call.txn).xid.into_inner());
            }
            if told || !self.options.skip_empty {
                self.tell(call, event, true);
            }
        }
    }

    /// One row.
    pub unsafe fn row(&mut self, call: Call, relation: pg_sys::Relation, change: *mut pg_sys::ReorderBufferChange) {
        // SAFETY: in a callback that was passed these; the rows live as long as it, what is printed as long as `scratch` is not reset.
        unsafe {
            match self.shape(relation).standing {
                Standing::Ordinary => {}
                Standing::Replicated => return self.records.leave_out(),
                Standing::Own => return,
            }
            let place = self.next_place(call, (*change).lsn, (*(*change).txn).xid.into_inner(), 1);
            let rows = &(*change).data.tp;
            let (new, old) = (
                compat::decoded_tuple(rows.newtuple),
                compat::decoded_tuple(rows.oldtuple),
            );
            self.tell_row(call, place, relation, (*change).action, new, old);
        }
    }

    /// Tell of a row of this relation; rows that are not there are null.
    ///
    /// # Safety
    /// In a callback, with the catalog as of the change.
    pub(super) unsafe fn tell_row(
        &mut self,
        call: Call,
        place: Place<'_>,
        relation: pg_sys::Relation,
        action: pg_sys::ReorderBufferChangeType::Type,
        new_tuple: pg_sys::HeapTuple,
        old_tuple: pg_sys::HeapTuple,
    ) {
        // SAFETY: by contract; the rows live as long as the callback, what is printed as long as `scratch` is not reset.
        unsafe {
            let _exact = self.options.format.wants_exact_text().then(ExactText::begin);
            let shape = self.shape(relation);
            self.begin_late(call);
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = self.scratch;
            let (mut new, mut old) = (std::mem::take(&mut self.new), std::mem::take(&mut self.old));
            let descriptor = (*relation).rd_att;
            let new_row = (!new_tuple.is_null()).then(|| new.read(&shape, new_tuple, descriptor).into());
            let old_row = (!old_tuple.is_null()).then(|| old.read(&shape, old_tuple, descriptor).into());
            let table = &shape.table;
            use pg_sys::ReorderBufferChangeType as Kind;
            let told = match (action, new_row) {
                (Kind::REORDER_BUFFER_CHANGE_INSERT, Some(new)) => Some(Change::Insert { table, new }),
                (Kind::REORDER_BUFFER_CHANGE_UPDATE, Some(new)) => Some(Change::Update {
                    table,
                    old: old_row,
                    new,
                }),
                (Kind::REORDER_BUFFER_CHANGE_DELETE, _) => Some(Change::Delete { table, old: old_row }),
                _ => None,
            };
            pg_sys::CurrentMemoryContext = before;
            if let Some(change) = told {
                self.tell(call, &Event::Row(place, change), true);
            }
            (self.new, self.old) = (new, old);
            pg_sys::MemoryContextReset(self.scratch);
        }
    }

    /// Tables were emptied.
    pub unsafe fn truncate(
        &mut self,
        call: Call,
        relations: &[pg_sys::Relation],
        change: *mut pg_sys::ReorderBufferChange,
    ) {
        // SAFETY: in a callback that was passed these.
        unsafe {
            let mut ordinary = Vec::with_capacity(relations.len());
            for relation in relations {
                match self.shape(*relation).standing {
                    Standing::Ordinary => ordinary.push(*relation),
                    Standing::Replicated => self.records.leave_out(),
                    Standing::Own => {}
                }
            }
            if ordinary.is_empty() {
                return;
            }
            let xid = (*(*change).txn).xid.into_inner();
            let place = self.next_place(call, (*change).lsn, xid, ordinary.len() as u64);
            let truncate = &(*change).data.truncate;
            self.tell_truncate(call, place, &ordinary, truncate.cascade, truncate.restart_seqs);
        }
    }

    /// Tell that these tables were emptied.
    ///
    /// # Safety
    /// As for [`Self::tell_row`].
    pub(super) unsafe fn tell_truncate(
        &mut self,
        call: Call,
        place: Place<'_>,
        relations: &[pg_sys::Relation],
        cascade: bool,
        restart_identity: bool,
    ) {
        // SAFETY: by contract.
        unsafe {
            let shapes: Vec<Rc<Shape>> = relations.iter().map(|relation| self.shape(*relation)).collect();
            self.begin_late(call);
            let tables: Vec<&Table> = shapes.iter().map(|shape| &shape.table).collect();
            let at_a_time = if self.options.format.one_table_at_a_time() {
                1
            } else {
                tables.len().max(1)
            };
            for (number, some) in tables.chunks(at_a_time).enumerate() {
                let place = Place {
                    id: place.id.later(number as u64),
                    ..place
                };
                let change = Change::Truncate {
                    tables: some,
                    cascade,
                    restart_identity,
                };
                self.tell(
                    call,
                    &Event::Row(place, change),
                    (number + 1) * at_a_time >= tables.len(),
                );
            }
        }
    }

    /// The place of what comes next in a transaction: its record, the (sub)transaction that did it, how many ordinals it takes.
    pub unsafe fn next_place(&mut self, call: Call, lsn: u64, xid: u32, ordinals: u64) -> Place<'static> {
        // SAFETY: in a callback.
        unsafe {
            let (top, end) = ((*call.txn).xid.into_inner(), (*call.txn).final_lsn);
            let ids = &mut self.progress(call).ids;
            let id = if call.streaming {
                ids.next_open(top, ordinals)
            } else {
                ids.next_committed(end, ordinals)
            };
            Place { id, lsn, xid }
        }
    }

    /// Who does what follows in the transaction.
    pub unsafe fn note_context(&mut self, call: Call, context: Vec<u8>) {
        // SAFETY: in a callback.
        unsafe { self.progress(call) }.context = Some(context);
    }

    /// The transaction's (or block's) beginning, if it was put off until there is something to tell of it, and who does it.
    pub unsafe fn begin_late(&mut self, call: Call) {
        // SAFETY: in a callback.
        unsafe {
            self.begin_if_put_off(call);
            if let Some(context) = self.progress(call).context.take() {
                self.tell(call, &Event::Context(&context), false);
            }
        }
    }

    unsafe fn begin_if_put_off(&mut self, call: Call) {
        // SAFETY: in a callback.
        unsafe {
            let skip_empty = self.options.skip_empty;
            let progress = self.progress(call);
            let begun = if call.streaming {
                progress.block_told || !skip_empty
            } else {
                std::mem::replace(&mut progress.begun, true)
            };
            progress.told = true;
            progress.block_told = true;
            if !begun {
                let prepared = !call.streaming && !(*call.txn).gid.is_null();
                self.tell_begin(call, prepared, false);
            }
        }
    }

    /// Whether the beginning of what is at hand was told.
    pub(super) fn has_begun(&self) -> bool {
        self.current.begun
    }

    /// As [`Self::has_begun`]; what comes next begins anew.
    pub(super) fn take_begun(&mut self) -> bool {
        self.current.context = None;
        std::mem::take(&mut self.current.begun)
    }

    /// Write an event and send it. `last`: nothing follows in this callback.
    pub unsafe fn tell(&mut self, call: Call, event: &Event<'_>, last: bool) {
        self.message.clear();
        self.options.format.write(event, &mut self.message);
        if !self.message.is_empty() {
            // SAFETY: in a callback.
            unsafe { output::send(call.context, &self.message, last && !self.records.go_on()) }
        }
        if self.message.capacity() > KEPT_BYTES {
            self.message = Vec::new();
        }
    }

    unsafe fn progress(&mut self, call: Call) -> &mut Progress {
        if call.streaming {
            // SAFETY: in a callback.
            let xid = unsafe { (*call.txn).xid.into_inner() };
            self.open.entry(xid).or_default()
        } else {
            &mut self.current
        }
    }

    /// The shape of a table as of now.
    pub unsafe fn shape(&mut self, relation: pg_sys::Relation) -> Rc<Shape> {
        // SAFETY: in a callback that was passed the relation.
        let oid = unsafe { (*relation).rd_id.to_u32() };
        if invalidation::any() {
            for stale in invalidation::take() {
                self.forget(stale);
            }
        }
        if let Some((last, shape)) = &self.last
            && *last == oid
        {
            return Rc::clone(shape);
        }
        let shape = match self.tables.get(&oid) {
            Some(shape) => Rc::clone(shape),
            None => {
                self.versions += 1;
                // SAFETY: as above.
                let shape = unsafe { shape::load(relation, self.versions) };
                self.tables.insert(oid, Rc::clone(&shape));
                shape
            }
        };
        self.last = Some((oid, Rc::clone(&shape)));
        shape
    }

    fn forget(&mut self, stale: Stale) {
        self.last = None;
        let format = &mut self.options.format;
        self.tables.retain(|oid, shape| {
            let stays = match stale {
                Stale::All | Stale::Type(0) => false,
                Stale::Relation(relation) => *oid != relation,
                Stale::Type(hash) => !shape.type_hashes.contains(&hash),
            };
            if !stays {
                format.forget(shape.table.version);
            }
            stays
        });
    }
}
