//! Deliberate faults, to prove that the simulator finds them: a checker that never saw a bug proves nothing.
//!
//! Each stands at the one place in the code where the rule that it breaks is kept. Without the feature `mutants` the
//! question is the constant `false` and leaves no trace in the product.

/// A fault that the tests must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it; the rule is at the place of use.
pub enum Mutant {
    AckBeforeFsync,
    PromiseBeforeFsync,
    PromiseNotRecorded,
    CandidateCountsUnsyncedSelf,
    AcceptBelowPromise,
    StaleBallotAckCounted,
    LowestBallotWins,
    PromiseReportsNothing,
    CandidateForgetsItself,
    DuplicatePromiseCounted,
    LeaderCountsUnsyncedSelf,
    MinorityIsQuorum,
    LearnerCountsAsVoter,
    ForeignDiskVotes,
    DamagedDiskVotes,
    RolledBackDiskTrusted,
    TrimBeyondChosen,
    MembershipBeforeChosen,
    TailWithoutQuorum,
    TailBeforeOwnEntry,
    ChosenWithoutBallotCheck,
    GapAcknowledged,
    LeaseNotShortened,
    LeaseDoesNotBind,
    LeaseForgottenAtStart,
    LeaseOutlivesMembers,
}

impl crate::Options {
    /// Is this fault switched on?
    #[cfg(feature = "mutants")]
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Is this fault switched on? Never.
    #[cfg(not(feature = "mutants"))]
    pub(crate) fn has(&self, _: Mutant) -> bool {
        false
    }
}
