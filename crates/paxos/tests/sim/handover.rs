//! A leader that lets another one lead: no election timeout passes, and nothing that is lost on the way stops the group.

use synod_paxos::{Body, Event, NodeId};

use crate::schedules::{leader, led_by_1};
use crate::world::World;

const ALL: [u32; 3] = [1, 2, 3];

fn chosen(world: &World, node: u32) -> u64 {
    world.paxos(node as usize - 1).map_or(0, |paxos| paxos.chosen())
}

fn told_to_take_over(world: &World) -> Option<NodeId> {
    let told = world
        .held
        .iter()
        .find(|(_, _, message)| matches!(message.body, Body::TakeOver { .. }));
    told.map(|(_, to, _)| *to)
}

#[test]
fn another_one_leads_before_any_time_has_passed() {
    let mut world = led_by_1(3, None);
    world.propose(0, 3, 10);
    world.step(0, Event::HandOver);
    world.flow(&ALL);
    let new = leader(&world).unwrap();
    assert_ne!(new, 1);
    world.propose(0, 1, 10);
    world.flow(&ALL);
    assert!(
        ALL.iter()
            .all(|node| world.paxos(*node as usize - 1).unwrap().pending() == 0)
    );
    assert_eq!(world.checks.violation, None);
}

/// Nobody hears the leader's group any more, say because its server ends: the next one finds what was under way.
#[test]
fn what_is_under_way_goes_on_under_the_next_leader() {
    let mut world = led_by_1(3, None);
    world.propose(0, 3, 10);
    world.step(0, Event::HandOver);
    assert_eq!(told_to_take_over(&world), None, "it lacks something");
    world.step(0, Event::HandOver);
    assert!(told_to_take_over(&world).is_some());
    world.held.retain(|(_, to, _)| *to != NodeId(1));
    world.crash(0);
    world.flow(&ALL);
    assert!(leader(&world).is_some_and(|leader| leader != 1));
    assert!(chosen(&world, 2) >= 4);
    assert_eq!(world.checks.violation, None);
}

#[test]
fn a_word_that_is_lost_costs_a_pause() {
    let mut world = led_by_1(3, None);
    world.step(0, Event::HandOver);
    assert!(told_to_take_over(&world).is_some());
    world.held.clear();
    let before = chosen(&world, 1);
    world.propose(1, 1, 10);
    world.flow(&ALL);
    assert_eq!(
        chosen(&world, 1),
        before,
        "nothing is proposed while another one is to lead"
    );
    world.tick(0, 140);
    world.flow(&ALL);
    assert_eq!((chosen(&world, 1), leader(&world)), (before + 1, Some(1)));
}

/// `per_node` proposals of each node in each of these windows; who leads then.
fn leader_after(per_node: [u64; 3], leases: bool) -> Option<u32> {
    let mut world = led_by_1(3, None);
    world.leases = leases;
    for index in 0..3 {
        let process = world.machines[index].process.as_mut().unwrap();
        process.paxos.follow_writers(true);
    }
    for _ in 0..60 {
        for (index, count) in per_node.into_iter().enumerate() {
            world.propose(index, count, 10);
        }
        world.flow(&ALL);
        for index in 0..3 {
            world.tick(index, 20);
        }
        world.flow(&ALL);
    }
    assert_eq!(world.checks.violation, None);
    leader(&world)
}

#[test]
fn the_lead_goes_to_the_node_that_writes() {
    assert_eq!(leader_after([0, 5, 0], false), Some(2));
    assert_eq!(leader_after([0, 0, 5], false), Some(3));
    // Not for so little, not when others write, too, and not against promises.
    assert_eq!(leader_after([0, 1, 0], false), Some(1));
    assert_eq!(leader_after([1, 5, 0], false), Some(1));
    assert_eq!(leader_after([5, 0, 0], false), Some(1));
    assert_eq!(leader_after([0, 5, 0], true), Some(1));
}
