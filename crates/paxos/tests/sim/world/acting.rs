//! What a machine does with an event: the actions of its step, carried out.

use synod_paxos::{Action, Body, DurableRecord, Event, Message, NodeId};

use super::{Happening, Sync, World};

impl World {
    pub fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        if let Some(index) = self.machine_of(to) {
            self.step(index, Event::Receive { from, message });
        }
    }

    pub fn step(&mut self, index: usize, event: Event) {
        let lazy = !self.is_manual && matches!(event, Event::Receive { .. } | Event::Propose(_)) && self.chance(200);
        let mut actions = Vec::new();
        let (clock_ms, leases) = (self.lease_clock(index), self.leases);
        let Some(process) = &mut self.machines[index].process else {
            return;
        };
        process.paxos.want_lease(leases);
        process.paxos.set_clock(clock_ms);
        process.paxos.handle(event, &mut actions);
        if !lazy {
            process.paxos.flush(&mut actions);
        }
        let number = process.number;
        for action in actions {
            // The host may have stopped or replaced the process because of an action.
            if self.is_alive(index, number) {
                self.act(index, action);
            }
        }
    }

    pub(super) fn act(&mut self, index: usize, action: Action) {
        let now_ms = self.now_ms;
        let delay_ms = if self.machines[index].slow_sync {
            100_000
        } else {
            1 + self.random(6)
        };
        let id = self.machines[index].id;
        let Some(process) = &mut self.machines[index].process else {
            return;
        };
        let number = process.number;
        match action {
            Action::Send { to, message } => to.into_iter().for_each(|to| self.send(id, to, message.clone())),
            Action::Persist { ticket, records, then } => {
                assert_eq!(ticket, process.ticket + 1, "tickets ascend by one");
                process.ticket = ticket;
                process.sync_done_ms = process.sync_done_ms.max(now_ms + delay_ms);
                let wait_ms = process.sync_done_ms - now_ms;
                records.into_iter().for_each(|record| self.write(index, ticket, record));
                let sync = Sync {
                    machine: index,
                    process: number,
                    ticket,
                    then,
                };
                if self.is_manual {
                    self.held_syncs.push(sync);
                } else {
                    self.schedule(wait_ms, Happening::Synced(sync));
                }
            }
            Action::Note(record) => {
                let ticket = process.ticket + 1;
                self.write(index, ticket, record);
            }
            Action::Chosen(entries) => self.on_chosen(index, entries),
            Action::ReadEntries { to, from, max_bytes } => {
                let read = Happening::Read {
                    machine: index,
                    process: number,
                    to,
                    from,
                    max_bytes,
                };
                self.schedule(delay_ms, read);
            }
            Action::Tail { token, position } => {
                let floor = process.questions.get(&token).copied();
                process.questions = process.questions.split_off(&(token + 1));
                self.tails += 1;
                match floor {
                    Some(floor) => self.checks.on_tail(position, floor),
                    None => self
                        .checks
                        .fail(format!("an answer to the question {token}, which is not open")),
                }
            }
            Action::Lease { until_ms, tail } => self.machines[index].lease = (until_ms, tail),
            Action::TailFailed { token } => process.questions = process.questions.split_off(&(token + 1)),
            Action::LeaderChanged(_) | Action::MembershipRefused(_) => {}
            Action::MembershipChosen { position, membership } => {
                if *self.checks.membership_at(position + 1) != membership {
                    self.checks.fail(format!("another membership at {position}"));
                }
                self.start_members();
            }
            Action::TooFarBehind { .. } => self.copy_state(index),
            Action::Distrusted { node, .. } => {
                self.distrusted.insert(node);
            }
            Action::Fenced(_) => {
                self.machines[index].fenced = true;
                self.crash(index);
            }
        }
    }

    pub(super) fn write(&mut self, index: usize, ticket: u64, record: DurableRecord) {
        if let DurableRecord::Trimmed(below) = &record
            && self.paxos(index).is_some_and(|paxos| *below > paxos.chosen() + 1)
        {
            self.checks.fail(format!("trims below {below}, which is not chosen"));
        }
        self.machines[index].disk.write(ticket, record);
    }

    pub(super) fn on_chosen(&mut self, index: usize, entries: Vec<synod_paxos::Entry>) {
        let machines = &self.machines;
        let lost = &self.lost_disks;
        let disk = |log| {
            machines
                .iter()
                .map(|machine| &machine.disk)
                .chain(lost)
                .find(|disk| disk.log == log)
        };
        for entry in &entries {
            self.checks.on_chosen(entry, disk);
        }
        let Some(process) = &mut self.machines[index].process else {
            return;
        };
        for entry in entries {
            if entry.position != process.reported + 1 {
                self.checks
                    .fail(format!("{} reported after {}", entry.position, process.reported));
            }
            process.reported = entry.position;
            if let synod_paxos::Value::Command(command) = entry.value
                && command.id.incarnation == process.number
            {
                self.acknowledged += 1;
            }
        }
    }

    /// A machine whose log directory became a member starts under its new name.
    pub(super) fn start_members(&mut self) {
        let membership = self.checks.latest_membership().clone();
        for index in 0..self.machines.len() {
            let machine = &self.machines[index];
            let member = membership.members.iter().find(|member| member.log == machine.disk.log);
            if let Some(member) = member.filter(|member| member.id != machine.id) {
                self.machines[index].id = member.id;
                self.machines[index].lost = false;
                self.machines[index].fenced = false;
                self.start(index);
            }
        }
    }

    /// What the host does for a node that is too far behind: the state at a position, then the log from there.
    pub(super) fn copy_state(&mut self, index: usize) {
        let source = self.machines.iter().max_by_key(|machine| machine.disk.synced.chosen);
        let Some(synced) = source.map(|machine| machine.disk.synced.clone()) else {
            return;
        };
        self.crash(index);
        let disk = &mut self.machines[index].disk;
        disk.write(
            0,
            DurableRecord::Base {
                chosen: synced.chosen,
                membership: synced.membership,
            },
        );
        disk.write(0, DurableRecord::Trimmed(synced.chosen + 1));
        disk.sync(0);
        self.start(index);
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if let Body::Accept { entries, .. } = &message.body {
            entries.iter().for_each(|entry| self.checks.on_proposed(entry));
        }
        if self.is_manual {
            self.held.push((from, to, message));
            return;
        }
        let copies = 1 + u64::from(self.chance(self.duplicates));
        for _ in 0..copies {
            if self.chance(self.loss) {
                continue;
            }
            let mut at_ms = self.now_ms + 1 + self.random(8);
            if self.reorders {
                at_ms += if self.chance(30) { self.random(400) } else { 0 };
            } else {
                let last = self.links.entry((from, to)).or_default();
                at_ms = at_ms.max(*last);
                *last = at_ms;
            }
            let message = message.encode();
            self.schedule(at_ms - self.now_ms, Happening::Deliver { from, to, message });
        }
    }
}
