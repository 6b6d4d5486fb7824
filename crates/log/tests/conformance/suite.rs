//! What every shared log keeps.

use std::time::Duration;

use synod_log::{MembershipChange, NodeId, SharedLog, Value};

use crate::world::{Implementation, World};

const ALL: [u32; 3] = [1, 2, 3];

pub fn proposals_of_one_node_are_chosen<I: Implementation>() {
    let mut world = World::<I>::new(1);
    let ids: Vec<_> = (0..200).map(|_| world.propose(1, 100)).collect();
    world.until_chosen(&[1], &ids);
    let status = world.status(1);
    assert_eq!(status.chosen + 1, world.nodes[&1].next());
    assert!(status.quorum);
    assert_eq!(status.leader, Some(NodeId(1)));
}

pub fn all_nodes_see_all_proposals_in_one_order<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let mut ids = Vec::new();
    for round in 0..40 {
        for node in ALL {
            ids.push(world.propose(node, 10 + round));
        }
        world.step();
    }
    world.until_chosen(&ALL, &ids);
    world.check_agreement();
}

pub fn a_tail_covers_everything_chosen_before_it_was_asked<I: Implementation>() {
    let mut world = World::<I>::new(3);
    for round in 1..=20u64 {
        let writer = ALL[round as usize % 3];
        let id = world.propose(writer, 20);
        world.until_chosen(&[writer], &[id]);
        let chosen = world.nodes[&writer].next() - 1;
        let asker = ALL[(round as usize + 1) % 3];
        world.log(asker).tail(round);
        world.until("the tail is told", |world| {
            world.nodes[&asker].tails.iter().any(|(token, _)| *token >= round)
        });
        let (_, position) = *world.nodes[&asker].tails.last().unwrap();
        assert!(position >= chosen, "round {round}: {position} < {chosen}");
        world.until("the asker has what the tail says", |world| {
            world.nodes[&asker].next() > position
        });
    }
    world.check_agreement();
}

pub fn a_tail_is_not_told_without_a_quorum<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let leader = world.until_leader();
    world.implementation.set_connected(NodeId(leader), false);
    let before = world.nodes[&leader].tails.len();
    world.log(leader).tail(1);
    world.run_for(Duration::from_millis(400));
    assert_eq!(world.nodes[&leader].tails.len(), before);
    world.implementation.set_connected(NodeId(leader), true);
    world.until("the tail is told", |world| world.nodes[&leader].tails.len() > before);
}

pub fn a_node_that_was_away_catches_up<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let leader = world.until_leader();
    let away = *ALL.iter().find(|node| **node != leader).unwrap();
    let other = *ALL.iter().find(|node| **node != leader && **node != away).unwrap();
    world.stop(away);
    let ids: Vec<_> = (0..500).map(|_| world.propose(leader, 300)).collect();
    world.until_chosen(&[leader, other], &ids);
    world.restart(away);
    world.until_chosen(&[away], &ids);
    let more = [world.propose(away, 10)];
    world.until_chosen(&ALL, &more);
    world.until("everything is durable", |world| {
        ALL.iter().all(|node| {
            let status = world.status(*node);
            status.durable == status.chosen
        })
    });
    world.check_agreement();
}

pub fn a_new_leader_goes_on_when_the_leader_is_gone<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let leader = world.until_leader();
        let others: Vec<_> = ALL.into_iter().filter(|node| *node != leader).collect();
        ids.extend((0..20).map(|_| world.propose(others[0], 50)));
        world.step();
        world.implementation.set_connected(NodeId(leader), false);
        ids.push(world.propose(others[1], 50));
        world.until_chosen(&others, &ids);
        world.implementation.set_connected(NodeId(leader), true);
        world.until_chosen(&ALL, &ids);
    }
    world.until("everything is durable", |world| {
        ALL.iter().all(|node| {
            let status = world.status(*node);
            status.durable == status.chosen
        })
    });
    world.check_agreement();
}

pub fn a_node_cut_off_gets_its_proposals_in_when_it_is_back<I: Implementation>() {
    let mut world = World::<I>::new(3);
    world.until_leader();
    world.implementation.set_connected(NodeId(2), false);
    let id = world.propose(2, 50);
    world.run_for(Duration::from_millis(300));
    assert_eq!(world.nodes[&1].count(id), 0);
    world.implementation.set_connected(NodeId(2), true);
    world.until_chosen(&ALL, &[id]);
    world.check_agreement();
}

