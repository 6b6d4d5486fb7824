//! From row events to the net effect on a row: the version before the transaction and the last one.
//!
//! The heap links the versions that a transaction made of a row (`t_ctid`), and it keeps them as long as the transaction runs, so
//! nothing needs to be remembered about a row. The event that starts a chain is the one whose old version is not our own:
//! every later event on the row is reached from there. What subtransactions that were rolled back did is not part of
//! any chain, because their ids are not current. What the transaction did before its last change of definitions travels ahead of it,
//! and what that change wrote itself was not captured: both count as there already (`since`).

use pgrx::pg_sys;

use super::events::{Event, Tid};
use super::image::{Successor, Version};
use crate::errors::UserError;
use crate::pg::relcache::Relation;

/// The net effect of the chain that an event starts.
pub(super) enum NetEffect {
    /// The event does not start a chain, or the row came and went again.
    Nothing,
    /// A new row.
    Inserted(Version),
    /// A row is gone; `moved`: to another partition.
    Deleted { old: Version, moved: bool },
    /// A row changed.
    Updated { old: Version, new: Version },
}

/// Follow an event that counts.
pub(super) fn follow(relation: &Relation, event: &Event, since: pg_sys::CommandId) -> Result<NetEffect, UserError> {
    if event.old.is_none() {
        return Ok(match last(relation, event.new)? {
            Last::Stands(new) => NetEffect::Inserted(new),
            Last::Gone { .. } => NetEffect::Nothing,
        });
    }
    let old = Version::fetch(relation, event.old)?;
    if old.is_own(since) {
        return Ok(NetEffect::Nothing);
    }
    if event.new.is_none() {
        let moved = old.successor() == Successor::Moved;
        return Ok(NetEffect::Deleted { old, moved });
    }
    Ok(match last(relation, event.new)? {
        Last::Stands(new) => NetEffect::Updated { old, new },
        Last::Gone { moved } => NetEffect::Deleted { old, moved },
    })
}

/// What became of a row in the end.
enum Last {
    Stands(Version),
    Gone { moved: bool },
}

/// The last version from `tid` on.
fn last(relation: &Relation, mut tid: Tid) -> Result<Last, UserError> {
    loop {
        let version = Version::fetch(relation, tid)?;
        match version.successor() {
            Successor::None => return Ok(Last::Stands(version)),
            Successor::Deleted => return Ok(Last::Gone { moved: false }),
            Successor::Moved => return Ok(Last::Gone { moved: true }),
            Successor::Updated(next) => tid = next,
        }
    }
}
