//! Every deliberate fault is found by the schedule written for it; many by random seeds, too.

use synod_paxos::Mutant::{self, *};

use crate::schedules::*;
use crate::storm::settle;
use crate::world::World;

type Schedule = fn(Option<Mutant>) -> World;

const SCHEDULES: [(Mutant, Schedule); 26] = [
    (AckBeforeFsync, hasty_follower),
    (PromiseBeforeFsync, promise_lost_in_crash),
    (PromiseNotRecorded, promise_outlives_crash),
    (CandidateCountsUnsyncedSelf, candidate_dies),
    (AcceptBelowPromise, old_accept),
    (StaleBallotAckCounted, old_acknowledgement),
    (LowestBallotWins, two_values),
    (PromiseReportsNothing, helpers_entry_counts),
    (CandidateForgetsItself, own_entry_counts),
    (DuplicatePromiseCounted, promise_twice),
    (LeaderCountsUnsyncedSelf, slow_leader),
    (MinorityIsQuorum, lonely_leader),
    (LearnerCountsAsVoter, learner_acknowledges),
    (ForeignDiskVotes, wiped_disk),
    (DamagedDiskVotes, damaged_disk),
    (RolledBackDiskTrusted, rolled_back_disk),
    (TrimBeyondChosen, greedy_trim),
    (MembershipBeforeChosen, early_membership),
    (TailWithoutQuorum, old_leader_tail),
    (TailBeforeOwnEntry, new_leader_tail),
    (ChosenWithoutBallotCheck, watermark_only),
    (GapAcknowledged, lost_entry),
    (LeaseNotShortened, fast_clock),
    (LeaseDoesNotBind, late_prepare),
    (LeaseForgottenAtStart, promise_of_an_earlier_process),
    (LeaseOutlivesMembers, members_of_the_lease_go),
];

#[test]
fn schedules_find_the_mutants() {
    let missed: Vec<_> = SCHEDULES
        .iter()
        .filter(|(mutant, schedule)| schedule(Some(*mutant)).checks.violation.is_none())
        .map(|(mutant, _)| mutant)
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn schedules_pass_without_mutants() {
    for (mutant, schedule) in SCHEDULES {
        let mut world = schedule(None);
        assert_eq!(world.checks.violation, None, "the schedule for {mutant:?}");
        // A disk that was lost or distrusted is for the administrator; the others must come to rest.
        if !matches!(mutant, ForeignDiskVotes | DamagedDiskVotes | RolledBackDiskTrusted) {
            world.release();
            assert_eq!(settle(&mut world), Ok(()), "after the schedule for {mutant:?}");
        }
    }
}
