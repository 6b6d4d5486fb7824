//! Several nodes: the group that they form, and the slot on each of them.

use super::engine::End;
use super::source::Source;
use super::{again_or_not, source};
use crate::failure::Failure;
use crate::session::Target;

/// The group whose nodes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its uuid: the same on every node.
    pub id: String,
}

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

fn not_a_member(target: &Target) -> Failure {
    Failure::new(
        format!("{} is not a node of a group", target.whom),
        "From several servers only the changes of a group's strong tables can be read: they are the same on all of them.",
        "Give one --dsn for a server by itself.",
    )
}
