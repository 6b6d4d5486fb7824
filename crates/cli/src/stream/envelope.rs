//! How an event is written for sinks that take bytes: one JSON object.
//!
//! - `native`: the format `json` of the output plugin, as `pg_recvlogical` shows it, with the event's id and commit position;
//! - `debezium`: what consumers of Debezium's PostgreSQL connector expect, without schemas;
//! - `cloudevents`: CloudEvents 1.0 in structured mode; its data is the native object.

mod cloudevents;
mod debezium;
mod json;
mod native;

use serde_json::Value;
use synod_change::stream::Event;

use super::lsn;
use super::resume::Resume;
use super::sink::Told;
use super::template::Template;
use crate::failure::Failure;
use debezium::Debezium;
use native::Native;

/// Which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Envelope {
    /// The output plugin's own JSON
    #[default]
    Native,
    /// As Debezium's PostgreSQL connector, without schemas
    Debezium,
    /// CloudEvents 1.0
    Cloudevents,
}

impl Envelope {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Debezium => "debezium",
            Self::Cloudevents => "cloudevents",
        }
    }

    /// For `Content-Type`; `batch`: an array of them.
    pub const fn media_type(self, batch: bool) -> &'static str {
        match (self, batch) {
            (Self::Cloudevents, false) => "application/cloudevents+json; charset=UTF-8",
            (Self::Cloudevents, true) => "application/cloudevents-batch+json; charset=UTF-8",
            _ => "application/json",
        }
    }
}

/// What envelopes say of where events come from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The name of the source: a URI reference for CloudEvents, the logical name for Debezium.
    pub name: String,
    /// The database.
    pub database: String,
}

/// Writes an event for a sink.
pub trait Render {
    /// Another session is read from here on, or the snapshot is over: `Table::version`s begin anew, and mean other tables.
    fn begin_anew(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether the sink can be told of such an event at all.
    fn check(&mut self, _told: &Told<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// Append the bytes, and give the subject; `None`: the sink is told nothing of such an event.
    fn render(&mut self, told: &Told<'_>, out: &mut Vec<u8>) -> Option<String>;
}

/// An envelope with a subject.
pub struct Enveloped {
    envelope: Envelope,
    origin: Origin,
    subject: Template,
    clean: fn(&str) -> String,
    native: Native,
    debezium: Debezium,
}

impl Enveloped {
    /// `clean`: makes names fit to be part of a subject.
    pub fn new(
        envelope: Envelope,
        origin: Origin,
        subject: Template,
        clean: fn(&str) -> String,
    ) -> Result<Self, Failure> {
        Ok(Self {
            envelope,
            origin,
            subject,
            clean,
            native: Native::new()?,
            debezium: Debezium::default(),
        })
    }
}

impl Render for Enveloped {
    fn begin_anew(&mut self) -> Result<(), Failure> {
        self.native = Native::new()?;
        self.debezium = Debezium::default();
        Ok(())
    }

    fn render(&mut self, told: &Told<'_>, out: &mut Vec<u8>) -> Option<String> {
        if matches!(told.event, Event::Context(_)) {
            return None;
        }
        match self.envelope {
            Envelope::Native => self.native.write(told, out),
            Envelope::Debezium => self.debezium.write(told, &self.origin, out),
            Envelope::Cloudevents => cloudevents::write(told, &self.origin, &mut self.native, out),
        }
        (!out.is_empty()).then(|| self.subject.fill(told.event, self.clean))
    }
}

/// What an event that was written says of its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Where to go on.
    pub resume: Resume,
    /// A row of the initial snapshot.
    pub snapshot: bool,
}

/// The place of an event that was written with this envelope.
pub fn last_event(envelope: Envelope, line: &[u8]) -> Option<Last> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let place = match envelope {
        Envelope::Native | Envelope::Cloudevents => &value,
        Envelope::Debezium => value.get("source")?,
    };
    let id = match envelope {
        Envelope::Debezium => place.get("event_id")?,
        _ => place.get("id")?,
    };
    let commit = match envelope {
        Envelope::Cloudevents => place.get("commitlsn")?,
        _ => place.get("commit_lsn")?,
    };
    let id = id.as_str()?.to_owned();
    Some(Last {
        snapshot: id.starts_with(SNAPSHOT),
        resume: Resume {
            lsn: lsn::parse(commit.as_str()?)?,
            csn: place.get("csn").and_then(Value::as_u64).unwrap_or_default(),
            last_id: Some(id),
            ..Resume::default()
        },
    })
}

/// What the ids of a snapshot's rows begin with.
pub const SNAPSHOT: &str = "snapshot/";

/// What is worked out for a table is kept for so many versions of tables: each VACUUM of one makes another.
pub const MOST_VERSIONS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use synod_change::stream::{Change, Column, EventId, Place, Table, Transaction, TypeClass};
    use synod_change::{Row, Value as Datum};

