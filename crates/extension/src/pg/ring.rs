//! Shared-memory byte rings: from a link backend (`pg/link.rs`) to the log worker (`crate::transport`).
//!
//! One ring per (member database, peer), single producer, single consumer. A ring carries a stream of frames
//! ([`synod_log::frames`]); a frame may be longer than the ring and then streams through in pieces. Counters only grow, and
//!
//! `start <= read <= written <= read + RING_BYTES` once the consumer has noticed the current connection.
//!
//! A connection of the producer is numbered by `connection`: even while it lasts, odd while it begins. The consumer
//! that finds a new number throws away what lies before `start`, and with it the half frame of the dead connection.
//! A consumer that starts bumps `epoch`; producers of an older epoch leave, because nobody knows where in their stream
//! a frame begins. Nothing here is ever locked, so a process that ends at any point leaves nothing behind but a claim,
//! which its exit callback takes back.

mod producer;

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use pgrx::pg_sys;
use synod_log::{NodeId, frames};

use super::latch;
use super::shmem::MAX_NODES;
pub use producer::{Producer, Refusal};

/// Peers that a member database can have: groups of up to nine.
pub const MAX_PEERS: usize = 8;
/// Bytes a ring holds; a power of two. Half a megabyte is 4 ms of a gigabit link: the log worker reads it every few
/// hundred microseconds, and TCP holds back the peer beyond it.
pub const RING_BYTES: usize = 512 * 1024;

/// Keeps what two processes write apart on different cache lines.
#[repr(C, align(64))]
#[derive(Default)]
struct Line(AtomicU64);

#[repr(C, align(64))]
struct RingControl {
    /// The peer whose bytes these are; 0: unused.
    peer: AtomicU32,
    /// Process id of the link backend that writes, or 0.
    producer_pid: AtomicI32,
    /// Its PGPROC number.
    producer: AtomicI32,
    /// Set by a newer link of the same peer: leave.
    replaced: AtomicBool,
    /// The producer waits for room.
    wants_room: AtomicBool,
    /// Number of the current connection; odd while it begins.
    connection: AtomicU64,
    /// `written` when the current connection began.
    start: AtomicU64,
    written: Line,
    read: Line,
}

#[repr(C, align(64))]
struct NodeRings {
    /// Database oid of the member; 0: unused.
    database: AtomicU32,
    /// Ids below this that have no ring are of removed members.
    next_id: AtomicU32,
    /// PGPROC number of the log worker.
    consumer: AtomicI32,
    /// Its process id, or 0 while none runs.
    consumer_pid: AtomicI32,
    /// Grows with every start of the consumer.
    epoch: AtomicU64,
    rings: [RingControl; MAX_PEERS],
}

static NODES: AtomicUsize = AtomicUsize::new(0);

/// Shared memory that all rings need. Untouched rings cost address space only.
pub fn shmem_size() -> usize {
    control_size() + MAX_NODES * MAX_PEERS * RING_BYTES
}

fn control_size() -> usize {
    (MAX_NODES * std::mem::size_of::<NodeRings>()).next_multiple_of(4096) + 64
}

/// Set the rings up in a piece of shared memory of [`shmem_size`] bytes.
///
/// # Safety
/// `base` points to that many bytes, zeroed or (`found`) already set up; called once per process, from the shared
/// memory startup hook.
pub unsafe fn shmem_init(base: *mut u8, found: bool) {
    // SAFETY: the offset is below 64, counted in `control_size`.
    let aligned = unsafe { base.add(base.align_offset(64)) };
    if !found {
        // SAFETY: the control structures are atomics, for which zero is valid; they fit by `control_size`.
        unsafe { ptr::write_bytes(aligned, 0, MAX_NODES * std::mem::size_of::<NodeRings>()) };
    }
    NODES.store(aligned as usize, Ordering::Release);
}

fn nodes() -> &'static [NodeRings] {
    let base = NODES.load(Ordering::Acquire);
    if base == 0 {
        return &[];
    }
    // SAFETY: set by `shmem_init` to MAX_NODES structures of atomics that live as long as the process.
    unsafe { std::slice::from_raw_parts(base as *const NodeRings, MAX_NODES) }
}

/// First byte of a ring's data.
fn data_of(node: usize, ring: usize) -> *mut u8 {
    let base = NODES.load(Ordering::Acquire);
    let control = (MAX_NODES * std::mem::size_of::<NodeRings>()).next_multiple_of(4096);
    (base + control + (node * MAX_PEERS + ring) * RING_BYTES) as *mut u8
}

/// The log worker's end: reads the frames of all peers.
pub struct Consumer {
    node: usize,
    tracks: [Track; MAX_PEERS],
}

/// What the consumer remembers about one ring.
#[derive(Default)]
struct Track {
    /// The connection whose frames are being read; `live` is false until the first one begins under this consumer.
    connection: u64,
    live: bool,
    /// The beginning of a frame that has not arrived entirely.
    partial: Vec<u8>,
}

impl Consumer {
    /// Become the consumer of the rings with this index, for this database. Called by the log worker when it starts.
    pub fn attach(index: usize, database: u32) -> Option<Self> {
        let node = nodes().get(index)?;
        node.database.store(0, Ordering::SeqCst);
        let mut tracks: [Track; MAX_PEERS] = Default::default();
        node.epoch.fetch_add(1, Ordering::SeqCst);
        for (track, ring) in tracks.iter_mut().zip(&node.rings) {
            track.connection = ring.connection.load(Ordering::SeqCst);
            wake_producer(ring);
        }
        node.consumer.store(latch::my_number(), Ordering::SeqCst);
        node.consumer_pid.store(std::process::id() as i32, Ordering::SeqCst);
        node.database.store(database, Ordering::SeqCst);
        // SAFETY: the callback touches shared memory only and never raises.
        unsafe { pg_sys::before_shmem_exit(Some(detach_at_exit), pg_sys::Datum::from(index)) };
        Some(Self { node: index, tracks })
    }

