//! Schedules written by hand: the shortest way from each deliberate fault to a broken promise. Random seeds find many
//! of the faults, too, but not all within any reasonable number.
//!
//! Nodes are named 1, 2, 3 …; messages and fsyncs wait until a schedule lets them go. Each schedule passes on the code
//! as it is.

use synod_paxos::{Body, Event, MembershipChange, Message, Mutant, NodeId};

use crate::world::World;

impl World {
    fn by_hand(voters: u32, mutant: Option<Mutant>) -> World {
        let mut world = World::new(1, voters, 1, mutant);
        world.is_manual = true;
        world.tick_all(20);
        // All of them started long ago.
        world.machines.iter_mut().for_each(|machine| machine.uptime_ms += 200);
        world
    }

    fn tick_all(&mut self, by_ms: u64) {
        (0..self.machines.len()).for_each(|index| self.tick(index, by_ms));
    }

    /// Deliver what these nodes say to each other, once.
    fn deliver_if(&mut self, wanted: impl Fn(u32, u32, &Body) -> bool) -> bool {
        let (now, later) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(from, to, message)| wanted(from.0, to.0, &message.body));
        self.held = later;
        let now: Vec<(NodeId, NodeId, Message)> = now;
        let any = !now.is_empty();
        now.into_iter()
            .for_each(|(from, to, message)| self.deliver(from, to, message));
        any
    }

    /// Finish the fsyncs of a node.
    fn sync(&mut self, node: u32) -> bool {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held_syncs)
            .into_iter()
            .partition(|sync| sync.machine == node as usize - 1);
        self.held_syncs = later;
        let any = !now.is_empty();
        now.into_iter().for_each(|sync| self.let_sync(sync));
        any
    }

    /// These nodes talk and sync until nothing more happens.
    pub fn flow(&mut self, nodes: &[u32]) {
        self.flow_syncing(nodes, nodes);
    }

    fn flow_syncing(&mut self, nodes: &[u32], syncing: &[u32]) {
        for _ in 0..200 {
            let said = self.deliver_if(|from, to, _| nodes.contains(&from) && nodes.contains(&to));
            let synced = syncing.iter().filter(|node| self.sync(**node)).count();
            if !said && synced == 0 {
                return;
            }
        }
    }

    /// The node notices that there is no leader, and asks these for their votes: until it has sent its pre-votes.
    fn stand(&mut self, node: u32, helpers: &[u32]) {
        for helper in helpers {
            // Who hears a leader grants nothing.
            if self
                .paxos(*helper as usize - 1)
                .is_some_and(|paxos| paxos.leader().is_some())
            {
                self.tick(*helper as usize - 1, 200);
            }
        }
        self.held.retain(|(from, ..)| from.0 != node);
        for _ in 0..60 {
            self.tick(node as usize - 1, 20);
            let asks = |(from, _, message): &(NodeId, NodeId, Message)| {
                from.0 == node && matches!(message.body, Body::PreVote { .. })
            };
            if self.held.iter().any(asks) {
                return;
            }
        }
    }

    /// The node becomes leader with the help of these, if it can.
    fn elect(&mut self, node: u32, helpers: &[u32]) {
        let nodes: Vec<u32> = helpers.iter().copied().chain([node]).collect();
        // The first attempt may only tell it which ballots there are.
        for _ in 0..3 {
            self.stand(node, helpers);
            self.flow(&nodes);
            if self.leads(node) {
                return;
            }
        }
    }

    /// As `elect`, but the new leader's Accepts stay on the way.
    fn elect_unaccepted(&mut self, node: u32, helper: u32) {
        for _ in 0..3 {
            self.stand(node, &[helper]);
            for _ in 0..20 {
                let between = |from: u32, to: u32| (from, to) == (node, helper) || (from, to) == (helper, node);
                self.deliver_if(|from, to, body| between(from, to) && !matches!(body, Body::Accept { .. }));
                self.sync(node);
                self.sync(helper);
            }
            if self.leads(node) {
                return;
            }
        }
    }

    fn leads(&self, node: u32) -> bool {
        self.paxos(node as usize - 1)
            .is_some_and(|paxos| paxos.leader() == Some(NodeId(node)))
    }

    /// Of a leader's entries, `at` accepts, and says so; nobody hears of what that makes chosen.
    fn accept_at(&mut self, leader: u32, at: u32) {
        self.deliver_if(|from, to, body| (from, to) == (leader, at) && matches!(body, Body::Accept { .. }));
        self.sync(at);
        self.deliver_if(|from, to, body| (from, to) == (at, leader) && matches!(body, Body::Accepted { .. }));
        self.sync(leader);
    }

    /// Long enough ago that no lease keeps it from voting.
    fn restart(&mut self, node: u32) {
        self.restart_now(node);
        self.machines[node as usize - 1].uptime_ms += 200;
    }

    fn restart_now(&mut self, node: u32) {
        self.crash(node as usize - 1);
        self.start(node as usize - 1);
        self.tick(node as usize - 1, 20);
    }

    fn propose_one(&mut self, node: u32) {
        self.propose(node as usize - 1, 1, 10);
    }
}

