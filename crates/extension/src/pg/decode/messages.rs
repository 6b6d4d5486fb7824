//! Logical messages: a user's are told as they are, our own (`synod.…`) as what they mean.
//!
//! Who does what follows (`synod.context`) is held back until something of the transaction is told: a transaction that touched
//! nothing that the reader wants is not told for its sake. A change of definitions takes an ordinal whether or not the reader wants
//! it, so that the ids of rows do not depend on that.

use synod_change::stream::own_message::{CONTEXT_PREFIX, DDL_PREFIX, DdlMessage, OWN_PREFIX, decode_context};
use synod_change::stream::record_message::RECORD_PREFIX;
use synod_change::stream::{Ddl, Event, EventId, Message, Place};
use synod_change::{DecodeError, stream::Table};

use super::ids;
use super::session::{Call, Session};
use super::strong::DdlPlace;
use super::transaction::Surrounding;
use crate::errors::UserError;
use crate::pg::relcache::Relation;
use crate::pg::{compat, encoding};
use crate::stream_key;

/// Tell of a message.
///
/// # Safety
/// In a callback that was passed what `call` and `message` hold. Not transactional: `call.txn` may be null.
pub unsafe fn told(session: &mut Session, call: Call, lsn: u64, message: Message<'_>) {
    // SAFETY: by contract.
    unsafe {
        let _around = (!message.prefix.is_ascii()).then(|| Surrounding::ensure());
        if message.prefix.starts_with(OWN_PREFIX.as_bytes()) {
            let outcome = own(session, call, lsn, message);
            return outcome.unwrap_or_else(|error| unreadable(&message, &error).raise());
        }
        let place = if message.transactional {
            // The server does not say which subtransaction it is of.
            session.next_place(call, lsn, (*call.txn).xid.into_inner(), 1)
        } else {
            Place {
                id: ids::alone(lsn),
                lsn,
                xid: 0,
            }
        };
        // It has its ordinal all the same: what follows may be wanted, in a transaction that set its origin halfway.
        if !call.txn.is_null() && !session.wants_origin((*call.txn).origin_id) {
            return session.left_out(call);
        }
        if message.transactional && (compat::MESSAGES_ARE_CHANGES || session.options.format_name != "text") {
            session.begin_late(call);
        }
        session.tell(call, &Event::Message(place, message), true);
    }
}

/// # Safety
/// As for [`told`].
unsafe fn own(session: &mut Session, call: Call, lsn: u64, message: Message<'_>) -> Result<(), DecodeError> {
    let Some(content) = stream_key::content(message.content).filter(|_| message.transactional) else {
        return Ok(());
    };
    let message = Message { content, ..message };
    // SAFETY: by contract.
    unsafe {
        if message.prefix == CONTEXT_PREFIX.as_bytes() {
            if session.options.include_context {
                let context = text(session, decode_context(message.content)?);
                session.note_context(call, context);
            }
        } else if message.prefix == DDL_PREFIX.as_bytes() {
            let xid = (*call.txn).xid.into_inner();
            let of_record = session.records.take_ddl();
            let place = match &of_record {
                DdlPlace::Unwanted => return Ok(()),
                DdlPlace::Local => session.next_place(call, lsn, xid, 1),
                DdlPlace::Record(group, csn, ordinal) => Place {
                    id: EventId::Group {
                        group,
                        csn: *csn,
                        ordinal: *ordinal,
                    },
                    lsn,
                    xid,
                },
            };
            if session.options.include_ddl {
                definitions(session, call, place, &DdlMessage::decode(message.content)?);
            }
        } else if message.prefix == RECORD_PREFIX.as_bytes() {
            session.record(call, lsn, message.content)?;
        }
    }
    Ok(())
}

/// Tell of a change of definitions, with the tables as they are behind it.
///
/// # Safety
/// As for [`told`].
unsafe fn definitions(session: &mut Session, call: Call, place: Place<'_>, message: &DdlMessage) {
    let convert = |what: &String| text(session, what);
    let (tag, object_type, object) = (
        convert(&message.tag),
        convert(&message.object_type),
        convert(&message.object),
    );
    let (sql, search_path) = (convert(&message.sql), convert(&message.search_path));
    // SAFETY: by contract; the catalog is the one of this place in the transaction.
    unsafe {
        let relations = message.tables.iter().filter_map(|oid| Relation::open((*oid).into()));
        let shapes: Vec<_> = relations.map(|relation| session.shape(relation.raw())).collect();
        let wanted = shapes.iter().filter(|shape| shape.wanted);
        let tables: Vec<&Table> = wanted.map(|shape| &shape.table).collect();
        session.begin_late(call);
        let ddl = Ddl {
            tag: &tag,
            object_type: &object_type,
            object: &object,
            sql: &sql,
            search_path: &search_path,
            tables,
        };
        session.tell(call, &Event::Ddl(place, ddl), true);
    }
}

/// As the format wants its text.
fn text(session: &Session, text: &str) -> Vec<u8> {
    match session.options.format.wants_utf8() {
        true => text.as_bytes().to_vec(),
        false => encoding::from_utf8(text),
    }
}

fn unreadable(message: &Message<'_>, error: &DecodeError) -> UserError {
    UserError::new(
        pgrx::PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!(
            "could not read a message \"{}\" in the WAL: {error}",
            String::from_utf8_lossy(message.prefix)
        ),
        "Messages with prefixes that begin with \"synod.\" are the extension's own.",
        "If a newer release of the extension wrote it, read the slot with that one.",
    )
}
