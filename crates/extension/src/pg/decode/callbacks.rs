//! The functions that the server calls, each a few lines: what happened, to the reader's [`Session`].

use std::ffi::{CStr, c_char, c_void};

use pgrx::{pg_guard, pg_sys};
use synod_change::stream::filters::Origins;
use synod_change::stream::{Event, Message};

use super::session::{Call, Session};
use super::{messages, strong, transaction};
use crate::decode::options::Given;
use crate::pg::list;

type Context = *mut pg_sys::LogicalDecodingContext;
type Txn = *mut pg_sys::ReorderBufferTXN;
type Change = *mut pg_sys::ReorderBufferChange;

/// Fill in what `_PG_output_plugin_init` is asked for.
pub fn register(callbacks: &mut pg_sys::OutputPluginCallbacks) {
    callbacks.startup_cb = Some(startup);
    callbacks.shutdown_cb = Some(shutdown);
    callbacks.filter_by_origin_cb = Some(filter_by_origin);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.commit_cb = Some(commit);
    callbacks.message_cb = Some(message);
    callbacks.filter_prepare_cb = Some(filter_prepare);
    callbacks.begin_prepare_cb = Some(begin_prepare);
    callbacks.prepare_cb = Some(prepare);
    callbacks.commit_prepared_cb = Some(commit_prepared);
    callbacks.rollback_prepared_cb = Some(rollback_prepared);
    callbacks.stream_start_cb = Some(stream_start);
    callbacks.stream_stop_cb = Some(stream_stop);
    callbacks.stream_abort_cb = Some(stream_abort);
    callbacks.stream_prepare_cb = Some(stream_prepare);
    callbacks.stream_commit_cb = Some(stream_commit);
    callbacks.stream_change_cb = Some(stream_change);
    callbacks.stream_message_cb = Some(stream_message);
    callbacks.stream_truncate_cb = Some(stream_truncate);
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(context: Context, plugin: *mut pg_sys::OutputPluginOptions, _is_init: bool) {
    // SAFETY: the server's context, new.
    unsafe {
        let given = given(context);
        let session = match Session::new(&given, (*context).context) {
            Ok(session) => session,
            Err(error) => error.raise(),
        };
        (*plugin).output_type = if session.options.format.is_binary() {
            pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT
        } else {
            pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_TEXTUAL_OUTPUT
        };
        // Who does not want them counts them.
        (*plugin).receive_rewrites = true;
        (*context).streaming &= session.options.stream_changes && !session.member;
        own(context, session);
    }
}

/// The session goes with the server's context, however that ends.
unsafe fn own(context: Context, session: Session) {
    // SAFETY: the callback's memory is in the context that calls it.
    unsafe {
        let callback = pg_sys::MemoryContextAllocZero((*context).context, size_of::<pg_sys::MemoryContextCallback>())
            .cast::<pg_sys::MemoryContextCallback>();
        let session = Box::into_raw(Box::new(session));
        (*callback).func = Some(drop_session);
        (*callback).arg = session.cast();
        (*context).output_plugin_private = session.cast();
        pg_sys::MemoryContextRegisterResetCallback((*context).context, callback);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn drop_session(session: *mut c_void) {
    // SAFETY: made in `own`, and called once.
    drop(unsafe { Box::from_raw(session.cast::<Session>()) });
}

unsafe fn given(context: Context) -> Vec<Given> {
    // SAFETY: a list of DefElems, their arguments strings or null.
    unsafe {
        list::pointers::<pg_sys::DefElem>((*context).output_plugin_options)
            .into_iter()
            .map(|element| {
                let name = CStr::from_ptr((*element).defname).to_string_lossy().into_owned();
                let value = (*element).arg.cast::<pg_sys::String>();
                let value = (!value.is_null()).then(|| CStr::from_ptr((*value).sval).to_bytes().to_vec());
                (name, value)
            })
            .collect()
    }
}

/// The reader's session, and what the call is about.
unsafe fn enter<'a>(context: Context, txn: Txn, streaming: bool) -> (&'a mut Session, Call) {
    // SAFETY: set up by `startup`; the server makes one call at a time.
    unsafe {
        let session = &mut *(*context).output_plugin_private.cast::<Session>();
        (
            session,
            Call {
                context,
                txn,
                streaming,
            },
        )
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn shutdown(_context: Context) {}

#[pg_guard]
unsafe extern "C-unwind" fn filter_by_origin(context: Context, origin: pg_sys::RepOriginId) -> bool {
    // SAFETY: a callback of the server.
    let (session, _) = unsafe { enter(context, std::ptr::null_mut(), false) };
    // Names are looked up for each change: there is no transaction here.
    session.options.filters.origins == Origins::None
        && u32::from(origin) != pg_sys::InvalidRepOriginId
        && strong::is_foreign(origin, session.member)
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(context: Context, txn: Txn) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, false);
        session.begin(call, false);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(context: Context, txn: Txn, _lsn: pg_sys::XLogRecPtr) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, false);
        session.commit(call);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn change(context: Context, txn: Txn, relation: pg_sys::Relation, change: Change) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, false);
        session.row(call, relation, change);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    context: Context,
    txn: Txn,
    count: i32,
    relations: *mut pg_sys::Relation,
    change: Change,
) {
    // SAFETY: a callback of the server, with so many relations.
    unsafe {
        let (session, call) = enter(context, txn, false);
        let relations = std::slice::from_raw_parts(relations, count as usize);
        session.truncate(call, relations, change);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn message(
    context: Context,
    txn: Txn,
    lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const c_char,
    length: pg_sys::Size,
    content: *const c_char,
) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, false);
        messages::told(session, call, lsn, a_message(transactional, prefix, length, content));
    }
}

