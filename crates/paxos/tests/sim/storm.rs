//! Random faults from a seed, then peace: everything must come to rest.

use synod_paxos::{Event, MembershipChange, Mutant, NodeId, Paxos};

use crate::world::World;

/// Run a seed. The failed check, if one did.
pub fn storm(seed: u64, mutant: Option<Mutant>) -> Result<World, String> {
    let voters = if seed.is_multiple_of(2) { 3 } else { 5 };
    let mut world = World::new(seed, voters, 1, mutant);
    world.loss = [0, 20, 100][world.random(3) as usize];
    world.duplicates = [0, 50][world.random(2) as usize];
    world.reorders = world.random(2) == 0;
    // In every third storm. The clocks it relies on do not jump, but run at different rates.
    world.leases = seed.is_multiple_of(3);
    if world.leases {
        for index in 0..world.machines.len() {
            world.machines[index].drift = world.random(48) as i64 - 24;
        }
    }
    for _ in 0..150 {
        let pause_ms = 2 + world.random(60);
        world.run(pause_ms);
        if let Some(violation) = world.checks.violation.take() {
            return Err(violation);
        }
        disturb(&mut world);
    }
    settle(&mut world).map(|()| world)
}

fn disturb(world: &mut World) {
    let count = world.machines.len() as u64;
    let index = world.random(count) as usize;
    match world.random(100) {
        0..40 => {
            for _ in 0..2 {
                let (index, commands, bytes) = (world.random(count), 1 + world.random(8), world.random(150));
                world.propose(index as usize, commands, bytes as usize);
            }
        }
        40..58 => world.ask_tail(index),
        58..64 => world.crash(index),
        64..74 => restart(world),
        74..79 => {
            let (a, b) = (world.random(8) as u32, world.random(8) as u32);
            world.cuts.insert((NodeId(a), NodeId(b)));
        }
        79..82 => {
            let id = world.machines[index].id.0;
            world.isolate(id);
        }
        82..88 => world.heal(),
        88..91 => {
            let back = world.random(30);
            let below = world.checks.tail().saturating_sub(back) + world.random(40);
            world.step(index, Event::Trim { below });
        }
        91..93 if world.leases => {}
        91..93 => {
            let (by_ms, back) = (world.random(5000), world.chance(300));
            world.jump_clock(index, by_ms, back);
        }
        93..94 => lose_disk(world, index),
        94..96 => world.step(index, Event::HandOver),
        _ => administer(world, index),
    }
}

/// A member loses its disk, and tries to go on under its name. One at a time: the group survives a minority.
fn lose_disk(world: &mut World, index: usize) {
    let membership = world.checks.latest_membership();
    let is_voter = membership
        .member(world.machines[index].id)
        .is_some_and(|member| member.voter);
    // Four at least: a removal on its way must not leave two, of which one is lost.
    let settled = membership.members.len() > 3 && membership.members.iter().all(|member| member.voter);
    if is_voter && settled && !world.machines.iter().any(|machine| machine.lost) {
        world.wipe(index);
        world.machines[index].lost = true;
        world.start(index);
    }
}

fn restart(world: &mut World) {
    for index in 0..world.machines.len() {
        let machine = &world.machines[index];
        if machine.process.is_none() && machine.id != NodeId(0) && !machine.fenced {
            world.start(index);
        }
    }
}

/// What an administrator would do next about the members, asked of some node.
fn administer(world: &mut World, asked: usize) {
    let membership = world.checks.latest_membership().clone();
    let is_member = |id: NodeId| membership.member(id).is_some();
    let lost = world
        .machines
        .iter()
        .find(|machine| machine.lost && is_member(machine.id))
        .map(|machine| machine.id);
    let learner = membership.members.iter().find(|member| !member.voter);
    let spare = world.machines.iter().position(|machine| {
        !is_member(machine.id) && !membership.members.iter().any(|member| member.log == machine.disk.log)
    });
    let change = if let Some(lost) = lost {
        MembershipChange::Remove(lost)
    } else if let Some(learner) = learner {
        MembershipChange::Promote(learner.id)
    } else if let Some(spare) = spare {
        if world.machines[spare].id != NodeId(0) {
            // Taken out earlier: it comes back as somebody new.
            world.wipe(spare);
            world.machines[spare].id = NodeId(0);
            world.machines[spare].lost = false;
        }
        MembershipChange::AddLearner {
            log: world.machines[spare].disk.log,
            info: Default::default(),
        }
    } else if membership.members.len() <= 3 {
        return;
    } else {
        let count = membership.members.len() as u64;
        MembershipChange::Remove(membership.members[world.random(count) as usize].id)
    };
    world.step(asked, Event::ChangeMembership(change));
}

/// Heal everything. Whoever can must be up to date soon, and every proposal of a living process chosen.
pub fn settle(world: &mut World) -> Result<(), String> {
    world.heal();
    (world.loss, world.duplicates, world.reorders) = (0, 0, false);
    for machine in &mut world.machines {
        machine.slow_sync = false;
    }
    for round in 0..60 {
        restart(world);
        world.run(250);
        if let Some(violation) = world.checks.violation.take() {
            return Err(violation);
        }
        if round > 2 && is_settled(world) {
            return Ok(());
        }
        // A machine that lost its disk is replaced in the end.
        if round > 20 && world.machines.iter().any(|machine| machine.lost) {
            (0..world.machines.len()).for_each(|index| administer_lost(world, index));
        }
    }
    let states = world.machines.iter().map(|machine| {
        let paxos = machine.process.as_ref().map(|process| &process.paxos);
        let figures = paxos.map(|paxos| (paxos.leader(), paxos.ballot(), paxos.chosen(), paxos.pending()));
        format!(
            "{:?} lost={} fenced={} {figures:?}",
            machine.id, machine.lost, machine.fenced
        )
    });
    let states: Vec<_> = states.collect();
    Err(format!(
        "no progress after healing; tail {}; {states:#?}",
        world.checks.tail()
    ))
}

fn administer_lost(world: &mut World, asked: usize) {
    let lost = world
        .machines
        .iter()
        .find(|machine| machine.lost)
        .map(|machine| machine.id);
    if let Some(lost) = lost.filter(|lost| world.checks.latest_membership().member(*lost).is_some()) {
        world.step(asked, Event::ChangeMembership(MembershipChange::Remove(lost)));
    }
}

fn is_settled(world: &World) -> bool {
    let tail = world.checks.tail();
    let membership = world.checks.latest_membership();
    membership.members.iter().all(|member| {
        let machine = world.machines.iter().find(|machine| machine.disk.log == member.log);
        let Some(machine) = machine else {
            return world.machines.iter().any(|machine| machine.lost);
        };
        let paxos = machine.process.as_ref().map(|process| &process.paxos);
        paxos.is_some_and(|paxos: &Paxos| paxos.chosen() == tail && paxos.pending() == 0)
    })
}
