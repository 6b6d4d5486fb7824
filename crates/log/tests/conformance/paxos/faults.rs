//! Faults that only a log on disks and a network can have.

use std::fs;

use synod_log::{LogOptions, NodeId, PaxosLog, ProposalId, SharedLog, StorageError};

use super::Cluster;
use crate::network::Link;
use crate::world::{Implementation, World};

const ALL: [u32; 3] = [1, 2, 3];

fn write_some(world: &mut World<Cluster>, count: usize, bytes: usize) -> Vec<ProposalId> {
    (0..count).map(|number| world.propose(ALL[number % 3], bytes)).collect()
}

#[test]
fn a_network_that_loses_repeats_and_reorders_loses_nothing() {
    let mut world = World::<Cluster>::new(3);
    world.implementation.network.set_faults(150);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.extend(write_some(&mut world, 9, 300));
        world.step();
    }
    world.until_chosen(&ALL, &ids);
    world.check_agreement();
}

#[test]
fn a_power_cut_between_write_and_sync_loses_nothing_acknowledged() {
    let mut world = World::<Cluster>::new(3);
    for round in 0..9u32 {
        let victim = round % 3 + 1;
        let before = write_some(&mut world, 6, 200);
        world.until_chosen(&ALL, &before);
        world.implementation.power.lock().unwrap().cut.insert(NodeId(victim));
        let during = write_some(&mut world, 6, 200);
        world.until("the node stops", |world| world.nodes[&victim].failed.is_some());
        world.stop(victim);
        tear(&world.implementation, NodeId(victim), round);
        world.implementation.power.lock().unwrap().cut.clear();
        world.restart(victim);
        world.until_chosen(&ALL, &before);
        // Proposals of the node that was cut may be in the log or not; those of the others must be.
        let others: Vec<_> = during.into_iter().filter(|id| id.node != NodeId(victim)).collect();
        world.until_chosen(&ALL, &others);
        world.check_agreement();
    }
}

/// What was written and not synced is lost: all of it, none of it, or parts.
fn tear(cluster: &Cluster, node: NodeId, round: u32) {
    let (path, range) = cluster
        .power
        .lock()
        .unwrap()
        .unsynced
        .remove(&node)
        .expect("a sync was cut");
    let mut bytes = fs::read(&path).unwrap();
    let piece = (range.len() / 3).max(1);
    for (number, piece) in bytes[range.start as usize..range.end as usize]
        .chunks_mut(piece)
        .enumerate()
    {
        if round & (1 << number) == 0 {
            piece.fill(0);
        }
    }
    fs::write(&path, bytes).unwrap();
}

#[test]
fn all_nodes_killed_between_write_and_sync_keep_what_was_acknowledged() {
    let mut world = World::<Cluster>::new(3);
    let before = write_some(&mut world, 60, 200);
    world.until_chosen(&[1], &before);
    world.implementation.power.lock().unwrap().cut.extend(ALL.map(NodeId));
    write_some(&mut world, 30, 200);
    world.until("all stop", |world| {
        ALL.iter().all(|node| world.nodes[node].failed.is_some())
    });
    for node in ALL {
        world.stop(node);
        tear(&world.implementation, NodeId(node), node);
    }
    world.implementation.power.lock().unwrap().cut.clear();
    for node in ALL {
        world.restart(node);
    }
    world.until_chosen(&ALL, &before);
    let after = write_some(&mut world, 30, 200);
    world.until_chosen(&ALL, &after);
    world.check_agreement();
}

#[test]
fn a_failed_sync_is_reported_and_never_tried_again() {
    let mut world = World::<Cluster>::new(1);
    world.until_leader();
    world.implementation.power.lock().unwrap().cut.insert(NodeId(1));
    let id = world.propose(1, 10);
    world.until("it fails", |world| world.nodes[&1].failed.is_some());
    world.implementation.power.lock().unwrap().cut.clear();
    assert!(
        world.nodes[&1].failed.as_ref().unwrap().contains("could not sync"),
        "{:?}",
        world.nodes[&1].failed
    );
    for _ in 0..5 {
        let mut events = Vec::new();
        world.log(1).poll(std::time::Duration::from_secs(1000), &mut events);
        assert!(events.is_empty(), "{events:?}");
    }
    assert_eq!(world.nodes[&1].count(id), 0);
}

