//! Where events go.
//!
//! A [`Sink`] takes events in the order of the stream and says when they are where they belong. Only then is the slot moved on:
//! `confirmed at the server <= durable in the sink <= taken by the sink`. What a crash leaves taken and not durable is told
//! again by the server.
//!
//! Most sinks take one parcel of bytes per event: those are [`Outbox`]es around a [`Carrier`]. Another PostgreSQL takes rows in
//! transactions, and is a sink by itself.

mod file;
mod http;
mod nats;
mod outbox;
mod postgres;
mod redis;
mod socket;
mod standard_output;

use std::time::Duration;

use synod_change::stream::{Event, Transaction};

use super::resume::{Resume, Timeline};
use crate::failure::Failure;

pub use file::{File, Rotation};
pub use http::Http;
pub use nats::{Address as NatsAddress, Nats, token as nats_token};
pub use outbox::Outbox;
use outbox::{Carried, Carrier, Parcel};
pub use postgres::{Mapping, Postgres};
pub use redis::{Action as RedisAction, Address as RedisAddress, Keys, Redis};
pub use standard_output::StandardOutput;

/// A position without events is stored so often: nothing but the slot's advance hangs on it.
const IDLE_EVERY: Duration = Duration::from_secs(5);

/// What a sink is told of one event.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    /// Its transaction.
    pub transaction: &'a Transaction<'a>,
    /// Names it for ever.
    pub id: &'a str,
    /// Where its transaction's commit stands; for a row of the initial snapshot, where the snapshot does.
    pub lsn: u64,
    /// A row of the initial snapshot.
    pub snapshot: bool,
    /// What happened.
    pub event: &'a Event<'a>,
}

/// Why a sink has not done what it was asked.
#[derive(Debug)]
pub enum Trouble {
    /// It may work later: the sink keeps what it has, and is to be asked again.
    Down {
        /// For people.
        reason: String,
        /// How long the other side wants us to wait.
        retry_after: Option<Duration>,
    },
    /// What came since the last durable position is void: it has to come again from the server.
    Again(String),
    /// It will not take its first event, whenever it is asked.
    Refused(String),
    /// Nothing can go on before somebody has done something.
    Fatal(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

/// An event that was given up, to be looked at and sent again by a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The event.
    pub id: String,
    /// Whose it is: `schema.table`, a subject, ...
    pub subject: String,
    /// What was to be sent.
    pub body: Vec<u8>,
    /// What the sink said.
    pub reason: String,
}

/// An event that a sink has been told to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The event.
    pub refused: Refused,
    /// The sink keeps it itself, durably once the stream goes on; otherwise that is the caller's.
    pub kept: bool,
}

/// What a sink is told when a connection begins.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// The WAL that is read.
    pub of: Timeline,
    /// The slot is about to be made.
    pub fresh: bool,
    /// With it comes a snapshot of the tables: what there is of an earlier one is void.
    pub snapshot: bool,
    /// The stream follows, and not only what was parked.
    pub follows: bool,
}

/// Up to where whole transactions came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// In the WAL that is read.
    pub lsn: u64,
    /// All records of the group up to here; 0 without a group.
    pub csn: u64,
}

/// A place for events.
pub trait Sink {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Get ready, and tell how far an earlier run came, if the sink itself knows. Called again whenever the stream begins anew: what
    /// was taken and is not durable is forgotten.
    fn open(&mut self, opening: &Opening) -> Result<Option<Resume>, Trouble>;

    /// A transaction begins, or the initial snapshot does.
    fn begin(&mut self, transaction: &Transaction<'_>, snapshot: bool) -> Result<(), Trouble>;

    /// An event. It is taken, or the trouble is about it or an earlier one that waits in the sink; then it is not taken.
    fn take(&mut self, told: &Told<'_>) -> Result<(), Trouble>;

    /// A transaction ends; `lsn`: everything up to here has been taken.
    fn commit(&mut self, transaction: &Transaction<'_>, lsn: u64) -> Result<(), Trouble>;

    /// As much waits as should: [`Self::flush`] is due.
    fn is_full(&self) -> bool;

    /// Put where it belongs, durably, whatever was taken. `reached`: up to where whole transactions were taken. Gives up to where it
    /// vouches for them, which may be less: a sink with a memory vouches for no more than it remembers.
    fn flush(&mut self, reached: Reached) -> Result<Reached, Trouble>;

    /// After [`Trouble::Refused`]: forget that event. `None`: there was none.
    fn give_up(&mut self, reason: &str) -> Result<Option<GivenUp>, Trouble>;

    /// What is parked in the sink itself.
    fn parked(&mut self) -> Result<Vec<Refused>, Trouble> {
        Ok(Vec::new())
    }

    /// Send what had been refused, once more; what the sink had parked itself is no longer parked then.
    fn replay(&mut self, refused: &Refused) -> Result<(), Trouble>;

    /// What may be behind a refusal, as sentences that each end in a space; empty: nothing is known of it.
    fn advice(&self, _reason: &str) -> &'static str {
        ""
    }

    /// Several tables that are emptied at once stay one event.
    fn takes_tables_together(&self) -> bool {
        false
    }

    /// It remembers where it is: a slot that is further on than that has lost something.
    fn remembers(&self) -> bool {
        false
    }

    /// What it has not been told to keep is gone after a crash. A snapshot is finished when it remembers that; of another sink the slot that
    /// lasts says so.
    fn rolls_back(&self) -> bool {
        false
    }
}
