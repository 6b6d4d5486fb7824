//! Reads the audit's replication slot as a walsender does: WAL is decoded once, from where the slot begins, for as long as the
//! worker lives.
//!
//! slot's confirmed position ≤ position in `synod.audit_state` ≤ [`Reader::end`]. The worker holds the slot while it runs: nobody else can
//! read, move or drop it. Reading takes place inside the transaction that writes the rows, and what is told goes
//! into a tuplestore, which keeps `work_mem` in memory. After an ERROR a reader is of no use: the worker ends.

use std::ffi::{CStr, CString};

use pgrx::{pg_guard, pg_sys};

use crate::pg::compat;

unsafe extern "C-unwind" {
    // pgrx's wrappers are no C function pointers; replication/decode.h is not bound.
    #[link_name = "read_local_xlog_page"]
    fn read_page_raw(
        reader: *mut pg_sys::XLogReaderState,
        page: pg_sys::XLogRecPtr,
        length: i32,
        record: pg_sys::XLogRecPtr,
        buffer: *mut std::ffi::c_char,
    ) -> i32;
    #[link_name = "wal_segment_open"]
    fn open_segment_raw(
        reader: *mut pg_sys::XLogReaderState,
        segment: pg_sys::XLogSegNo,
        timeline: *mut pg_sys::TimeLineID,
    );
    #[link_name = "wal_segment_close"]
    fn close_segment_raw(reader: *mut pg_sys::XLogReaderState);
    #[link_name = "LogicalDecodingProcessRecord"]
    fn process_record_raw(context: *mut pg_sys::LogicalDecodingContext, record: *mut pg_sys::XLogReaderState);
}

/// What the rows of the audit are made of; `step.sql` reads it. No message has the prefix "synod." here: anybody may emit others,
/// also such as are too large for jsonb.
const OPTIONS: [(&CStr, &CStr); 11] = [
    (c"format", c"json"),
    (c"skip-empty-xacts", c"on"),
    (c"include-context", c"on"),
    (c"include-ids", c"on"),
    (c"include-timestamp", c"on"),
    (c"include-table-oids", c"on"),
    (c"include-transaction", c"on"),
    (c"include-types", c"off"),
    (c"row-objects", c"on"),
    (c"special-numbers", c"string"),
    (c"add-msg-prefixes", c"synod."),
];

/// A decoding context, and what it reads for.
pub struct Reader {
    context: *mut pg_sys::LogicalDecodingContext,
    /// Where callbacks put what is told.
    sink: Box<Sink>,
    /// The tables asked for, by oid with commas.
    tables: String,
}

/// What a step was told.
struct Sink {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
    count: u64,
    /// Who makes the transaction that is told, as it says it.
    who: Vec<u8>,
}

/// For SQL: rows (n bigint, commit_lsn pg_lsn, xid bigint, who text, data text), one for each change.
pub struct Told {
    pub store: *mut pg_sys::Tuplestorestate,
    pub descriptor: pg_sys::TupleDesc,
    pub count: u64,
}

const COLUMNS: [(&CStr, pg_sys::Oid); 5] = [
    (c"n", pg_sys::INT8OID),
    (c"commit_lsn", pg_sys::PG_LSNOID),
    (c"xid", pg_sys::INT8OID),
    (c"who", pg_sys::TEXTOID),
    (c"data", pg_sys::TEXTOID),
];

impl Reader {
    /// Takes the slot and begins with what committed at `from` or later. Inside a transaction; raises when somebody else has
    /// the slot.
    pub fn open(slot: &str, from: u64, tables: &str) -> Self {
        let name = CString::new(slot).unwrap_or_default();
        let oids = CString::new(tables).unwrap_or_default();
        let mut sink = Box::new(Sink {
            store: std::ptr::null_mut(),
            descriptor: std::ptr::null_mut(),
            count: 0,
            who: Vec::new(),
        });
        // SAFETY: inside a transaction of a background worker that has no slot; what lives as long as the process is made in its
        // top context. The server copies the routine and keeps the list. The sink is boxed and outlives the context.
        unsafe {
            compat::replication_slot_acquire(name.as_ptr());
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
            let mut options = std::ptr::null_mut();
            for (name, value) in OPTIONS.into_iter().chain([(c"only-relations", oids.as_c_str())]) {
                let value = pg_sys::makeString(pg_sys::pstrdup(value.as_ptr()));
                let option = pg_sys::makeDefElem(pg_sys::pstrdup(name.as_ptr()), value.cast(), -1);
                options = pg_sys::lappend(options, option.cast());
            }
            let mut routine = pg_sys::XLogReaderRoutine {
                page_read: Some(read_page_raw),
                segment_open: Some(open_segment_raw),
                segment_close: Some(close_segment_raw),
            };
            let (prepare, write) = (Some(prepare_write as _), Some(write as _));
            let context = pg_sys::CreateDecodingContext(from, options, false, &mut routine, prepare, write, None);
            (*context).output_writer_private = (&raw mut *sink).cast();
            pg_sys::XLogBeginRead((*context).reader, (*(*context).slot).data.restart_lsn);
            pg_sys::CurrentMemoryContext = before;
            Self {
                context,
                sink,
                tables: tables.to_owned(),
            }
        }
    }

    /// Whether it tells of these tables.
    pub fn is_for(&self, tables: &str) -> bool {
        self.tables == tables
    }

