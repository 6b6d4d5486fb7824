//! Takes what the server tells, event by event, to the sink, and decides what may be confirmed.
//!
//! `confirmed <= durable <= taken`, all of them ends of whole transactions: what the server hears of is durable in the sink, and
//! so is everything before it. Several records of a group that were applied together share one commit and so one end; that end
//! is told with the last of them.

mod end;
mod inside;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use synod_change::DecodeError;
use synod_change::stream::binary::Reader as Decoder;
use synod_change::stream::{Event, EventId, Transaction};

use super::Stop;
use super::event_id;
use super::park::Parking;
use super::pause::{self, Pauses};
use super::queue::{Item, Queue};
use super::reader::Shared;
use super::report::Report;
use super::resume::{Gate, Resume};
use super::sink::{GivenUp, Reached, Sink, Told, Trouble};
use super::source;
use crate::failure::{Failure, exit, sentence};
use inside::Inside;

pub use end::{End, OnGap, Wishes};

/// After so long without something new, what was taken is made durable.
const LULL: Duration = Duration::from_millis(20);
/// What was taken waits at most this long, however much comes.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// How long the end of a transaction is waited for when we are to end.
const GRACE: Duration = Duration::from_secs(2);

/// Its state while one connection lasts.
pub struct Engine<'a> {
    /// Where to.
    pub sink: &'a mut dyn Sink,
    /// What has been delivered.
    pub gate: Gate,
    /// Where refused events go.
    pub parking: &'a Parking,
    /// How it goes.
    pub report: &'a mut Report,
    /// Whether to end.
    pub stop: &'a Stop,
    /// What is wanted.
    pub wishes: &'a Wishes,
    /// Told to the reader.
    pub shared: &'a Shared,
    /// For the sink.
    pub pauses: Pauses,
    /// The transaction under way.
    inside: Option<Inside>,
    /// Whole transactions were taken up to here.
    taken: u64,
    /// No record of the group has come by this connection.
    first: bool,
    /// Something was taken since this was last made durable.
    dirty_since: Option<Instant>,
    /// What had been let through when the sink was last flushed: a sink without a memory is gone on with from there.
    pub durable: Resume,
    /// All records of the group up to here are delivered, or were not wanted.
    delivered_csn: u64,
    /// The sink knows that of those up to here.
    kept_csn: u64,
    /// The slot of this node of a group begins too late.
    pub gap: Option<String>,
}

impl<'a> Engine<'a> {
    /// At the beginning of a connection.
    pub fn new(
        sink: &'a mut dyn Sink,
        gate: Gate,
        parking: &'a Parking,
        report: &'a mut Report,
        stop: &'a Stop,
        wishes: &'a Wishes,
        shared: &'a Shared,
    ) -> Self {
        Self {
            durable: gate.reached(),
            sink,
            gate,
            parking,
            report,
            stop,
            wishes,
            shared,
            pauses: Pauses::default(),
            inside: None,
            taken: shared.confirmed.load(Ordering::Acquire),
            first: true,
            dirty_since: (wishes.delivered_csn > wishes.kept_csn).then(Instant::now),
            delivered_csn: wishes.delivered_csn,
            kept_csn: wishes.kept_csn,
            gap: None,
        }
    }