unsafe fn a_message<'a>(
    transactional: bool,
    prefix: *const c_char,
    length: usize,
    content: *const c_char,
) -> Message<'a> {
    // SAFETY: a C string and so many bytes; null only without any.
    unsafe {
        Message {
            transactional,
            prefix: CStr::from_ptr(prefix).to_bytes(),
            content: if length == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(content.cast(), length)
            },
        }
    }
}

/// `test_decoding` leaves transactions with such a name until they commit, and its own tests rely on it.
#[pg_guard]
unsafe extern "C-unwind" fn filter_prepare(context: Context, _xid: pg_sys::TransactionId, gid: *const c_char) -> bool {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, _) = enter(context, std::ptr::null_mut(), false);
        !session.options.format.tells_prepared_transactions()
            || session.options.format_name == "text"
                && memchr::memmem::find(CStr::from_ptr(gid).to_bytes(), b"_nodecode").is_some()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin_prepare(context: Context, txn: Txn) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, false);
        session.begin(call, true);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn prepare(context: Context, txn: Txn, _lsn: pg_sys::XLogRecPtr) {
    // SAFETY: a callback of the server.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let (session, call) = enter(context, txn, false);
        session.end(call, &Event::Prepare(transaction::of(txn, true)));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit_prepared(context: Context, txn: Txn, _lsn: pg_sys::XLogRecPtr) {
    // SAFETY: a callback of the server.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let (session, call) = enter(context, txn, false);
        session.resolve(call, &Event::CommitPrepared(transaction::of(txn, true)));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn rollback_prepared(
    context: Context,
    txn: Txn,
    _end_lsn: pg_sys::XLogRecPtr,
    _time: pg_sys::TimestampTz,
) {
    // SAFETY: a callback of the server.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let (session, call) = enter(context, txn, false);
        session.resolve(call, &Event::RollbackPrepared(transaction::of(txn, true)));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_start(context: Context, txn: Txn) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, true);
        session.open_block(call);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_stop(context: Context, txn: Txn) {
    // SAFETY: a callback of the server.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let (session, call) = enter(context, txn, true);
        session.close_block(call);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_abort(context: Context, txn: Txn, _lsn: pg_sys::XLogRecPtr) {
    // SAFETY: a callback of the server; of a part of a transaction, too.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let top = transaction::top(txn);
        let (session, call) = enter(context, top, true);
        let event = Event::StreamAbort(transaction::of(top, false), (*txn).xid.into_inner());
        session.end_open(call, top == txn, &event);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_prepare(context: Context, txn: Txn, _lsn: pg_sys::XLogRecPtr) {
    // SAFETY: a callback of the server.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let (session, call) = enter(context, txn, true);
        session.end_open(call, true, &Event::StreamPrepare(transaction::of(txn, true)));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_commit(context: Context, txn: Txn, _lsn: pg_sys::XLogRecPtr) {
    // SAFETY: a callback of the server.
    unsafe {
        let _around = transaction::Surrounding::ensure();
        let (session, call) = enter(context, txn, true);
        session.end_open(call, true, &Event::StreamCommit(transaction::of(txn, true)));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_change(context: Context, txn: Txn, relation: pg_sys::Relation, change: Change) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, true);
        session.row(call, relation, change);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_message(
    context: Context,
    txn: Txn,
    lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const c_char,
    length: pg_sys::Size,
    content: *const c_char,
) {
    // SAFETY: a callback of the server.
    unsafe {
        let (session, call) = enter(context, txn, true);
        messages::told(session, call, lsn, a_message(transactional, prefix, length, content));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_truncate(
    context: Context,
    txn: Txn,
    count: i32,
    relations: *mut pg_sys::Relation,
    change: Change,
) {
    // SAFETY: a callback of the server, with so many relations.
    unsafe {
        let (session, call) = enter(context, txn, true);
        let relations = std::slice::from_raw_parts(relations, count as usize);
        session.truncate(call, relations, change);
    }
}
