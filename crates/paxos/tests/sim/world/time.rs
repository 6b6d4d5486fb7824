//! Time goes on: what is due happens, and what is written becomes durable.

use std::cmp::Reverse;

use synod_paxos::{Event, Message, Paxos};

use super::{Happening, Sync, World};

impl World {
    pub(super) fn schedule(&mut self, in_ms: u64, happening: Happening) {
        let number = self.happenings.len();
        self.happenings.push(Some(happening));
        self.queue.push(Reverse((self.now_ms + in_ms, number as u64, number)));
    }

    /// Let things happen for so long, or until a check fails.
    pub fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.checks.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse((at_ms, ..))) if *at_ms <= end_ms => {}
                _ => break,
            }
            let Some(Reverse((at_ms, _, number))) = self.queue.pop() else {
                break;
            };
            self.now_ms = at_ms;
            if let Some(happening) = self.happenings[number].take() {
                self.happen(happening);
                self.read_leased();
            }
        }
        self.now_ms = end_ms;
    }

    pub(super) fn is_alive(&self, index: usize, process: u64) -> bool {
        self.machines[index]
            .process
            .as_ref()
            .is_some_and(|alive| alive.number == process)
    }

    /// The records are durable, and what waited for them goes out. False: the process is gone.
    pub(super) fn finish_sync(&mut self, sync: Sync) -> bool {
        if !self.is_alive(sync.machine, sync.process) {
            return false;
        }
        let machine = &mut self.machines[sync.machine];
        machine.disk.sync(sync.ticket);
        let id = machine.id;
        sync.then
            .into_iter()
            .for_each(|(to, message)| self.send(id, to, message));
        true
    }

    /// Finish a held fsync, and tell the process.
    pub fn let_sync(&mut self, sync: Sync) {
        let (machine, ticket) = (sync.machine, sync.ticket);
        if self.finish_sync(sync) {
            self.step(machine, Event::Persisted { ticket });
        }
    }

    /// Back to a network and disks that work by themselves.
    pub fn release(&mut self) {
        self.is_manual = false;
        self.held.clear();
        for sync in std::mem::take(&mut self.held_syncs) {
            self.schedule(1, Happening::Synced(sync));
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { from, to, message } if !self.cuts.contains(&(from, to)) => {
                let message = Message::decode(message).expect("our own bytes");
                self.deliver(from, to, message);
            }
            Happening::Tick { machine, process } if self.is_alive(machine, process) => {
                let now_ms = self.clock(machine);
                self.step(machine, Event::Tick { now_ms });
                let wait_ms = 5 + self.random(15);
                self.schedule(wait_ms, Happening::Tick { machine, process });
            }
            Happening::Synced(sync) => {
                let (machine, process, ticket) = (sync.machine, sync.process, sync.ticket);
                if self.finish_sync(sync) {
                    let wait_ms = self.random(3);
                    self.schedule(
                        wait_ms,
                        Happening::Persisted {
                            machine,
                            process,
                            ticket,
                        },
                    );
                }
            }
            Happening::Persisted {
                machine,
                process,
                ticket,
            } if self.is_alive(machine, process) => {
                self.step(machine, Event::Persisted { ticket });
            }
            Happening::Read {
                machine,
                process,
                to,
                from,
                max_bytes,
            } if self.is_alive(machine, process) => {
                let chosen = self.paxos(machine).map_or(0, Paxos::chosen);
                let mut bytes = 0;
                let disk = &self.machines[machine].disk;
                let found = (from..=chosen).map_while(|position| disk.read(position));
                let entries: Vec<_> = found
                    .take_while(|_| {
                        bytes += 100;
                        bytes <= max_bytes
                    })
                    .collect();
                let event = if entries.is_empty() {
                    Event::ReadFailed { to }
                } else {
                    Event::EntriesRead { to, entries }
                };
                self.step(machine, event);
            }
            _ => {}
        }
    }
}
