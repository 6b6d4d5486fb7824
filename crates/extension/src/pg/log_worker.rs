//! The log worker: opens a node's log and drives its [`Engine`] until it is told to end or something fails.
//!
//! One event loop on the main thread; it sleeps on the latch (backends, links in), a pipe (the storage thread) and the
//! sockets of the links out. A failure is published, told to every waiting backend, and written to the server log; the
//! launcher starts the worker again after `FAILURE_PAUSE`.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_guard;
use pgrx::pg_sys;
use synod_log::{DecidedIndex, LeaseHooks, LogOptions, PaxosLog, SyncHook};

use super::give_way::Watcher;
use super::shmem::{self, NodeShared, NodeState};
use super::wait_set::WaitSet;
use super::{clock, failpoint, latch, threads, worker};
use crate::engine::{Engine, Stop, first_needed, load_checkpoint};
use crate::identity::Identity;
use crate::settings;
use crate::transport::Links;

/// How long a failed worker stays, so that the server log is not flooded.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// How long an orderly shutdown of a leader waits for what is under way before another one leads.
const HAND_OVER: Duration = Duration::from_millis(100);
/// How long an orderly shutdown waits for proposals on their way.
const DRAIN: Duration = Duration::from_secs(2);

/// Random bits of an incarnation.
const RANDOM_BITS: u32 = 12;

type NodeEngine = Engine<PaxosLog<Links>>;

/// Entry point of the log worker; the argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn synod_log_worker_main(argument: pg_sys::Datum) {
    worker::start();
    super::wait_event::set_default(super::wait_event::WaitEvent::Log);
    let database = argument.value() as u32;
    let Some((_, node)) = shmem::node_of(database) else {
        return;
    };
    if !crate::node::directory(database).exists() {
        // It went after the launcher had seen it.
        return;
    }
    node.state.store(NodeState::Starting as u32, Ordering::Release);
    node.log_worker.store(latch::my_number(), Ordering::Release);
    if let Err(stop) = run(node, database) {
        fail(node, database, &stop);
    }
    node.log_worker.store(-1, Ordering::Release);
}

/// What the worker is made of, in the order in which it is taken apart.
struct Running {
    engine: NodeEngine,
    links: Links,
    watcher: Watcher,
    node: &'static NodeShared,
    waits: WaitSet,
    pipe: UnixStream,
    /// What the last wait found readable: [`PIPE`], [`LINKS`].
    readable: u32,
    clock: Instant,
}

/// Bits of [`Running::readable`], in the order of the wait set.
const PIPE: u32 = 1;
const LINKS: u32 = 2;

fn run(node: &'static NodeShared, database: u32) -> Result<(), Stop> {
    let directory = crate::node::directory(database);
    let mut running = open(node, &directory)?;
    node.set_log_reason("");
    running.engine.start(super::server_version(), crate::VERSION_NUMBER);
    while !worker::shutdown_requested() && !node.leaving.load(Ordering::Acquire) {
        running.round()?;
    }
    if worker::shutdown_requested() {
        running.hand_over()?;
    }
    running.drain()?;
    running.engine.checkpoint_now()
}

fn open(node: &'static NodeShared, directory: &Path) -> Result<Running, Stop> {
    let files = |error: &dyn std::fmt::Display| Stop::Files(error.to_string());
    let identity = Identity::load(directory, node.database.load(Ordering::Relaxed))
        .map_err(|error| files(&error))?
        .ok_or_else(|| Stop::Files("the file \"node\" is missing".into()))?;
    node.set_group(identity.group);
    node.node_id.store(identity.node.0, Ordering::Release);
    clear_spill(directory).map_err(|error| files(&error))?;
    let incarnation = next_incarnation(directory).map_err(|error| files(&error))?;
    node.incarnation.store(incarnation, Ordering::Release);
    let certifier = load_checkpoint(directory).map_err(|error| files(&error))?;
    let index = DecidedIndex::open(&directory.join("index")).map_err(|error| files(&error))?;
    let (pipe, wake) = wake_pipe().map_err(|error| files(&error))?;
    let links = Links::open(node.index(), identity.clone()).map_err(|error| files(&error.message))?;
    // What the process before this one published does not stand for this one.
    node.lease_until_ms.store(0, Ordering::SeqCst);
    let options = LogOptions {
        lease: lease_hooks(node),
        deliver_from: first_needed(&certifier),
        waker: wake,
        sync_hook: Some(hung_disk(directory)),
        ..LogOptions::new(identity.node)
    };
    let log = threads::with_signals_blocked(|| PaxosLog::open(&directory.join("log"), options, links.clone()))
        .map_err(|error| Stop::Log(error.to_string()))?;
    let engine = Engine::new(log, node, directory.to_owned(), certifier, index, incarnation);
    let waits = WaitSet::new(&[pipe.as_raw_fd(), links.descriptor()]);
    Ok(Running {
        engine,
        links,
        watcher: Watcher::default(),
        node,
        waits,
        pipe,
        readable: PIPE | LINKS,
        clock: Instant::now(),
    })
}

impl Running {
    fn round(&mut self) -> Result<(), Stop> {
        let next = self.step()?;
        self.readable = self.waits.wait(next);
        Ok(())
    }