pub fn all_nodes_restarted_have_everything<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let ids: Vec<_> = (0..300).map(|number| world.propose(ALL[number % 3], 200)).collect();
    world.until_chosen(&ALL, &ids);
    for _ in 0..2 {
        for node in ALL {
            world.stop(node);
        }
        for node in ALL {
            // The owner lost what it had: it reads the log again.
            let node_state = world.nodes.get_mut(&node).unwrap();
            node_state.entries.truncate(10);
            world.restart(node);
        }
        world.until_chosen(&ALL, &ids[20..]);
    }
    let more = [world.propose(3, 10)];
    world.until_chosen(&ALL, &more);
    world.check_agreement();
}

pub fn a_trim_keeps_what_is_above<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let ids: Vec<_> = (0..1500).map(|number| world.propose(ALL[number % 3], 200)).collect();
    world.until_chosen(&ALL, &ids);
    let below = world.status(1).chosen - 200;
    for node in ALL {
        world.trim(node, below);
    }
    for node in ALL {
        world.stop(node);
        let state = world.nodes.get_mut(&node).unwrap();
        state.entries.truncate((below - state.first) as usize);
        world.restart(node);
    }
    world.until_chosen(&ALL, &ids[1350..]);
    let more = [world.propose(1, 10)];
    world.until_chosen(&ALL, &more);
    world.check_agreement();
}

pub fn a_node_that_lags_behind_the_trim_says_so<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let leader = world.until_leader();
    let away = *ALL.iter().find(|node| **node != leader).unwrap();
    let others: Vec<_> = ALL.into_iter().filter(|node| *node != away).collect();
    world.stop(away);
    // More than a leader keeps in memory.
    let ids: Vec<_> = (0..400).map(|_| world.propose(leader, 30_000)).collect();
    world.until_chosen(&others, &ids);
    let below = world.status(leader).chosen - 10;
    for node in &others {
        world.trim(*node, below);
    }
    world.restart(away);
    if I::FORGETS {
        world.until("it fails", |world| world.nodes[&away].failed.is_some());
        let reason = world.nodes[&away].failed.clone().unwrap();
        assert!(reason.contains("trimmed"), "{reason}");
    } else {
        world.until_chosen(&[away], &ids);
    }
    world.check_agreement();
}

pub fn members_come_and_go<I: Implementation>() {
    let mut world = World::<I>::new(3);
    let ids: Vec<_> = (0..50).map(|number| world.propose(ALL[number % 3], 20)).collect();
    world.until_chosen(&ALL, &ids);
    world.add(1, 4);
    let more = [world.propose(4, 20)];
    world.until_chosen(&[1, 2, 3, 4], &more);
    assert_eq!(world.member(1, 4), Some(false));
    world.promote(1, 4);
    world.change(1, MembershipChange::Remove(NodeId(2)));
    world.stop(2);
    world.nodes.remove(&2);
    let rest = [1, 3, 4];
    world.until("all know", |world| {
        rest.iter().all(|node| world.nodes[node].membership.members.len() == 3)
    });
    // The new member's vote counts: without node 3 there is a quorum of 1 and 4.
    world.implementation.set_connected(NodeId(3), false);
    let more = [world.propose(1, 20), world.propose(4, 20)];
    world.until_chosen(&[1, 4], &more);
    world.implementation.set_connected(NodeId(3), true);
    world.until_chosen(&rest, &more);
    let versions: Vec<_> = world.nodes[&1]
        .entries
        .iter()
        .filter_map(|entry| match &entry.value {
            Value::Membership(membership) => Some(membership.version),
            _ => None,
        })
        .collect();
    assert!(versions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{versions:?}");
    world.check_agreement();
}

pub fn a_change_that_makes_no_sense_is_refused<I: Implementation>() {
    let mut world = World::<I>::new(1);
    world.until_leader();
    for change in [
        MembershipChange::Promote(NodeId(9)),
        MembershipChange::Remove(NodeId(9)),
    ] {
        let refused = world.nodes[&1].refused.len();
        world.log(1).change_membership(change);
        world.until("it is refused", |world| world.nodes[&1].refused.len() > refused);
    }
}

/// The suite for one implementation.
macro_rules! tests {
    ($implementation:ty) => {
        crate::suite::tests!($implementation:
            proposals_of_one_node_are_chosen,
            all_nodes_see_all_proposals_in_one_order,
            a_tail_covers_everything_chosen_before_it_was_asked,
            a_tail_is_not_told_without_a_quorum,
            a_node_that_was_away_catches_up,
            a_new_leader_goes_on_when_the_leader_is_gone,
            a_node_cut_off_gets_its_proposals_in_when_it_is_back,
            all_nodes_restarted_have_everything,
            a_trim_keeps_what_is_above,
            a_node_that_lags_behind_the_trim_says_so,
            members_come_and_go,
            a_change_that_makes_no_sense_is_refused,
        );
    };
    ($implementation:ty: $($test:ident,)*) => {
        $(
            #[test]
            fn $test() {
                crate::suite::$test::<$implementation>();
            }
        )*
    };
}
pub(crate) use tests;
