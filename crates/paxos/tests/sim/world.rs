//! Machines, a network and a clock, all from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::Bytes;
use synod_paxos::{
    Command, Event, LogId, Member, Membership, Message, Mutant, NodeId, Options, Paxos, ProposalId, Recovered,
};

use crate::checks::Checks;
use crate::disk::Disk;

mod acting;
mod time;

pub struct Process {
    pub paxos: Paxos,
    number: u64,
    ticket: u64,
    sync_done_ms: u64,
    sequence: u64,
    next_token: u64,
    /// Open questions for the tail, and what was chosen when they were asked.
    questions: BTreeMap<u64, u64>,
    reported: u64,
}

pub struct Machine {
    pub id: NodeId,
    pub disk: Disk,
    pub process: Option<Process>,
    clock_offset_ms: u64,
    /// Its clock runs so much too fast or too slow, in a thousand.
    pub drift: i64,
    /// Ahead of its clock for leases: time that has passed before elections count it.
    pub uptime_ms: u64,
    /// As published: end and tail.
    pub lease: (u64, u64),
    /// The group shut it out.
    pub fenced: bool,
    /// A member whose disk is gone: to be removed.
    pub lost: bool,
    pub slow_sync: bool,
    /// The disk lost something, and knows it.
    pub damaged: bool,
}

/// An fsync under way, and what may be said after it.
pub struct Sync {
    pub machine: usize,
    process: u64,
    ticket: u64,
    then: Vec<(NodeId, Message)>,
}

enum Happening {
    Deliver {
        from: NodeId,
        to: NodeId,
        message: Bytes,
    },
    Tick {
        machine: usize,
        process: u64,
    },
    Synced(Sync),
    Persisted {
        machine: usize,
        process: u64,
        ticket: u64,
    },
    Read {
        machine: usize,
        process: u64,
        to: NodeId,
        from: u64,
        max_bytes: usize,
    },
}

pub struct World {
    pub now_ms: u64,
    pub machines: Vec<Machine>,
    pub checks: Checks,
    /// What was acknowledged may be counted although the disk was lost since.
    lost_disks: Vec<Disk>,
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// In a thousand.
    pub loss: u64,
    pub duplicates: u64,
    pub reorders: bool,
    pub distrusted: BTreeSet<NodeId>,
    /// Messages and fsyncs wait for a schedule to let them go (`schedules.rs`).
    pub is_manual: bool,
    pub held: Vec<(NodeId, NodeId, Message)>,
    pub held_syncs: Vec<Sync>,
    pub mutant: Option<Mutant>,
    /// Leaders ask for leases.
    pub leases: bool,
    /// Reads that needed no round.
    pub leased: u64,
    pub acknowledged: u64,
    pub tails: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    links: BTreeMap<(NodeId, NodeId), u64>,
    random: u64,
    processes: u64,
}

impl World {
    /// A group of `voters`, and machines that are not members yet.
    pub fn new(seed: u64, voters: u32, spares: u32, mutant: Option<Mutant>) -> World {
        let mut world = World {
            now_ms: 0,
            machines: Vec::new(),
            checks: Checks::default(),
            lost_disks: Vec::new(),
            cuts: BTreeSet::new(),
            loss: 0,
            duplicates: 0,
            reorders: false,
            distrusted: BTreeSet::new(),
            is_manual: false,
            held: Vec::new(),
            held_syncs: Vec::new(),
            mutant,
            leases: false,
            leased: 0,
            acknowledged: 0,
            tails: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            links: BTreeMap::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed,
            processes: 0,
        };
        let members = (1..=voters).map(|id| {
            let log = world.new_log();
            Member {
                id: NodeId(id),
                log,
                voter: true,
                info: Bytes::new(),
            }
        });
        let members: Vec<_> = members.collect();
        let membership = Membership {
            version: 1,
            next_id: voters + 1,
            members,
        };
        world.checks.memberships.insert(1, membership.clone());
        for member in &membership.members {
            let mut disk = Disk::new(member.log);
            disk.synced.membership = membership.clone();
            world.add_machine(member.id, disk);
        }
        for _ in 0..spares {
            let disk = Disk::new(world.new_log());
            world.add_machine(NodeId(0), disk);
        }
        for machine in 0..voters as usize {
            world.start(machine);
        }
        world
    }

    fn add_machine(&mut self, id: NodeId, disk: Disk) {
        let clock_offset_ms = self.random(1000);
        let (fenced, lost, slow_sync, damaged) = (false, false, false, false);
        self.machines.push(Machine {
            id,
            disk,
            process: None,
            clock_offset_ms,
            drift: 0,
            uptime_ms: 0,
            lease: (0, 0),
            fenced,
            lost,
            slow_sync,
            damaged,
        });
    }