/// Its thread waited for its disk, answered nobody, and lost its office with that; every second of a hung disk was one of a group that
/// had no leader. (Seen to fail with the leader writing by itself; and, with the office kept for ever, in the second half.)
#[test]
fn a_leader_whose_disk_hangs_goes_on_with_those_of_the_others_and_then_lets_one_of_them_lead() {
    let mut world = World::<Cluster>::new(3);
    let ids = write_some(&mut world, 30, 100);
    world.until_chosen(&ALL, &ids);
    let leader = world.until_leader();
    let others: Vec<u32> = ALL.into_iter().filter(|node| *node != leader).collect();
    let round = world.status(others[0]).round;
    world.implementation.power.lock().unwrap().hung.insert(NodeId(leader));
    let during: Vec<_> = ALL.into_iter().map(|node| world.propose(node, 100)).collect();
    world.until_chosen(&others, &during);
    assert_eq!(world.status(others[0]).round, round, "there was an election");
    world.until("another one leads", |world| {
        let leads = |node: &u32| world.status(*node).leader == Some(NodeId(*node));
        others.iter().any(leads)
    });
    // It follows, without a disk.
    let after: Vec<_> = others.iter().map(|node| world.propose(*node, 100)).collect();
    world.until_chosen(&others, &after);
    world.implementation.power.lock().unwrap().hung.clear();
    world.until_chosen(&ALL, &during);
    world.until_chosen(&ALL, &after);
    world.check_agreement();
}

#[test]
fn a_wiped_directory_does_not_vote_again() {
    let mut world = World::<Cluster>::new(3);
    let ids = write_some(&mut world, 30, 100);
    world.until_chosen(&ALL, &ids);
    world.stop(3);
    let directory = world.implementation.directory(NodeId(3));
    fs::remove_dir_all(&directory).unwrap();
    let opened = PaxosLog::open(
        &directory,
        options(&world, 3),
        world.implementation.network.link(NodeId(3)),
    );
    assert!(matches!(opened, Err(StorageError::Missing(_))));
    // Somebody insists, and gives the empty directory the old name.
    PaxosLog::<Link>::reserve(&directory, &options(&world, 3)).unwrap();
    let membership = world.status(1).membership;
    let next = world.nodes[&3].next();
    let log = world.implementation.join(NodeId(3), next - 1, membership);
    world.nodes.get_mut(&3).unwrap().log = Some(log);
    world.until("it is refused", |world| world.nodes[&3].failed.is_some());
    world.stop(3);
    let ids = [world.propose(1, 10), world.propose(2, 10)];
    world.until_chosen(&[1, 2], &ids);
    world.check_agreement();
}

fn options(world: &World<Cluster>, node: u32) -> LogOptions {
    world.implementation.options(NodeId(node))
}

#[test]
fn a_directory_is_opened_once_and_only_by_its_owner() {
    let mut world = World::<Cluster>::new(1);
    world.until_leader();
    let directory = world.implementation.directory(NodeId(1));
    let link = || world.implementation.network.link(NodeId(1));
    let again = PaxosLog::open(&directory, options(&world, 1), link());
    assert!(matches!(again, Err(StorageError::InUse(_))));
    world.nodes.get_mut(&1).unwrap().log = None;
    let other = PaxosLog::open(&directory, options(&world, 2), link());
    assert!(matches!(other, Err(StorageError::OtherNode { .. })));
    let created = PaxosLog::create(&directory, options(&world, 1), bytes::Bytes::new(), link());
    assert!(matches!(created, Err(StorageError::Exists(_))));
}

#[test]
fn a_damaged_segment_is_named_and_left_alone() {
    let mut world = World::<Cluster>::new(3);
    let ids = write_some(&mut world, 900, 200);
    world.until_chosen(&ALL, &ids);
    world.stop(2);
    let path = world.implementation.directory(NodeId(2)).join("0000000002.seg");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20_000] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let directory = world.implementation.directory(NodeId(2));
    let opened = PaxosLog::open(
        &directory,
        options(&world, 2),
        world.implementation.network.link(NodeId(2)),
    );
    let message = opened.err().expect("refused").to_string();
    assert!(
        message.contains("0000000002.seg") && message.contains("add it again"),
        "{message}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
    // The others go on, and a new member takes its place.
    world.nodes.remove(&2);
    world.change(1, synod_log::MembershipChange::Remove(NodeId(2)));
    world.add(1, 4);
    world.promote(1, 4);
    let ids = [world.propose(1, 10), world.propose(4, 10)];
    world.until_chosen(&[1, 3, 4], &ids);
    world.check_agreement();
}

#[test]
fn an_owner_that_needs_trimmed_entries_is_told() {
    let mut world = World::<Cluster>::new(1);
    let ids: Vec<_> = (0..100).map(|_| world.propose(1, 100)).collect();
    world.until_chosen(&[1], &ids);
    world.trim(1, 50);
    world.stop(1);
    let options = LogOptions {
        deliver_from: 10,
        ..options(&world, 1)
    };
    let directory = world.implementation.directory(NodeId(1));
    let opened = PaxosLog::open(&directory, options, world.implementation.network.link(NodeId(1)));
    assert!(matches!(
        opened.err(),
        Some(StorageError::Trimmed { wanted: 10, first: 50 })
    ));
}
