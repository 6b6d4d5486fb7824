//! `--replay-parked`: what the sink had refused is sent once more.

use serde_json::json;

use super::sink::{Opening, Refused, Trouble};
use super::source::Source;
use super::{Running, destination};
use crate::failure::{Failure, exit};

/// Do it. What is refused again stays parked.
pub fn run(stream: &mut Running<'_>) -> Result<u8, Failure> {
    let source = Source::connect(&stream.targets[stream.current])?;
    let name = match &stream.group {
        Some(group) => format!("group {}", group.id),
        None => format!("{}/{}", source.system.identifier, source.system.database),
    };
    let place = destination::Place {
        source: &name,
        database: &source.system.database,
    };
    drop(source.session);
    let mut sink = destination::sink(stream.common, stream.options, &place)?;
    sink.open(&Opening::default())
        .map_err(|trouble| failure(sink.name(), trouble))?;
    let own = sink.parked().map_err(|trouble| failure(sink.name(), trouble))?;
    let _lock = stream.parking.lock()?;
    let kept = stream.parking.all()?;
    let (mut sent, mut left) = (0, Vec::new());
    for (refused, in_file) in own.iter().map(|it| (it, false)).chain(kept.iter().map(|it| (it, true))) {
        if stream.stop.is_set() {
            keep(stream, &kept, &left, sent, own.len())?;
            return Err(Failure::new(
                format!("ended after {sent} parked events were sent"),
                "The others are still parked.",
                "",
            ));
        }
        match sink.replay(refused) {
            Ok(()) => sent += 1,
            Err(Trouble::Refused(reason)) => {
                stream.report.note(
                    "WARNING",
                    &format!("event \"{}\" is refused again: {reason}", refused.id),
                );
                left.push((refused.clone(), in_file));
            }
            Err(trouble) => {
                // What was sent until now is not sent again.
                keep(stream, &kept, &left, sent, own.len())?;
                return Err(failure(sink.name(), trouble));
            }
        }
    }
    let still: Vec<Refused> = left
        .iter()
        .filter(|(_, in_file)| *in_file)
        .map(|(it, _)| it.clone())
        .collect();
    if !kept.is_empty() {
        stream.parking.replace(&still)?;
    }
    if stream.common.json {
        println!("{:#}", json!({ "sent": sent, "still_parked": left.len() }));
    } else {
        println!("{sent} parked events are sent, {} are still parked", left.len());
    }
    Ok(if left.is_empty() { exit::GOOD } else { exit::FOUND })
}

/// The file after a replay that came only so far: what was refused again, and what was not tried.
fn keep(
    stream: &Running<'_>,
    kept: &[Refused],
    left: &[(Refused, bool)],
    sent: usize,
    own: usize,
) -> Result<(), Failure> {
    let tried = (sent + left.len()).saturating_sub(own);
    let again = left.iter().filter(|(_, in_file)| *in_file).map(|(it, _)| it.clone());
    let still: Vec<Refused> = again.chain(kept.iter().skip(tried).cloned()).collect();
    if kept.is_empty() {
        Ok(())
    } else {
        stream.parking.replace(&still)
    }
}

fn failure(whom: String, trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Fatal(failure) => failure,
        Trouble::Down { reason, .. } | Trouble::Again(reason) | Trouble::Refused(reason) => Failure::new(
            format!("{whom} takes no events now"),
            crate::failure::sentence(&reason),
            "Try again when it does.",
        ),
    }
}