/// Who leads, as it says itself; the one of the highest ballot.
pub fn leader(world: &World) -> Option<u32> {
    let leaders = (1..=world.machines.len() as u32).filter(|node| world.leads(*node));
    leaders.max_by_key(|node| world.paxos(*node as usize - 1).map(|paxos| paxos.ballot()))
}

/// 1 leads; the no-op at 1 is chosen and known to everybody; the network is empty.
pub fn led_by_1(voters: u32, mutant: Option<Mutant>) -> World {
    let mut world = World::by_hand(voters, mutant);
    let others: Vec<u32> = (2..=voters).collect();
    world.elect(1, &others);
    world.flow(&(1..=voters).collect::<Vec<_>>());
    world.held.clear();
    world
}

/// The leader's fsync is slow; one follower acknowledges.
pub fn slow_leader(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.deliver_if(|_, to, _| to == 2);
    world.sync(2);
    world.deliver_if(|_, to, _| to == 1);
    world
}

/// Nobody but the leader gets the entry.
pub fn lonely_leader(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.sync(1);
    world
}

/// A follower says that it has accepted, and dies before its fsync.
pub fn hasty_follower(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.sync(1);
    world.deliver_if(|_, to, _| to == 2);
    world.deliver_if(|_, to, _| to == 1);
    world
}

/// The first of two entries is lost on the way.
pub fn lost_entry(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.held.clear();
    world.propose_one(1);
    world.deliver_if(|_, to, _| to == 2);
    world.sync(2);
    world.deliver_if(|from, _, body| from == 2 && matches!(body, Body::Accepted { .. }));
    world.sync(1);
    world
}

/// 3 promises 2's ballot; `crashes` before or after its fsync; then an old Accept of 1 arrives at 3.
fn old_accept_after_promise(mutant: Option<Mutant>, syncs: bool, crashes: bool) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    let is_old = |(from, to, _): &(NodeId, NodeId, Message)| (from.0, to.0) == (1, 3);
    let old: Vec<_> = world.held.iter().filter(|held| is_old(held)).cloned().collect();
    world.held.clear();
    world.stand(2, &[3]);
    world.flow_syncing(&[2, 3], if syncs { &[2, 3] } else { &[2] });
    // 2 leads if it could; its first Accept is on the way to 3, or there already.
    if crashes {
        world.restart(3);
    }
    world.held.extend(old);
    world.accept_at(1, 3);
    world.propose_one(2);
    world.tick(1, 60);
    world.flow(&[2, 3]);
    world
}

/// A promise that a crash makes forgotten, said too early.
pub fn promise_lost_in_crash(mutant: Option<Mutant>) -> World {
    old_accept_after_promise(mutant, false, true)
}

/// A leader that only has a promise, nothing accepted: the promise must outlive a crash.
pub fn promise_outlives_crash(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    let old: Vec<_> = world.held.iter().filter(|(_, to, _)| to.0 == 3).cloned().collect();
    world.held.clear();
    world.elect_unaccepted(2, 3);
    let new: Vec<_> = world
        .held
        .drain(..)
        .filter(|(from, to, _)| (from.0, to.0) == (2, 3))
        .collect();
    world.restart(3);
    world.held = old;
    world.accept_at(1, 3);
    world.held = new;
    world.accept_at(2, 3);
    world
}

/// 3 has accepted in 2's ballot; an old Accept of 1 arrives.
pub fn old_accept(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    let old: Vec<_> = world.held.iter().filter(|(_, to, _)| to.0 == 3).cloned().collect();
    world.held.clear();
    world.elect_unaccepted(2, 3);
    let new: Vec<_> = world
        .held
        .drain(..)
        .filter(|(from, to, _)| (from.0, to.0) == (2, 3))
        .collect();
    world.held = old;
    world.accept_at(1, 3);
    world.held = new;
    world.accept_at(2, 3);
    world
}

/// A candidate dies before its own promise is durable, and stands again with the help of somebody else.
pub fn candidate_dies(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.stand(2, &[3]);
    world.flow_syncing(&[2, 3], &[3]);
    world.propose_one(2);
    world.restart(2);
    world.held.clear();
    world.restart(1);
    world.elect(2, &[1]);
    world.propose_one(2);
    world
}

