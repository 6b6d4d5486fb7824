//! Events in UTF-8 out of a database in another encoding, for the formats that want them so.
//!
//! Rows are converted where they are read ([`super::values`]), tables where their shape is ([`super::shape`]); this is for what is left.
//! Context and definitions are in UTF-8 already ([`super::messages`]).

use synod_change::stream::{Event, Message, Transaction};

use crate::pg::encoding::to_utf8;

/// Pass the event on, converted.
pub fn converted<T>(event: &Event<'_>, tell: impl FnOnce(&Event<'_>) -> T) -> T {
    let of = match event {
        Event::Begin(of)
        | Event::Commit(of)
        | Event::BeginPrepare(of)
        | Event::Prepare(of)
        | Event::CommitPrepared(of)
        | Event::RollbackPrepared(of)
        | Event::StreamStart(of)
        | Event::StreamStop(of)
        | Event::StreamAbort(of, _)
        | Event::StreamPrepare(of)
        | Event::StreamCommit(of) => of,
        Event::Message(place, message) => {
            let prefix = to_utf8(message.prefix);
            let prefix = prefix.as_bytes();
            return tell(&Event::Message(*place, Message { prefix, ..*message }));
        }
        Event::Row(..) | Event::Ddl(..) | Event::Context(_) => return tell(event),
    };
    let (origin, gid) = (of.origin.map(to_utf8), of.gid.map(to_utf8));
    let of = Transaction {
        origin: origin.as_deref().map(str::as_bytes),
        gid: gid.as_deref().map(str::as_bytes),
        ..*of
    };
    tell(&with(event, of))
}

/// The same about another transaction.
fn with<'a>(event: &Event<'a>, of: Transaction<'a>) -> Event<'a> {
    match event {
        Event::Begin(_) => Event::Begin(of),
        Event::Commit(_) => Event::Commit(of),
        Event::BeginPrepare(_) => Event::BeginPrepare(of),
        Event::Prepare(_) => Event::Prepare(of),
        Event::CommitPrepared(_) => Event::CommitPrepared(of),
        Event::RollbackPrepared(_) => Event::RollbackPrepared(of),
        Event::StreamStart(_) => Event::StreamStart(of),
        Event::StreamStop(_) => Event::StreamStop(of),
        Event::StreamAbort(_, xid) => Event::StreamAbort(of, *xid),
        Event::StreamPrepare(_) => Event::StreamPrepare(of),
        Event::StreamCommit(_) => Event::StreamCommit(of),
        Event::Row(..) | Event::Message(..) | Event::Ddl(..) | Event::Context(_) => event.clone(),
    }
}
