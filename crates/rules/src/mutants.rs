//! Deliberate faults, to prove that the tests would notice them. They exist in test builds only.

/// A rule left out or got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "set by tests only"))]
pub(crate) enum Mutant {
    /// The base itself counts as conflicting.
    BaseInclusive,
    /// The position after the base does not count.
    BaseOffByOne,
    /// FOR SHARE is let past FOR NO KEY UPDATE.
    WeakShare,
    /// Only the last mode seen of a key is remembered.
    OneModePerKey,
    /// Records that abort leave their claims behind.
    AbortedClaim,
    /// Eviction forgets a key although a later record holds it, too.
    EvictsLiveKeys,
    /// Eviction does not raise the floor.
    FloorStays,
    /// A record with its base exactly at the floor is refused.
    FloorInclusive,
    /// A proposal at two positions is two records.
    NoDuplicates,
    /// Sequences above a gap are forgotten.
    ForgetsAboveGap,
    /// Older incarnations are not fenced.
    NoFencing,
    /// An incarnation needs no start record.
    NoStartNeeded,
    /// A new incarnation keeps the fragments of the old.
    FragmentsOutlive,
    /// A record may name fragments of another node.
    ForeignFragments,
    /// A checkpoint leaves out the window.
    CheckpointWithoutWindow,
    /// A checkpoint leaves out the sequences above a gap.
    CheckpointWithoutSequences,
}

#[cfg(test)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this fault is switched on, in this thread.
#[cfg(test)]
pub(crate) fn active(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// Never, outside tests.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn active(_mutant: Mutant) -> bool {
    false
}

/// Runs `body` with the fault switched on.
#[cfg(test)]
pub(crate) fn with<T>(mutant: Mutant, body: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ACTIVE.set(None);
        }
    }
    ACTIVE.set(Some(mutant));
    let _reset = Reset;
    body()
}