/// An acknowledgement of an earlier ballot arrives in a later one, in which other values stand there.
pub fn old_acknowledgement(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    // Make durable what is chosen, so that 1 comes back knowing as much as the others.
    world.step(0, Event::Trim { below: 1 });
    world.sync(1);
    world.propose_one(1);
    world.deliver_if(|_, to, _| to == 3);
    world.sync(3);
    let old: Vec<_> = world
        .held
        .drain(..)
        .filter(|(_, _, m)| matches!(m.body, Body::Accepted { .. }))
        .collect();
    world.restart(1);
    world.elect_unaccepted(1, 2);
    world.held = old;
    world.deliver_if(|_, to, _| to == 1);
    world
}

/// At position 2, 1 holds a value of the first ballot, and 3 that of the second one, which is chosen. 1 stands.
pub fn two_values(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.sync(1);
    world.held.clear();
    chosen_unseen(&mut world, 2, 3);
    world.elect(1, &[3]);
    world
}

/// `leader` takes over with the help of `follower`, and has its no-op chosen; the follower does not know.
fn chosen_unseen(world: &mut World, leader: u32, follower: u32) {
    world.elect_unaccepted(leader, follower);
    world.accept_at(leader, follower);
    world.held.clear();
}

/// The candidate itself holds what is chosen; its helper does not.
pub fn own_entry_counts(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.accept_at(1, 3);
    world.held.clear();
    world.elect(3, &[2]);
    world
}

/// The candidate's helper holds what is chosen; the candidate does not.
pub fn helpers_entry_counts(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.accept_at(1, 3);
    world.held.clear();
    world.elect(2, &[3]);
    world
}

/// Five nodes; two promises, one of them delivered twice.
pub fn promise_twice(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(5, mutant);
    world.propose_one(1);
    world.accept_at(1, 2);
    world.accept_at(1, 3);
    world.held.clear();
    world.stand(5, &[4, 3]);
    world.deliver_if(|_, _, body| matches!(body, Body::PreVote { .. }));
    world.deliver_if(|_, to, body| to == 5 && matches!(body, Body::PreVoteReply { .. }));
    world.sync(5);
    world.deliver_if(|_, to, body| to == 4 && matches!(body, Body::Prepare { .. }));
    world.sync(4);
    let again: Vec<_> = world.held.iter().filter(|(from, ..)| from.0 == 4).cloned().collect();
    world.held.retain(|(_, to, _)| to.0 == 5);
    world.held.extend(again);
    world.deliver_if(|_, to, body| to == 5 && matches!(body, Body::Promise { .. }));
    world.sync(5);
    world.deliver_if(|_, _, body| matches!(body, Body::Accept { .. }));
    (2..=4).for_each(|node| {
        world.sync(node);
    });
    world.deliver_if(|_, to, body| to == 5 && matches!(body, Body::Accepted { .. }));
    world
}

/// A learner acknowledges, no other voter does.
pub fn learner_acknowledges(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    let log = world.machines[3].disk.log;
    world.step(
        0,
        Event::ChangeMembership(MembershipChange::AddLearner {
            log,
            info: Default::default(),
        }),
    );
    for _ in 0..10 {
        world.flow(&[1, 2, 3, 4]);
        world.tick(0, 60);
    }
    world.flow(&[1, 2, 3, 4]);
    world.propose_one(1);
    world.sync(1);
    world.accept_at(1, 4);
    world
}

/// 2 holds what is chosen and loses it in the given way; then 3 asks 2 for its vote.
fn disk_trouble(mutant: Option<Mutant>, lose: impl Fn(&mut World)) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.accept_at(1, 2);
    world.held.clear();
    lose(&mut world);
    world.start(1);
    world.tick(1, 20);
    world.machines[1].uptime_ms += 200;
    world.elect(3, &[2]);
    world
}

/// The disk is gone; an empty one is there under its name.
pub fn wiped_disk(mutant: Option<Mutant>) -> World {
    disk_trouble(mutant, |world| world.wipe(1))
}

/// The disk has lost a record, and the host has noticed.
pub fn damaged_disk(mutant: Option<Mutant>) -> World {
    disk_trouble(mutant, |world| {
        world.crash(1);
        world.machines[1].damaged = true;
        world.machines[1].disk.entries.remove(&2);
        world.machines[1].disk.synced.accepted.remove(&2);
    })
}

