//! What became of the subtransactions that wrote strong tables.
//!
//! Row events cannot be rewritten once they are in a file, so each keeps the subtransaction that made it, and the question
//! "does it count" is answered here. Ids of subtransactions are not reused within a transaction.

use std::collections::HashMap;

use pgrx::pg_sys::SubTransactionId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    MergedInto(SubTransactionId),
    RolledBack,
}

/// The fate of every subtransaction that has ended.
#[derive(Debug, Default)]
pub(super) struct Subtransactions(HashMap<SubTransactionId, Fate>);

impl Subtransactions {
    /// `mine` was released into `parent`.
    pub(super) fn merged(&mut self, mine: SubTransactionId, parent: SubTransactionId) {
        self.0.insert(mine, Fate::MergedInto(parent));
    }

    /// `mine`, and so everything merged into it, was rolled back.
    pub(super) fn rolled_back(&mut self, mine: SubTransactionId) {
        self.0.insert(mine, Fate::RolledBack);
    }

    /// Whether what `id` did stands.
    pub(super) fn counts(&self, mut id: SubTransactionId) -> bool {
        loop {
            match self.0.get(&id) {
                None => return true,
                Some(Fate::RolledBack) => return false,
                Some(Fate::MergedInto(parent)) => id = *parent,
            }
        }
    }
}
