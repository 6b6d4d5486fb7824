//! A link backend's end of a ring: claims it for one connection of a peer, and writes.

use std::ptr;
use std::sync::atomic::Ordering;

use pgrx::pg_sys;
use synod_log::NodeId;

use super::{MAX_PEERS, RING_BYTES, RingControl, assign, data_of, nodes, wake_producer};
use crate::pg::latch;

/// Why a link cannot have a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No log worker runs for this database.
    NoConsumer,
    /// The peer is no longer a member.
    Removed,
    /// All rings are taken.
    TooManyPeers,
}

/// A link backend's end: writes the bytes of one peer.
pub struct Producer {
    node: usize,
    ring: usize,
    peer: u32,
    epoch: u64,
}

impl Producer {
    /// Find the ring for a peer of this database.
    pub fn find(database: u32, peer: NodeId) -> Result<Self, Refusal> {
        let found = nodes().iter().enumerate().find(|(_, node)| {
            node.database.load(Ordering::SeqCst) == database && node.consumer_pid.load(Ordering::SeqCst) != 0
        });
        let (index, node) = found.ok_or(Refusal::NoConsumer)?;
        let epoch = node.epoch.load(Ordering::SeqCst);
        let known = node
            .rings
            .iter()
            .any(|ring| ring.peer.load(Ordering::Acquire) == peer.0);
        if !known && peer.0 < node.next_id.load(Ordering::Acquire) {
            return Err(Refusal::Removed);
        }
        let ring = assign(node, peer.0).ok_or(Refusal::TooManyPeers)?;
        Ok(Self {
            node: index,
            ring,
            peer: peer.0,
            epoch,
        })
    }

    fn control(&self) -> &'static RingControl {
        &nodes()[self.node].rings[self.ring]
    }

    /// Try to become the ring's producer. A link that has it is told to leave: call again after a moment.
    pub fn claim(&self) -> bool {
        let ring = self.control();
        let me = std::process::id() as i32;
        if ring
            .producer_pid
            .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            ring.replaced.store(true, Ordering::SeqCst);
            wake_producer(ring);
            return false;
        }
        ring.producer.store(latch::my_number(), Ordering::SeqCst);
        ring.replaced.store(false, Ordering::SeqCst);
        ring.wants_room.store(false, Ordering::SeqCst);
        ring.connection.fetch_or(1, Ordering::SeqCst);
        ring.start
            .store(ring.written.0.load(Ordering::SeqCst), Ordering::SeqCst);
        ring.connection.fetch_add(1, Ordering::SeqCst);
        let argument = pg_sys::Datum::from(self.node * MAX_PEERS + self.ring);
        // SAFETY: the callback touches shared memory only and never raises.
        unsafe { pg_sys::before_shmem_exit(Some(release_at_exit), argument) };
        self.wake_consumer();
        true
    }

    /// Process id of the link that has the ring; 0: none.
    pub fn holder(&self) -> i32 {
        self.control().producer_pid.load(Ordering::SeqCst)
    }

    /// True while this link is the one that may write.
    pub fn holds(&self) -> bool {
        let node = &nodes()[self.node];
        let ring = self.control();
        node.epoch.load(Ordering::SeqCst) == self.epoch
            && ring.peer.load(Ordering::SeqCst) == self.peer
            && !ring.replaced.load(Ordering::SeqCst)
    }

    /// Write as much as there is room for; the count. After 0, wait for this process' latch: the consumer sets it.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let ring = self.control();
        let written = ring.written.0.load(Ordering::Relaxed);
        let room = |read: u64| RING_BYTES - (written - read) as usize;
        let mut free = room(ring.read.0.load(Ordering::Acquire));
        if free == 0 {
            ring.wants_room.store(true, Ordering::SeqCst);
            // Again, in case the consumer read between the two lines.
            free = room(ring.read.0.load(Ordering::SeqCst));
        }
        let count = free.min(bytes.len());
        let data = data_of(self.node, self.ring);
        let offset = written as usize % RING_BYTES;
        let first = count.min(RING_BYTES - offset);
        // SAFETY: inside the ring; the consumer does not read [written, read + RING_BYTES), and one process holds the
        // claim.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), data.add(offset), first);
            ptr::copy_nonoverlapping(bytes.as_ptr().add(first), data, count - first);
        }
        ring.written.0.store(written + count as u64, Ordering::Release);
        count
    }

    /// Wake the log worker.
    pub fn wake_consumer(&self) {
        latch::wake(nodes()[self.node].consumer.load(Ordering::SeqCst));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn release_at_exit(_code: i32, argument: pg_sys::Datum) {
    let number = argument.value();
    // The claim may be another's by now only if it was given up, which nothing but this does.
    if let Some(ring) = nodes()
        .get(number / MAX_PEERS)
        .map(|node| &node.rings[number % MAX_PEERS])
        && ring.producer_pid.load(Ordering::SeqCst) == std::process::id() as i32
    {
        ring.producer_pid.store(0, Ordering::SeqCst);
    }
}
