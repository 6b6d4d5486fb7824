//! A disk that forgets what was not synced, and tears what was being written.

use std::collections::BTreeMap;

use synod_paxos::{DurableRecord, Entry, LogId, Position, Recovered};

#[derive(Clone, Debug)]
pub struct Disk {
    pub log: LogId,
    /// The fold of what is durable.
    pub synced: Recovered,
    /// Every durable entry that was not trimmed.
    pub entries: BTreeMap<Position, Entry>,
    /// Written and not durable: the ticket that will make it so, and the record.
    unsynced: Vec<(u64, DurableRecord)>,
}

impl Disk {
    pub fn new(log: LogId) -> Disk {
        Disk {
            log,
            synced: Recovered::default(),
            entries: BTreeMap::new(),
            unsynced: Vec::new(),
        }
    }

    pub fn write(&mut self, ticket: u64, record: DurableRecord) {
        self.unsynced.push((ticket, record));
    }

    /// The fsync of this ticket is done.
    pub fn sync(&mut self, ticket: u64) {
        let count = self.unsynced.iter().take_while(|(of, _)| *of <= ticket).count();
        self.make_durable(count);
    }

    /// Power fails: a prefix of what was written survives.
    pub fn crash(&mut self, random: u64) {
        let count = random as usize % (self.unsynced.len() + 1);
        self.make_durable(count);
        self.unsynced.clear();
    }

    fn make_durable(&mut self, count: usize) {
        for (_, record) in self.unsynced.drain(..count) {
            match &record {
                DurableRecord::Accept(entry) => {
                    self.entries.insert(entry.position, entry.clone());
                }
                DurableRecord::Trimmed(below) => self.entries = self.entries.split_off(below),
                _ => {}
            }
            self.synced.replay(record);
        }
    }

    /// As the process sees it: the page cache included.
    pub fn read(&self, position: Position) -> Option<Entry> {
        let cached = self.unsynced.iter().rev().find_map(|(_, record)| match record {
            DurableRecord::Accept(entry) if entry.position == position => Some(entry),
            _ => None,
        });
        cached.or_else(|| self.entries.get(&position)).cloned()
    }
}
