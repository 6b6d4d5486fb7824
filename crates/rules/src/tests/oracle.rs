//! The rules once more, as plainly as possible: nothing is forgotten, everything is looked up in the whole history.

use std::collections::{BTreeMap, BTreeSet};

use synod_change::{Body, Key, KeyMode, Record, WriteRecord};

use crate::{Abort, CheckFailure, CommandId, Conflict, MAX_SEQUENCE_LEAD, Skip, Verdict};

#[derive(Default)]
struct Incarnation {
    number: u64,
    closed: bool,
    seen: BTreeSet<u64>,
}

impl Incarnation {
    fn contiguous(&self) -> u64 {
        (1..).find(|sequence| !self.seen.contains(sequence)).unwrap() - 1
    }
}

pub struct Oracle {
    limits: (usize, usize),
    position: u64,
    last_commit: u64,
    nodes: BTreeMap<u32, Incarnation>,
    /// (node, position) of those that may be named.
    fragments: Vec<(u32, u64)>,
    committed: Vec<(u64, Vec<Key>)>,
}

impl Oracle {
    pub fn new(limits: (usize, usize)) -> Self {
        Self {
            limits,
            position: 0,
            last_commit: 0,
            nodes: BTreeMap::new(),
            fragments: Vec::new(),
            committed: Vec::new(),
        }
    }

    pub fn apply(&mut self, input: Option<(CommandId, &Record)>) -> Verdict {
        self.position += 1;
        let Some((id, record)) = input else {
            return Verdict::Skip(Skip::Noop);
        };
        if let Err(skip) = self.admit(id, matches!(record, Record::Start { .. })) {
            return Verdict::Skip(skip);
        }
        match record {
            Record::Start { .. } => {
                self.fragments.retain(|(node, _)| *node != id.node);
                Verdict::Skip(Skip::Start)
            }
            Record::Fragment(_) => {
                self.fragments.push((id.node, self.position));
                Verdict::Skip(Skip::Fragment)
            }
            Record::DdlLock(_) | Record::DdlUnlock(_) => unreachable!("see cases/ddl.txt"),
            Record::Write(write) => match self.certify(id.node, write) {
                Err(abort) => Verdict::Abort(abort),
                Ok(()) => {
                    if !write.keys.is_empty() {
                        self.committed.push((self.position, write.keys.clone()));
                    }
                    let previous = std::mem::replace(&mut self.last_commit, self.position);
                    Verdict::Commit { previous }
                }
            },
        }
    }

    fn admit(&mut self, id: CommandId, is_start: bool) -> Result<(), Skip> {
        let newest = self.nodes.get(&id.node).map(|incarnation| incarnation.number);
        if newest.is_some_and(|newest| id.incarnation < newest) {
            return Err(Skip::Fenced);
        }
        let first = newest.is_none_or(|newest| id.incarnation > newest);
        if first {
            self.nodes.insert(
                id.node,
                Incarnation {
                    number: id.incarnation,
                    ..Incarnation::default()
                },
            );
        }
        let incarnation = self.nodes.get_mut(&id.node).unwrap();
        let lawful_first = is_start && id.sequence > 0;
        let too_far = id.sequence > incarnation.contiguous() + MAX_SEQUENCE_LEAD;
        if incarnation.closed || too_far || (first && !lawful_first) {
            incarnation.closed = true;
            self.fragments.retain(|(node, _)| *node != id.node);
            return Err(Skip::Fenced);
        }
        if id.sequence == 0 || !incarnation.seen.insert(id.sequence) {
            return Err(Skip::Duplicate);
        }
        if is_start && !first { Err(Skip::Fenced) } else { Ok(()) }
    }

    fn certify(&mut self, node: u32, write: &WriteRecord) -> Result<(), Abort> {
        if let Body::Fragments { positions, .. } = &write.body {
            let open = positions
                .iter()
                .all(|position| self.fragments.contains(&(node, *position)));
            if !open || !positions.is_sorted_by(|a, b| a < b) {
                return Err(Abort::Malformed);
            }
            self.fragments.retain(|(_, position)| !positions.contains(position));
        }
        if write.base >= self.position {
            return Err(Abort::Malformed);
        }
        match self.check(write.keys.iter().map(|key| (*key, write.base))) {
            Ok(()) => Ok(()),
            Err(CheckFailure::TooOld { .. }) => Err(Abort::TooOld),
            Err(CheckFailure::Conflict(conflict)) => Err(Abort::Conflict(conflict)),
        }
    }

    pub fn check(&self, keys: impl Iterator<Item = (Key, u64)>) -> Result<(), CheckFailure> {
        let floor = self.floor();
        for (key, base) in keys {
            if base < floor {
                return Err(CheckFailure::TooOld { key, floor });
            }
            let holds = |keys: &[Key]| {
                keys.iter()
                    .any(|held| held.hash == key.hash && conflict(held.mode, key.mode))
            };
            let later = self
                .committed
                .iter()
                .filter(|(position, keys)| *position > base && holds(keys));
            if let Some(position) = later.map(|(position, _)| *position).max() {
                return Err(CheckFailure::Conflict(Conflict { key, position }));
            }
        }
        Ok(())
    }

    /// The latest record that does not fit the window together with all behind it.
    pub fn floor(&self) -> u64 {
        let (max_records, max_keys) = self.limits;
        let (mut records, mut total) = (0, 0);
        for (position, keys) in self.committed.iter().rev() {
            records += 1;
            total += keys.len();
            if records > max_records || total > max_keys {
                return *position;
            }
        }
        0
    }

    pub const fn last_commit(&self) -> u64 {
        self.last_commit
    }

    pub fn oldest_open_fragment(&self) -> Option<u64> {
        self.fragments.iter().map(|(_, position)| *position).min()
    }
}

fn conflict(one: KeyMode, other: KeyMode) -> bool {
    use KeyMode::{KeyShare, NoKeyUpdate, Share, Update};
    matches!(
        (one, other),
        (Update, _) | (_, Update) | (NoKeyUpdate, NoKeyUpdate) | (NoKeyUpdate, Share) | (Share, NoKeyUpdate)
    ) && !matches!((one, other), (KeyShare, Share) | (Share, KeyShare))
}
