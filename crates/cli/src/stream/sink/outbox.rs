//! A sink of parcels: one per event, in order, in a buffer that is bounded in bytes, until the carrier has brought it.

use std::collections::VecDeque;

use synod_change::stream::Transaction;

use super::{GivenUp, Opening, Reached, Refused, Sink, Told, Trouble};
use crate::stream::envelope::Render;
use crate::stream::resume::Resume;

/// One event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The event.
    pub id: String,
    /// Where to: a subject; for people.
    pub subject: String,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Parcel {
    fn cost(&self) -> usize {
        self.id.len() + self.subject.len() + self.body.len() + std::mem::size_of::<Self>()
    }
}

/// What became of parcels: the first so many are durably where they belong, then came a trouble, if there was one.
#[derive(Debug)]
pub struct Carried {
    /// So many.
    pub parcels: usize,
    /// What stopped it, about the parcel after those.
    pub then: Option<Trouble>,
}

impl Carried {
    /// All of them.
    pub const fn all(parcels: usize) -> Self {
        Self { parcels, then: None }
    }

    /// It stopped.
    pub const fn until(parcels: usize, trouble: Trouble) -> Self {
        Self {
            parcels,
            then: Some(trouble),
        }
    }
}

/// Brings parcels to where they belong.
pub trait Carrier {
    /// For people.
    fn name(&self) -> String;

    /// See [`Sink::open`].
    fn open(&mut self, _opening: &Opening) -> Result<Option<Resume>, Trouble> {
        Ok(None)
    }

    /// Bring them, in order, for good. Those that were brought before a trouble are not brought again.
    fn carry(&mut self, parcels: &[&Parcel]) -> Carried;

    /// Everything up to there was carried. Gives what it vouches for: see [`Sink::flush`]. `snapshot`: nothing has come but a snapshot.
    fn keep(&mut self, reached: Reached, _snapshot: bool) -> Result<Reached, Trouble> {
        Ok(reached)
    }

    /// See [`Sink::remembers`].
    fn remembers(&self) -> bool {
        false
    }

    /// A transaction has ended: a place to cut.
    fn between_transactions(&mut self) {}

    /// A cut is due with so many bytes more, at the end of this transaction and not at that of a later one.
    fn cuts_after(&self, _bytes: usize) -> bool {
        false
    }

    /// Parcels carried at once.
    fn at_once(&self) -> usize;
}

/// The sink.
pub struct Outbox<C> {
    carrier: C,
    render: Box<dyn Render>,
    waiting: VecDeque<Parcel>,
    bytes: usize,
    limit: usize,
    inside: bool,
    /// Rows of the initial snapshot come.
    snapshot: bool,
}

impl<C: Carrier> Outbox<C> {
    /// Around a carrier; `limit`: bytes that may wait.
    pub fn new(carrier: C, render: Box<dyn Render>, limit: usize) -> Self {
        Self {
            carrier,
            render,
            waiting: VecDeque::new(),
            bytes: 0,
            limit,
            inside: false,
            snapshot: false,
        }
    }

    fn carry(&mut self) -> Result<(), Trouble> {
        while !self.waiting.is_empty() {
            let some: Vec<&Parcel> = self.waiting.iter().take(self.carrier.at_once().max(1)).collect();
            let carried = self.carrier.carry(&some);
            for parcel in self.waiting.drain(..carried.parcels.min(self.waiting.len())) {
                self.bytes -= parcel.cost();
            }
            if let Some(trouble) = carried.then {
                return Err(trouble);
            }
        }
        Ok(())
    }
}

impl<C: Carrier> Sink for Outbox<C> {
    fn name(&self) -> String {
        self.carrier.name()
    }

    fn open(&mut self, opening: &Opening) -> Result<Option<Resume>, Trouble> {
        self.waiting.clear();
        (self.bytes, self.inside) = (0, false);
        self.render.begin_anew()?;
        self.carrier.open(opening)
    }

    fn begin(&mut self, _: &Transaction<'_>, snapshot: bool) -> Result<(), Trouble> {
        self.inside = true;
        if std::mem::replace(&mut self.snapshot, snapshot) != snapshot {
            self.render.begin_anew()?;
        }
        Ok(())
    }

