//! Pieces of large bodies that no record has named yet.
//!
//! Invariants:
//! - an open fragment belongs to the current incarnation of its node;
//! - a node has at most [`MAX_OPEN_FRAGMENTS`] open; beyond, its oldest is forgotten, and a record naming it aborts.

use std::collections::{BTreeMap, BTreeSet};

use crate::mutants::{Mutant, active};

/// Enough for two bodies of the largest size at once.
pub const MAX_OPEN_FRAGMENTS: usize = 2 * synod_change::MAX_FRAGMENTS_PER_RECORD;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragments {
    /// Positions by node; no empty sets.
    pub(crate) open: BTreeMap<u32, BTreeSet<u64>>,
}

impl Fragments {
    pub(crate) fn add(&mut self, node: u32, position: u64) {
        let open = self.open.entry(node).or_default();
        open.insert(position);
        if open.len() > MAX_OPEN_FRAGMENTS {
            open.pop_first();
        }
    }

    /// A record of `node` names these. `false`, and nothing done, unless all are open and the node's own.
    pub(crate) fn close(&mut self, node: u32, positions: &[u64]) -> bool {
        let node = if active(Mutant::ForeignFragments) {
            let holder = |(node, open): (&u32, &BTreeSet<u64>)| {
                positions
                    .iter()
                    .all(|position| open.contains(position))
                    .then_some(*node)
            };
            self.open.iter().find_map(holder).unwrap_or(node)
        } else {
            node
        };
        let Some(open) = self.open.get_mut(&node) else {
            return positions.is_empty();
        };
        let ascending = positions.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || !positions.iter().all(|position| open.contains(position)) {
            return false;
        }
        for position in positions {
            open.remove(position);
        }
        if open.is_empty() {
            self.open.remove(&node);
        }
        true
    }

    /// A new incarnation of `node` begins.
    pub(crate) fn forget(&mut self, node: u32) {
        if !active(Mutant::FragmentsOutlive) {
            self.open.remove(&node);
        }
    }

    /// Only these nodes are members.
    pub(crate) fn keep(&mut self, members: &[u32]) {
        self.open.retain(|node, _| members.contains(node));
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.open.values().filter_map(|open| open.first().copied()).min()
    }
}
