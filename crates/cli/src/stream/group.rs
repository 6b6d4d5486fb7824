//! Several nodes: the group that they form, and the slot on each of them.

use synod_change::DecodeError;
use synod_change::stream::Event;
use synod_change::stream::binary::Reader as Decoder;

use super::engine::End;
use super::source::{Source, literal};
use super::{again_or_not, lsn, source};
use crate::failure::Failure;
use crate::session::Target;

/// The group whose nodes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its uuid: the same on every node.
    pub id: String,
}

/// Between the making of a slot and a look at it nothing like that many changes happen.
const PEEK_CHANGES: u32 = 10_000;

const WHO: &str = "SELECT group_id FROM synod._node_facts()";

impl Group {
    /// The group of several targets, of which one at least must answer; `None` for a single one.
    pub fn find(targets: &[Target]) -> Result<Option<Self>, Failure> {
        if targets.len() < 2 {
            return Ok(None);
        }
        let mut found: Option<String> = None;
        let mut failed = None;
        for target in targets {
            let asked = target.connect("stream").and_then(|mut session| session.value(WHO, &[]));
            let id = match asked {
                Ok(Some(id)) => id,
                Ok(None) => return Err(not_a_member(target)),
                Err(failure) if source::passes(&failure) => {
                    failed = Some(failure);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if found.as_ref().is_some_and(|known| *known != id) {
                return Err(Failure::new(
                    "the servers are not nodes of one group",
                    format!("{} is in group {id}, the others are in another one.", target.whom),
                    "Give nodes of one group with --dsn.",
                ));
            }
            found = Some(id);
        }
        match (found, failed) {
            (Some(id), _) => Ok(Some(Self { id })),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(None),
        }
    }

    /// Make the slot on the other nodes, and see to it that the node that is read is not behind any of them: what its slot, made
    /// after this, gives is then in theirs, too. `temporary`: of this name, until the sessions that are given back make
    /// them last. And the CSN up to which everything is before that slot.
    pub fn make_other_slots(
        &self,
        name: &str,
        temporary: Option<&str>,
        targets: &[Target],
        reading: usize,
        reader: &mut Source,
    ) -> Result<(Vec<Source>, u64), End> {
        let mut furthest: i64 = 0;
        let mut made = Vec::new();
        for (index, target) in targets.iter().enumerate().filter(|(index, _)| *index != reading) {
            let mut other = Source::connect(target).map_err(|failure| {
                End::Fatal(Failure {
                    hint: format!(
                        "The slot is made on every node, so that any of them can be gone on with: all must run then. It is --dsn \
                         number {}.",
                        index + 1
                    ),
                    ..failure
                })
            })?;
            let lacks = other.slot(name)?.is_none();
            if lacks {
                other.create_slot(temporary.unwrap_or(name), temporary.is_some(), false)?;
            }
            let rows = other.session.query("SELECT applied_csn FROM synod.stat_apply")?;
            let csn = rows.first().and_then(|row| row.first().cloned().flatten());
            furthest = furthest.max(csn.and_then(|csn| csn.parse().ok()).unwrap_or_default());
            if lacks && temporary.is_some() {
                made.push(other);
            }
        }
        let wait = format!("SELECT synod.wait_for({furthest})");
        reader.session.query(&wait).map_err(again_or_not)?;
        Ok((made, u64::try_from(furthest).unwrap_or_default()))
    }
}

/// The CSN up to which everything is before a slot that has just been made: another node's stream is gone on with behind it. What
/// follows tells which it is, or, where nothing does, the node:
///
/// ```text
/// everything applied up to A lies before position P (P read after A); no record lies between the slot and P => all up to A is before the slot
/// ```
pub fn covered(source: &mut Source, slot: &str) -> Result<Option<u64>, End> {
    let rows = source
        .session
        .query("SELECT applied_csn FROM synod.stat_apply")
        .map_err(again_or_not)?;
    let applied = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    let upto = source.flushed().map_err(again_or_not)?;
    let peek = format!(
        "SELECT pg_catalog.encode(data, 'hex') FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, '{}', {PEEK_CHANGES}, \
         'format', 'binary')",
        literal(slot),
        lsn::text(upto)
    );
    let rows = source.session.query(&peek).map_err(again_or_not)?;
    let (mut decoder, mut first, mut changes) = (Decoder::new(), None, 0);
    for digits in rows.into_iter().flatten().flatten() {
        let bytes = from_hex(&digits).ok_or_else(|| DecodeError::corrupt("change stream", "what is no hex"))?;
        decoder.read(&bytes, |event| -> Result<(), DecodeError> {
            match event {
                Event::Begin(transaction) | Event::Commit(transaction) => first = first.or(transaction.previous_csn),
                _ => changes += 1,
            }
            Ok(())
        })?;
    }
    let all_seen = changes < PEEK_CHANGES;
    Ok(first.or_else(|| applied.filter(|_| all_seen)?.parse().ok()))
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

fn not_a_member(target: &Target) -> Failure {
    Failure::new(
        format!("{} is not a node of a group", target.whom),
        "From several servers only the changes of a group's strong tables can be read: they are the same on all of them.",
        "Give one --dsn for a server by itself.",
    )
}
