//! One reader of the stream: what it asked for, what it knows of tables, where it is in a transaction.
//!
//! Lives as long as the server's decoding context; nothing in it grows with a transaction.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::stream::{Encoding, Event, Place};

use super::ids::Ids;
use super::origins::Origins;
use super::shape::Shape;
use super::strong::{self, Records};
use super::tables::Tables;
use super::values::RowBuffer;
use super::{environment, invalidation, output, row_filter, transaction, utf8};
use crate::decode::Options;
use crate::decode::options::Given;
use crate::errors::UserError;
use crate::pg::compat;

/// A bound on what a reader's buffer keeps from one message to the next.
const KEPT_BYTES: usize = 1 << 20;

/// Messages of a format that does not mind, or of a reader that asked for it, are joined until they have so many bytes: about what a
/// walsender sends at once. Each costs it two calls of the system, more than a row costs to decode.
const JOINED_BYTES: usize = 8000;

/// So many changes may be left out in a row before the client is told that the server lives; as many as in pgoutput.
const SILENT_CHANGES: u32 = 100;

/// State of one decoding context, which owns it.
pub struct Session {
    /// What was asked for.
    pub options: Options,
    tables: Tables,
    origins: Origins,
    /// Changes left out since the client heard of us.
    silent: u32,
    /// The transaction that is being told.
    current: Progress,
    /// Transactions in progress of which blocks were told.
    open: HashMap<u32, Progress>,
    pub(super) new: RowBuffer,
    pub(super) old: RowBuffer,
    message: Vec<u8>,
    /// The format wants UTF-8, and the database is in another encoding.
    converts: bool,
    /// The database was a member of a group when reading began.
    pub member: bool,
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
        let environment = environment::environment();
        let options = Options::parse(given, environment)?;
        let converts = options.format.wants_utf8() && environment.encoding == Encoding::Other;
        for condition in options.filters.row_filters() {
            // SAFETY: in the startup callback.
            unsafe { row_filter::check_syntax(condition)? }
        }
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
            tables: Tables::default(),
            origins: Origins::default(),
            silent: 0,
            current: Progress::default(),
            open: HashMap::new(),
            new: RowBuffer::default(),
            old: RowBuffer::default(),
            message: Vec::new(),
            converts,
            member: strong::is_member(),
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
            let wanted = prepared && self.options.tells_empty_prepared();
            if wanted || !self.options.skip_empty && !self.records.puts_off() {
                self.current.begun = true;
                self.tell_begin(call, prepared, true);
            }
        }
    }

    /// It ends, with this event; or something happens to one that was told before.
    pub unsafe fn end(&mut self, call: Call, event: &Event<'_>) {
        // SAFETY: in a callback.
        unsafe {
            if !self.current.begun {
                pg_sys::OutputPluginUpdateProgress(call.context, true);
            } else {
                self.tell(call, event, true);
            }
        }
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
            let prepares = matches!(event, Event::StreamPrepare(_)) && self.options.tells_empty_prepared();
            if told || !self.options.skip_empty || prepares {
                self.tell(call, event, true);
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

    /// Write an event and send it, at once or with those that follow in its transaction. `last`: nothing follows in this callback.
    ///
    /// Invariant: between two records of the WAL nothing waits, as what a walsender says of its position then means that it was sent.
    pub unsafe fn tell(&mut self, call: Call, event: &Event<'_>, last: bool) {
        let (format, message) = (&mut self.options.format, &mut self.message);
        let joins = format.joins_messages();
        let lines = self.options.join_messages && !joins;
        let before = message.len();
        if lines && before != 0 {
            message.push(b'\n');
        }
        let empty = message.len();
        if self.converts {
            utf8::converted(event, |event| format.write(event, message));
        } else {
            format.write(event, message);
        }
        if message.len() == empty {
            message.truncate(before);
        }
        // A message may hold a zero byte, which ends a text that is asked for by SQL: nothing follows it there.
        let lines = lines && !matches!(event, Event::Message(..));
        let waits = (joins || lines) && self.message.len() < JOINED_BYTES && goes_on(event);
        if waits || self.message.is_empty() {
            return;
        }
        // SAFETY: in a callback.
        unsafe { output::send(call.context, &self.message, last && !self.records.go_on()) }
        self.message.clear();
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

    /// The shape of a table as of now. Raises when what was asked for does not fit it.
    pub unsafe fn shape(&mut self, relation: pg_sys::Relation) -> Rc<Shape> {
        // SAFETY: in a callback that has the relation open.
        match unsafe { self.tables.shape(relation, &mut self.options) } {
            Ok(shape) => shape,
            Err(error) => error.raise(),
        }
    }

    /// Whether changes that came from there are told. Inside a transaction.
    pub fn wants_origin(&mut self, origin: pg_sys::RepOriginId) -> bool {
        self.origins.wants(origin, &self.options.filters.origins)
    }

    /// A change was left out: now and then the client is told that the server lives.
    pub unsafe fn left_out(&mut self, call: Call) {
        self.silent += 1;
        if !compat::SERVER_REPORTS_PROGRESS && self.silent >= SILENT_CHANGES {
            self.silent = 0;
            // SAFETY: in a callback.
            unsafe { pg_sys::OutputPluginUpdateProgress(call.context, false) }
        }
    }
}

/// Whether another event follows surely, in the same transaction or block and before the server decodes another record.
fn goes_on(event: &Event<'_>) -> bool {
    match event {
        Event::Begin(_) | Event::BeginPrepare(_) | Event::StreamStart(_) | Event::Row(..) | Event::Ddl(..) => true,
        Event::Context(_) => true,
        Event::Message(_, message) => message.transactional,
        Event::Commit(_)
        | Event::Prepare(_)
        | Event::CommitPrepared(_)
        | Event::RollbackPrepared(_)
        | Event::StreamStop(_)
        | Event::StreamAbort(..)
        | Event::StreamPrepare(_)
        | Event::StreamCommit(_) => false,
    }
}
