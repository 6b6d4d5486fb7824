//! `synod stream`: follows the change stream of a replication slot into a sink.
//!
//! ```text
//! server --CopyBoth--> reader thread --queue, bounded in bytes--> engine (main thread) --events--> sink
//!    ^                                                               |
//!    +---- feedback: everything before here is durable in the sink --+
//! ```
//!
//! Transactions come whole and after their commit: the server keeps large ones in its own spill files
//! (`logical_decoding_work_mem`), so here nothing is kept per transaction, and what is aborted never travels. Whatever ends a
//! connection (`run`), the next one (`attempt`) begins at the last position that is durable in the sink, and what the sink has
//! beyond is passed over by its name (`resume`).

mod continuity;
mod destination;
mod engine;
mod envelope;
mod event_id;
mod group;
mod nodes;
mod options;
mod park;
mod pause;
mod queue;
mod reader;
mod replay;
mod report;
mod resume;
mod sink;
mod slots;
mod snapshot;
mod source;
mod stop;
mod tls;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use synod_sinks::{lsn, replication as wire, template};

use crate::arguments::Common;
use crate::failure::{Failure, exit};
use crate::session::Target;
use continuity::Continuity;
use engine::{End, Engine, OnGap, Wishes};
use group::Group;
use nodes::Followers;
use park::Parking;
use pause::Pauses;
use queue::Queue;
use reader::Shared;
use report::{Lines, Report, in_short};
use resume::{Gate, Resume};
use sink::{Opening, Reached, Sink, Trouble};
use slots::Filters;
use source::Source;
use stop::Stop;

pub use options::{EXAMPLES, Stream};

/// Do it.
pub fn run(common: &Common, options: &Stream) -> Result<u8, Failure> {
    let targets = targets(common)?;
    if options.drop_slot {
        return slots::drop_everywhere(common, options, &targets);
    }
    let lines = match (common.json, destination::is_standard_output(options)) {
        (false, _) => Lines::None,
        (true, false) => Lines::Output,
        (true, true) => Lines::Error,
    };
    let every = Duration::from_secs_f64(options.status_interval.clamp(0.05, 86_400.0));
    let mut stream = Running {
        common,
        options,
        filters: Filters::new(options)?,
        group: Group::find(&targets)?,
        targets,
        current: 0,
        sink: None,
        system: None,
        delivered: None,
        parking: Parking::new(&options.parked()),
        report: Report::new(lines, every),
        stop: Stop::on_signals(lines)?,
        until: options.until_lsn,
        connected: false,
        gaps: BTreeSet::new(),
        accepts_gap: options.accept_gap,
        delivered_csn: 0,
    };
    if options.replay_parked {
        return replay::run(&mut stream);
    }
    stream.run()
}

fn targets(common: &Common) -> Result<Vec<Target>, Failure> {
    let patience = common.connect_timeout();
    match common.dsns() {
        [] => Ok(vec![Target::given(None, patience)?]),
        [one] => Ok(vec![Target::given(Some(one), patience)?]),
        several => several
            .iter()
            .enumerate()
            .map(|(index, dsn)| {
                let mut target = Target::given(Some(dsn), patience)?;
                target.whom = format!("the server of --dsn number {}", index + 1);
                Ok(target)
            })
            .collect(),
    }
}

/// One run of the command.
struct Running<'a> {
    common: &'a Common,
    options: &'a Stream,
    filters: Filters,
    targets: Vec<Target>,
    /// The node that is read.
    current: usize,
    /// Several nodes are read: which group they form.
    group: Option<Group>,
    sink: Option<Box<dyn Sink>>,
    /// System and database that was connected to first.
    system: Option<source::System>,
    /// What a former connection has delivered durably, and confirmed.
    delivered: Option<Resume>,
    parking: Parking,
    report: Report,
    stop: Stop,
    until: Option<u64>,
    connected: bool,
    /// Nodes whose slot begins too late.
    gaps: BTreeSet<usize>,
    /// What is missing at the beginning is accepted.
    accepts_gap: bool,
    /// All records of the group up to here are delivered.
    delivered_csn: u64,
}

