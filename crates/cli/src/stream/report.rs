//! How it goes: on a terminal one line that moves, with `--json` an object per line from time to time, otherwise only what somebody
//! should know.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::lsn;
use super::reader::{Shared, now_us};
use crate::failure::Failure;
use crate::output::grouped;

/// How often the line on the terminal moves.
const MOVE_EVERY: Duration = Duration::from_millis(200);

/// Where status lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// None.
    None,
    /// Standard output.
    Output,
    /// Standard error: events are on standard output.
    Error,
}

/// What is counted, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Transactions of which something was delivered.
    pub transactions: u64,
    /// Events delivered, rows of the snapshot among them.
    pub events: u64,
    /// Rows of the snapshot.
    pub snapshot_rows: u64,
    /// Events that an earlier run had delivered.
    pub skipped: u64,
    /// Events of ordinary tables, left out of a stream of several nodes.
    pub left_out: u64,
    /// Events that the sink refused and that were parked.
    pub parked: u64,
    /// Times that the connection to a server was lost, or the sink was not usable.
    pub troubles: u64,
}

/// The report.
pub struct Report {
    /// The counts.
    pub counts: Counts,
    state: &'static str,
    reason: Option<String>,
    lines: Lines,
    every: Duration,
    bar: Option<ProgressBar>,
    said: Instant,
    moved: Instant,
    /// Counts when a line was said last.
    before: (u64, u64),
    /// When the transaction was committed that was delivered last.
    committed_us: Option<i64>,
    caught_up: bool,
}

impl Report {
    /// `json`: lines for programs, this often.
    pub fn new(lines: Lines, every: Duration) -> Self {
        let bar = (lines == Lines::None && stderr().is_terminal()).then(ProgressBar::new_spinner);
        if let Some(bar) = &bar
            && let Ok(style) = ProgressStyle::with_template("{spinner} {msg}")
        {
            bar.set_style(style);
        }
        Self {
            counts: Counts::default(),
            state: "connecting",
            reason: None,
            lines,
            every,
            bar,
            said: Instant::now(),
            moved: Instant::now(),
            before: (0, 0),
            committed_us: None,
            caught_up: false,
        }
    }

    /// What is done now.
    pub fn state(&mut self, state: &'static str) {
        self.state = state;
        if state == "streaming" {
            self.reason = None;
        }
    }

    /// Something keeps it from going on, for now. Told once, until it changes.
    pub fn trouble(&mut self, state: &'static str, reason: &str, pause: Duration) {
        self.counts.troubles += 1;
        if self.reason.as_deref() == Some(reason) && self.state == state {
            return;
        }
        (self.state, self.reason) = (state, Some(reason.to_owned()));
        self.note(
            "WARNING",
            &format!("{reason}; trying again, the next time in {:.1} s", pause.as_secs_f64()),
        );
    }

    /// It goes on after a trouble.
    pub fn over(&mut self, what: &str) {
        if self.reason.take().is_some() {
            self.note("NOTICE", what);
        }
        self.state = "streaming";
    }

    /// For people; with `--json` an object.
    pub fn note(&self, severity: &str, message: &str) {
        let say = || say(self.lines, severity, message);
        self.bar.as_ref().map_or_else(say, |bar| bar.suspend(say));
    }

    /// The transaction committed then was delivered.
    pub fn delivered(&mut self, committed_us: Option<i64>) {
        self.committed_us = committed_us.or(self.committed_us);
        self.caught_up = false;
    }

    /// Nothing waits.
    pub fn caught_up(&mut self) {
        self.caught_up = true;
    }

    /// Say it if it is time.
    pub fn tick(&mut self, shared: &Shared) {
        if self.lines != Lines::None && self.said.elapsed() >= self.every {
            let status = self.status(shared);
            self.line(&status);
            (self.said, self.before) = (Instant::now(), (self.counts.events, self.counts.transactions));
        }
        if self.moved.elapsed() >= MOVE_EVERY {
            self.moved = Instant::now();
            if let Some(bar) = &self.bar {
                bar.set_message(self.text(shared));
                bar.tick();
                if self.said.elapsed() >= Duration::from_secs(2) {
                    (self.said, self.before) = (Instant::now(), (self.counts.events, self.counts.transactions));
                }
            }
        }
    }

    /// The last word.
    pub fn end(&mut self, shared: &Shared, why: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            eprintln!("{why}: {}", self.text(shared));
        }
        if self.lines != Lines::None {
            let mut status = self.status(shared);
            status["ended"] = json!(why);
            self.line(&status);
        }
    }

    fn lag(&self, shared: &Shared) -> (u64, f64) {
        let (confirmed, heard) = (
            shared.confirmed.load(Ordering::Relaxed),
            shared.heard.load(Ordering::Relaxed),
        );
        let seconds = match self.committed_us {
            Some(then) if !self.caught_up => (now_us() - then).max(0) as f64 / 1e6,
            _ => 0.0,
        };
        (heard.saturating_sub(confirmed), seconds)
    }

    fn rates(&self) -> (f64, f64) {
        let seconds = self.said.elapsed().as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        (
            rate(self.counts.events, self.before.0),
            rate(self.counts.transactions, self.before.1),
        )
    }

    fn text(&self, shared: &Shared) -> String {
        let (bytes, seconds) = self.lag(shared);
        let number = |count: u64| grouped(i64::try_from(count).unwrap_or(i64::MAX));
        format!(
            "{} at {}: {} events ({:.0}/s), {} transactions, lag {} bytes, {seconds:.1} s",
            self.state,
            lsn::text(shared.confirmed.load(Ordering::Relaxed)),
            number(self.counts.events),
            self.rates().0,
            number(self.counts.transactions),
            number(bytes),
        )
    }

    fn status(&self, shared: &Shared) -> Value {
        let (bytes, seconds) = self.lag(shared);
        let (events, transactions) = self.rates();
        json!({
            "state": self.state,
            "reason": self.reason,
            "confirmed_lsn": lsn::text(shared.confirmed.load(Ordering::Relaxed)),
            "server_lsn": lsn::text(shared.heard.load(Ordering::Relaxed)),
            "lag_bytes": bytes,
            "lag_seconds": seconds,
            "events": self.counts.events,
            "transactions": self.counts.transactions,
            "snapshot_rows": self.counts.snapshot_rows,
            "skipped": self.counts.skipped,
            "left_out": self.counts.left_out,
            "parked": self.counts.parked,
            "troubles": self.counts.troubles,
            "received_bytes": shared.received.load(Ordering::Relaxed),
            "events_per_second": events,
            "transactions_per_second": transactions,
        })
    }

    fn line(&self, value: &Value) {
        line(self.lines, value);
    }
}

fn line(lines: Lines, value: &Value) {
    // Whoever does not listen any more is no reason to end.
    let _ = match lines {
        Lines::None => Ok(()),
        Lines::Output => writeln!(stdout(), "{value}"),
        Lines::Error => writeln!(stderr(), "{value}"),
    };
}

/// A message, for people; with `--json` an object.
pub fn say(lines: Lines, severity: &str, message: &str) {
    if lines == Lines::None {
        eprintln!("{severity}:  {message}");
    } else {
        line(lines, &json!({ "severity": severity, "message": message }));
    }
}

/// In one line.
pub fn in_short(failure: &Failure) -> String {
    if failure.detail.is_empty() {
        failure.message.clone()
    } else {
        format!("{} ({})", failure.message, failure.detail.trim_end_matches('.'))
    }
}