    /// Whom to accept links from: everybody here, and ids that the group has not given out yet as far as this node
    /// knows, but nobody that was removed.
    pub fn set_peers(&mut self, peers: &[NodeId], next_id: u32) {
        let node = &nodes()[self.node];
        for ring in &node.rings {
            let id = ring.peer.load(Ordering::Acquire);
            if id != 0 && id < next_id && !peers.iter().any(|peer| peer.0 == id) {
                ring.peer.store(0, Ordering::Release);
                wake_producer(ring);
            }
        }
        node.next_id.store(next_id, Ordering::Release);
        for peer in peers {
            // No room: a group larger than this release supports; its link is refused with that reason.
            let _ = assign(node, peer.0);
        }
    }

    /// Grows whenever a link in comes up.
    pub fn activity(&self) -> u64 {
        let rings = &nodes()[self.node].rings;
        rings
            .iter()
            .fold(0, |sum, ring| sum.wrapping_add(ring.connection.load(Ordering::Acquire)))
    }

    /// Peers whose link to us stands.
    pub fn linked(&self) -> Vec<NodeId> {
        let linked = |ring: &&RingControl| ring.producer_pid.load(Ordering::Acquire) != 0;
        nodes()[self.node]
            .rings
            .iter()
            .filter(linked)
            .map(|ring| NodeId(ring.peer.load(Ordering::Acquire)))
            .collect()
    }

    /// Hand over every frame that has arrived entirely.
    pub fn receive(&mut self, mut frame: impl FnMut(NodeId, Vec<u8>)) {
        for (index, ring) in nodes()[self.node].rings.iter().enumerate() {
            let peer = ring.peer.load(Ordering::Acquire);
            let track = &mut self.tracks[index];
            let written = ring.written.0.load(Ordering::Acquire);
            if !track.follow(ring) {
                continue;
            }
            let read = ring.read.0.load(Ordering::Relaxed);
            if written > read {
                track.partial.reserve((written - read) as usize);
                copy_out(data_of(self.node, index), read, written, &mut track.partial);
                made_room(ring, written);
                if peer != 0 && !frames::take(&mut track.partial, |bytes| frame(NodeId(peer), bytes)) {
                    // Not a frame: a broken peer. Its link is ended, and starts clean when it comes back.
                    track.live = false;
                    ring.replaced.store(true, Ordering::SeqCst);
                    wake_producer(ring);
                }
            }
        }
    }
}

impl Track {
    /// Notice a new connection. False while there is nothing that this consumer could understand.
    fn follow(&mut self, ring: &RingControl) -> bool {
        let connection = ring.connection.load(Ordering::Acquire);
        if connection != self.connection {
            let start = ring.start.load(Ordering::Acquire);
            fence(Ordering::Acquire);
            if connection % 2 == 1 || ring.connection.load(Ordering::Acquire) != connection {
                return false;
            }
            self.connection = connection;
            self.live = true;
            self.partial = Vec::new();
            if ring.read.0.load(Ordering::Relaxed) < start {
                made_room(ring, start);
            }
        } else if !self.live {
            // The tail of a stream that began before us.
            made_room(ring, ring.written.0.load(Ordering::Acquire));
        }
        self.live
    }
}

fn copy_out(data: *const u8, from: u64, to: u64, into: &mut Vec<u8>) {
    let mut at = from;
    while at < to {
        let offset = at as usize % RING_BYTES;
        let piece = ((to - at) as usize).min(RING_BYTES - offset);
        // SAFETY: inside the ring; the producer does not touch [read, written), and `written` was read with Acquire.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(data.add(offset), piece) });
        at += piece as u64;
    }
}

fn made_room(ring: &RingControl, read: u64) {
    ring.read.0.store(read, Ordering::SeqCst);
    if ring.wants_room.swap(false, Ordering::SeqCst) {
        wake_producer(ring);
    }
}

fn wake_producer(ring: &RingControl) {
    if ring.producer_pid.load(Ordering::SeqCst) != 0 {
        latch::wake(ring.producer.load(Ordering::SeqCst));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn detach_at_exit(_code: i32, index: pg_sys::Datum) {
    if let Some(node) = nodes().get(index.value())
        && node.consumer_pid.load(Ordering::SeqCst) == std::process::id() as i32
    {
        node.consumer_pid.store(0, Ordering::SeqCst);
        node.epoch.fetch_add(1, Ordering::SeqCst);
        for ring in &node.rings {
            wake_producer(ring);
        }
    }
}

/// The ring of a peer, given one now if it has none and one is free.
fn assign(node: &NodeRings, peer: u32) -> Option<usize> {
    if let Some(ring) = node
        .rings
        .iter()
        .position(|ring| ring.peer.load(Ordering::Acquire) == peer)
    {
        return Some(ring);
    }
    node.rings.iter().position(|ring| {
        if ring.producer_pid.load(Ordering::Acquire) != 0 {
            return false;
        }
        ring.peer
            .compare_exchange(0, peer, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    })
}