    /// What committed before was told.
    pub fn end(&self) -> u64 {
        // SAFETY: the context lives as long as this.
        unsafe { (*(*self.context).reader).EndRecPtr }
    }

    /// The record that was read last: where it begins, and whose it is if it is a commit.
    pub fn last(&self) -> (u64, u32) {
        // SAFETY: as above; the record is null before the first one was read.
        unsafe {
            let reader = (*self.context).reader;
            let record = (*reader).record.as_ref();
            (
                (*reader).ReadRecPtr,
                record.map_or(0, |it| it.header.xl_xid.into_inner()),
            )
        }
    }

    /// Reads on, up to `until`, or until so much was told with the transaction that it belongs to. Inside a transaction, in whose
    /// memory the result is.
    pub fn read(&mut self, until: u64, limit: u64) -> Told {
        // SAFETY: inside a transaction. Decoding sees the catalog as it was, so nothing that is cached of the present one may be
        // used, nor the other way round; it leaves another resource owner and context behind.
        unsafe {
            self.sink.store = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            self.sink.descriptor = pg_sys::CreateTemplateTupleDesc(COLUMNS.len() as i32);
            for (number, (name, kind)) in (1..).zip(COLUMNS) {
                pg_sys::TupleDescInitEntry(self.sink.descriptor, number, name.as_ptr(), kind, -1, 0);
            }
            self.sink.count = 0;
            let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
            pg_sys::InvalidateSystemCaches();
            while self.end() < until && self.sink.count < limit {
                self.read_record();
                pgrx::check_for_interrupts!();
            }
            pg_sys::CurrentResourceOwner = owner;
            pg_sys::CurrentMemoryContext = memory;
            pg_sys::InvalidateSystemCaches();
        }
        Told {
            store: self.sink.store,
            descriptor: self.sink.descriptor,
            count: self.sink.count,
        }
    }

    unsafe fn read_record(&mut self) {
        let context = self.context;
        let mut error = std::ptr::null_mut();
        // SAFETY: by contract of `read`; one guard around both calls. The WAL reader makes its buffers when it needs them, in the current
        // context, which replaying a transaction has set to another one.
        unsafe {
            pg_sys::CurrentMemoryContext = (*context).context;
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                let record = pg_sys::XLogReadRecord((*context).reader, &mut error);
                if !record.is_null() {
                    process_record_raw(context, (*context).reader);
                }
            });
            if !error.is_null() {
                let reason = CStr::from_ptr(error).to_string_lossy().into_owned();
                pgrx::error!("cannot read the WAL: {reason}");
            }
        }
    }

    /// What committed before `up_to` is recorded, on disk: its WAL is not needed any more. Outside a transaction.
    pub fn confirm(&self, up_to: u64) {
        // SAFETY: this process has the slot; as a walsender does it.
        unsafe {
            pg_sys::LogicalConfirmReceivedLocation(up_to);
            pg_sys::ReplicationSlotMarkDirty();
        }
    }

    /// Gives the slot back.
    pub fn close(self) {
        // SAFETY: ours, and not used any more.
        unsafe {
            pg_sys::FreeDecodingContext(self.context);
            pg_sys::ReplicationSlotRelease();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn prepare_write(
    context: *mut pg_sys::LogicalDecodingContext,
    _lsn: pg_sys::XLogRecPtr,
    _xid: pg_sys::TransactionId,
    _last: bool,
) {
    // SAFETY: a callback of the server.
    unsafe { pg_sys::resetStringInfo((*context).out) }
}

#[pg_guard]
unsafe extern "C-unwind" fn write(
    context: *mut pg_sys::LogicalDecodingContext,
    _lsn: pg_sys::XLogRecPtr,
    xid: pg_sys::TransactionId,
    _last: bool,
) {
    // SAFETY: a callback of the server during `read`, which has set up the sink; a transaction is told while the record of its commit
    // is the last one read. What is put is copied.
    unsafe {
        let sink = &mut *(*context).output_writer_private.cast::<Sink>();
        let out = &*(*context).out;
        let told = std::slice::from_raw_parts(out.data.cast::<u8>(), out.len as usize);
        match told.strip_prefix(b"{\"action\":\"").and_then(|rest| rest.first()) {
            Some(b'B') => return sink.who.clear(),
            Some(b'X') => {
                sink.who.clear();
                return sink.who.extend_from_slice(told);
            }
            Some(b'I' | b'U' | b'D' | b'T') => {}
            _ => return,
        }
        sink.count += 1;
        let who = match sink.who.is_empty() {
            true => std::ptr::null_mut(),
            false => pg_sys::cstring_to_text_with_len(sink.who.as_ptr().cast(), sink.who.len() as i32),
        };
        let data = pg_sys::cstring_to_text_with_len(out.data, out.len);
        let mut values = [
            pg_sys::Datum::from(sink.count.cast_signed()),
            pg_sys::Datum::from((*(*context).reader).ReadRecPtr),
            pg_sys::Datum::from(i64::from(xid.into_inner())),
            pg_sys::Datum::from(who),
            pg_sys::Datum::from(data),
        ];
        let mut nulls = [false, false, false, who.is_null(), false];
        pg_sys::tuplestore_putvalues(sink.store, sink.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::pfree(data.cast());
        if !who.is_null() {
            pg_sys::pfree(who.cast());
        }
    }
}
