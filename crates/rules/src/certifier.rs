//! The state machine that gives every log entry its verdict.
//!
//! Invariants:
//! - floor <= last_commit <= position;
//! - the state is a function of the entries up to `position`, however often it was saved and loaded on the way
//!   (`named` and `restored_at` apart: they serve only this node's trimming and are not saved);
//! - one proposal has one verdict: at every other position it is skipped.

use std::collections::BTreeMap;

use synod_change::{Body, Key, MAX_KEYS_PER_RECORD, Record, TransactionId, WriteRecord, ddl_key};

use crate::ddl::{self, DdlLock};
use crate::fragments::Fragments;
use crate::mutants::{Mutant, active};
use crate::nodes::{Admission, Nodes};
use crate::window::Window;
use crate::{Abort, CheckFailure, Conflict, Skip, Verdict};

/// Names a proposal for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// Where it was proposed.
    pub node: u32,
    /// That node's start number. It must differ even between two servers started from copies of one directory: put a
    /// counter above and random bits below.
    pub incarnation: u64,
    /// Counts the proposals of an incarnation, from 1 and without gaps. The first is [`Record::Start`], and it must be
    /// chosen before the second is proposed.
    pub sequence: u64,
}

impl From<(u32, u64, u64)> for CommandId {
    fn from((node, incarnation, sequence): (u32, u64, u64)) -> Self {
        Self {
            node,
            incarnation,
            sequence,
        }
    }
}

/// What stands at a position.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Nothing that concerns tables: a no-op.
    Nothing,
    /// The members from here on, by number: a node that is gone will never name its open fragments.
    Members(&'a [u32]),
    /// A proposal.
    Command {
        /// Who proposed it.
        id: CommandId,
        /// What.
        record: &'a Record,
    },
}

/// Gives every log entry its verdict.
#[derive(Clone, Debug)]
pub struct Certifier {
    pub(crate) position: u64,
    pub(crate) last_commit: u64,
    pub(crate) nodes: Nodes,
    pub(crate) fragments: Fragments,
    pub(crate) window: Window,
    pub(crate) ddl_lock: Option<DdlLock>,
    /// Committed records with fragments, and the lowest of these: needed until the record is applied here.
    pub(crate) named: BTreeMap<u64, u64>,
    /// Records at or below are not in `named`.
    pub(crate) restored_at: u64,
}

impl Default for Certifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Certifier {
    /// Before the first position.
    #[must_use]
    pub fn new() -> Self {
        Self::with_window(Window::new())
    }

    pub(crate) fn with_window(window: Window) -> Self {
        Self {
            position: 0,
            last_commit: 0,
            nodes: Nodes::default(),
            fragments: Fragments::default(),
            window,
            ddl_lock: None,
            named: BTreeMap::new(),
            restored_at: 0,
        }
    }

    /// The verdict on the next entry.
    ///
    /// # Panics
    /// If `position` is not the one after [`position`](Self::position): the caller lost or repeated an entry, and any
    /// verdict from here on could differ from the other nodes'.
    pub fn apply(&mut self, position: u64, input: Input<'_>) -> Verdict {
        assert_eq!(
            position,
            self.position + 1,
            "entries must be certified in order, without gaps"
        );
        self.position = position;
        let (id, record) = match input {
            Input::Nothing => return Verdict::Skip(Skip::Noop),
            Input::Members(ids) => {
                self.fragments.keep(ids);
                self.ddl_lock.take_if(|lock| !ids.contains(&lock.owner.node));
                return Verdict::Skip(Skip::Noop);
            }
            Input::Command { id, record } => (id, record),
        };
        match self.nodes.admit(id, matches!(record, Record::Start { .. })) {
            Admission::Refused(skip) => return Verdict::Skip(skip),
            Admission::Started => self.forget(id.node),
            Admission::Closed => {
                self.forget(id.node);
                return Verdict::Skip(Skip::Fenced);
            }
            Admission::Admitted => {}
        }
        match record {
            Record::Start { .. } => Verdict::Skip(Skip::Start),
            Record::Fragment(_) => {
                self.fragments.add(id.node, position);
                Verdict::Skip(Skip::Fragment)
            }
            Record::DdlLock(request) => {
                let owner = transaction(id, request.transaction);
                if ddl::grant(&mut self.ddl_lock, owner, position, request) {
                    self.commit_position()
                } else {
                    Verdict::Abort(Abort::DdlLocked)
                }
            }
            Record::DdlUnlock(owner) => match self.ddl_lock.take_if(|lock| lock.owner == *owner) {
                Some(_) => self.commit_position(),
                None => Verdict::Abort(Abort::DdlLocked),
            },
            Record::Write(write) => match self.certify(id, write) {
                Ok(()) => self.commit(write),
                Err(abort) => {
                    if active(Mutant::AbortedClaim) {
                        self.window.push(position, &write.keys);
                    }
                    Verdict::Abort(abort)
                }
            },
        }
    }

    /// What a node's earlier incarnation left behind is void.
    fn forget(&mut self, node: u32) {
        self.fragments.forget(node);
        self.ddl_lock.take_if(|lock| lock.owner.node == node);
    }

    /// The fragments that the record names are used up whatever the verdict.
    fn certify(&mut self, id: CommandId, write: &WriteRecord) -> Result<(), Abort> {
        if let Body::Fragments { positions, .. } = &write.body
            && !self.fragments.close(id.node, positions)
        {
            return Err(Abort::Malformed);
        }
        if write.base >= self.position || write.keys.len() > MAX_KEYS_PER_RECORD {
            return Err(Abort::Malformed);
        }
        if !write.keys.is_empty() && !self.window.covers(write.base) {
            return Err(Abort::TooOld);
        }
        let by = transaction(id, write.transaction.number);
        let owns = self.owns_ddl_lock(by);
        if !owns && is_ddl(&write.keys) {
            return Err(Abort::DdlLocked);
        }
        if let Some(conflict) = self.locked(write.keys.iter().copied(), by) {
            return Err(Abort::Conflict(conflict));
        }
        let checked = |key: &&Key| !(owns && self.is_locked(**key));
        let mut conflicts = write.keys.iter().filter(checked);
        match conflicts.find_map(|key| self.window.conflict(*key, write.base)) {
            Some(conflict) => Err(Abort::Conflict(conflict)),
            None => Ok(()),
        }
    }

