//! Making and dropping the slot.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use synod_change::stream::option::boolean;
use synod_change::stream::{Transaction, filters};

use super::engine::End;
use super::group::{self, Group};
use super::options::Stream;
use super::reader::Shared;
use super::report::Report;
use super::sink::{Reached, Sink, Told, Trouble};
use super::source::Source;
use super::{Stop, again_or_not, snapshot};
use crate::arguments::Common;
use crate::failure::{Failure, exit, sentence};
use crate::session::Target;

/// Options of the output plugin that are not the user's, and what is.
const OWN: [(&str, &str); 4] = [
    ("format", "How an event is written says --envelope."),
    ("include-tables", "Tables are chosen with --table."),
    ("exclude-tables", "Tables are left out with --exclude-table."),
    ("stream-changes", "A transaction is told when it has been committed."),
];

/// The plugin's hint lists all of its options: the user can give others than those.
pub fn explain_options(mut failure: Failure) -> Failure {
    if let Some((before, list)) = failure.hint.split_once("Options of format \"binary\" are: ") {
        let own = |name: &&str| !OWN.iter().any(|(own, _)| own == name);
        let list: Vec<&str> = list.trim_end_matches('.').split(", ").filter(own).collect();
        failure.hint = format!("{before}--option takes: {}.", list.join(", "));
    }
    failure
}

/// What is wanted of the stream, for the output plugin and, read the same way, for the initial snapshot.
pub struct Filters {
    options: Vec<(String, String)>,
    /// As the plugin reads them.
    pub wanted: filters::Filters,
    /// Rows of partitions are told as rows of their root.
    pub via_root: bool,
}

impl Filters {
    /// From the command line.
    pub fn new(options: &Stream) -> Result<Self, Failure> {
        let wrong = |what: &str, why: &str| Failure::new(format!("the {what} cannot be understood"), sentence(why), "");
        let mut told = vec![("format".to_owned(), "binary".to_owned())];
        for (name, texts) in [
            ("include-tables", &options.tables),
            ("exclude-tables", &options.exclude_tables),
        ] {
            if !texts.is_empty() {
                told.push((name.to_owned(), texts.join(",")));
            }
        }
        for option in &options.plugin_options {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| wrong("option", &format!("\"{option}\" is not of the form name=value")))?;
            if let Some((_, instead)) = OWN.iter().find(|(own, _)| *own == name) {
                let why = format!("\"{name}\" is set by synod stream itself");
                return Err(Failure {
                    hint: (*instead).into(),
                    ..wrong("option", &why)
                });
            }
            told.push((name.to_owned(), value.to_owned()));
        }
        let mut wanted = filters::Filters::default();
        let mut via_root = false;
        for (name, value) in &told {
            let read = match name.as_str() {
                "publish-via-root" => boolean(name, Some(value.as_bytes())).map(|on| via_root = on),
                _ => wanted.set(name, Some(value.as_bytes())).map(drop),
            };
            read.map_err(|error| Failure::new(error.message, "", error.hint))?;
        }
        Ok(Self {
            options: told,
            wanted,
            via_root,
        })
    }

    /// For START_REPLICATION.
    pub fn plugin_options(&self) -> &[(String, String)] {
        &self.options
    }
}

/// There is no slot.
pub fn missing(name: &str) -> Failure {
    Failure::new(
        format!("replication slot \"{name}\" does not exist"),
        "",
        "Give --create to make it; changes from then on are in the stream.",
    )
}

/// On every node.
pub fn drop_everywhere(common: &Common, options: &Stream, targets: &[Target]) -> Result<u8, Failure> {
    let mut dropped = Vec::new();
    for target in targets {
        let mut source = Source::connect(target)?;
        if source.slot(&options.slot)?.is_some() {
            source.drop_slot(&options.slot)?;
            dropped.push(target.whom.clone());
        }
    }
    if dropped.is_empty() {
        return Err(Failure::new(
            format!("replication slot \"{}\" does not exist", options.slot),
            "",
            "",
        ));
    }
    if common.json {
        println!("{:#}", json!({ "slot": options.slot, "dropped_on": dropped }));
    } else {
        println!("replication slot \"{}\" is dropped", options.slot);
    }
    Ok(exit::GOOD)
}

/// A sink with a memory begins to remember where the slot begins, of which it knows nothing.
pub fn remember(
    reached: Reached,
    sink: &mut dyn Sink,
    report: &mut Report,
    stop: &Stop,
    shared: &Shared,
) -> Result<(), End> {
    let nothing = Transaction::default();
    patiently(sink, report, stop, shared, &mut |sink| {
        sink.begin(&nothing, false)?;
        sink.commit(&nothing, reached.lsn)?;
        sink.flush(reached).map(drop)
    })
}

/// What the slots of a snapshot that is not finished are called. Each attempt has a name of its own: a server may yet have to
/// notice that the session of the one before is gone.
pub fn temporary() -> String {
    static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    format!("synod_snapshot_{}_{attempt}", std::process::id())
}