    fn rendered(envelope: Envelope, id: &str) -> Value {
        let column = |name: &str, class, type_name: &str| Column {
            name: name.into(),
            class,
            full_base_type_name: type_name.into(),
            ..Column::default()
        };
        let table = Table {
            schema: "public".into(),
            name: "it\"em".into(),
            columns: vec![
                column("id", TypeClass::Integer, "integer"),
                column("n", TypeClass::Number, "numeric"),
                column("t\n", TypeClass::Text, "text"),
                column("big", TypeClass::Text, "text"),
                column("b", TypeClass::Boolean, "boolean"),
                column("j", TypeClass::Json, "jsonb"),
            ],
            ..Table::default()
        };
        let new = [
            Datum::Text(b"1"),
            Datum::Text(b"NaN"),
            Datum::Text(b"a\"b\\\x01"),
            Datum::Same,
            Datum::Text(b"t"),
            Datum::Text(b"{\"a\": 1}"),
        ];
        let event = Event::Row(
            Place {
                id: EventId::Commit { lsn: 255, ordinal: 1 },
                lsn: 250,
                xid: 7,
            },
            Change::Update {
                table: &table,
                old: None,
                new: Row::new(&new),
            },
        );
        let transaction = Transaction {
            xid: 7,
            commit_lsn: Some(255),
            commit_time_us: Some(86_400_000_001),
            csn: Some(("g", 9)),
            ..Transaction::default()
        };
        let told = Told {
            transaction: &transaction,
            id,
            lsn: 255,
            snapshot: id.starts_with(SNAPSHOT),
            event: &event,
        };
        let origin = Origin {
            name: "shop".into(),
            database: "db".into(),
        };
        let subject = Template::parse("{schema}.{table}", false).unwrap();
        let mut out = Vec::new();
        let subject = Enveloped::new(envelope, origin, subject, str::to_owned)
            .unwrap()
            .render(&told, &mut out);
        assert_eq!(subject.as_deref(), Some("public.it\"em"));
        assert_eq!(
            last_event(envelope, &out).unwrap(),
            Last {
                snapshot: id.starts_with(SNAPSHOT),
                resume: Resume {
                    lsn: 255,
                    csn: 9,
                    last_id: Some(id.into()),
                    ..Resume::default()
                }
            }
        );
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_envelope_is_json_and_says_where_it_stands() {
        for envelope in [Envelope::Native, Envelope::Debezium, Envelope::Cloudevents] {
            for id in ["0/FF/1", "snapshot/0/FF/1"] {
                rendered(envelope, id);
            }
        }
    }

    #[test]
    fn debezium_and_cloudevents_are_as_their_consumers_expect() {
        let debezium = rendered(Envelope::Debezium, "0/FF/1");
        assert_eq!(debezium["op"], "u");
        assert_eq!(debezium["after"]["id"], 1);
        assert_eq!(debezium["after"]["n"], "NAN");
        assert_eq!(debezium["after"]["big"], "__debezium_unavailable_value");
        assert_eq!(debezium["after"]["j"], "{\"a\": 1}");
        assert_eq!(debezium["source"]["table"], "it\"em");
        assert_eq!(debezium["source"]["ts_ms"], 946_771_200_000_i64);
        assert_eq!(
            rendered(Envelope::Debezium, "snapshot/0/FF/1")["source"]["snapshot"],
            "true"
        );
        let event = rendered(Envelope::Cloudevents, "0/FF/1");
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["type"], "synod.row.update");
        assert_eq!(event["source"], "shop");
        assert_eq!(event["time"], "2000-01-02T00:00:00.000001Z");
        assert_eq!(event["data"]["id"], "0/FF/1");
    }

    proptest! {
        #[test]
        fn no_line_panics(line: Vec<u8>, text: String) {
            for envelope in [Envelope::Native, Envelope::Debezium, Envelope::Cloudevents] {
                let _ = last_event(envelope, &line);
                let _ = last_event(envelope, text.as_bytes());
            }
        }
    }
}
