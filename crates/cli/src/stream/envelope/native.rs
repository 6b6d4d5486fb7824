//! The native object: what the output plugin's format `json` tells of a change, after the event's name and place.

use synod_change::stream::{Encoding, Environment, Event, Format as _, Json, Transaction};

use super::json;
use crate::failure::{Failure, sentence};
use crate::stream::lsn;
use crate::stream::sink::Told;

/// Options of the format, on top of what it begins with. Ids and places are written here: a snapshot's rows have others.
const OPTIONS: [(&str, &str); 5] = [
    ("include-transaction", "off"),
    ("include-xids", "on"),
    ("include-timestamp", "on"),
    ("include-unchanged", "on"),
    ("special-numbers", "string"),
];

/// Writes them.
pub struct Native {
    json: Json,
    /// Of which transaction the format has been told.
    begun: Option<(u64, u32, Option<i64>)>,
    object: Vec<u8>,
}

impl Native {
    /// With the options that fit.
    pub fn new() -> Result<Self, Failure> {
        let mut json = Json::new(Environment {
            time: |us, out| out.extend_from_slice(json::time(us).as_bytes()),
            encoding: Encoding::Utf8,
            text_encoding: "UTF8",
            setting: |_| Vec::new(),
        });
        for (name, value) in OPTIONS {
            json.set(name, Some(value.as_bytes())).map_err(|error| {
                Failure::new(
                    "the format json has other options",
                    sentence(&error.to_string()),
                    error.hint,
                )
            })?;
        }
        Ok(Self {
            json,
            begun: None,
            object: Vec::new(),
        })
    }

    /// Append the object; nothing, if the format tells nothing of such an event.
    pub fn write(&mut self, told: &Told<'_>, out: &mut Vec<u8>) {
        let which = (told.lsn, told.transaction.xid, told.transaction.commit_time_us);
        self.object.clear();
        if self.begun.replace(which) != Some(which) {
            let transaction = Transaction {
                csn: None,
                ..*told.transaction
            };
            self.json.write(&Event::Begin(transaction), &mut self.object);
        }
        self.json.write(told.event, &mut self.object);
        let Some(members) = self.object.strip_prefix(b"{") else {
            return;
        };
        out.push(b'{');
        json::text(out, "id", told.id.as_bytes());
        json::text(out, "commit_lsn", lsn::text(told.lsn).as_bytes());
        if let Some((_, csn)) = told.transaction.csn {
            json::number(out, "csn", csn);
        }
        if told.snapshot {
            json::member(out, "snapshot");
            out.extend_from_slice(b"true");
        }
        out.push(b',');
        out.extend_from_slice(members);
    }
}