    fn take(&mut self, told: &Told<'_>) -> Result<(), Trouble> {
        self.render.check(told)?;
        let mut body = Vec::new();
        let Some(subject) = self.render.render(told, &mut body) else {
            return Ok(());
        };
        let parcel = Parcel {
            id: told.id.to_owned(),
            subject,
            body,
        };
        self.bytes += parcel.cost();
        self.waiting.push_back(parcel);
        Ok(())
    }

    fn commit(&mut self, _: &Transaction<'_>, _: u64) -> Result<(), Trouble> {
        self.inside = false;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.limit || (!self.inside && self.carrier.cuts_after(self.bytes))
    }

    fn flush(&mut self, reached: Reached) -> Result<Reached, Trouble> {
        self.carry()?;
        let kept = self.carrier.keep(reached, self.snapshot)?;
        if !self.inside {
            self.carrier.between_transactions();
        }
        Ok(kept)
    }

    fn give_up(&mut self, reason: &str) -> Result<Option<GivenUp>, Trouble> {
        Ok(self.waiting.pop_front().map(|parcel| {
            self.bytes -= parcel.cost();
            let refused = Refused {
                id: parcel.id,
                subject: parcel.subject,
                body: parcel.body,
                reason: reason.to_owned(),
            };
            GivenUp { refused, kept: false }
        }))
    }

    fn replay(&mut self, refused: &Refused) -> Result<(), Trouble> {
        let parcel = Parcel {
            id: refused.id.clone(),
            subject: refused.subject.clone(),
            body: refused.body.clone(),
        };
        let carried = self.carrier.carry(&[&parcel]);
        carried.then.map_or(Ok(()), Err)
    }

    fn remembers(&self) -> bool {
        self.carrier.remembers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_change::stream::Event;

    /// Takes so many, then makes trouble about every parcel whose body is `bad`.
    #[derive(Default)]
    struct Picky {
        brought: Vec<String>,
    }

    impl Carrier for Picky {
        fn name(&self) -> String {
            "picky".into()
        }

        fn carry(&mut self, parcels: &[&Parcel]) -> Carried {
            for (number, parcel) in parcels.iter().enumerate() {
                if parcel.body == b"bad" {
                    return Carried::until(number, Trouble::Refused("it is bad".into()));
                }
                self.brought.push(parcel.id.clone());
            }
            Carried::all(parcels.len())
        }

        fn at_once(&self) -> usize {
            2
        }
    }

    struct Body;

    impl Render for Body {
        fn render(&mut self, told: &Told<'_>, out: &mut Vec<u8>) -> Option<String> {
            let Event::Context(body) = told.event else { return None };
            out.extend_from_slice(body);
            Some("subject".into())
        }
    }

    #[test]
    fn a_refused_parcel_is_given_up_alone_and_nothing_is_brought_twice() {
        let mut outbox = Outbox::new(Picky::default(), Box::new(Body), 1_000);
        for (id, body) in [("1", "good"), ("2", "bad"), ("3", "good"), ("4", "good")] {
            let (event, transaction) = (Event::Context(body.as_ref()), Transaction::default());
            let told = Told {
                transaction: &transaction,
                id,
                lsn: 1,
                snapshot: false,
                event: &event,
            };
            assert!(outbox.take(&told).is_ok());
        }
        let all = Reached { lsn: 1, csn: 0 };
        assert!(matches!(outbox.flush(all), Err(Trouble::Refused(_))));
        assert!(
            matches!(outbox.flush(all), Err(Trouble::Refused(_))),
            "it stays refused"
        );
        let given_up = outbox.give_up("because").unwrap().unwrap();
        assert_eq!((given_up.refused.id.as_str(), given_up.kept), ("2", false));
        assert!(matches!(outbox.flush(all), Ok(kept) if kept == all));
        assert_eq!(outbox.carrier.brought, ["1", "3", "4"]);
        assert_eq!(outbox.bytes, 0);
    }
}