    /// Until there is an end. `beat` is told up to which CSN the sink knows that all is delivered, and tells up to which it is.
    pub fn run(&mut self, queue: &Queue, mut beat: impl FnMut(u64) -> u64) -> End {
        let mut decoder = Decoder::new();
        loop {
            if let Err(end) = self.turn(queue, &mut decoder) {
                return self.close(end);
            }
            let delivered = beat(self.kept_csn);
            if delivered > self.delivered_csn {
                self.delivered_csn = delivered;
                self.dirty_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Before the end everything that was taken becomes durable, if that is still possible.
    fn close(&mut self, end: End) -> End {
        match end {
            End::Reached | End::Stopped => match self.flush() {
                Ok(()) | Err(End::Stopped) => end,
                Err(other) => other,
            },
            // The sink has what it has; what is not durable is told again.
            other => other,
        }
    }

    fn turn(&mut self, queue: &Queue, decoder: &mut Decoder) -> Result<(), End> {
        self.report.tick(self.shared);
        match queue.take(LULL) {
            Some(Item::Message(payload)) => decoder.read(&payload, |event| self.event(event))?,
            Some(Item::Position(lsn)) => self.position(lsn)?,
            Some(Item::Lost(failure)) => {
                self.flush()?;
                return Err(if source::passes(&failure) {
                    End::Again(failure)
                } else {
                    End::Fatal(failure)
                });
            }
            None => {
                self.flush()?;
                if self.inside.is_none() {
                    self.report.caught_up();
                }
            }
        }
        if self.dirty_since.is_some_and(|since| since.elapsed() >= FLUSH_EVERY) || self.sink.is_full() {
            self.flush()?;
        }
        self.stopped()
    }

    fn stopped(&mut self) -> Result<(), End> {
        if !self.stop.is_set() {
            return Ok(());
        }
        let patient = self.stop.since().is_some_and(|since| since.elapsed() < GRACE);
        if self.inside.is_some() && patient {
            Ok(())
        } else {
            Err(End::Stopped)
        }
    }

    fn event(&mut self, event: &Event<'_>) -> Result<(), End> {
        match event {
            Event::Begin(transaction) => self.begin(transaction),
            Event::Commit(transaction) => self.commit(transaction),
            Event::Row(..) | Event::Ddl(..) => self.tell(event),
            Event::Message(_, message) if message.transactional || self.inside.is_some() => self.tell(event),
            // It stands for itself, where it is.
            Event::Message(..) => {
                let lsn = event_id::of(event).map_or(0, |id| match id {
                    EventId::Commit { lsn, .. } => lsn,
                    _ => 0,
                });
                let alone = Transaction {
                    commit_lsn: Some(lsn),
                    ..Transaction::default()
                };
                self.begin(&alone)?;
                self.tell(event)?;
                self.commit(&alone)
            }
            Event::Context(_) => Ok(()),
            _ => Err(End::Fatal(Failure::new(
                "the server tells of transactions that have not committed",
                "The slot has two-phase decoding on, or streaming of transactions in progress was asked for.",
                "Give a slot without two-phase decoding.",
            ))),
        }
    }

    fn begin(&mut self, transaction: &Transaction<'_>) -> Result<(), End> {
        let mut inside = Inside::new(transaction);
        let (lsn, csn) = (inside.lsn, inside.csn);
        if self.wishes.until.is_some_and(|until| lsn >= until) {
            return Err(End::Reached);
        }
        let told = csn != 0 || !self.wishes.group_only;
        inside.wanted = told && self.gate.begin(lsn, csn);
        if inside.wanted {
            self.see_gap(transaction)?;
            self.settle(&mut |sink| sink.begin(transaction, false))?;
        }
        self.inside = Some(inside);
        Ok(())
    }

    /// The first record of the group that a node tells names the one before it: whether that has been delivered.
    fn see_gap(&mut self, transaction: &Transaction<'_>) -> Result<(), End> {
        let Some(previous) = transaction.previous_csn.filter(|_| self.first) else {
            return Ok(());
        };
        self.first = false;
        let delivered = self.wishes.delivered_csn;
        if self.wishes.on_gap == OnGap::Nothing || previous <= delivered {
            return Ok(());
        }
        let said = format!(
            "the slot of this node begins behind CSN {previous}, delivered is everything up to CSN {delivered}"
        );
        if self.wishes.on_gap == OnGap::Tell {
            let said = format!("{said}; what lies between was not wanted, or is lost");
            self.report.note("WARNING", &said);
            return Ok(());
        }
        self.gap = Some(said.clone());
        Err(End::Again(Failure::new(said, "", "")))
    }

    fn tell(&mut self, event: &Event<'_>) -> Result<(), End> {
        let Some(mut inside) = self.inside.take() else {
            return Err(DecodeError::corrupt("change stream", "an event outside of a transaction").into());
        };
        // Each table that was emptied has an id of its own.
        let told = if self.sink.takes_tables_together() {
            self.tell_inside(&mut inside, event)
        } else {
            event.each_table(|event, _| self.tell_inside(&mut inside, event))
        };
        self.inside = Some(inside);
        told?;
        if self.sink.is_full() { self.flush() } else { Ok(()) }
    }

    fn tell_inside(&mut self, inside: &mut Inside, event: &Event<'_>) -> Result<(), End> {
        let Some(id) = event_id::of(event) else { return Ok(()) };
        if self.wishes.group_only && !matches!(id, EventId::Group { .. }) {
            self.report.counts.left_out += 1;
            return Ok(());
        }
        let id = id.to_string();
        if !inside.wanted || !self.gate.admits(&id) {
            self.report.counts.skipped += 1;
            return Ok(());
        }
        let transaction = inside.transaction();
        let told = Told {
            transaction: &transaction,
            id: &id,
            lsn: inside.lsn,
            snapshot: false,
            event,
        };
        self.settle(&mut |sink| sink.take(&told))?;
        self.report.counts.events += 1;
        inside.told += 1;
        self.dirty_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn commit(&mut self, transaction: &Transaction<'_>) -> Result<(), End> {
        let Some(inside) = self.inside.take() else {
            return Err(DecodeError::corrupt("change stream", "a commit without a beginning").into());
        };
        // Records of a group that were applied together share a commit: only the last of them says where it ends.
        if let Some(end) = transaction.end_lsn {
            self.taken = self.taken.max(end);
        }
        if inside.wanted {
            self.see_gap(transaction)?;
            self.gate.commit(inside.lsn, inside.csn)?;
            let taken = self.taken;
            self.settle(&mut |sink| sink.commit(transaction, taken))?;
            self.report.counts.transactions += u64::from(inside.told > 0);
            self.report.delivered(transaction.commit_time_us);
        }
        self.dirty_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// The server has told everything that ends before `lsn`.
    fn position(&mut self, lsn: u64) -> Result<(), End> {
        if self.inside.is_some() {
            return Ok(());
        }
        if lsn > self.taken {
            self.taken = lsn;
            self.dirty_since.get_or_insert_with(Instant::now);
        }
        if self.wishes.until.is_some_and(|until| lsn >= until) {
            return Err(End::Reached);
        }
        Ok(())
    }

    /// Whether something is missing before the first record of another node is not known yet; it may say so only at its end. Should that be
    /// so, nothing of the record may have been delivered, and no position of this node been kept.
    pub fn may_leave(&self) -> bool {
        self.first && self.wishes.on_gap == OnGap::Leave
    }

    fn flush(&mut self) -> Result<(), End> {
        if self.dirty_since.is_none() && !self.sink.is_full() || self.may_leave() {
            return Ok(());
        }
        let reached = Reached {
            lsn: self.taken,
            csn: self.delivered_csn.max(self.gate.whole_csn()),
        };
        let durable = self.settle(&mut |sink| sink.flush(reached))?;
        self.dirty_since = None;
        self.durable = self.gate.reached();
        self.kept_csn = self.kept_csn.max(durable.csn);
        let confirmed = durable.lsn.min(reached.lsn);
        self.shared.confirmed.fetch_max(confirmed, Ordering::AcqRel);
        Ok(())
    }

    /// Ask the sink until it has done it, or something else has to be done.
    fn settle<T>(&mut self, ask: &mut dyn FnMut(&mut dyn Sink) -> Result<T, Trouble>) -> Result<T, End> {
        loop {
            match ask(self.sink) {
                Ok(done) => {
                    self.pauses.reset();
                    self.report.over("the sink takes events again");
                    return Ok(done);
                }
                Err(Trouble::Down { reason, retry_after }) => {
                    let pause = self.pauses.next(retry_after);
                    self.report.trouble("waiting for the sink", &reason, pause);
                    if !self.wait(pause) {
                        return Err(End::Stopped);
                    }
                }
                Err(Trouble::Again(reason)) => {
                    return Err(End::Again(Failure::new(reason, "", "")));
                }
                Err(Trouble::Refused(reason)) => self.refused(&reason)?,
                Err(Trouble::Fatal(failure)) => return Err(End::Fatal(failure)),
            }
        }
    }

    fn wait(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            self.report.tick(self.shared);
            if !pause::wait(left.min(Duration::from_millis(200)), self.stop) {
                return false;
            }
        }
    }

    fn refused(&mut self, reason: &str) -> Result<(), End> {
        let whom = self.sink.name();
        let given_up = match self.sink.give_up(reason) {
            Ok(given_up) => given_up,
            Err(Trouble::Fatal(failure)) => return Err(End::Fatal(failure)),
            Err(Trouble::Down { reason, .. } | Trouble::Again(reason) | Trouble::Refused(reason)) => {
                return Err(End::Again(Failure::new(reason, "", "")));
            }
        };
        let Some(GivenUp { refused, kept }) = given_up else {
            return Err(End::Again(Failure::new(
                format!("{whom} has refused an event"),
                reason,
                "",
            )));
        };
        let (id, subject) = (&refused.id, &refused.subject);
        if !self.wishes.park {
            return Err(End::Fatal(Failure::new(
                format!("{whom} refuses event \"{id}\" ({subject})"),
                sentence(reason),
                format!(
                    "{}Mend the cause and run it again: it goes on with that event. Or give --on-refusal park: it is kept aside, and \
                     the others go on.",
                    self.sink.advice(reason)
                ),
            )));
        }
        let mut place = "there".to_owned();
        if !kept {
            self.parking.keep(&refused)?;
            place = format!("in \"{}\"", self.parking.place());
        }
        self.report.counts.parked += 1;
        self.stop.exits_with(exit::FOUND);
        let said = format!("event \"{id}\" ({subject}) was refused and is parked {place}: {reason}");
        self.report.note("WARNING", &said);
        Ok(())
    }
}
