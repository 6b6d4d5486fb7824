//! Three nodes in one process, each with its own thread and its own directory: how long an entry takes with one
//! outstanding, and how many go through with 64.
//!
//!     cargo run --release -p synod-log --example throughput [directory] [--no-fsync] [--seconds N] [--bytes N]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_log::{
    LogEvent, LogOptions, Membership, MembershipChange, NodeId, PaxosLog, ProposalId, SharedLog, Transport, Value,
};

type Frames = Vec<(NodeId, Bytes)>;

/// What wakes a node's thread, and the messages for it.
#[derive(Clone, Default)]
struct Inbox(Arc<(Mutex<(bool, Frames)>, Condvar)>);

impl Inbox {
    fn wake(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_one();
    }

    fn wait(&self, timeout: Duration) {
        let state = self.0.0.lock().unwrap();
        let (mut state, _) = self.0.1.wait_timeout_while(state, timeout, |state| !state.0).unwrap();
        state.0 = false;
    }
}

#[derive(Clone)]
struct Link {
    node: NodeId,
    inboxes: Arc<Vec<Inbox>>,
}

impl Link {
    fn inbox(&self, node: NodeId) -> &Inbox {
        &self.inboxes[node.0 as usize - 1]
    }
}

impl Transport for Link {
    fn set_members(&mut self, _: &Membership) {}

    fn send(&mut self, to: NodeId, message: Bytes) {
        let inbox = self.inbox(to);
        inbox.0.0.lock().unwrap().1.push((self.node, message));
        inbox.wake();
    }

    fn receive(&mut self, into: &mut Frames) {
        into.append(&mut self.inbox(self.node).0.0.lock().unwrap().1);
    }
}

struct Arguments {
    directory: PathBuf,
    fsync: bool,
    time: Duration,
    bytes: usize,
}

fn arguments() -> Arguments {
    let directory = std::env::temp_dir().join(format!("synod-throughput-{}", std::process::id()));
    let mut arguments = Arguments {
        directory,
        fsync: true,
        time: Duration::from_secs(3),
        bytes: 200,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse::<u64>().ok())
                .expect("a number")
        };
        match word.as_str() {
            "--no-fsync" => arguments.fsync = false,
            "--seconds" => arguments.time = Duration::from_secs(number()),
            "--bytes" => arguments.bytes = number() as usize,
            path => arguments.directory = PathBuf::from(path).join("synod-throughput"),
        }
    }
    arguments
}

struct Group {
    start: Instant,
    link: Arc<Vec<Inbox>>,
    arguments: Arguments,
}

impl Group {
    fn link(&self, node: NodeId) -> Link {
        Link {
            node,
            inboxes: self.link.clone(),
        }
    }

    fn directory(&self, node: NodeId) -> PathBuf {
        self.arguments.directory.join(node.0.to_string())
    }

    fn options(&self, node: NodeId) -> LogOptions {
        let link = self.link(node);
        let waker = Arc::new(move || link.inbox(node).wake());
        LogOptions {
            fsync: self.arguments.fsync,
            waker,
            ..LogOptions::new(node)
        }
    }

    /// Poll until `done` says so about an event.
    fn drive(&self, log: &mut PaxosLog<Link>, mut done: impl FnMut(&LogEvent) -> bool) {
        loop {
            let mut events = Vec::new();
            let next = log.poll(self.start.elapsed(), &mut events);
            for event in &events {
                if let LogEvent::Failed(reason) = event {
                    panic!("{reason}");
                }
                if done(event) {
                    return;
                }
            }
            log.transport()
                .inbox(log.node_id())
                .wait(next.saturating_sub(self.start.elapsed()));
        }
    }

    fn change(&self, log: &mut PaxosLog<Link>, change: MembershipChange) -> (u64, Membership) {
        let mut position = 0;
        let mut membership = Membership::default();
        loop {
            log.change_membership(change.clone());
            let mut refused = false;
            self.drive(log, |event| match event {
                LogEvent::Chosen(chunk) => chunk.iter().any(|chosen| match &chosen.entry.value {
                    Value::Membership(value) => {
                        (position, membership) = (chosen.entry.position, value.clone());
                        true
                    }
                    _ => false,
                }),
                LogEvent::MembershipRefused(_) => {
                    refused = true;
                    true
                }
                _ => false,
            });
            if !refused {
                return (position, membership);
            }
            self.drive_for(log, Duration::from_millis(20));
        }
    }

