//! SIGINT and SIGTERM: end, but finish what is under way, if that takes no more than a few seconds. A second one ends at once.
//!
//! A sink or a server that hangs holds the thread that waits for it, in a system call or in a library. So a thread of its own ends the
//! process then, as SIGKILL does, and with the same consequence, none: what is not durable in the sink is not confirmed at the
//! server, and comes again.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use super::report::{Lines, say};
use crate::failure::{Failure, exit, sentence};

/// After so long the process ends, whatever it waits for: longer than the end of a transaction and the farewell to the server are
/// waited for together.
const LAST: Duration = Duration::from_secs(6);

/// Whether we are to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    set: Arc<AtomicBool>,
    since: Arc<OnceLock<Instant>>,
    /// The exit status, should there be no other end.
    status: Arc<AtomicU8>,
}

impl Stop {
    /// From now on the signals set it.
    pub fn on_signals(lines: Lines) -> Result<Self, Failure> {
        let told = |error: std::io::Error| Failure::new("signals cannot be handled", sentence(&error.to_string()), "");
        let stop = Self::default();
        stop.status.store(exit::GOOD, Ordering::Relaxed);
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.set))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.set)))
                .map_err(told)?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(told)?;
        let status = Arc::clone(&stop.status);
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                thread::sleep(LAST);
                let said = "ended although the sink or the server has not answered; what is not confirmed comes again with the next run";
                say(lines, "WARNING", said);
                low_level::exit(status.load(Ordering::Relaxed).into());
            }
        });
        Ok(stop)
    }

    /// It is.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Since when that has been known.
    pub fn since(&self) -> Option<Instant> {
        self.is_set().then(|| *self.since.get_or_init(Instant::now))
    }

    /// From now on the exit status is this.
    pub fn exits_with(&self, status: u8) {
        self.status.store(status, Ordering::Relaxed);
    }
}