impl Running<'_> {
    fn run(&mut self) -> Result<u8, Failure> {
        let mut pauses = Pauses::default();
        let mut failed = 0;
        loop {
            let shared = Shared::default();
            let events = self.report.counts.events;
            let end = self.attempt(&shared).unwrap_or_else(|end| end);
            match end {
                End::Reached | End::Stopped => {
                    let why = if matches!(end, End::Reached) {
                        "caught up"
                    } else {
                        "ended"
                    };
                    self.report.end(&shared, why);
                    let parked = self.report.counts.parked > 0;
                    return Ok(if parked { exit::FOUND } else { exit::GOOD });
                }
                End::Fatal(failure) => {
                    self.report.end(&shared, "failed");
                    return Err(failure);
                }
                End::Again(failure) => {
                    failed += 1;
                    if self.report.counts.events > events {
                        pauses.reset();
                        failed = 0;
                        self.gaps.clear();
                    }
                    // A server that was never there is rather a wrong address.
                    if !self.connected && failed >= self.targets.len() {
                        return Err(failure);
                    }
                    self.current = (self.current + 1) % self.targets.len();
                    let pause = if failed < self.targets.len() {
                        Duration::ZERO
                    } else {
                        pauses.next(None)
                    };
                    self.report.trouble("reconnecting", &in_short(&failure), pause);
                    if !pause::wait(pause, &self.stop) {
                        self.report.end(&shared, "ended");
                        return Ok(exit::GOOD);
                    }
                }
            }
        }
    }

    /// One connection, from its beginning to its end.
    fn attempt(&mut self, shared: &Shared) -> Result<End, End> {
        let mut source = self.connect().map_err(again_or_not)?;
        let mut slot = source.slot(&self.options.slot)?;
        if let Some(pid) = slot.as_ref().and_then(|slot| slot.active_pid.as_ref()) {
            return Err(End::Again(Failure::new(
                format!(
                    "replication slot \"{}\" is in use by process {pid} of the server",
                    self.options.slot
                ),
                "",
                "",
            )));
        }
        if slot.is_none() && !self.options.create {
            return Err(End::Fatal(slots::missing(&self.options.slot)));
        }
        let resume = self.open_sink(&source, slot.is_none())?;
        let mut sink = self.sink.take().ok_or(End::Stopped)?;
        if let (None, Some(known)) = (&self.group, resume.as_ref().or(self.delivered.as_ref())) {
            let continuity = Continuity {
                slot: &self.options.slot,
                sink: &sink.name(),
                known,
            };
            if let Some(missing) = continuity.check(&mut source, slot.as_ref(), self.accepts_gap)? {
                self.report
                    .note("WARNING", &format!("{missing}: what is missing is accepted"));
            }
        }
        // Its snapshot was not finished.
        if slot.is_some() && resume.is_none() && sink.rolls_back() && self.options.initial_snapshot {
            source.drop_slot(&self.options.slot).map_err(again_or_not)?;
            slot = None;
        }
        let streamed = self.stream(source, slot, resume, sink.as_mut(), shared);
        self.sink = Some(sink);
        streamed
    }

    fn stream(
        &mut self,
        mut source: Source,
        slot: Option<source::Slot>,
        resume: Option<Resume>,
        sink: &mut dyn Sink,
        shared: &Shared,
    ) -> Result<End, End> {
        let confirmed = match &slot {
            Some(slot) => slot.confirmed,
            None => {
                let begins = resume.is_none() && self.delivered.is_none();
                self.make_slot(&mut source, sink, shared, begins)?
            }
        };
        let mut known = resume.or_else(|| self.delivered.clone()).unwrap_or_default();
        let start = known
            .start_lsn
            .filter(|start| *start >= confirmed || self.group.is_some());
        if start.is_none() && sink.remembers() && (slot.is_some() || !self.options.initial_snapshot) {
            let reached = Reached {
                lsn: confirmed,
                csn: self.delivered_csn,
            };
            slots::remember(reached, sink, &mut self.report, &self.stop, shared)?;
        }
        let start = start.unwrap_or(confirmed);
        if self.group.is_none() {
            // Also when the connection is lost before anything has come.
            self.delivered.get_or_insert_with(|| Resume {
                start_lsn: Some(start),
                of: Some(source.of.clone()),
                ..known.clone()
            });
        }
        if self.options.until_caught_up && self.until.is_none_or(|_| self.group.is_some()) {
            self.until = Some(source.flushed().map_err(again_or_not)?);
        }
        let kept_csn = if sink.remembers() {
            known.whole_csn()
        } else {
            self.delivered_csn
        };
        let mut on_gap = OnGap::Nothing;
        if self.group.is_some() {
            on_gap = continuity::on_gap(&known, &source.of, confirmed, self.accepts_gap);
            known = known.at_least(self.delivered_csn);
        }
        let gate = Gate::new(Some(known), self.group.is_some());
        self.delivered_csn = self.delivered_csn.max(gate.reached().csn);
        let from = if self.group.is_some() { 0 } else { start };
        shared.confirmed.store(confirmed.max(from), Ordering::Release);
        let command = Source::start_command(&self.options.slot, from, self.filters.plugin_options());
        let started = reader::start(&mut source.session, &command);
        started.map_err(|failure| again_or_not(slots::explain_options(failure)))?;
        self.report.over("streaming again");
        self.accepts_gap = false;
        Ok(self.follow(source, sink, gate, shared, (on_gap, kept_csn)))
    }

    fn follow(
        &mut self,
        source: Source,
        sink: &mut dyn Sink,
        gate: Gate,
        shared: &Shared,
        (on_gap, kept_csn): (OnGap, u64),
    ) -> End {
        let queue = Queue::new((self.options.max_memory / 4 * 3).max(1 << 16));
        let wishes = Wishes {
            until: self.until,
            park: destination::parks(self.options),
            group_only: self.group.is_some(),
            on_gap,
            delivered_csn: self.delivered_csn,
            kept_csn,
        };
        let of = source.of.clone();
        let followers = Followers::new(&self.options.slot, &self.targets, self.current, self.delivered_csn);
        let (end, unproven, durable, gap) = thread::scope(|scope| {
            scope.spawn(|| reader::follow(source.session, &queue, shared));
            let mut engine = Engine::new(sink, gate, &self.parking, &mut self.report, &self.stop, &wishes, shared);
            let end = engine.run(&queue, |kept| {
                followers.confirm(shared.confirmed.load(Ordering::Acquire));
                followers.keep(kept);
                followers.delivered()
            });
            followers.close();
            shared.closing.store(true, Ordering::Release);
            (end, engine.may_leave(), engine.durable, engine.gap)
        });
        // Where a gap has still to be looked for, no position is one to go on from.
        let (start_lsn, of) = match (unproven, self.delivered.take()) {
            (false, _) => (Some(shared.confirmed.load(Ordering::Acquire)), Some(of)),
            (true, Some(before)) => (before.start_lsn, before.of),
            (true, None) => (None, None),
        };
        self.delivered = Some(Resume {
            start_lsn,
            of,
            ..durable
        });
        self.delivered_csn = followers.delivered();
        if let Some(said) = gap {
            self.gaps.insert(self.current);
            // Any other one may have what is missing here.
            if self.gaps.len() == self.targets.len() {
                return End::Fatal(continuity::no_node(said));
            }
        }
        end
    }

    /// Connect to the current node, and see that it is what it was.
    fn connect(&mut self) -> Result<Source, Failure> {
        let source = Source::connect(&self.targets[self.current])?;
        match &self.system {
            Some(known) if self.group.is_none() && *known != source.system => {
                return Err(Failure::new(
                    "this is another server than before",
                    format!(
                        "Its system identifier is {}, it was {}: positions in the WAL mean something else.",
                        source.system.identifier, known.identifier
                    ),
                    "Begin anew with another slot and another place for the events.",
                ));
            }
            _ => self.system = Some(source.system.clone()),
        }
        self.connected = true;
        Ok(source)
    }

    /// Make the sink ready, however long that takes; how far it came.
    fn open_sink(&mut self, source: &Source, fresh: bool) -> Result<Option<Resume>, End> {
        let name = match &self.group {
            Some(group) => format!("group {}", group.id),
            None => format!("{}/{}", source.system.identifier, source.system.database),
        };
        let place = destination::Place {
            source: &name,
            database: &source.system.database,
        };
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None => destination::sink(self.common, self.options, &place)?,
        };
        let opening = Opening {
            of: source.of.clone(),
            fresh,
            snapshot: self.options.initial_snapshot,
            follows: true,
        };
        let mut pauses = Pauses::default();
        let resume = loop {
            match sink.open(&opening) {
                Ok(resume) => break resume,
                Err(Trouble::Fatal(failure)) => return Err(End::Fatal(failure)),
                Err(Trouble::Down { reason, .. } | Trouble::Again(reason) | Trouble::Refused(reason)) => {
                    let pause = pauses.next(None);
                    self.report.trouble("waiting for the sink", &reason, pause);
                    if !pause::wait(pause, &self.stop) {
                        return Err(End::Stopped);
                    }
                }
            }
        };
        self.sink = Some(sink);
        Ok(resume)
    }

    /// Make the slot, on every node, with the snapshot if it is wanted; where it begins. `begins`: nothing was delivered before.
    fn make_slot(
        &mut self,
        source: &mut Source,
        sink: &mut dyn Sink,
        shared: &Shared,
        begins: bool,
    ) -> Result<u64, End> {
        let name = &self.options.slot;
        // A slot that lasts says that its snapshot is finished, on the other nodes, too: any of them may be the next one that is read.
        let temporary = self.options.initial_snapshot.then(slots::temporary);
        let mut others = Vec::new();
        if let Some(group) = &self.group {
            let before;
            (others, before) =
                group.make_other_slots(name, temporary.as_deref(), &self.targets, self.current, source)?;
            // Otherwise what lies between is missing, and has to be told.
            if begins {
                self.delivered_csn = before;
            }
        }
        let Some(temporary) = temporary else {
            return Ok(source.create_slot(name, false, false).map_err(again_or_not)?.consistent);
        };
        self.report.state("snapshot");
        let target = &self.targets[self.current];
        let (begin, covered) = slots::with_snapshot(
            &temporary,
            source,
            &mut others,
            self.group.as_ref(),
            target,
            self.options,
            &self.filters,
            sink,
            &mut self.report,
            &self.stop,
            shared,
        )?;
        if begins {
            self.delivered_csn = self.delivered_csn.max(covered);
        }
        Ok(begin)
    }
}

/// What may be otherwise in a while is tried again.
fn again_or_not(failure: Failure) -> End {
    if source::passes(&failure) {
        End::Again(failure)
    } else {
        End::Fatal(failure)
    }
}
