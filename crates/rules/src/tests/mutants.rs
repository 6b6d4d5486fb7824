//! Each deliberate fault is noticed by the histories, within their budget. A fault that lives means a rule without a test.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::histories::{disagreement, steps};
use crate::mutants::{Mutant, with};

const BUDGET: usize = 400;

/// The histories tried until one notices.
fn caught_after(mutant: Mutant) -> Option<usize> {
    let strategy = (steps(), any::<prop::sample::Index>());
    let mut runner = TestRunner::deterministic();
    (1..=BUDGET).find(|_| {
        let (steps, saved_after) = strategy.new_tree(&mut runner).expect("nothing is filtered").current();
        with(mutant, || disagreement(&steps, saved_after)).is_err()
    })
}

#[test]
fn every_mutant_is_caught() {
    let all = [
        Mutant::BaseInclusive,
        Mutant::BaseOffByOne,
        Mutant::WeakShare,
        Mutant::OneModePerKey,
        Mutant::AbortedClaim,
        Mutant::EvictsLiveKeys,
        Mutant::FloorStays,
        Mutant::FloorInclusive,
        Mutant::NoDuplicates,
        Mutant::ForgetsAboveGap,
        Mutant::NoFencing,
        Mutant::NoStartNeeded,
        Mutant::FragmentsOutlive,
        Mutant::ForeignFragments,
        Mutant::CheckpointWithoutWindow,
        Mutant::CheckpointWithoutSequences,
    ];
    let alive: Vec<_> = all
        .into_iter()
        .filter(|mutant| caught_after(*mutant).is_none())
        .collect();
    assert!(alive.is_empty(), "nobody noticed {alive:?} in {BUDGET} histories");
}
