//! The transaction under way.

use synod_change::stream::Transaction;

/// What [`Transaction`] says, for as long as it lasts.
#[derive(Clone, Debug)]
pub struct Inside {
    /// Its commit.
    pub lsn: u64,
    /// Its CSN, or 0.
    pub csn: u64,
    /// Its number.
    pub xid: u32,
    /// When.
    pub committed_us: Option<i64>,
    /// The group of the CSN.
    pub group: Option<String>,
    /// Something of it may be new.
    pub wanted: bool,
    /// Events that were told.
    pub told: u64,
}

impl Inside {
    /// It begins.
    pub fn new(transaction: &Transaction<'_>) -> Self {
        Self {
            lsn: transaction.commit_lsn.unwrap_or_default(),
            csn: transaction.csn.map_or(0, |(_, csn)| csn),
            xid: transaction.xid,
            committed_us: transaction.commit_time_us,
            group: transaction.csn.map(|(group, _)| group.to_owned()),
            wanted: false,
            told: 0,
        }
    }

    /// What it said.
    pub fn transaction(&self) -> Transaction<'_> {
        Transaction {
            xid: self.xid,
            commit_lsn: Some(self.lsn),
            commit_time_us: self.committed_us,
            csn: self.group.as_deref().map(|group| (group, self.csn)),
            ..Transaction::default()
        }
    }
}
