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
    /// A row is gone.
    Deleted(Version),
    /// A row changed.
    Updated { old: Version, new: Version },
}

/// Follow an event that counts.
pub(super) fn follow(relation: &Relation, event: &Event, since: pg_sys::CommandId) -> Result<NetEffect, UserError> {
    if event.old.is_none() {
        return Ok(match last(relation, event.new)? {
            Some(new) => NetEffect::Inserted(new),
            None => NetEffect::Nothing,
        });
    }
    let old = Version::fetch(relation, event.old)?;
    if old.is_own(since) {
        return Ok(NetEffect::Nothing);
    }
    if event.new.is_none() {
        return Ok(NetEffect::Deleted(old));
    }
    Ok(match last(relation, event.new)? {
        Some(new) => NetEffect::Updated { old, new },
        None => NetEffect::Deleted(old),
    })
}

/// The last version from `tid` on; `None` when the row is deleted in the end.
fn last(relation: &Relation, mut tid: Tid) -> Result<Option<Version>, UserError> {
    loop {
        let version = Version::fetch(relation, tid)?;
        match version.successor() {
            Successor::None => return Ok(Some(version)),
            Successor::Deleted => return Ok(None),
            Successor::Updated(next) => tid = next,
        }
    }
}
