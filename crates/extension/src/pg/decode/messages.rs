//! Logical messages: a user's are told as they are, our own (`synod.…`) as what they mean.

use synod_change::stream::{Event, Message, Place};

use super::ids;
use super::session::{Call, Session};
use crate::pg::compat;

/// Prefixes that are ours begin with this; nothing that a user emits does.
const OURS: &[u8] = b"synod.";

/// Tell of a message.
///
/// # Safety
/// In a callback that was passed what `call` and `message` hold. Not transactional: `call.txn` may be null.
pub unsafe fn told(session: &mut Session, call: Call, lsn: u64, message: Message<'_>) {
    if message.prefix.starts_with(OURS) {
        return;
    }
    // SAFETY: by contract.
    unsafe {
        let place = if message.transactional {
            // The server does not say which subtransaction it is of.
            let place = session.next_place(call, lsn, (*call.txn).xid.into_inner(), 1);
            if compat::MESSAGES_ARE_CHANGES || session.options.format_name != "text" {
                session.begin_late(call);
            }
            place
        } else {
            Place {
                id: ids::alone(lsn),
                lsn,
                xid: 0,
            }
        };
        session.tell(call, &Event::Message(place, message), true);
    }
}
