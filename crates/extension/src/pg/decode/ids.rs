//! What events are called: counted per transaction, over everything that was decoded of it, so that the id of an event does not
//! depend on what else its reader is told.

use synod_change::stream::EventId;

/// Counts the events of one transaction.
#[derive(Clone, Copy, Default)]
pub struct Ids {
    ordinal: u64,
}

impl Ids {
    /// The id of the next event of a transaction that has ended, at `lsn`.
    pub fn next_committed(&mut self, lsn: u64) -> EventId<'static> {
        self.ordinal += 1;
        EventId::Commit {
            lsn,
            ordinal: self.ordinal,
        }
    }

    /// The id of the next event of one in progress.
    pub fn next_open(&mut self, xid: u32) -> EventId<'static> {
        self.ordinal += 1;
        EventId::Open {
            xid,
            ordinal: self.ordinal,
        }
    }
}

/// The id of a message that belongs to no transaction. LSNs of records are different, so this is no commit's.
pub fn alone(lsn: u64) -> EventId<'static> {
    EventId::Commit { lsn, ordinal: 1 }
}
