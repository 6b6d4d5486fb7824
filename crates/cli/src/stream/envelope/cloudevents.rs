//! CloudEvents 1.0, structured mode.

use super::{Native, Origin, json};
use crate::stream::lsn;
use crate::stream::sink::Told;
use crate::stream::template::{first_table, operation};

/// Append the event.
pub fn write(told: &Told<'_>, origin: &Origin, native: &mut Native, out: &mut Vec<u8>) {
    out.push(b'{');
    json::text(out, "specversion", b"1.0");
    json::text(out, "id", told.id.as_bytes());
    json::text(out, "source", origin.name.as_bytes());
    let what = match (told.snapshot, operation(told.event)) {
        (true, _) => "synod.row.snapshot".to_owned(),
        (_, word @ ("message" | "ddl")) => format!("synod.{word}"),
        (_, word) => format!("synod.row.{word}"),
    };
    json::text(out, "type", what.as_bytes());
    if let Some(us) = told.transaction.commit_time_us {
        json::text(out, "time", json::time(us).as_bytes());
    }
    if let Some(table) = first_table(told.event) {
        let subject = [table.schema.as_slice(), b".", &table.name].concat();
        json::text(out, "subject", &subject);
    }
    // Attributes of our own: names of lower-case letters and digits only.
    json::text(out, "commitlsn", lsn::text(told.lsn).as_bytes());
    if let Some((_, csn)) = told.transaction.csn {
        json::number(out, "csn", csn);
    }
    json::text(out, "datacontenttype", b"application/json");
    json::member(out, "data");
    let data = out.len();
    native.write(told, out);
    if out.len() == data {
        out.extend_from_slice(b"null");
    }
    out.push(b'}');
}