    /// Everything that can be done now. How long to wait then, at most.
    fn step(&mut self) -> Result<Duration, Stop> {
        latch::reset();
        if self.readable & PIPE != 0 {
            drain_pipe(&mut self.pipe);
        }
        worker::reload_if_asked();
        if failpoint::armed("log-worker") {
            return Err(Stop::Files("failpoint \"log-worker\"".into()));
        }
        DISK_HANGS.store(failpoint::armed("disk"), Ordering::Relaxed);
        self.engine.log_mut().want_lease(settings::LEADER_LEASE.get());
        self.engine
            .log_mut()
            .follow_writers(settings::LEADER_FOLLOWS_WRITERS.get());
        let log = self.engine.run(self.clock.elapsed())?;
        let links = self.links.drive(self.clock.elapsed(), self.readable & LINKS != 0);
        if self.links.expelled() {
            return Err(Stop::Removed);
        }
        let engine = &self.engine;
        let watch = self.watcher.look(self.node, &mut |slot| engine.abort_if_lost(slot));
        let watch = watch.unwrap_or(Duration::MAX);
        Ok(log.min(links).saturating_sub(self.clock.elapsed()).min(watch))
    }

    /// A leader lets another node lead, so that nobody waits until its silence is noticed. Where a shutdown has ended the links in, what is under
    /// way is not waited for.
    fn hand_over(&mut self) -> Result<(), Stop> {
        for _ in 0..2 {
            self.engine.log_mut().hand_over();
            let deadline = Instant::now() + HAND_OVER;
            loop {
                let next = self.step()?;
                let left = deadline.saturating_duration_since(Instant::now());
                if !self.engine.log_mut().is_handing_over() {
                    // The word has left; or this node does not lead, or nobody else can.
                    return Ok(());
                }
                if left.is_zero() {
                    break;
                }
                self.readable = self.waits.wait(next.min(left));
            }
        }
        Ok(())
    }

    /// Let what was proposed be decided, so that its backends get their answer.
    fn drain(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + DRAIN;
        while self.engine.busy() && Instant::now() < deadline {
            self.round()?;
        }
        Ok(())
    }
}

/// The failpoint "disk" is set, as this thread knows: the others cannot look at settings.
static DISK_HANGS: AtomicBool = AtomicBool::new(false);

/// With that failpoint a sync takes until the file `hung` goes from the node's directory.
fn hung_disk(directory: &Path) -> SyncHook {
    let file = directory.join("hung");
    Arc::new(move |_, _| {
        while DISK_HANGS.load(Ordering::Relaxed) && file.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    })
}

/// Where backends find this node's lease ([`super::barrier::wait`]). `None`: no clock here is good for it.
fn lease_hooks(node: &'static NodeShared) -> Option<LeaseHooks> {
    clock::awake_and_asleep()?;
    Some(LeaseHooks {
        clock: Arc::new(clock::awake_and_asleep),
        publish: Arc::new(move |until_ms, tail| {
            // The tail never goes back: a reader may have read the end of the lease that is over.
            if until_ms != 0 {
                node.lease_tail.store(tail, Ordering::SeqCst);
            }
            node.lease_until_ms.store(until_ms, Ordering::SeqCst);
        }),
    })
}

/// A pipe that any thread can write to; both ends do not block.
fn wake_pipe() -> io::Result<(UnixStream, Arc<dyn Fn() + Send + Sync>)> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    let wake = move || {
        // Full means that a wake-up is pending already.
        let _ = io::Write::write(&mut &write, &[1]);
    };
    Ok((read, Arc::new(wake)))
}

fn drain_pipe(pipe: &mut UnixStream) {
    let mut sink = [0; 256];
    while matches!(pipe.read(&mut sink), Ok(count) if count == sink.len()) {}
}

/// Make the directory for large write sets; what an earlier process left there was never proposed, or is in the log.
/// Backends of a server that runs on may just be writing there: only what is older than the server's start is removed.
fn clear_spill(directory: &Path) -> io::Result<()> {
    let spill = directory.join("spill");
    std::fs::create_dir_all(&spill)?;
    let started = super::server_start();
    for entry in std::fs::read_dir(&spill)? {
        let entry = entry?;
        if entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified < started)
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The number of this start: above all earlier ones, and unlike that of a copy of this directory started elsewhere, even
/// when a clock went back: microseconds above, [`RANDOM_BITS`] random bits below (63 bits in all until 2041).
fn next_incarnation(directory: &Path) -> io::Result<u64> {
    let before = crate::node::last_incarnation(directory)?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let random = super::random::bytes::<8>().map_err(|error| io::Error::other(error.message))?;
    let low = u64::from_le_bytes(random) & ((1 << RANDOM_BITS) - 1);
    let next = ((before >> RANDOM_BITS) + 1).max(now.as_micros() as u64) << RANDOM_BITS | low;
    crate::node::note_incarnation(directory, next)?;
    Ok(next)
}

/// Publish the failure and tell everybody who waits.
fn fail(node: &'static NodeShared, database: u32, stop: &Stop) {
    node.set_log_reason(&stop.to_string());
    node.needs_copy
        .store(matches!(stop, Stop::Behind(_)), Ordering::Release);
    node.state.store(NodeState::LogStopped as u32, Ordering::Release);
    super::launcher::wake();
    node.quorum.store(false, Ordering::Release);
    node.lease_until_ms.store(0, Ordering::SeqCst);
    node.wake_apply_worker();
    crate::engine::refuse_all(node);
    pgrx::warning!("synod: the shared log of database {database} has stopped: {stop}");
    let until = Instant::now() + FAILURE_PAUSE;
    while Instant::now() < until && !worker::shutdown_requested() && !node.leaving.load(Ordering::Acquire) {
        latch::reset();
        // Who commits, and has not seen the state yet, sets the latch; so does who makes the node leave.
        crate::engine::refuse_all(node);
        latch::wait(until.saturating_duration_since(Instant::now()));
    }
}
