//! What events are called: counted per transaction, over everything that was decoded of it, so that the id of an event does not
//! depend on what else its reader is told.

use synod_change::stream::EventId;

/// Counts the events of one transaction.
#[derive(Clone, Copy, Default)]
pub struct Ids {
    /// The last one taken.
    ordinal: u64,
}

impl Ids {
    /// The id of the next event of a transaction that has ended, at `lsn`; it takes so many ordinals.
    pub fn next_committed(&mut self, lsn: u64, ordinals: u64) -> EventId<'static> {
        EventId::Commit {
            lsn,
            ordinal: self.take(ordinals),
        }
    }

    /// The id of the next event of one in progress.
    pub fn next_open(&mut self, xid: u32, ordinals: u64) -> EventId<'static> {
        EventId::Open {
            xid,
            ordinal: self.take(ordinals),
        }
    }

    fn take(&mut self, ordinals: u64) -> u64 {
        let first = self.ordinal + 1;
        self.ordinal += ordinals;
        first
    }
}

/// The id of a message that belongs to no transaction. LSNs of records are different, so this is no commit's.
pub fn alone(lsn: u64) -> EventId<'static> {
    EventId::Commit { lsn, ordinal: 1 }
}