    pub fn new_log(&mut self) -> LogId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.raw_random().to_le_bytes());
        LogId(id)
    }

    pub fn raw_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// Below `limit`.
    pub fn random(&mut self, limit: u64) -> u64 {
        self.raw_random() % limit.max(1)
    }

    /// In a thousand.
    pub fn chance(&mut self, per_thousand: u64) -> bool {
        self.random(1000) < per_thousand
    }

    fn options(&mut self, id: NodeId, log: LogId) -> Options {
        let mut options = Options::new(id, log, self.raw_random());
        options.election_timeout_ms = 200;
        options.heartbeat_ms = 40;
        options.resend_ms = 500;
        options.tail_timeout_ms = 400;
        options.window_bytes = 2000;
        options.chunk_bytes = 400;
        options.unchosen_bytes = 4000;
        options.queue_bytes = 20_000;
        options.cache_bytes = 1000;
        options.promote_lag = 20;
        options.mutant = self.mutant;
        options
    }

    pub fn start(&mut self, index: usize) {
        let (id, log) = (self.machines[index].id, self.machines[index].disk.log);
        let options = self.options(id, log);
        self.processes += 1;
        let machine = &mut self.machines[index];
        // The host forgets what the process before it published.
        machine.lease = (0, 0);
        self.checks.on_recovered(&machine.disk);
        let recovered = Recovered {
            damaged: machine.damaged,
            ..machine.disk.synced.clone()
        };
        machine.process = Some(Process {
            number: self.processes,
            reported: recovered.chosen,
            paxos: Paxos::new(options, recovered),
            ticket: 0,
            sync_done_ms: 0,
            sequence: 0,
            next_token: 0,
            questions: BTreeMap::new(),
        });
        let process = self.processes;
        self.schedule(
            0,
            Happening::Tick {
                machine: index,
                process,
            },
        );
    }

    /// The process dies, and with it what was not synced, but for a prefix.
    pub fn crash(&mut self, index: usize) {
        let random = if self.is_manual { 0 } else { self.raw_random() };
        let machine = &mut self.machines[index];
        if machine.process.take().is_some() {
            machine.disk.crash(random);
        }
    }

    /// A new disk under the old name.
    pub fn wipe(&mut self, index: usize) {
        self.crash(index);
        let disk = Disk::new(self.new_log());
        self.lost_disks
            .push(std::mem::replace(&mut self.machines[index].disk, disk));
    }

    /// Let a machine's clock go on, in steps, and tell the process.
    pub fn tick(&mut self, index: usize, by_ms: u64) {
        for _ in 0..by_ms.div_ceil(20) {
            self.machines[index].clock_offset_ms += 20;
            let now_ms = self.clock(index);
            self.step(index, Event::Tick { now_ms });
        }
    }

    /// What a machine's clock says.
    pub fn clock(&self, index: usize) -> u64 {
        let machine = &self.machines[index];
        let drift_ms = self.now_ms as i64 * machine.drift / 1000;
        (self.now_ms + machine.clock_offset_ms).saturating_add_signed(drift_ms)
    }

    fn lease_clock(&self, index: usize) -> u64 {
        self.clock(index) + self.machines[index].uptime_ms
    }

    /// On every machine, a read that trusts the lease that was published there.
    pub fn read_leased(&mut self) {
        for index in 0..self.machines.len() {
            let (until_ms, tail) = self.machines[index].lease;
            if self.lease_clock(index) < until_ms {
                self.leased += 1;
                self.checks.on_tail(tail, self.checks.tail());
            }
        }
    }

    pub fn jump_clock(&mut self, index: usize, by_ms: u64, back: bool) {
        let offset = &mut self.machines[index].clock_offset_ms;
        *offset = if back {
            offset.saturating_sub(by_ms)
        } else {
            *offset + by_ms
        };
    }

    pub fn cut(&mut self, a: u32, b: u32) {
        self.cuts.insert((NodeId(a), NodeId(b)));
        self.cuts.insert((NodeId(b), NodeId(a)));
    }

    /// Nobody hears it, it hears nobody.
    pub fn isolate(&mut self, node: u32) {
        for other in 1..20 {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    pub fn machine_of(&self, id: NodeId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == id)
    }

    pub fn paxos(&self, index: usize) -> Option<&Paxos> {
        self.machines[index].process.as_ref().map(|process| &process.paxos)
    }

    pub fn propose(&mut self, index: usize, count: u64, bytes: usize) {
        let Some(process) = &mut self.machines[index].process else {
            return;
        };
        let commands = (0..count).map(|_| {
            process.sequence += 1;
            let (node, incarnation, sequence) = (process.paxos.id(), process.number, process.sequence);
            Command {
                id: ProposalId {
                    node,
                    incarnation,
                    sequence,
                },
                payload: Bytes::from(vec![7; bytes]),
            }
        });
        let event = Event::Propose(commands.collect());
        self.step(index, event);
    }

    pub fn ask_tail(&mut self, index: usize) {
        let floor = self.checks.tail();
        let Some(process) = &mut self.machines[index].process else {
            return;
        };
        process.next_token += 1;
        let token = process.next_token;
        process.questions.insert(token, floor);
        self.step(index, Event::Tail { token });
    }
}