/// The disk is that of yesterday, and nobody has told the host.
pub fn rolled_back_disk(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    let yesterday = world.machines[1].disk.clone();
    world.propose_one(1);
    world.flow(&[1, 2]);
    world.crash(1);
    world.machines[1].disk = yesterday;
    world.start(1);
    world.held.clear();
    world.tick(0, 60);
    world.deliver_if(|_, to, _| to == 2);
    world.deliver_if(|_, to, _| to == 1);
    if !world.distrusted.contains(&NodeId(2)) {
        world.checks.fail("a disk went back in time, and nobody noticed".into());
    }
    world
}

/// Give up what is not chosen.
pub fn greedy_trim(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.step(0, Event::Trim { below: 3 });
    world.sync(1);
    world
}

/// Four voters; the fourth is removed with the word of two.
pub fn early_membership(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(4, mutant);
    world.tick(0, 60);
    world.flow(&[1, 2, 3, 4]);
    world.step(0, Event::ChangeMembership(MembershipChange::Remove(NodeId(4))));
    world.sync(1);
    world.accept_at(1, 2);
    world
}

/// A leader that nobody hears any more is asked for the tail.
pub fn old_leader_tail(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.elect(2, &[3]);
    world.ask_tail(0);
    world
}

/// A new leader that has not had an entry of its own chosen is asked for the tail.
pub fn new_leader_tail(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.accept_at(1, 3);
    world.held.clear();
    world.elect_unaccepted(2, 3);
    world.ask_tail(1);
    for _ in 0..4 {
        world.deliver_if(|from, to, body| from + to == 5 && !matches!(body, Body::Accept { .. }));
    }
    world
}

/// 3 holds a value of the first ballot at 2; another one is chosen there; 3 hears of the watermark only.
pub fn watermark_only(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.propose_one(1);
    world.deliver_if(|_, to, _| to == 3);
    world.sync(3);
    world.restart(1);
    world.held.clear();
    world.elect(2, &[1]);
    world.held.clear();
    world.tick(1, 60);
    world.deliver_if(|_, to, body| to == 3 && matches!(body, Body::Heartbeat { .. }));
    world
}

/// 1 leads, under a lease that these have promised.
fn leased_by_1(voters: u32, promising: &[u32], mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(voters, mutant);
    world.leases = true;
    world.promise_lease(promising);
    world
}

impl World {
    fn promise_lease(&mut self, promising: &[u32]) {
        self.held.clear();
        self.tick(0, 60);
        self.deliver_if(|from, to, body| {
            from == 1 && promising.contains(&to) && matches!(body, Body::Heartbeat { .. })
        });
        self.deliver_if(|from, to, body| {
            to == 1 && promising.contains(&from) && matches!(body, Body::HeartbeatReply { .. })
        });
        self.held.clear();
        self.read_leased();
        assert!(self.leased > 0, "no lease");
    }
}

/// The clock of 3 is a little faster than that of 1: its promise ends first.
pub fn fast_clock(mutant: Option<Mutant>) -> World {
    let mut world = leased_by_1(3, &[3], mutant);
    world.tick(2, 200);
    world.jump_clock(0, 192, false);
    world.elect(2, &[3]);
    world.read_leased();
    world
}

/// 2 has the votes of 3 for an election when 3 hears the leader again, and promises.
pub fn late_prepare(mutant: Option<Mutant>) -> World {
    let mut world = led_by_1(3, mutant);
    world.leases = true;
    world.stand(2, &[3]);
    world.deliver_if(|from, to, body| (from, to) == (2, 3) && matches!(body, Body::PreVote { .. }));
    world.deliver_if(|from, to, body| (from, to) == (3, 2) && matches!(body, Body::PreVoteReply { .. }));
    world.sync(2);
    let (prepares, _): (Vec<_>, Vec<_>) = std::mem::take(&mut world.held)
        .into_iter()
        .partition(|(.., message)| matches!(message.body, Body::Prepare { .. }));
    world.promise_lease(&[3]);
    world.held = prepares;
    world.flow(&[2, 3]);
    world.read_leased();
    world
}

/// 3 starts anew, and does not know what it has promised.
pub fn promise_of_an_earlier_process(mutant: Option<Mutant>) -> World {
    let mut world = leased_by_1(3, &[3], mutant);
    world.restart_now(3);
    world.elect(2, &[3]);
    world.read_leased();
    world
}

/// Who promised is removed: the others may elect.
pub fn members_of_the_lease_go(mutant: Option<Mutant>) -> World {
    let mut world = leased_by_1(5, &[2, 3], mutant);
    for gone in [2, 3] {
        world.step(0, Event::ChangeMembership(MembershipChange::Remove(NodeId(gone))));
        world.flow(&[1, 4, 5]);
    }
    world.elect(4, &[5]);
    world.read_leased();
    world
}
