//! Whether what a slot gives goes on where the sink ends.
//!
//! ```text
//! everything up to `start` is in the sink; the slot gives what commits after `confirmed`
//! both positions of one WAL, confirmed <= start  =>  nothing lies between
//! ```
//!
//! A slot that was dropped and made anew, or that somebody else has read or advanced, stands behind `start`: what lies between is lost, and
//! nobody would ever see that. So nothing is written then, unless the user accepts it. Of the nodes of a group positions differ: there the
//! CSN before the first record of a node says it (`engine`).

use synod_sinks::timeline::left_at;

use super::engine::{End, OnGap};
use super::resume::{Resume, Timeline};
use super::source::{Slot, Source};
use super::{again_or_not, lsn};
use crate::failure::Failure;

/// How a gap is accepted, or avoided.
const WAYS: &str = "To have all rows, drop the slot (--drop-slot) and begin anew with --create --initial-snapshot and an empty sink (of a file \
                    also without .source and .position, of a PostgreSQL without its row in synod_stream.position). To go on without what \
                    is missing, give --accept-gap once. If it is another server (a copy of it has the same identifier), give another --slot.";

/// What is read of one server, and what the sink has of it.
pub struct Continuity<'a> {
    /// The name of the slot.
    pub slot: &'a str,
    /// What the sink is.
    pub sink: &'a str,
    /// How far it came.
    pub known: &'a Resume,
}

impl Continuity<'_> {
    /// Whether the positions of the sink mean anything on this server, and `slot` has what follows them; what is missing, in words, is an
    /// error unless it is accepted.
    pub fn check(&self, source: &mut Source, slot: Option<&Slot>, accept: bool) -> Result<Option<String>, End> {
        self.same_timeline(source)
            .and_then(|()| self.same_wal(source))
            .map_err(again_or_not)?;
        let failure = match (slot, self.known.start_lsn) {
            (None, start) => self.made_anew(start),
            (Some(slot), Some(start)) if slot.confirmed > start => self.behind(start, slot.confirmed),
            (Some(_), _) => return Ok(None),
        };
        if accept {
            return Ok(Some(failure.message));
        }
        Err(End::Fatal(failure))
    }

    fn made_anew(&self, start: Option<u64>) -> Failure {
        let end = match start {
            Some(start) => format!("It has everything up to {}; what", lsn::text(start)),
            None => "What".into(),
        };
        Failure::new(
            format!("{} holds events, but the slot is a new one", self.sink),
            format!("{end} happened between its last event and the making of the slot is not in the stream."),
            WAYS,
        )
    }

    fn behind(&self, start: u64, confirmed: u64) -> Failure {
        Failure::new(
            format!("replication slot \"{}\" is further on than the sink", self.slot),
            format!(
                "The sink has everything up to {}, the slot gives only what follows {}: it was dropped and made anew, another reader \
                 used it, or the sink was set back.",
                lsn::text(start),
                lsn::text(confirmed)
            ),
            WAYS,
        )
    }

    /// Up to where a server left a timeline, its positions mean the same as on the one that it went to.
    fn same_timeline(&self, source: &mut Source) -> Result<(), Failure> {
        let Some(Timeline { number, .. }) = self.known.of.as_ref().filter(|of| of.number != 0) else {
            return Ok(());
        };
        let left = match source.timeline {
            now if now == *number => return Ok(()),
            0 | 1 => None,
            now => left_at(&source.history(now)?, *number),
        };
        let sink = self.furthest();
        let why = match left {
            Some(left) if sink <= left => return Ok(()),
            Some(left) => format!("the server left timeline {number} at {}", lsn::text(left)),
            None => {
                let now = source.timeline;
                format!("of timeline {number}, on which the server never was: it is on {now}")
            }
        };
        Err(elsewhere(source, sink, &why))
    }

    /// The positions of a sink are ahead of a server that was set back, or that took over without the last of its predecessor's
    /// WAL: it writes them once more, for other transactions, and those would be passed over.
    fn same_wal(&self, source: &mut Source) -> Result<(), Failure> {
        let sink = self.furthest();
        let end = source.position(match source.standby {
            true => "pg_last_wal_replay_lsn()",
            false => "pg_current_wal_flush_lsn()",
        })?;
        if sink <= end {
            return Ok(());
        }
        let why = format!("the WAL of the server ends at {}", lsn::text(end));
        Err(Failure {
            // A standby that has just been started may yet come there.
            sqlstate: source.standby.then(|| "57P03".to_owned()),
            ..elsewhere(source, sink, &why)
        })
    }

    /// The last position that the sink has.
    fn furthest(&self) -> u64 {
        self.known.lsn.max(self.known.start_lsn.unwrap_or_default())
    }
}

fn elsewhere(source: &Source, sink: u64, why: &str) -> Failure {
    Failure::new(
        format!("{} is behind the sink", source.session.whom),
        format!("The sink has events up to {}, {why}.", lsn::text(sink)),
        "The server was restored, is a copy, or took over without the last transactions of another one: what the sink has of those \
         never happened here. Drop the slot (--drop-slot) and begin anew with --create --initial-snapshot and an empty sink.",
    )
}

/// What is done when the first record of a node of the group is not the next one. `read`: a node was read before, in this run or by the
/// sink's memory; `resumed`: by an older one, which did not say up to where.
pub fn on_gap(known: &Resume, of: &Timeline, confirmed: u64, accept: bool) -> OnGap {
    let left_there = known.of.as_ref() == Some(of) && known.start_lsn.is_some_and(|start| start >= confirmed);
    match known {
        _ if left_there => OnGap::Nothing,
        known if *known == Resume::default() => OnGap::Nothing,
        _ if accept => OnGap::Tell,
        Resume { of: Some(_), .. } => OnGap::Leave,
        _ => OnGap::Tell,
    }
}

/// No node of the group has what follows.
pub fn no_node(said: String) -> Failure {
    Failure::new(
        said,
        "No node has a slot that goes on where the sink ends: what lies between is not in the stream.",
        WAYS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_looked_for_where_the_slot_may_have_moved() {
        let of = |system: &str| Timeline {
            system: system.into(),
            number: 1,
        };
        let known = Resume {
            csn: 7,
            start_lsn: Some(100),
            of: Some(of("a")),
            ..Resume::default()
        };
        let cases = [
            ("a", 100, false, OnGap::Nothing),
            ("a", 101, false, OnGap::Leave),
            ("b", 1, false, OnGap::Leave),
            ("b", 1, true, OnGap::Tell),
        ];
        for (system, confirmed, accept, expected) in cases {
            assert_eq!(on_gap(&known, &of(system), confirmed, accept), expected);
        }
        let old = Resume {
            csn: 7,
            ..Resume::default()
        };
        assert_eq!(on_gap(&old, &of("a"), 1, false), OnGap::Tell);
        assert_eq!(on_gap(&Resume::default(), &of("a"), 1, false), OnGap::Nothing);
    }
}
