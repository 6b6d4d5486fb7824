//! SIGINT and SIGTERM: end, but finish what is under way. A second one ends at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, sentence};

/// Whether we are to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>, Arc<OnceLock<Instant>>);

impl Stop {
    /// From now on the signals set it.
    pub fn on_signals() -> Result<Self, Failure> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.0))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.0)))
                .map_err(|error| Failure::new("signals cannot be handled", sentence(&error.to_string()), ""))?;
        }
        Ok(stop)
    }

    /// It is.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Since when that has been known.
    pub fn since(&self) -> Option<Instant> {
        self.is_set().then(|| *self.1.get_or_init(Instant::now))
    }
}
