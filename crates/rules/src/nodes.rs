//! Who may propose, and what was seen of it already.
//!
//! Invariants, per node:
//! - only one incarnation, the highest ever seen in the log, is admitted, and only if its first command was its start;
//! - a sequence is admitted once: all up to `contiguous` and those in `above` were;
//! - every sequence in `above` lies in (contiguous + 1, contiguous + [`MAX_SEQUENCE_LEAD`]].

use std::collections::{BTreeMap, BTreeSet};

use crate::mutants::{Mutant, active};
use crate::{CommandId, Skip};

/// How far a proposal may stand in the log ahead of one with a lower sequence that is still missing. A proposer has
/// fewer than this undecided at any time; one that has more is fenced for good.
pub const MAX_SEQUENCE_LEAD: u64 = 65_536;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    pub(crate) current: BTreeMap<u32, Incarnation>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub(crate) number: u64,
    /// Broke a rule; nothing of it is admitted until the node starts again.
    pub(crate) closed: bool,
    pub(crate) contiguous: u64,
    pub(crate) above: BTreeSet<u64>,
}

/// What to do with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new, and its proposer may propose.
    Admitted,
    /// As above, and it begins an incarnation: what older ones left behind is void.
    Started,
    /// Its incarnation broke a rule: skip it as fenced. What the node left behind is void.
    Closed,
    Refused(Skip),
}

impl Nodes {
    pub(crate) fn admit(&mut self, id: CommandId, is_start: bool) -> Admission {
        let known = match self.current.get_mut(&id.node) {
            Some(known) if id.incarnation < known.number && !active(Mutant::NoFencing) => {
                return Admission::Refused(Skip::Fenced);
            }
            Some(known) if id.incarnation <= known.number => known,
            _ => return self.begin(id, is_start),
        };
        if known.closed {
            return Admission::Refused(Skip::Fenced);
        }
        match known.see(id.sequence) {
            Seen::Before if !active(Mutant::NoDuplicates) => Admission::Refused(Skip::Duplicate),
            Seen::TooFarAhead => {
                known.close();
                Admission::Closed
            }
            _ if is_start => Admission::Refused(Skip::Fenced),
            _ => Admission::Admitted,
        }
    }

    /// The first command seen of an incarnation above all before it. One that is no start closes its incarnation: if it
    /// were merely skipped and stood in the log once more behind the start, one proposal would have two verdicts.
    fn begin(&mut self, id: CommandId, is_start: bool) -> Admission {
        let mut begun = Incarnation {
            number: id.incarnation,
            ..Incarnation::default()
        };
        let entitled = is_start || active(Mutant::NoStartNeeded);
        let admission = if entitled && matches!(begun.see(id.sequence), Seen::First) {
            Admission::Started
        } else {
            begun.close();
            Admission::Closed
        };
        self.current.insert(id.node, begun);
        admission
    }
}

enum Seen {
    First,
    Before,
    TooFarAhead,
}

impl Incarnation {
    fn close(&mut self) {
        self.closed = true;
        self.contiguous = 0;
        self.above.clear();
    }

    fn see(&mut self, sequence: u64) -> Seen {
        if sequence <= self.contiguous {
            return Seen::Before;
        }
        if sequence - self.contiguous > MAX_SEQUENCE_LEAD {
            return Seen::TooFarAhead;
        }
        if sequence > self.contiguous + 1 {
            let first = active(Mutant::ForgetsAboveGap) || self.above.insert(sequence);
            return if first { Seen::First } else { Seen::Before };
        }
        self.contiguous = sequence;
        while self.above.first() == Some(&(self.contiguous + 1)) {
            self.above.pop_first();
            self.contiguous += 1;
        }
        Seen::First
    }
}