    /// Whether this transaction has the DDL lock.
    #[must_use]
    pub fn owns_ddl_lock(&self, transaction: TransactionId) -> bool {
        self.ddl_lock.as_ref().is_some_and(|lock| lock.owner == transaction)
    }

    /// The DDL lock.
    #[must_use]
    pub const fn ddl_lock(&self) -> Option<&DdlLock> {
        self.ddl_lock.as_ref()
    }

    /// Keys of tables under the DDL lock are its owner's: nothing that another node wrote since can conflict, and its own
    /// node's writes are ordered by local locks.
    fn is_locked(&self, key: Key) -> bool {
        self.ddl_lock.as_ref().is_some_and(|lock| lock.covers(key)) || key.hash == ddl_key()
    }

    fn locked(&self, keys: impl IntoIterator<Item = Key>, by: TransactionId) -> Option<Conflict> {
        let lock = self.ddl_lock.as_ref()?;
        let position = lock.position;
        lock.refuses(keys, by).map(|key| Conflict { key, position })
    }

    fn commit(&mut self, write: &WriteRecord) -> Verdict {
        if is_ddl(&write.keys) {
            // Only its owner's record comes this far.
            self.ddl_lock = None;
        }
        if let Body::Fragments { positions, .. } = &write.body
            && let Some(oldest) = positions.first()
        {
            self.named.insert(self.position, *oldest);
        }
        self.window.push(self.position, &write.keys);
        self.commit_position()
    }

    fn commit_position(&mut self) -> Verdict {
        let previous = std::mem::replace(&mut self.last_commit, self.position);
        Verdict::Commit { previous }
    }

    /// Certifies keys of a transaction against everything applied so far, each after a base of its own; changes nothing. A
    /// record that passes may travel with [`position`](Self::position) as its base.
    ///
    /// # Errors
    /// The first key that fails.
    pub fn check(
        &self,
        by: TransactionId,
        keys: impl IntoIterator<Item = (Key, u64), IntoIter: Clone>,
    ) -> Result<(), CheckFailure> {
        let keys = keys.into_iter();
        if let Some(conflict) = self.locked(keys.clone().map(|(key, _)| key), by) {
            return Err(CheckFailure::Conflict(conflict));
        }
        let owns = self.owns_ddl_lock(by);
        for (key, base) in keys {
            if owns && self.is_locked(key) {
                continue;
            }
            if !self.window.covers(base) {
                return Err(CheckFailure::TooOld {
                    key,
                    floor: self.window.floor(),
                });
            }
            if let Some(conflict) = self.window.conflict(key, base) {
                return Err(CheckFailure::Conflict(conflict));
            }
        }
        Ok(())
    }

    /// The decided record that a proposed one, which had passed [`check`](Self::check), will lose to for certain: whatever
    /// position it gets lies above that record's. A DDL lock is no reason to lose: it may be gone by then.
    #[must_use]
    pub fn lost(&self, by: TransactionId, keys: impl IntoIterator<Item = (Key, u64)>) -> Option<Conflict> {
        let owns = self.owns_ddl_lock(by);
        let free = keys.into_iter().filter(|(key, _)| !(owns && self.is_locked(*key)));
        free.filter(|(_, base)| self.window.covers(*base))
            .find_map(|(key, base)| self.window.conflict(key, base))
    }

    /// Everything up to here has its verdict.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The highest committing position, 0 if there is none.
    #[must_use]
    pub const fn last_commit(&self) -> u64 {
        self.last_commit
    }

    /// The lowest base that can be certified.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.window.floor()
    }

    /// The lowest base that can be certified now, and still when half a window of records more has come.
    #[must_use]
    pub fn lasting_floor(&self) -> u64 {
        self.window.lasting_floor()
    }

    /// The current incarnation of `node`, if it was ever seen: what the node's next start must exceed.
    #[must_use]
    pub fn incarnation(&self, node: u32) -> Option<u64> {
        self.nodes.current.get(&node).map(|current| current.number)
    }

    /// The oldest fragment that a record may still name.
    #[must_use]
    pub fn oldest_open_fragment(&self) -> Option<u64> {
        self.fragments.oldest()
    }

    /// The log below the result may be trimmed as far as the certifier and the fragments are concerned, when this node has
    /// durably applied everything up to `applied`: no open fragment and none of a record above `applied` lies there.
    /// After a start from a checkpoint nothing may go until `applied` has passed that checkpoint.
    pub fn trim_bound(&mut self, applied: u64) -> u64 {
        if applied < self.restored_at {
            return 0;
        }
        self.named = self.named.split_off(&applied.saturating_add(1));
        let named = self.named.values().copied().min();
        let bound = applied.min(self.position) + 1;
        [named, self.oldest_open_fragment()]
            .into_iter()
            .flatten()
            .fold(bound, u64::min)
    }
}

fn transaction(id: CommandId, number: u64) -> TransactionId {
    TransactionId {
        node: id.node,
        incarnation: id.incarnation,
        number,
    }
}

/// Whether a record with these keys changes definitions.
fn is_ddl(keys: &[Key]) -> bool {
    let mark = ddl_key();
    keys.iter().any(|key| key.hash == mark)
}