/// Make the slot, and deliver the rows of the tables as of then; where it begins, and the CSN up to which a group is before it. `others`: where slots
/// called `temporary` are already, which are made to last with this one.
#[expect(clippy::too_many_arguments, reason = "each is another part's")]
pub fn with_snapshot(
    temporary: &str,
    source: &mut Source,
    others: &mut [Source],
    group: Option<&Group>,
    target: &Target,
    options: &Stream,
    filters: &Filters,
    sink: &mut dyn Sink,
    report: &mut Report,
    stop: &Stop,
    shared: &Shared,
) -> Result<(u64, u64), End> {
    let made = source.create_slot(temporary, true, true).map_err(again_or_not)?;
    let mut session = target.connect("stream snapshot").map_err(again_or_not)?;
    snapshot::enter(&mut session, &made).map_err(again_or_not)?;
    let csn = match group {
        Some(_) => group::covered(source, temporary)?,
        None => None,
    };
    let tables = snapshot::tables(&mut session, filters).map_err(again_or_not)?;
    snapshot::hold(&mut session, source, &tables)?;
    // A transaction without a commit of its own. Its CSN says behind which one another node is gone on with.
    let all = Transaction {
        csn: group.and_then(|group| Some((group.id.as_str(), csn?))),
        ..Transaction::default()
    };
    patiently(sink, report, stop, shared, &mut |sink| sink.begin(&all, true))?;
    let mut ordinal = 0;
    for table in &tables {
        let mut tell = |told: &Told<'_>| -> Result<(), Failed> {
            patiently(sink, report, stop, shared, &mut |sink| sink.take(told))?;
            report.counts.events += 1;
            report.counts.snapshot_rows += 1;
            if sink.is_full() {
                patiently(sink, report, stop, shared, &mut |sink| sink.flush(Reached::default()))?;
            }
            Ok(())
        };
        snapshot::rows(
            &mut session,
            table,
            &all,
            &filters.wanted.salt,
            &made,
            &mut ordinal,
            &mut tell,
        )
        .map_err(|failed| failed.0)?;
    }
    patiently(sink, report, stop, shared, &mut |sink| {
        sink.commit(&all, made.consistent)
    })?;
    // The one that is read comes last: with it the others are there, too.
    let keep = |source: &mut Source, others: &mut [Source]| {
        let mut all = others.iter_mut().chain([source]);
        all.try_for_each(|source| source.keep_slot(temporary, &options.slot))
            .map_err(again_or_not)
    };
    let all = Reached {
        lsn: made.consistent,
        csn: csn.unwrap_or_default(),
    };
    let flush =
        |sink: &mut dyn Sink, report: &mut Report| patiently(sink, report, stop, shared, &mut |sink| sink.flush(all));
    // A sink that rolls back says by its memory that it is finished, the others by the slot that lasts.
    if sink.rolls_back() {
        keep(source, others)?;
        flush(sink, report)?;
    } else {
        flush(sink, report)?;
        keep(source, others)?;
    }
    Ok((made.consistent, csn.unwrap_or_default()))
}

/// Carries an [`End`] through what knows only failures.
struct Failed(End);

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self(again_or_not(failure))
    }
}

impl From<End> for Failed {
    fn from(end: End) -> Self {
        Self(end)
    }
}

/// Ask the sink until it has done it. A row of the snapshot that it refuses ends the run: there is nothing to go on from.
fn patiently<T>(
    sink: &mut dyn Sink,
    report: &mut Report,
    stop: &Stop,
    shared: &Shared,
    ask: &mut dyn FnMut(&mut dyn Sink) -> Result<T, Trouble>,
) -> Result<T, End> {
    let mut pauses = super::Pauses::default();
    loop {
        report.tick(shared);
        if stop.is_set() {
            return Err(End::Stopped);
        }
        match ask(sink) {
            Ok(done) => return Ok(done),
            Err(Trouble::Down { reason, retry_after }) => {
                let pause = pauses.next(retry_after);
                report.trouble("waiting for the sink", &reason, pause);
                if !super::pause::wait(pause, stop) {
                    return Err(End::Stopped);
                }
            }
            Err(Trouble::Again(reason)) => return Err(End::Again(Failure::new(reason, "", ""))),
            Err(Trouble::Fatal(failure)) => return Err(End::Fatal(failure)),
            Err(Trouble::Refused(reason)) => {
                return Err(End::Fatal(Failure::new(
                    format!("{} refuses a row of the initial snapshot", sink.name()),
                    sentence(&reason),
                    "Mend the cause and run it again: the snapshot begins anew.",
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_names_what_can_be_given() {
        let hint =
            "It is called otherwise. Options of format \"binary\" are: columns, format, include-tables, origins.";
        let failure = explain_options(Failure::new("", "", hint));
        assert_eq!(
            failure.hint,
            "It is called otherwise. --option takes: columns, origins."
        );
    }
}