    fn drive_for(&self, log: &mut PaxosLog<Link>, time: Duration) {
        let end = self.start.elapsed() + time;
        while self.start.elapsed() < end {
            let next = log.poll(self.start.elapsed(), &mut Vec::new()).min(end);
            log.transport()
                .inbox(log.node_id())
                .wait(next.saturating_sub(self.start.elapsed()));
        }
    }
}

/// Keep `outstanding` proposals on their way for the time given.
fn measure(group: &Group, log: &mut PaxosLog<Link>, incarnation: u64, outstanding: usize) {
    let mut begun: HashMap<u64, Instant> = HashMap::new();
    let mut latencies = Vec::new();
    let mut sequence = 0;
    let payload = Bytes::from(vec![7; group.arguments.bytes]);
    let start = Instant::now();
    while start.elapsed() < group.arguments.time {
        while begun.len() < outstanding {
            sequence += 1;
            begun.insert(sequence, Instant::now());
            log.propose(
                ProposalId {
                    node: log.node_id(),
                    incarnation,
                    sequence,
                },
                payload.clone(),
            );
        }
        let mut landed = 0;
        group.drive(log, |event| {
            if let LogEvent::Chosen(chunk) = event {
                for chosen in chunk {
                    if let Value::Command(command) = &chosen.entry.value
                        && command.id.incarnation == incarnation
                        && let Some(begun) = begun.remove(&command.id.sequence)
                    {
                        latencies.push(begun.elapsed());
                        landed += 1;
                    }
                }
            }
            landed > 0
        });
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_micros();
    println!(
        "{outstanding:>4} outstanding: {rate:>9.0} entries/s, p50 {:>6} us, p99 {:>6} us",
        at(0.5),
        at(0.99)
    );
}

/// Time of an fdatasync after a small write, to compare with.
fn measure_sync(directory: &Path) {
    use std::os::unix::fs::FileExt;
    let path = directory.join("sync");
    let file = std::fs::File::create(&path).expect("a file");
    file.write_all_at(&[0; 1 << 20], 0)
        .and_then(|()| file.sync_all())
        .expect("a write");
    let mut times: Vec<_> = (0..500)
        .map(|number| {
            let start = Instant::now();
            file.write_all_at(&[1; 256], number * 256)
                .and_then(|()| file.sync_data())
                .expect("a sync");
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "fdatasync of 256 bytes: p50 {:>6} us, p99 {:>6} us",
        times[250].as_micros(),
        times[495].as_micros()
    );
}

fn main() {
    let arguments = arguments();
    let inboxes = Arc::new((0..3).map(|_| Inbox::default()).collect());
    let group = Group {
        start: Instant::now(),
        link: inboxes,
        arguments,
    };
    std::fs::create_dir_all(&group.arguments.directory).expect("a directory");
    if group.arguments.fsync {
        measure_sync(&group.arguments.directory);
    }
    let first = NodeId(1);
    let create = PaxosLog::create(
        &group.directory(first),
        group.options(first),
        Bytes::new(),
        group.link(first),
    );
    let mut leader = create.expect("a log");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in [NodeId(2), NodeId(3)] {
            let (directory, options) = (group.directory(node), group.options(node));
            let log = PaxosLog::<Link>::reserve(&directory, &options).expect("a directory");
            let add = MembershipChange::AddLearner {
                log,
                info: Bytes::new(),
            };
            let (position, membership) = group.change(&mut leader, add);
            let options = LogOptions {
                deliver_from: position + 1,
                ..options
            };
            let mut log = PaxosLog::create_learner(&directory, options, position, membership, group.link(node))
                .expect("a learner");
            let (group, stop) = (&group, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    group.drive_for(&mut log, Duration::from_millis(100));
                }
            });
            group.change(&mut leader, MembershipChange::Promote(node));
        }
        for (incarnation, outstanding) in [(1, 1), (2, 8), (3, 64), (4, 512)] {
            measure(&group, &mut leader, incarnation, outstanding);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(leader);
    // Made by this run alone.
    let _ = std::fs::remove_dir_all(&group.arguments.directory);
}
